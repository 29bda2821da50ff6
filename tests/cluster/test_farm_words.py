"""A farm's state in the heartbeat, and orders for its nodes."""

from __future__ import annotations

import json

import pytest

from orchestrator.cluster import beat, leases
from orchestrator.cluster.beat import STATES_BYTES_MAX, Beat
from orchestrator.cluster.heart import Heart
from orchestrator.cluster.membership import Path, Peer
from orchestrator.cluster.orders import (
    Refusal,
    Step,
    Wish,
    order_as_dict,
    order_from_dict,
    plan,
    reached,
)
from orchestrator.model.config import PRESETS
from orchestrator.model.errors import CorruptState
from orchestrator.model.events import PeerSaid
from orchestrator.model.names import Epoch, Instant, ModuleName, NodeName, PathName
from orchestrator.model.orders import Drain, Leave, Restart, Stop, Undrain, Weigh
from orchestrator.model.report import FarmRole, FarmState, ModuleState, Phase, state_from_list
from orchestrator.model.timings import derive

A, B, C = NodeName("a"), NodeName("b"), NodeName("c")
FULL = FarmState(FarmRole.UP, Phase.DEGRADED, True, True, 1000, "f" * 8, 1 << 44, "f" * 8, "f" * 8, "f" * 8)
UP = FarmState(FarmRole.UP, Phase.READY, True, serial=5)


def test_a_farm_s_state_travels_beside_a_mirror_s_and_is_short() -> None:
    states = {"web": (3, FULL), "orders": (4, ModuleState())}
    read = beat.decode("1" * 32, beat.encode(Beat("1" * 32, 1, True, states=states)))
    assert dict(read.states) == states
    # Three farms with the longest names fit into one datagram, and six with short ones.
    assert 3 * (63 + len(json.dumps(FULL.as_list()))) <= STATES_BYTES_MAX


@pytest.mark.parametrize(
    "data",
    [
        ["farm"],
        [*FULL.as_list(), 1],
        ["farm", "PRIM", *FULL.as_list()[2:]],
        [*FULL.as_list()[:5], -1, *FULL.as_list()[6:]],
        [*FULL.as_list()[:5], "much", *FULL.as_list()[6:]],
        [*FULL.as_list()[:8], "f" * 900, *FULL.as_list()[9:]],
        [*FULL.as_list()[:7], "later", *FULL.as_list()[8:]],
    ],
)
def test_what_is_no_farm_s_state_is_refused(data: object) -> None:
    with pytest.raises(CorruptState):
        state_from_list(data)


def test_a_farm_s_words_end_nobody_s_lease() -> None:
    peer = Peer(B, {PathName("lan"): Path(due=Instant(0.0))})
    peer.states["web"] = (1, FULL)
    assert not leases.overtaken(A, ModuleName("web"), Epoch(0), [peer])


def test_a_new_life_that_has_said_nothing_yet_is_news() -> None:
    lan = PathName("lan")
    heart = Heart(A, {B: (lan,)}, derive(PRESETS["lan"]), "a" * 32, Instant(0.0))
    heart.receive(Instant(0.1), B, lan, Beat("b" * 32, 1, True, states={"web": (1, UP)}))
    heart.events_received()
    heart.receive(Instant(0.2), B, lan, Beat("c" * 32, 1, True))
    assert PeerSaid(B, {}) in heart.events_received()


def test_a_whole_farm_restarts_node_by_node_each_back_before_the_next() -> None:
    steps = plan(Wish("restart"), (A, B, C), {A: UP, B: UP, C: None})
    assert steps == [Step(name, Restart(), "serving again", 5) for name in (A, B)]
    step = steps[0]
    assert not reached(step, {A: UP, B: UP}), "what is heard is what was before"
    assert not reached(step, {A: FarmState(FarmRole.WAIT, Phase.TRANSIENT, serial=7), B: UP})
    assert reached(step, {A: FarmState(FarmRole.UP, Phase.READY, True, serial=8), B: UP})


def test_orders_for_one_node_of_a_farm() -> None:
    states = {A: UP, B: UP}
    assert plan(Wish("drain", node=B, limit_s=9.0), (A, B), states) == [Step(B, Drain(9.0), "stopped")]
    assert plan(Wish("undrain", node=B), (A, B), states) == [Step(B, Undrain(), "serving")]
    assert plan(Wish("weight", node=B, percent=0), (A, B), states) == [Step(B, Weigh(0))]
    assert plan(Wish("stop", node=B), (A, B), states) == [Step(B, Leave(), "stopped")]
    assert plan(Wish("stop"), (A, B), states) == [Step(A, Stop(), "stopped"), Step(B, Stop(), "stopped")]


@pytest.mark.parametrize(
    ("wish", "states", "code"),
    [
        (Wish("drain"), {A: UP, B: UP}, "HF6031"),
        (Wish("swap"), {A: UP, B: UP}, "HF6029"),
        (Wish("drain", node=B), {A: UP, B: None}, "HF1226"),
        (Wish("drain", node=B), {A: ModuleState(), B: ModuleState()}, "HF6029"),
    ],
)
def test_orders_that_cannot_be_are_refused(wish: Wish, states: dict, code: str) -> None:
    found = plan(wish, (A, B), states)
    assert isinstance(found, Refusal)
    assert found.code == code


@pytest.mark.parametrize("order", [Drain(), Drain(2.5, True), Undrain(), Weigh(50)])
def test_an_order_arrives_as_it_was_sent(order) -> None:
    assert order_from_dict(json.loads(json.dumps(order_as_dict(order)))) == order


@pytest.mark.parametrize("data", [{"kind": "Weigh", "percent": True}, {"kind": "Drain", "limit_s": "long"}])
def test_an_order_of_other_words_is_none(data: dict) -> None:
    with pytest.raises(ValueError, match="has no"):
        order_from_dict(data)
