"""A campaign of cuts that was broken off goes on as if it had not been."""

from __future__ import annotations

import itertools
import json

from tests.chaos.cuts import campaign
from tests.chaos.cuts.found import EQUAL, Findings
from tests.chaos.cuts.plans import every
from tests.chaos.cuts.steps import STEPS

SEED = 5


def kept(found: Findings) -> Findings:
    """As a file gives it back."""
    return Findings.from_dict(json.loads(json.dumps(found.as_dict())))


def test_what_was_found_is_read_back_as_it_was() -> None:
    found = Findings(plans=3, pairs=1, acknowledged=9, copies=2, cold=1, young=1)
    found.cut(STEPS[0].name, "both", "xfs")
    found.cut("", "primary", "ext4")
    found.full("diverged")
    found.missing(["a block"])
    found.check(EQUAL, "")
    assert kept(found) == found


def test_plans_go_on_where_they_were_broken_off_and_none_is_made_twice() -> None:
    found = Findings()
    made = list(itertools.islice(campaign._next(SEED, 100, found), 10))
    found = kept(found)
    made += campaign._next(SEED, 100, found)
    assert made == list(itertools.islice(every(SEED), 10 + campaign.PLANS_A_RIG))


def test_steps_that_had_too_few_cuts_get_theirs_at_the_end_and_no_others_do() -> None:
    found = Findings(cuts=campaign.COUNT)
    for step in STEPS[1:]:
        found.steps[step.name] = campaign.LEAST
    assert {plan.step for plan in campaign._next(SEED, campaign.COUNT, found)} == {STEPS[0]}
    assert not campaign.judge(found, campaign.COUNT)
