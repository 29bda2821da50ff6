"""PostgreSQL as it is packaged, under numbered inserts and pgbench."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.demo.cluster import Cluster
from orchestrator.demo.machine import Machine
from tests.chaos.workloads import BACKGROUND, STOP_TIMEOUT_S, Unreadable

READ_TIMEOUT_S = 90.0
"""For one question to a server that may be replaying its log."""


def postgres_program(name: str) -> str:
    """The newest installed one; Debian keeps each version's programs in a directory of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    assert found, f"{name} is not installed: apt-get install -y postgresql postgresql-contrib"
    return str(found[-1])


SMALL = {
    # Everything is written through 512 MiB disks and compared in full again and again: keep the log short.
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "checkpoint_timeout": "30s",
    "listen_addresses": "*",
    "unix_socket_directories": "",
    "autovacuum_naptime": "10s",
}
CARELESS = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
"""Rows are acknowledged while they are in PostgreSQL's own memory only, for up to ten seconds."""

INITDB = ("--auth=trust", "--data-checksums", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
"""--no-sync: what was there before is flushed when the node begins to serve."""
FIRST_STATEMENTS = (
    "CREATE TABLE rows (client text, number integer, PRIMARY KEY (client, number))",
    # Two thirds of a new server's thousand files, each of which it flushes after every crash.
    "UPDATE pg_database SET datistemplate = false",
    "DROP DATABASE template0",
    "DROP DATABASE template1",
)
BALANCES = """SELECT (SELECT sum(abalance) FROM pgbench_accounts),
       (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches),
       coalesce(sum(delta), 0), count(*) FROM pgbench_history"""
"""Each transaction of pgbench adds one amount to one row of each table, and one row to the history."""


@dataclass
class Postgres:
    """A whole server as its package's user; `careless` answers before the log is on disk, as a canary."""

    careless: bool = False
    kind: str = "postgres"
    port: int = 5432
    writes_by_itself: bool = True
    seen: int = 0
    """How many transactions of pgbench were found: committed and read, they must never be fewer."""

    def module(self, data: Path) -> dict[str, Any]:
        settings = SMALL | (CARELESS if self.careless else {})
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [postgres_program("postgres"), "-D", str(data / "pg"), "-p", str(self.port), *options]
        return {
            "run": {"command": command, "user": "postgres", "stop_timeout": f"{STOP_TIMEOUT_S}s"},
            "checks": [{"tcp": self.port, "every": "1s", "fail_after": 5}],
        }

    def prepare(self, cluster: Cluster, first: Machine) -> None:
        """initdb with checksums, so that a torn page is seen by whoever reads it."""
        home = first.disk / "data" / "pg"
        script = (
            f"mkdir -p {home} && chown postgres {home} && chmod 700 {home} && "
            f"{self._as_user(postgres_program('initdb'), '-D', str(home), *INITDB)} && "
            f"echo 'host all all 198.18.0.0/15 trust' >> {home}/pg_hba.conf && "
            f"printf '%s\\n' {shlex.join(FIRST_STATEMENTS)} | "
            f"{self._as_user(postgres_program('postgres'), '--single', '-D', str(home), 'postgres')}"
        )
        done = first.call("sh", "-ec", script, timeout_s=120)
        if done.returncode != 0:
            raise RuntimeError(f"initdb: {done.stdout[-300:]} {done.stderr[-300:]}")

    def _as_user(self, *words: str) -> str:
        return shlex.join(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *words])

    def sql(self, cluster: Cluster, statement: str) -> str:
        """What one statement answers, through the virtual IP. Raises Unreadable."""
        done = self._ask(cluster, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement)
        if done.returncode != 0:
            raise Unreadable(done.stderr.strip()[-400:])
        return done.stdout.strip()

    def _ask(self, cluster: Cluster, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        where = ["-h", cluster.vip, "-p", str(self.port), "-U", "postgres", "-d", "postgres"]
        client = cluster.machines["client"]
        try:
            return client.call(postgres_program(program), *where, *words, timeout_s=READ_TIMEOUT_S)
        except subprocess.TimeoutExpired as fault:
            raise Unreadable(str(fault)) from fault

    def rows(self, cluster: Cluster) -> dict[str, set[int]]:
        text = self.sql(
            cluster,
            "SELECT json_object_agg(client, n) FROM (SELECT client, json_agg(number) AS n "
            "FROM rows GROUP BY client) AS all_rows",
        )
        return {client: set(numbers) for client, numbers in json.loads(text or "{}").items()}

    def integrity(self, cluster: Cluster) -> str:
        """pg_amcheck of every table and index, each row looked up in its indexes; and pgbench's sums."""
        done = self._ask(cluster, "pg_amcheck", "--install-missing", "--heapallindexed", "--no-strict-names")
        if done.returncode != 0:
            return (done.stdout + done.stderr).strip()[-400:] or "pg_amcheck failed"
        accounts, tellers, branches, deltas, count = self.sql(cluster, BALANCES).split("|")
        if len({accounts, tellers, branches, deltas}) != 1:
            return f"pgbench: accounts {accounts}, tellers {tellers}, branches {branches}, history {deltas}"
        fewer, self.seen = int(count) < self.seen, int(count)
        return f"pgbench: only {count} transactions are left" if fewer else ""

    def background(self, cluster: Cluster) -> subprocess.Popen[str]:
        """pgbench's own transactions, started again whenever the service was away."""
        made = self._ask(cluster, "pgbench", "--initialize", "--quiet", "--scale=1")
        if made.returncode != 0:
            raise RuntimeError(f"pgbench: {made.stderr[-300:]}")
        # Without its own time-outs it would wait for a machine that is gone as long as the kernel does.
        where = f"host={cluster.vip} port={self.port} user=postgres dbname=postgres"
        patience = "connect_timeout=2 tcp_user_timeout=2000"
        words = ["--no-vacuum", "--client=2", "--rate=20", "--time=86400", f"{where} {patience}"]
        again = f"while :; do {shlex.join([postgres_program(BACKGROUND), *words])}; sleep 0.2; done"
        return cluster.machines["client"].start("sh", "-c", again, log=BACKGROUND)
