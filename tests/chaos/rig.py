"""A cluster with a real application, its clients, and those who watch both from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.demo.cluster import Cluster
from orchestrator.demo.machine import Machine
from orchestrator.demo.story import MODULE, Story
from tests.chaos import trees
from tests.chaos.watch import Answers, Applications, Clients, group_lives
from tests.chaos.workloads import BACKGROUND, Workload
from tests.support.leftovers import remember

CLIENTS = 4
PATIENCE_S = 120.0
"""For the way back to redundancy: restart, replay, a full comparison, on a machine that others load too."""
EQUAL_S = 30.0
"""For what is still in the stream to arrive."""
LOOK_S = 0.02
ROOM = {
    "agent": "orchestrator.agent",
    "pulse": "orchestrator.pulse",
    "keeper": "orchestrator.replicator.keeper",
    "replicator": "orchestrator.replicator.main",
    "witness": "orchestrator.witness",
}
"""How each process of ours is told in a command line."""


class NotWithin(AssertionError):
    """A condition did not come true in its time."""


class Rig:
    """Words for what is done to a cluster and what is asked of it."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self.cluster = cluster
        self.workload = workload
        self.story = Story(cluster, lambda _: None, fast=True)
        self.keep = False
        """Keep logs and disks: somebody will want to look."""
        self.clients: Clients
        self.answers: Answers
        lives = {name: self._finder(cluster.machines[name]) for name in cluster.names}
        self.applications = Applications(lives)

    def _finder(self, machine: Machine) -> Callable[[], bool]:
        folder = self._group(machine)
        return lambda: group_lives(folder)

    def _group(self, machine: Machine) -> Path:
        assert machine.cgroup is not None, "the application is looked for in its control group: mount cgroup2"
        return machine.cgroup / "hafarm" / MODULE / "app"

    # --- up and down --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Bring everything up until two nodes are in sync and rows are acknowledged."""
        first, _ = self.cluster.nodes
        self.cluster.boot()
        self.workload.prepare(self.cluster, self.cluster.machines[first])
        self.cluster.start_processes()
        self.until("both agents hear each other", self.cluster.all_hear)
        accepted = self.cluster.act(first, action="start", first=first)
        assert accepted is not None, "the agent gave no answer"
        assert accepted[0] == 202, accepted
        self.until("redundant", self.redundant)
        self.applications.start()
        macs = [f"{name}={self._mac(name)}" for name in self.cluster.names]
        self.answers = Answers(self._client("tests.chaos.answers", self.cluster.vip, *macs))
        where = [self.workload.kind, self.cluster.vip, str(self.workload.port), str(CLIENTS)]
        self.clients = Clients(self._client("tests.chaos.clients", *where))
        self.until("rows are acknowledged", lambda: self.clients.acknowledged > 20)
        self.workload.background(self.cluster)

    def _client(self, room: str, *words: str) -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[2])
        client = self.cluster.machines["client"]
        return client.start("env", f"PYTHONPATH={root}", sys.executable, "-m", room, *words, pipes=True)

    def _mac(self, name: str) -> str:
        # Not from /sys, which shows the network of the namespace that mounted it.
        said = self.cluster.machines[name].call("ip", "-json", "link", "show", "eth0").stdout
        return str(json.loads(said)[0]["address"])

    def end(self) -> None:
        """Stop who watches; the cluster is the caller's."""
        self.applications.stop()
        if hasattr(self, "answers"):
            self.answers.finish()

    # --- asking -------------------------------------------------------------------------------------------

    def until(self, what: str, condition: Callable[[], object], limit_s: float = PATIENCE_S) -> None:
        """Wait for a condition, never for a time."""
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                raise NotWithin(f"not within {limit_s:g} s: {what}; {self.describe()}")
            time.sleep(LOOK_S)

    def describe(self) -> str:
        """What each node says of itself, for a report that has to explain."""
        said = []
        for name in self.cluster.names:
            module = next(iter((self.cluster.status(name) or {}).get("modules", [])), None)
            mine = next((one for one in module["nodes"] if one["node"] == name), None) if module else None
            said.append(
                f"{name}: " + (f"{mine['role']} {mine['phase']} {mine['reason']}" if mine else "silent")
            )
        return "; ".join(said)

    def answering(self) -> bool:
        """Every node's agent does."""
        return all(self.cluster.status(name) is not None for name in self.cluster.names)

    def redundant(self) -> bool:
        """One node serves, the other is in sync, and both say so."""
        roles = sorted(self.story.role(name) for name in self.cluster.names)
        return roles == [("PRIM", "ready"), ("SECOND", "ready")]

    def primary(self) -> str:
        """Who serves, as seen from outside; after a silence who did last."""
        return self.answers.owners[-1][1] if self.answers.owners else self.cluster.nodes[0]

    def progresses(self) -> None:
        """Rows are acknowledged from now on."""
        before = self.clients.acknowledged
        self.until("rows are acknowledged", lambda: self.clients.acknowledged > before + 8)

    def unequal(self) -> list[str]:
        """What differs between both disks once it has had the time to be the same.

        An application that writes by itself is frozen meanwhile: two looks are never at the same moment.
        """
        if not self.workload.writes_by_itself:
            return self._unequal()
        node = self.primary()
        self.signal(node, "application", signal.SIGSTOP)
        try:
            return self._unequal()
        finally:
            self.signal(node, "application", signal.SIGCONT)

    def _unequal(self) -> list[str]:
        first, second = (
            trees.plain(machine.first_pid(), machine.disk / "data")
            for machine in map(self.cluster.machines.__getitem__, self.cluster.names)
        )
        end = time.monotonic() + EQUAL_S
        while True:
            with suppress(FileNotFoundError):  # it was removed between the list and the look
                differing = trees.differences(first, second)
                if not differing:
                    assert any(trees.entries(first)), "a comparison of nothing proves nothing"
                    return []
                if time.monotonic() > end:
                    return differing
            time.sleep(0.2)

    # --- doing --------------------------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nobody writes meanwhile, and `clients.next` is complete."""
        self.clients.tell("pause")
        self.until("the clients pause", lambda: self.clients.idle)
        self._signal_background(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_background(signal.SIGCONT)
            self.clients.tell("go")
            self.until("the clients go on", lambda: not self.clients.idle)

    def _signal_background(self, number: int) -> None:
        for pid in self.cluster.machines["client"].pids(BACKGROUND):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def pids(self, node: str, what: str) -> list[int]:
        """The processes of one of ours, or of the application, on a machine."""
        machine = self.cluster.machines[node]
        if what == "application":
            with suppress(OSError):
                return [int(pid) for pid in (self._group(machine) / "cgroup.procs").read_text().split()]
            return []
        return machine.pids(ROOM[what])

    def signal(self, node: str, what: str, number: int) -> list[int]:
        """Send a signal; whom it reached."""
        reached = []
        for pid in self.pids(node, what):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                reached.append(pid)
        return reached

    def kill_everything(self, node: str) -> None:
        """SIGKILL to every process of a machine; its kernel, network and disk stay as they are."""
        machine = self.cluster.machines[node]
        first = machine.first_pid()
        while left := [pid for pid in machine.pids() if pid != first and not is_zombie(pid)]:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def start_processes(self, node: str) -> None:
        """As its service manager would, after a crash of everything on it."""
        if node == "witness":
            self.cluster.start_witness()
        else:
            self.cluster.start_agent(node)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@contextmanager
def rig(workload: Workload, preset: str = "lan", overlap: str = "brief") -> Iterator[Rig]:
    """A cluster that serves; on a failure its logs stay, and the message says where."""
    work = remember(Path(tempfile.mkdtemp(prefix="hafarm-chaos-")))
    work.chmod(0o755)  # the application's own user must reach its directory
    module = workload.module(work / "srv") | {
        "overlap": overlap,
        # Whoever kills an application a hundred times a day must not run into the budget for real ones.
        "restarts": {"max": 1000, "window": "1h"},
    }
    cluster = Cluster(work, preset=preset, module=module)
    made = Rig(cluster, workload)
    failed = True
    try:
        made.begin()
        yield made
        failed = made.keep
    except KeyboardInterrupt:
        failed = False  # whoever breaks it off has no use for its logs
        raise
    except BaseException as fault:
        fault.add_note(f"logs of the cluster: {work}")
        raise
    finally:
        try:
            made.end()
        finally:
            cluster.down()
        if not failed:
            shutil.rmtree(work, ignore_errors=True)
