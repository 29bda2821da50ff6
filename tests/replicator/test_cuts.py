"""The current fails at named steps and at random moments: a short `./run chaos --cuts`, and its canaries."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.chaos.cuts import campaign
from tests.chaos.cuts.found import EDITS, HALF, MISSING, Findings
from tests.chaos.cuts.plans import Plan, rounds
from tests.chaos.cuts.steps import STEPS
from tests.support.disks import enter_private_mounts

SEED = 5
STEADY = {"ext4": "both", "xfs": "secondary"}


def carried_out(kind: str, plans: Iterable[Plan], canary: str = "") -> Findings:
    enter_private_mounts()
    found = Findings()
    with campaign.images(keep=not canary) as empty:
        campaign.one(empty, kind, plans, random.Random(SEED), found, canary)
    return found


def planned(kind: str) -> list[Plan]:
    """One of four steps on the one file system, others on the other; the campaign has them all on both."""
    of_round = next(rounds(SEED))
    mine = {step.name for step in STEPS[list(campaign.KINDS).index(kind) :: 4]}
    steps = [plan for plan in of_round if plan.step is not None and plan.step.name in mine]
    return [*steps, Plan(STEADY[kind], 0.02)]


@pytest.mark.parametrize("kind", campaign.KINDS)
def test_no_cut_at_any_step_loses_what_was_acknowledged_or_makes_half_a_copy_look_whole(kind: str) -> None:
    plans = planned(kind)
    found = carried_out(kind, plans)
    assert not found.broken
    assert found.lost == 0
    assert found.cuts > len(plans)
    assert {plan.step.name for plan in plans if plan.step} <= set(found.steps)
    assert found.acknowledged > found.cuts, "a test of nothing proves nothing"
    assert found.copies > 0


def test_who_was_cut_before_the_other_heard_of_it_is_not_compared_in_full() -> None:
    """Its own news, that a reign began or that the copy is whole, had not come; nothing else is unknown."""
    steps = {step.name: step for step in STEPS}
    unheard = Plan("secondary", 0.02, "resync", steps["joint reign in the lineage"])
    untold = Plan("both", 0.02, "resync", steps["copy ended"], both=True)
    found = carried_out("ext4", [unheard, untold, unheard])
    assert not found.broken
    assert {unheard.step.name, untold.step.name} <= set(found.steps)  # type: ignore[union-attr]
    assert list(found.fulls) == ["first start of this node"]


def test_a_product_whose_durable_points_reach_no_disk_is_caught() -> None:
    # One commit of the journal for something else may bring the data to the disk: more than one chance.
    found = carried_out("ext4", [Plan("both", 0.05)] * 4, canary="no sync")
    assert found.lost > 0
    assert MISSING in found.broken


def test_a_product_whose_logs_reach_no_disk_is_caught() -> None:
    """By its own look for edits first, without which the trees would differ."""
    found = carried_out("xfs", [Plan("primary", 0.05)] * 3, canary="no log")
    assert EDITS in found.broken


def test_a_product_that_does_not_mark_half_a_copy_is_caught() -> None:
    step = next(step for step in STEPS if step.name == "COPY_DONE arrived")
    found = carried_out("ext4", [Plan("secondary", 0.02, "resync", step)], canary="no mark")
    assert HALF in found.broken
