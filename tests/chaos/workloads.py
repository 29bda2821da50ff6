"""The applications that are kept alive, and how their content is looked at: SQLite behind HTTP."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.demo.cluster import Cluster
from orchestrator.demo.machine import Machine

STOP_TIMEOUT_S = 5
"""PostgreSQL writes a checkpoint when it stops: a second on a busy machine; then it is killed."""
BACKGROUND = "pgbench"


class Unreadable(Exception):
    """The application could not be asked, or said that its data is not whole."""


class Workload(Protocol):
    """One application, and how its content is looked at from outside."""

    kind: str
    """As `clients` calls it."""
    port: int
    writes_by_itself: bool
    """Also while nobody asks it anything."""

    def module(self, data: Path) -> dict[str, Any]:
        """What it adds to the mirror's configuration."""
        ...

    def prepare(self, cluster: Cluster, first: Machine) -> None:
        """Its first files, on the first node's disk, before anything is replicated."""
        ...

    def rows(self, cluster: Cluster) -> dict[str, set[int]]:
        """Every row, by client, read through the virtual IP. Raises Unreadable."""
        ...

    def integrity(self, cluster: Cluster) -> str:
        """What its own checker says; empty when all is well."""
        ...

    def background(self, cluster: Cluster) -> subprocess.Popen[str] | None:
        """A second load; its processes on the clients' machine carry `BACKGROUND` in their command lines."""
        ...


@dataclass
class Sqlite:
    """The demonstration's application; `careless` leaves fsync out, as a canary."""

    careless: bool = False
    kind: str = "http"
    port: int = Cluster.port
    writes_by_itself: bool = False

    def module(self, data: Path) -> dict[str, Any]:
        room = "tests.chaos.careless" if self.careless else "orchestrator.demo.application"
        command = [sys.executable, "-m", room, str(data), str(self.port)]
        root = str(Path(__file__).parents[2])
        run = {"command": command, "environment": {"PYTHONPATH": root}, "stop_timeout": f"{STOP_TIMEOUT_S}s"}
        # It asks the database itself, so that an application that hangs is found out too.
        health = f"http://127.0.0.1:{self.port}/health"
        return {"run": run, "checks": [{"http": health, "every": "1s", "fail_after": 3}]}

    def prepare(self, cluster: Cluster, first: Machine) -> None:
        """It makes its own file."""

    def rows(self, cluster: Cluster) -> dict[str, set[int]]:
        return {client: set(numbers) for client, numbers in self._read(cluster)["rows"].items()}

    def integrity(self, cluster: Cluster) -> str:
        said = self._read(cluster)["integrity"]
        return "" if said == "ok" else str(said)

    def background(self, cluster: Cluster) -> None:
        """None: its clients are all there is."""

    def _read(self, cluster: Cluster) -> dict[str, Any]:
        try:
            return cluster.read_rows()
        except (TimeoutError, subprocess.TimeoutExpired) as fault:
            raise Unreadable(str(fault)) from fault
