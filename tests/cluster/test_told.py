"""What the kernel is told of leases: rarely, and never so late that a pulse that stalls loses more by it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from orchestrator.cluster.heart import Heart
from orchestrator.cluster.leases import Told
from orchestrator.model.config import PRESETS
from orchestrator.model.names import Epoch, Instant, NodeName
from orchestrator.model.report import ModuleState
from orchestrator.model.timings import CLOCK_RATE_BOUND, derive
from tests.cluster.wire import ONLY_B, SHOP, TIMES, A, B, Pair

VIP = "198.18.0.100"
WHOLE_S = TIMES.lease_s * (1 - CLOCK_RATE_BOUND)
TURN_S = 0.002
"""A turn of this wire, and the way of a beat."""
SURVIVED_S = WHOLE_S - 2 * TIMES.period_s - TURN_S
"""What a pulse may be late by: a renewal each period gives so much whenever one timer was a trifle late."""


@dataclass
class Kernel:
    """Holds what it was told, as a pulse tells it after each turn."""

    heart: Heart
    told: Told = field(default_factory=Told)
    times: int = 0

    def turn(self, now: float) -> None:
        if not self.heart.leases_unsettled() and now < self.told.next_look(TIMES):
            return
        granted = dict(zip((VIP,), self.heart.lease_deadlines().values(), strict=False))
        if self.told.is_due(Instant(now), granted, TIMES):
            self.told = Told(granted)
            self.times += 1

    def left_s(self, now: float) -> float:
        return self.told.until.get(VIP, 0.0) - now


def run(pair: Pair, kernel: Kernel, seconds: float) -> list[float]:
    """What was left in each millisecond; the pulse has a turn when something comes or something is due."""
    left = []
    for _ in range(round(seconds * 1000)):
        at = pair.now + 0.001
        is_turn = any(each[0] <= at and each[2] == A for each in pair.flight)
        is_turn |= pair.hearts[A].next_deadline() <= at
        pair.run(0.001)
        left.append(kernel.left_s(pair.now))
        if A not in pair.frozen and is_turn:
            kernel.turn(pair.now)
    return left


def held(pair: Pair, members: frozenset[NodeName]) -> Kernel:
    kernel = Kernel(pair.hearts[A])
    pair.hearts[A].lease(SHOP, Epoch(1), members)
    kernel.turn(pair.now)
    run(pair, kernel, 0.5)
    return kernel


@pytest.mark.parametrize("members", [frozenset({A}), ONLY_B], ids=["alone", "with a member"])
def test_a_lease_is_told_every_second_period_and_most_of_it_is_always_left(
    pair: Pair, members: frozenset[NodeName]
) -> None:
    kernel = held(pair, members)
    before = kernel.times
    assert min(run(pair, kernel, 5.0)) >= SURVIVED_S
    assert kernel.times - before <= 5.0 / (1.5 * TIMES.period_s)


@pytest.mark.parametrize("phase_ms", range(0, 110, 10))
def test_a_node_that_is_alone_answers_through_a_stall_of_its_pulse_whenever_it_begins(
    pair: Pair, phase_ms: int
) -> None:
    kernel = held(pair, frozenset({A}))
    pair.cut(A, B)
    run(pair, kernel, 1.0 + phase_ms / 1000)
    pair.frozen = {A}
    assert min(run(pair, kernel, SURVIVED_S)) > 0
    pair.frozen = set()
    assert min(run(pair, kernel, 1.0)) > -TURN_S


def test_all_that_a_member_granted_before_it_fell_silent_is_told(pair: Pair) -> None:
    kernel = held(pair, ONLY_B)
    pair.cut(B)
    run(pair, kernel, 0.3)
    granted = pair.hearts[A].lease_deadlines()[SHOP]
    run(pair, kernel, granted - pair.now - TURN_S)
    assert kernel.told.until == {VIP: granted}
    run(pair, kernel, 0.1)
    assert kernel.told.until == {}


def test_less_is_told_in_the_same_turn(pair: Pair) -> None:
    told = Told({VIP: Instant(10.0)})
    assert told.is_due(Instant(9.7), {VIP: Instant(9.999)}, TIMES)
    assert not told.is_due(Instant(9.7), {VIP: Instant(10.0)}, TIMES)
    kernel = held(pair, frozenset({A}))
    pair.hearts[B].announce(SHOP, ModuleState(epoch=Epoch(2), primary=B))
    while not pair.hearts[A].leases_unsettled():
        assert kernel.left_s(pair.now) > 0
        pair.run(0.001)
    kernel.turn(pair.now)
    assert kernel.told.until == {}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_lease_is_extended_before_any_pulse_that_keeps_it_can_be_late_for_it(preset: str) -> None:
    times = derive(PRESETS[preset])
    pause = min(2 * times.period_s, times.detection_s / 2)
    assert times.period_s + pause < times.renew_below_s < times.lease_s * (1 - CLOCK_RATE_BOUND)
