"""A whole cluster for a test: two nodes in sync, with the demonstration's application and its clients."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.demo.cluster import Cluster
from orchestrator.demo.story import Clients, Story
from tests.support.leftovers import remember
from tests.support.waiting import eventually


class Running:
    """A cluster that serves, and words for tests about it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.story = Story(cluster, lambda _: None, fast=True)
        self.clients: Clients | None = None

    def begin(self) -> None:
        first, second = self.cluster.nodes
        eventually(self.cluster.all_hear, 30)
        assert self.cluster.act(first, action="start", first=first)[0] == 202
        eventually(lambda: self.story.role(first) == ("PRIM", "ready"), 40)
        eventually(lambda: self.story.role(second) == ("SECOND", "ready"), 40)

    def load(self, count: int = 4) -> Clients:
        """Clients that write numbered rows until the end of the test."""
        self.clients = self.story.clients = Clients(self.cluster.start_clients(count))
        eventually(lambda: self.clients.acknowledged > 20, 20)
        return self.clients

    def redundant(self) -> bool:
        return self.story.roles("PRIM", "ready") == 1 and self.story.roles("SECOND", "ready") == 1

    def progresses(self) -> None:
        """Rows are acknowledged from now on."""
        before = self.clients.acknowledged
        eventually(lambda: self.clients.acknowledged > before + 10, 30)

    def lost(self) -> set[tuple[str, int]]:
        """What clients were told and is not there; ends the clients."""
        final = self.clients.finish()
        eventually(self._is_served, 30)  # it may be moving still
        stored = self.cluster.read_rows()
        assert stored["integrity"] == "ok"
        present = {(client, number) for client, numbers in stored["rows"].items() for number in numbers}
        told = {(client, number) for client, numbers in final["rows"].items() for number in numbers}
        assert told, "a check of nothing proves nothing"
        return told - present

    def _is_served(self) -> bool:
        try:
            self.cluster.read_rows()
        except TimeoutError:
            return False
        return True

    def pids(self, node: str, *needles: str) -> list[int]:
        return self.cluster.machines[node].pids(*needles)

    def kill(self, node: str, *needles: str) -> list[int]:
        """SIGKILL to the processes of a node whose command line has all of these words."""
        found = self.pids(node, *needles)
        for pid in found:
            os.kill(pid, 9)
        return found


@contextmanager
def running(
    keep: Callable[[], bool] = lambda: False,
    module: Callable[[Path], dict[str, Any]] = lambda work: {},
    **options: Any,
) -> Iterator[Running]:
    """Two nodes in sync; the logs stay where `keep` says so at the end, or on a fault, which says where.

    `module` gives the mirror's keys; what it is given is a directory that all machines see.
    """
    work = remember(Path(tempfile.mkdtemp(prefix="hafarm-test-")))
    cluster = Cluster(work, module=module(work), **options)
    failed = True
    try:
        cluster.up()
        served = Running(cluster)
        served.begin()
        yield served
        failed = keep()
    except BaseException as fault:
        fault.add_note(f"logs of the cluster: {work}")
        raise
    finally:
        cluster.down()
        if not failed:
            shutil.rmtree(work, ignore_errors=True)


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report: pytest.TestReport = outcome.get_result()
    if report.failed:
        item.stash[_failed] = True
        where = getattr(item, "funcargs", {}).get("served")
        if isinstance(where, Running):
            report.sections.append(("logs of the cluster", str(where.cluster.work)))


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running(lambda: request.node.stash.get(_failed, False)) as served:
        yield served
