"""The schedule is the same for the same seed, and nothing is left out of it."""

from __future__ import annotations

from itertools import islice

from tests.chaos.faults import FAULTS, KINDS
from tests.chaos.schedule import schedule


def test_a_seed_gives_the_same_faults_at_the_same_moments() -> None:
    assert list(islice(schedule(7), 100)) == list(islice(schedule(7), 100))
    assert list(islice(schedule(7), 100)) != list(islice(schedule(8), 100))


def test_every_kind_comes_first_and_every_fault_within_one_round() -> None:
    for seed in range(50):
        steps = list(islice(schedule(seed), len(FAULTS)))
        assert {step.fault.kind for step in steps[: len(KINDS)]} == set(KINDS)
        assert {step.fault for step in steps} == set(FAULTS)


def test_no_two_faults_share_a_name() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
