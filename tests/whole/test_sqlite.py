"""SQLite on a mirror: nodes and our own processes fail, and no row that was told is missing."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.faults import BY_NAME
from tests.chaos.rig import rig
from tests.chaos.schedule import schedule
from tests.chaos.workloads import Sqlite

SEED = 3
FAULTS = [
    BY_NAME[name]
    for name in (
        "kill-node/prim",
        "kill-node/both",
        "unplug/prim",
        "unplug/second",
        "cut-both-ways/prim-second",
        "cut-both-ways/prim-alone",
        "cut-one-way/prim-to-second",
        "cut-one-way/witness-to-prim",
        "kill-agent/second",
        "kill-pulse/prim",
        "kill-keeper/second",
        "kill-application/prim",
        "stop-keeper/prim",
        "stop-witness/witness",
        "stop-replicator/second",
    )
]


@pytest.mark.timeout(900)
def test_no_fault_costs_sqlite_a_row() -> None:
    with rig(Sqlite(), overlap="none") as hurt:
        report = Campaign(hurt, overlap="none").run(islice(schedule(SEED, FAULTS), len(FAULTS)))
        hurt.keep = not report.ok
        assert report.ok, [check for check in report.checks() if not check["ok"]]
        assert report.lost == 0
