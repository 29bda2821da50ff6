"""The gate's arithmetic, compared with the plain statement of R1."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.mirror.gate import Gate
from orchestrator.model.names import NodeName

ME, B, C = NodeName("a"), NodeName("b"), NodeName("c")

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(1, 30)),
        st.tuples(st.just("confirm"), st.sampled_from([B, C]), st.integers(0, 30)),
        st.tuples(st.just("widen"), st.sets(st.sampled_from([B, C]))),
        st.tuples(st.just("serve"), st.sets(st.sampled_from([B, C]))),
        st.tuples(st.just("close")),
    ),
    max_size=40,
)


class Oracle:
    """R1 as it is written: a point is acknowledged when each member of `required` has it."""

    def __init__(self) -> None:
        self.required: set[NodeName] = set()
        self.durable = {B: 0, C: 0}
        self.held: dict[int, int] = {}

    def ready(self) -> set[int]:
        return {
            token
            for token, point in self.held.items()
            if all(self.durable[member] >= point for member in self.required)
        }


@given(STEPS)
def test_a_point_settles_exactly_when_every_required_member_has_it(steps: list[tuple[object, ...]]) -> None:
    gate: Gate[int] = Gate(ME)
    oracle = Oracle()
    token = 0
    for step in steps:
        match step:
            case ("hold", int(point)) if gate.is_open:
                token += 1
                at_once = gate.hold(point, token)
                oracle.held[token] = point
                settled = {token} if at_once else set()
                expected = oracle.ready() & {token}
            case ("confirm", member, int(point)):
                settled = set(gate.confirm(member, point))  # type: ignore[arg-type]
                oracle.durable[member] = max(oracle.durable[member], point)  # type: ignore[index]
                expected = oracle.ready() if gate.is_open else set()
            case ("widen", members):
                gate.widen(members)  # type: ignore[arg-type]
                oracle.required |= members  # type: ignore[operator]
                settled = expected = set()
            case ("serve", members):
                oracle.required = set(members)  # type: ignore[call-overload]
                settled, expected = set(gate.serve({ME, *members})), oracle.ready()  # type: ignore[misc]
            case ("close",):
                settled, expected = set(gate.close()), set(oracle.held)
            case _:
                continue
        assert settled == expected
        for done in settled:
            del oracle.held[done]
        assert gate.held == len(oracle.held)


def test_a_lost_member_holds_writes_until_a_record_without_it_is_proved() -> None:
    gate: Gate[str] = Gate(ME)
    gate.serve({ME, B})
    assert not gate.hold(5, "five")
    assert gate.confirm(B, 4) == []
    assert gate.serve({ME}) == ["five"]


def test_a_bid_that_names_a_joiner_makes_writes_need_it_before_it_is_won() -> None:
    gate: Gate[str] = Gate(ME)
    gate.serve({ME})
    gate.widen({B})
    assert not gate.hold(1, "one")
    assert gate.confirm(B, 1) == ["one"]


def test_a_new_stream_forgets_what_was_confirmed_of_the_former_one() -> None:
    gate: Gate[str] = Gate(ME)
    gate.serve({ME, B})
    gate.confirm(B, 100)
    gate.close()
    gate.begin_stream()
    gate.serve({ME, B})
    assert not gate.hold(1, "one")


def test_a_joiner_lacks_what_was_acknowledged_before_it_was_required() -> None:
    gate: Gate[str] = Gate(ME)
    gate.serve({ME})
    assert gate.hold(5, "alone")
    gate.widen({B})
    assert gate.lacking({B}) == {B}
    gate.confirm(B, 4)
    assert gate.lacking({B}) == {B}
    gate.confirm(B, 5)
    assert gate.lacking({B}) == frozenset()


def test_a_point_that_waited_for_a_joiner_settles_when_it_is_not_taken_in() -> None:
    gate: Gate[str] = Gate(ME)
    gate.serve({ME})
    gate.widen({B})
    assert not gate.hold(5, "held")
    assert gate.narrow({B}) == ["held"]
