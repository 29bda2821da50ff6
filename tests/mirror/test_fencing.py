"""Who may switch off whom, told from the mirrors alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.mirror.fencing import epoch_of, has_let_go, refusal, right, taken_from
from orchestrator.mirror.serving import PROMOTED, PROMOTED_OFFLINE, SWAP, TAKEOVER
from orchestrator.mirror.state import Mirror, Peer, Reach
from orchestrator.model.config import PRESETS
from orchestrator.model.names import NEVER, NodeName
from orchestrator.model.record import Record
from orchestrator.model.report import ModuleState, Phase, Role
from orchestrator.model.timings import derive
from orchestrator.node import Node
from tests.mirror.words import SHOP, A, B, C, config, record

SERVES = ModuleState(Role.PRIM, Phase.READY, serving=True)
FOLLOWS = ModuleState(Role.SECOND, Phase.READY)


def mirror(*nodes: NodeName, **facts: Any) -> Mirror:
    """Of node a."""
    node = Node.create(A, config(*(nodes or (A, B))), derive(PRESETS["lan"]))
    return node.mirrors[SHOP].changed(**facts)


def alone(epoch: int, reason: str = TAKEOVER) -> Record:
    return replace(record(epoch, A, A), reason=reason)


def holding(**facts: Any) -> Mirror:
    held = alone(8)
    return mirror(held=held, record=held, peers={B: Peer(Reach.LOST, SERVES)}, **facts)


def code(*mirrors: Mirror, target: NodeName = B) -> str:
    found = refusal(A, target, (A, B, C), mirrors)
    return found.code if found else ""


def test_who_took_the_role_over_may_switch_the_former_off() -> None:
    assert code(holding()) == ""
    assert right([holding()], B) is not None


def test_without_the_record_nobody_is_switched_off() -> None:
    assert code(mirror(record=record(7, A, A, B))) == "HF7064"
    assert code(mirror()) == "HF7064"


def test_who_serves_by_order_without_the_register_has_no_right() -> None:
    assert code(holding(offline=True)) == "HF7064"
    assert epoch_of([holding(offline=True)], SHOP) == NEVER


def test_who_holds_another_record_is_not_switched_off() -> None:
    theirs = mirror(record=record(3, B, A, B)).changed(module="other")
    found = refusal(A, B, (A, B), [holding(), theirs])
    assert found is not None
    assert (found.code, found.passes) == ("HF7065", True)
    # Nor who says so and is heard, whatever this node has read.
    speaks = mirror(peers={B: Peer(Reach.ALIVE, SERVES)}).changed(module="other")
    assert code(holding(), speaks) == "HF7065"
    silent = mirror(peers={B: Peer(Reach.LOST, SERVES)}).changed(module="other")
    assert code(holding(), silent) == ""


def test_a_record_of_others_gives_no_right_over_a_third_node() -> None:
    assert code(holding(), target=C) == "HF7064"


@pytest.mark.parametrize("target", [A, NodeName("nowhere")])
def test_oneself_and_strangers_are_refused_for_good(target: NodeName) -> None:
    found = refusal(A, target, (A, B), [holding()])
    assert found is not None
    assert (found.code, found.passes) == ("HF7065", False)


@pytest.mark.parametrize(
    ("reason", "before", "former"),
    [
        (TAKEOVER, record(7, B, A, B), B),
        (PROMOTED, record(7, B, A, B), B),
        (SWAP, record(7, B, A, B), None),
        (PROMOTED_OFFLINE, record(7, B, A, B), None),
        (TAKEOVER, record(7, A, A, B), None),
        (TAKEOVER, record(9, B, A, B), None),
        (TAKEOVER, None, None),
    ],
)
def test_a_role_is_taken_from_who_did_not_give_it(
    reason: str, before: Record | None, former: NodeName | None
) -> None:
    assert taken_from(before, holding().changed(held=alone(8, reason))) == former


@pytest.mark.parametrize(
    ("peer", "gone"),
    [
        (Peer(Reach.ALIVE, FOLLOWS), True),
        (Peer(Reach.SUSPECT, ModuleState(Role.WAIT)), True),
        (Peer(Reach.LEFT, SERVES), True),
        (Peer(Reach.ALIVE, SERVES), False),
        (Peer(Reach.LOST, FOLLOWS), False),
        (Peer(Reach.LOST, SERVES), False),
        (Peer(Reach.ALIVE, None), False),
    ],
)
def test_who_is_heard_and_does_not_serve_has_let_go(peer: Peer, gone: bool) -> None:
    assert has_let_go([holding().changed(peers={B: peer})], B, SHOP) is gone
