"""SQLite on a mirror: nodes and our own processes fail, and no row that was told is missing."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.faults import named
from tests.chaos.rig import rig
from tests.chaos.schedule import schedule, until_moved
from tests.chaos.workloads import Sqlite

SEED = 3
FAILOVERS = 8
MOVES = named(
    "kill-node/prim",
    "unplug/prim",
    "power-cut/prim",
    "cut-both-ways/prim-second",
    "cut-both-ways/prim-alone",
    "stop-agent/prim",
    "stop-replicator/prim",
    "stop-keeper/prim",
)
STAYS = named(
    "kill-node/both",
    "unplug/second",
    "cut-one-way/prim-to-second",
    "cut-one-way/witness-to-prim",
    "kill-agent/second",
    "kill-pulse/second",
    "kill-keeper/second",
    "kill-application/prim",
    "stop-witness/witness",
    "stop-replicator/second",
)


@pytest.mark.timeout(900)
def test_no_fault_costs_sqlite_a_row() -> None:
    faults = MOVES + STAYS
    with rig(Sqlite(), overlap="none") as hurt:
        steps = islice(schedule(SEED, faults), len(faults))
        report = Campaign(hurt, overlap="none").run(
            until_moved(lambda: hurt.answers.failovers, FAILOVERS, steps, *named("kill-node/prim"))
        )
        hurt.keep = not report.ok
        assert report.ok, [check for check in report.checks() if not check["ok"]]
        assert report.lost == 0
        assert report.failovers >= FAILOVERS
