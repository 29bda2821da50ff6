"""A disk that fails: its node leaves the role at once, the service moves, that disk is not believed again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from orchestrator.demo.cluster import Cluster
from orchestrator.demo.machine import Machine
from orchestrator.demo.story import MODULE
from tests.support.disks import run_out, thin
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.test_bad_input import PLAIN, read, stays, told, write
from tests.whole.test_full_disks import fill, free

AT_ONCE_S = 1.0
"""From the first error that an application sees to the end of the role."""
IDLE_S = 5.0 + 2.0
"""The mark of the time is made every five seconds, and asks the disk; the rest is for a busy machine."""

QUIET_S = 6.0
"""What was written before was flushed by then: from now on no flush asks the disk."""

WRITER = """
import os, sys, time
fd, number = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644), 0
while True:
    try:
        os.pwrite(fd, b"%d" % (number + 1), 0)
        os.fsync(fd)
    except OSError as fault:
        print("error", time.time(), fault.errno, flush=True)
        break
    number += 1
    print("ok", number, flush=True)
"""
"""Writes a growing number durably until it cannot."""


MANY = """
import errno, os, sys
for number in range(200):
    try:
        with open(f"{sys.argv[1]}/big{number}", "wb", buffering=0) as file:
            file.write(bytes(100_000))
            os.fsync(file.fileno())
    except OSError as fault:
        print(errno.errorcode[fault.errno])
