"""PostgreSQL as Debian packages it, on a mirror: nodes fail, and no row that was told is missing."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.faults import BY_NAME
from tests.chaos.postgres import Postgres
from tests.chaos.rig import Rig, rig
from tests.chaos.schedule import schedule

SEED = 15
FAULTS = [
    BY_NAME[name]
    for name in (
        "power-cut/prim",
        "kill-node/prim",
        "kill-node/second",
        "unplug/prim",
        "cut-both-ways/prim-alone",
        "cut-one-way/second-to-prim",
        "stop-agent/prim",
        "stop-replicator/prim",
        "stop-pulse/prim",
        "kill-keeper/prim",
        "kill-replicator/second",
        "stop-application/prim",
    )
]
"""Those that move the service, and some that must not; each takes a PostgreSQL through its own recovery."""


@pytest.mark.timeout(900)
def test_no_fault_costs_postgresql_a_row() -> None:
    postgres = Postgres()
    with rig(postgres) as hurt:
        assert_durable(postgres, hurt)
        steps = islice(schedule(SEED, FAULTS), len(FAULTS))
        report = Campaign(hurt).run(steps)
        hurt.keep = not report.ok
        assert report.ok, [check for check in report.checks() if not check["ok"]]
        assert_durable(postgres, hurt)
        assert postgres.seen > 0, "pgbench has done nothing"
        assert report.failovers >= 7
        assert report.lost == 0


def assert_durable(postgres: Postgres, hurt: Rig) -> None:
    """Without these settings an acknowledgement would mean nothing, and the test too."""
    for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
        assert postgres.sql(hurt.cluster, f"SHOW {setting}") == "on"


def test_the_same_rig_reports_loss_when_postgresql_does_not_wait_for_its_log() -> None:
    careless = Postgres(careless=True)
    with rig(careless) as hurt:
        assert careless.sql(hurt.cluster, "SHOW synchronous_commit") == "off"
        report = Campaign(hurt).run(islice(schedule(SEED, [BY_NAME["kill-node/prim"]], hasty=0), 1))
        assert report.lost > 0
        assert "nothing acknowledged is missing" in report.broken
