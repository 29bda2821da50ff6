"""The words travel and come back; what is not a word is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.application import Budget
from orchestrator.host.lines import LINE_BYTES_MAX, LineBuffer, encode
from orchestrator.model.config import PRESETS
from orchestrator.model.errors import CorruptState
from orchestrator.model.names import Epoch, Instant, NodeName, Nonce
from orchestrator.model.record import Record
from orchestrator.model.report import ModuleState, Phase, Role
from orchestrator.model.timings import derive
from tests.mirror.words import A, B, record

names = st.sampled_from([A, B, NodeName("c")])


@given(st.integers(1, 2**40), st.sampled_from([A, B]), st.booleans(), st.text(max_size=80))
def test_a_record_comes_back_as_it_went(epoch: int, primary: NodeName, forced: bool, reason: str) -> None:
    went = record(epoch, primary, A, B).following(forced=forced, reason=reason)
    assert Record.from_dict(went.as_dict()) == went


@pytest.mark.parametrize(
    "damage",
    [
        {"epoch": 0},
        {"epoch": "7"},
        {"epoch": True},
        {"primary": "b", "in_sync": ["a"]},
        {"in_sync": ["a", "z"]},
        {"nonce": 5},
        {"nodes": None},
        {"reason": "x" * 600},
    ],
)
def test_a_damaged_record_is_refused_and_never_guessed(damage: dict[str, object]) -> None:
    with pytest.raises(CorruptState):
        Record.from_dict({**record(3, A, A, B).as_dict(), **damage})


def test_a_record_without_its_epoch_is_refused() -> None:
    with pytest.raises(CorruptState):
        Record.from_dict(
            {key: value for key, value in record(3, A, A, B).as_dict().items() if key != "epoch"}
        )


@given(
    st.sampled_from(Role),
    st.sampled_from(Phase),
    st.integers(0, 2**40),
    st.none() | names,
    st.frozensets(names),
    st.tuples(*[st.booleans()] * 5),
)
def test_a_module_state_comes_back_as_it_went(role, phase, epoch, primary, in_sync, flags) -> None:
    serving, virgin, leaving, forced, fit = flags
    state = ModuleState(
        role,
        phase,
        Epoch(epoch),
        primary,
        in_sync,
        Nonce("f" * 32),
        None,
        serving,
        Epoch(1),
        virgin,
        leaving,
        forced,
        fit,
        aside=epoch % 3,
    )
    assert ModuleState.from_list(state.as_list()) == state


@given(
    st.lists(
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2), max_size=14
    )
)
def test_any_list_is_a_state_or_is_refused(data: list[object]) -> None:
    try:
        ModuleState.from_list(data)
    except CorruptState:
        pass


@given(
    st.lists(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=20), max_size=4)),
    st.data(),
)
def test_lines_arrive_whole_whatever_the_cuts(messages, data) -> None:
    wire = b"".join(encode(message) for message in messages)
    buffer, got = LineBuffer(), []
    while wire:
        cut = data.draw(st.integers(1, len(wire)))
        got += buffer.receive_data(wire[:cut])
        wire = wire[cut:]
    assert got == messages


@pytest.mark.parametrize("wire", [b"nonsense\n", b"[1]\n", b'{"a": \n', b"x" * (LINE_BYTES_MAX + 1)])
def test_what_is_not_a_line_of_ours_is_refused(wire: bytes) -> None:
    with pytest.raises(CorruptState):
        LineBuffer().receive_data(wire)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_lease_ends_before_a_successor_bids_in_every_preset(preset: str) -> None:
    times = derive(PRESETS[preset])
    assert times.suspect_s < times.lease_s < times.detection_s
    assert times.successor_is_later
    assert times.register_budget_s > 0


def test_a_slow_register_stretches_the_detection_until_a_bid_fits() -> None:
    times = derive(PRESETS["lan"], register_rtt_s=0.2)
    assert times.detection_s > PRESETS["lan"].detection_s
    assert times.register_budget_s >= 2 * 0.2 - 1e-9
    assert derive(PRESETS["lan"], register_rtt_s=0.001) == derive(PRESETS["lan"])


def test_a_budget_is_spent_within_its_window_and_comes_back_after_it() -> None:
    budget = Budget(2, 100.0)
    budget, first = budget.spend(Instant(0))
    budget, second = budget.spend(Instant(50))
    budget, third = budget.spend(Instant(99))
    assert (first, second, third) == (True, True, False)
    budget, later = budget.spend(Instant(100.5))
    assert later
