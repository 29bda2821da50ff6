"""What a writer feels of a dead peer and of a slow one, and what a power cut takes with `ack: memory`."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from orchestrator.demo.cluster import Cluster
from orchestrator.demo.story import MODULE
from orchestrator.model.config import ACK_MEMORY
from tests.chaos.faults import at_once
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.test_bad_input import PLAIN, read, told, write

FIFREEZE: Final = 0xC0045877
FITHAW: Final = 0xC0045878
DETECTION_S = 0.5
"""T of the preset `lan`."""
WRITER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
with open(sys.argv[2], "a", buffering=1) as out:
    while True:
        os.pwrite(fd, b"x" * 4096, 0)
        os.fsync(fd)
        print(time.monotonic(), file=out)
"""
OVERWRITE = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
os.pwrite(fd, sys.argv[2].encode(), 0)
os.fsync(fd)
"""
"""One durable point, in a block that the disk has already."""


class Writer:
    """Writes and syncs through the mount of a node, and notes when each sync was over."""

    def __init__(self, found: Bare, node: str) -> None:
        self._notes = found.cluster.work / "notes"
        machine = found.cluster.machines[node]
        path = str(found.cluster.data / "file")
        self._process = machine.start("python3", "-c", WRITER, path, str(self._notes))

    def times(self) -> list[float]:
        text = self._notes.read_text() if self._notes.exists() else ""
        return [float(line) for line in text[: text.rfind("\n") + 1].split()]

    def goes_on(self) -> None:
        before = len(self.times())
        eventually(lambda: len(self.times()) > before + 20, 30)

    def lives(self) -> bool:
        return self._process.poll() is None

    def longest_s(self, since: float) -> float:
        times = self.times()
        return max(after - before for before, after in pairwise(times) if after > since)


@contextmanager
def frozen(found: Bare, node: str) -> Iterator[None]:
    """Whatever writes to this node's disk waits."""
    machine = found.cluster.machines[node]
    fd = os.open(f"/proc/{machine.first_pid()}/root{machine.disk}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, FITHAW, 0)
    finally:
        os.close(fd)


def seen(found: Bare, node: str, other: str) -> dict[str, object]:
    """What one node says of another."""
    entries = found.module(node).get("nodes", [])
    return next((entry for entry in entries if entry["node"] == other), {})


def test_a_frozen_disk_is_told_as_slow_and_a_dead_node_holds_writes_for_a_moment() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        writer = Writer(found, first)
        writer.goes_on()
        epoch = seen(found, first, second)["epoch"]
        with frozen(found, second):
            eventually(lambda: seen(found, first, second)["slow"], 4.5)
            shown = found.cluster.hafarm(first, "status").stdout
        assert "until a synced write is on its disk, usually" in shown, shown
        eventually(lambda: seen(found, second, second)["slow"], 8)  # the primary says so for ten seconds more
        writer.goes_on()
        assert told(found, first, "HF4023", second)
        assert seen(found, first, second)["epoch"] == epoch, "it was taken for dead"
        assert found.role(second) == ("SECOND", "ready")

        since = time.monotonic()
        found.cluster.lose(second)
        eventually(lambda: found.role(first)[0] == "ALONE", 20)
        writer.goes_on()
        longest_s = writer.longest_s(since)
        print(f"a writer stalled for {longest_s * 1000:.0f} ms when its peer died; T is {DETECTION_S:g} s")
        # Half a T and one bid, some 0.3 s; the rest is for a machine that does other things as well.
        assert longest_s < 4 * DETECTION_S


def test_a_disk_that_hangs_is_told_and_by_policy_the_other_node_takes_over() -> None:
    with bare(module={**PLAIN, "hung_disk": {"after": "12s", "do": "move"}}) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert write(found, first, "one", "before")
        writer = Writer(found, first)
        writer.goes_on()
        with frozen(found, first):
            eventually(lambda: told(found, first, "HF4040", "has not answered"), 30)
            assert found.role(first)[0] == "PRIM"
            assert found.reason(first) == "its disk does not answer"
            eventually(lambda: found.role(second)[0] == "ALONE", 30)
            assert found.role(first)[0] == "WAIT"
            assert "its disk has not answered" in found.reason(first)
            # Whoever waited for that disk is told so: nobody hangs where the service has ended.
            eventually(lambda: not writer.lives(), 10)
            assert read(found, second, "one") == "before"
            assert overwrite(found, second, "one", "after!").returncode == 0
        eventually(lambda: told(found, first, "HF4041", "answers again"), 10)
        assert found.cluster.hafarm(first, "start", MODULE, "--node", first).returncode == 0
        eventually(lambda: found.role(first) == ("SECOND", "ready"), 60)
        eventually(lambda: found.role(second) == ("PRIM", "ready"), 20)
        assert read(found, first, "one") == "after!"


class SlowDisks(Cluster):
    """Each node's disk takes as long as a file says; without the file it is an ordinary one."""

    def start_agent(self, name: str) -> None:
        here = Path(__file__).parent
        path = f"PYTHONPATH={here / 'slow_disk'}:{here.parents[1]}"
        machine = self.machines[name]
        settings = str(machine.work / "agent.yaml")
        words = ["env", path, f"SLOW_DISK={self.slow(name)}", sys.executable, "-m", "orchestrator.agent"]
        machine.start(*words, "--config", settings, log="agent")

    def slow(self, name: str) -> Path:
        return self.work / f"slow-{name}"


def overwrite(found: Bare, node: str, name: str, text: str) -> subprocess.CompletedProcess[str]:
    path = str(found.cluster.data / name)
    return found.cluster.machines[node].call("python3", "-c", OVERWRITE, path, text)


@pytest.mark.parametrize(("ack", "delay_s"), [("memory", 60.0), ("disk", 3.0)])
def test_a_power_cut_of_both_takes_what_was_acknowledged_from_memory_and_nothing_from_disks(
    ack: str, delay_s: float
) -> None:
    with bare(kind=SlowDisks, module={**PLAIN, "ack": ack}) as found:
        found.begin()
        cluster = found.cluster
        first, second = cluster.nodes
        assert write(found, first, "one", "before")
        assert isinstance(cluster, SlowDisks)
        labelled = ACK_MEMORY in cluster.hafarm(first, "status").stdout
        assert labelled is told(found, first, "HF1101", ACK_MEMORY) is (ack == "memory")
        checked = cluster.hafarm(first, "config", "check", str(cluster.work / "hafarm.yaml"))
        assert (f"{MODULE}: {ACK_MEMORY}" in checked.stdout) is labelled

        cluster.slow(second).write_text(str(delay_s))
        began = time.monotonic()
        assert overwrite(found, first, "one", "after!").returncode == 0
        assert (time.monotonic() - began >= delay_s) is (ack == "disk")
        cluster.unplug("witness")  # no role changes between one cut and the other
        at_once(cluster.lose, [first, second])
        cluster.slow(second).unlink()
        cluster.plug("witness")
        cluster.bring_back(second)
        eventually(lambda: found.role(second)[0] == "ALONE", 60)
        assert read(found, second, "one") == ("before" if ack == "memory" else "after!")
