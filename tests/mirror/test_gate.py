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
        st.tuples(st.just("expect"), st.sampled_from([B, C]), st.integers(0, 30)),
        st.tuples(st.just("forget"), st.sampled_from([B, C])),
        st.tuples(st.just("widen"), st.sets(st.sampled_from([B, C]))),
        st.tuples(st.just("serve"), st.sets(st.sampled_from([B, C]))),
        st.tuples(st.just("close")),
    ),
    max_size=40,
)


class Oracle:
    """R1 as it is written: a point is acknowledged when each member of `required`, and each joiner, has it."""

    def __init__(self) -> None:
        self.required: set[NodeName] = set()
        self.joining: set[NodeName] = set()
        self.durable = {B: 0, C: 0}
        self.held: dict[int, int] = {}
        self.passed = 0

    def ready(self) -> set[int]:
        return {
            token
            for token, point in self.held.items()
            if all(self.durable[member] >= point for member in self.required | self.joining)
        }

    def takes(self, members: set[NodeName]) -> bool:
        return all(
            name in self.joining and self.durable[name] >= self.passed for name in members - self.required
        )


@given(STEPS)
def test_a_point_settles_exactly_when_everybody_waited_for_has_it(steps: list[tuple[object, ...]]) -> None:
    gate: Gate[int] = Gate(ME)
    oracle = Oracle()
    token = 0
    for step in steps:
        settled: set[int] = set()
        expected: set[int] = set()
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
            case ("expect", member, int(point)):
                gate.expect(member, point)  # type: ignore[arg-type]
                oracle.durable[member] = max(oracle.durable[member], point)  # type: ignore[index]
                oracle.joining |= {member} - oracle.required  # type: ignore[arg-type]
                # What this may have settled is told with the next answer, as it is when a member confirms.
                settled = set(gate.confirm(member, 0))  # type: ignore[arg-type]
                expected = oracle.ready() if gate.is_open else set()
            case ("forget", member):
                oracle.joining -= {member}
                settled = set(gate.forget(member))  # type: ignore[arg-type]
                expected = oracle.ready() if gate.is_open else set()
            case ("widen", members):
                assert gate.widen(members) is oracle.takes(members)  # type: ignore[arg-type]
                if oracle.takes(members):  # type: ignore[arg-type]
                    oracle.required |= members  # type: ignore[operator]
                    oracle.joining -= members  # type: ignore[operator]
            case ("serve", members):
                oracle.required = set(members)  # type: ignore[call-overload]
                oracle.joining -= oracle.required
                settled = set(gate.serve({ME, *members}))  # type: ignore[misc]
                expected = oracle.ready()
            case ("close",):
                settled, expected = set(gate.close()), set(oracle.held)
            case _:
                continue
        assert settled == expected
        if step[0] != "close":
            oracle.passed = max([oracle.passed, *(oracle.held[done] for done in settled)])
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
    gate.expect(B, 0)
    assert gate.widen({B})
    assert not gate.hold(1, "one")
    assert gate.confirm(B, 1) == ["one"]


def test_a_joiner_that_lacks_a_point_that_was_let_go_is_not_named() -> None:
    gate: Gate[str] = Gate(ME)
    gate.serve({ME})
    assert gate.hold(1, "one")
    gate.expect(B, 0)
    assert not gate.widen({B})
    gate.confirm(B, 1)
    assert gate.widen({B})


def test_a_joiner_is_waited_for_as_long_as_its_stream_stands_and_named_no_longer() -> None:
    gate: Gate[str] = Gate(ME)
    gate.serve({ME})
    gate.expect(B, 0)
    assert not gate.hold(1, "one")
    assert gate.forget(B) == ["one"]
    assert not gate.widen({B})


def test_a_new_stream_forgets_what_was_confirmed_of_the_former_one() -> None:
    gate: Gate[str] = Gate(ME)
    gate.serve({ME, B})
    gate.confirm(B, 100)
    gate.close()
    gate.begin_stream()
    gate.serve({ME, B})
    assert not gate.hold(1, "one")
