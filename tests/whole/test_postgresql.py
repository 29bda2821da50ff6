"""PostgreSQL as Debian packages it, on a mirror: nodes fail, and no row that was told is missing."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.faults import named
from tests.chaos.postgres import Postgres
from tests.chaos.rig import Rig, rig
from tests.chaos.schedule import schedule, until_moved

SEED = 15
FAILOVERS = 7
"""With those of the SQLite and the power cut campaigns: 20 in each run of all tests."""
MOVES = named(
    "power-cut/prim",
    "kill-node/prim",
    "unplug/prim",
    "cut-both-ways/prim-second",
    "cut-both-ways/prim-alone",
    "stop-agent/prim",
    "stop-replicator/prim",
    "stop-pulse/prim",
)
"""Each takes a PostgreSQL through its own recovery, on the other node."""
STAYS = named(
    "kill-node/second",
    "kill-replicator/prim",
    "cut-one-way/second-to-prim",
    "stop-application/prim",
)


@pytest.mark.timeout(900)
def test_no_fault_costs_postgresql_a_row() -> None:
    postgres = Postgres()
    with rig(postgres) as hurt:
        assert_durable(postgres, hurt)
        faults = MOVES + STAYS
        steps = islice(schedule(SEED, faults), len(faults))
        report = Campaign(hurt).run(
            until_moved(lambda: hurt.answers.failovers, FAILOVERS, steps, *named("kill-node/prim"))
        )
        hurt.keep = not report.ok
        assert report.ok, [check for check in report.checks() if not check["ok"]]
        assert_durable(postgres, hurt)
        assert postgres.seen > 0, "pgbench has done nothing"
        assert report.failovers >= FAILOVERS
        assert report.lost == 0


def assert_durable(postgres: Postgres, hurt: Rig) -> None:
    """Without these settings an acknowledgement would mean nothing, and the test too."""
    for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
        assert postgres.sql(hurt.cluster, f"SHOW {setting}") == "on"


def test_the_same_rig_reports_loss_when_postgresql_does_not_wait_for_its_log() -> None:
    careless = Postgres(careless=True)
    with rig(careless) as hurt:
        assert careless.sql(hurt.cluster, "SHOW synchronous_commit") == "off"
        report = Campaign(hurt).run(islice(schedule(SEED, named("kill-node/prim"), hasty=0), 1))
        assert report.lost > 0
        assert "nothing acknowledged is missing" in report.broken
