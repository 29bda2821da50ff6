"""The current fails, on one node and on all at once: what was acknowledged is on the disks that come back."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.faults import FAULTS, named
from tests.chaos.rig import rig
from tests.chaos.schedule import schedule, until_moved
from tests.chaos.workloads import Sqlite

SEED = 9
FAILOVERS = 5
CUTS = named(*(fault.name for fault in FAULTS if fault.kind == "power-cut"))
EVERYTHING = named("power-cut/both")
COUNT = 8
"""Each of the five, and three of them again from a state that a cut has left."""


@pytest.mark.timeout(900)
def test_no_power_cut_costs_a_row() -> None:
    with rig(Sqlite()) as hurt:
        steps = islice(schedule(SEED, CUTS), COUNT)
        report = Campaign(hurt).run(
            until_moved(lambda: hurt.answers.failovers, FAILOVERS, steps, *named("power-cut/prim"))
        )
        hurt.keep = not report.ok
        assert report.ok, [check for check in report.checks() if not check["ok"]]
        assert set(report.faults) == {fault.name for fault in CUTS}
        assert report.lost == 0
        assert report.failovers >= FAILOVERS


def test_the_same_rig_reports_loss_when_sqlite_leaves_fsync_out() -> None:
    with rig(Sqlite(careless=True)) as hurt:
        report = Campaign(hurt).run(islice(schedule(SEED, EVERYTHING, hasty=0), 1))
        assert report.lost > 0
        assert "nothing acknowledged is missing" in report.broken