"""
"""New files until every one of them has met the full disk; each that could be made notes something."""


class Writer:
    """An application on a node, and what it was told."""

    def __init__(self, found: Bare, node: str, name: str) -> None:
        path = str(found.cluster.data / name)
        self._process = found.cluster.machines[node].start("python3", "-u", "-c", WRITER, path, pipes=True)
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        self.acknowledged = 0
        self.until(lambda: self.acknowledged >= 20)

    def until(self, enough: Callable[[], bool]) -> None:
        while not enough():
            self._take(self._lines.readline())

    def error_at(self) -> float:
        """When it met its error; what it was told before is counted."""
        while True:
            words = self._lines.readline().split()
            assert words, "the writer ended without an error"
            if words[0] == "error":
                return float(words[1])
            self.acknowledged = int(words[1])

    def _take(self, line: str) -> None:
        word, number = line.split()[:2]
        assert word == "ok", line
        self.acknowledged = int(number)


def event_at(found: Bare, node: str, code: str, after: float) -> float:
    """When this was told first since then."""
    said = json.loads(found.cluster.hafarm(node, "events", "-o", "json").stdout)["events"]
    times = [event["at"] for event in said if event["code"] == code and event["at"] >= after]
    return min(times, default=float("inf"))


def device_of(machine: Machine) -> str:
    """The loop device below a machine's disk."""
    for line in Path(f"/proc/{machine.first_pid()}/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(machine.disk):
            return os.path.basename(fields[fields.index("-") + 2])
    raise AssertionError(f"{machine.name} has no disk")


def remount_read_only(machine: Machine) -> None:
    """What ext4 does by itself with `errors=remount-ro` when it meets damage."""
    assert machine.call("mount", "-o", "remount,errors=remount-ro", str(machine.disk)).returncode == 0
    Path(f"/sys/fs/ext4/{device_of(machine)}/trigger_fs_error").write_text("a test")


def is_served_elsewhere(found: Bare, failed: str, heir: str, name: str, least: int) -> None:
    """The service moved, with all that was acknowledged; the failed node takes nothing back by itself."""
    eventually(lambda: found.role(heir) == ("ALONE", "degraded"), 30)
    assert int(read(found, heir, name)) >= least > 0
    eventually(lambda: write(found, heir, "after", "goes on"), 30)
    stays(lambda: found.role(failed)[0] == "WAIT" and found.role(heir)[0] == "ALONE", 2)
    assert told(found, failed, "HF4001")


def repair(found: Bare, node: str, other: str) -> None:
    """The machine boots again, with a disk that works."""
    found.cluster.lose(node)
    found.cluster.bring_back(node)
    eventually(lambda: found.role(node) == ("SECOND", "ready"), 60)
    verified = found.cluster.hafarm(other, "verify", MODULE)
    assert verified.returncode == 0, verified.stdout


def test_a_disk_that_goes_read_only_costs_the_role_at_once_also_where_nobody_writes() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        writer = Writer(found, first, "counted")
        remount_read_only(found.cluster.machines[first])
        failed_at = writer.error_at()
        eventually(lambda: event_at(found, first, "HF1105", failed_at - AT_ONCE_S) < float("inf"), 20)
        assert event_at(found, first, "HF1105", failed_at - AT_ONCE_S) - failed_at < AT_ONCE_S
        is_served_elsewhere(found, first, second, "counted", writer.acknowledged)
        assert told(found, first, "HF1105", "the volume failed")
        found.kill_replicator(first)  # the life that knew of the failure is over
        stays(lambda: found.role(first)[0] == "WAIT", 3)
        repair(found, first, second)

        # The other way round, and nobody writes: the second is primary now.
        stays(lambda: found.role(second) == ("PRIM", "ready"), QUIET_S)
        begun = time.time()
        remount_read_only(found.cluster.machines[second])
        eventually(lambda: event_at(found, second, "HF1105", begun) < float("inf"), 20)
        assert event_at(found, second, "HF1105", begun) - begun < IDLE_S
        eventually(lambda: found.role(first) == ("ALONE", "degraded"), 30)
        assert read(found, first, "after") == "goes on"
        repair(found, second, first)

        # And the one that only follows: nobody may call it redundant.
        stays(lambda: found.role(first) == ("PRIM", "ready"), QUIET_S)
        begun = time.time()
        remount_read_only(found.cluster.machines[second])
        eventually(lambda: event_at(found, second, "HF4001", begun) < float("inf"), 20)
        assert event_at(found, second, "HF4001", begun) - begun < IDLE_S
        eventually(lambda: found.role(first) == ("ALONE", "degraded"), 20)


def test_a_disk_that_cannot_be_read_costs_the_role_at_once() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        machine = found.cluster.machines[first]
        assert write(found, first, "large", "x", 4 << 20)
        assert write(found, first, "counted", "1")
        machine.call("sync")
        begun = time.time()
        os.truncate(machine.work / "disk.img", 4096)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        # What looks at the disk all the time may have met it before the reader does.
        reads = time.time()
        assert machine.call("cat", str(found.cluster.data / "large")).returncode != 0
        eventually(lambda: event_at(found, first, "HF1105", begun) < float("inf"), 20)
        assert event_at(found, first, "HF1105", begun) - reads < AT_ONCE_S + 1  # the reader's own start
        is_served_elsewhere(found, first, second, "counted", 1)
        assert len(read(found, second, "large")) == 4 << 20


class OnThinDisk(Cluster):
    """The first node's disk promises more than there is below it."""

    def __init__(self, work: Path, **options: Any) -> None:
        self._thin = ExitStack()
        room = self.room = self._thin.enter_context(thin(work / "thin", "160m"))
        (work / "paris").mkdir()
        (work / "paris/disk.img").symlink_to(room / "disk.img")
        super().__init__(work, **options)

    def down(self) -> None:
        super().down()
        self._thin.close()


def test_a_disk_that_cannot_keep_what_it_took_costs_the_role_at_once() -> None:
    with bare(kind=OnThinDisk, module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert isinstance(found.cluster, OnThinDisk)
        assert write(found, first, "counted", "1")
        begun = time.time()
        run_out(found.cluster.room)
        assert not write(found, first, "large", "x", 8 << 20)
        eventually(lambda: event_at(found, first, "HF1105", begun) < float("inf"), 20)
        is_served_elsewhere(found, first, second, "counted", 1)


def test_full_disks_on_both_nodes_are_an_answer_and_cost_no_role() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert write(found, first, "one", "before")
        epoch = found.module(first)["record"]["epoch"]
        for node in (first, second):
            fill(found, node)
        made = found.cluster.machines[first].call("python3", "-c", MANY, str(found.cluster.data))
        assert made.stdout.split() == ["ENOSPC"] * 200, made
        assert read(found, first, "one") == "before"
        for node in (first, second):
            free(found, node)
        eventually(lambda: write(found, first, "two", "after"), 30)
        eventually(lambda: found.role(second) == ("SECOND", "ready"), 60)
        assert found.role(first) == ("PRIM", "ready")
        assert not told(found, first, "HF4001"), found.events(first)
        assert found.module(first)["record"]["primary"] == first
        assert found.module(first)["record"]["epoch"] >= epoch
        assert found.cluster.hafarm(first, "verify", MODULE).returncode == 0
