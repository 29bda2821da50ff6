"""A cluster whose agents run and whose module was never started; for tests of what must be refused."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.demo.cluster import Cluster
from orchestrator.demo.story import MODULE
from tests.support.waiting import eventually


class Bare:
    """Words for tests about one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def module(self, node: str) -> dict[str, Any]:
        """The module as this node's agent tells it; empty when it does not answer."""
        status = self.cluster.status(node)
        return status["modules"][0] if status else {}

    def here(self, node: str) -> dict[str, Any]:
        """What a node's agent says of itself."""
        found = [each for each in self.module(node).get("nodes", []) if each["node"] == node]
        return found[0] if found else {}

    def role(self, node: str) -> tuple[str, str]:
        here = self.here(node)
        return here.get("role", ""), here.get("phase", "")

    def reason(self, node: str) -> str:
        return str(self.here(node).get("reason", ""))

    def events(self, node: str) -> list[str]:
        """`CODE text` of each."""
        done = self.cluster.hafarm(node, "events", "-o", "tsv")
        return ["  ".join(line.split("\t")[-2:]) for line in done.stdout.splitlines()[1:]]

    def kill_replicator(self, node: str) -> None:
        """Keeper and replicator at once: the gate's life is over."""
        machine = self.cluster.machines[node]
        for pid in machine.pids("orchestrator.replicator"):
            with suppress(ProcessLookupError):  # it does not outlive its keeper
                os.kill(pid, signal.SIGKILL)

    def begin(self) -> None:
        """The very first start, until both are in sync."""
        first, second = self.cluster.nodes
        eventually(self.cluster.all_hear, 40)
        assert self.cluster.hafarm(first, "start", MODULE, "--first", first).returncode == 0
        eventually(lambda: self.role(first) == ("PRIM", "ready"), 60)
        eventually(lambda: self.role(second) == ("SECOND", "ready"), 60)


@contextmanager
def bare(kind: type[Cluster] = Cluster, **options: Any) -> Iterator[Bare]:
    """Up, and nothing started; on a failure the logs stay, and the message says where."""
    work = Path(tempfile.mkdtemp(prefix="hafarm-bare-"))
    cluster = kind(work, **options)
    failed = True
    try:
        cluster.up()
        yield Bare(cluster)
        failed = False
    except BaseException as fault:
        fault.add_note(f"logs of the cluster: {work}")
        raise
    finally:
        cluster.down()
        if not failed:
            shutil.rmtree(work, ignore_errors=True)
