"""The replicator is killed again and again while an application works on its files; nothing may show."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.host import disk as host_disk
from tests.replicator.processes import Agent, Process, record
from tests.support.disks import ext4
from tests.support.waiting import eventually

WORKERS = 3
NAMES = 12
"""Few, so that names are taken and freed, exchanged and replaced all the time."""
SOON_S = 0.1
"""A kill comes at any moment of this time after work was seen to go on: some hundred operations."""
_LIMIT_S = 30.0
"""The keeper waits 2 s at most before it starts a replicator again."""


@dataclass
class Report:
    """What the application saw."""

    kills: int = 0
    operations: int = 0
    longest_stall_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Where the files at the end are other than what was done to them."""

    @property
    def ok(self) -> bool:
        return not self.errors and not self.wrong


class Worker:
    """Changes a directory of its own, and knows what must be in it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.operations = 0
        self.longest_s = 0.0
        self.errors: list[str] = []
        self._random = random.Random(seed)
        self._files: dict[str, bytes] = {}
        self._marks: set[str] = set()
        self._lines = 0
        folder.mkdir()
        self._log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(_LIMIT_S)
        os.close(self._log)

    def _work(self) -> None:
        steps = [
            self._make,
            self._make,
            self._write,
            self._rename,
            self._exchange,
            self._link,
            self._unlink,
            self._folder,
            self._mark,
            self._truncate,
            self._unlinked,
            self._nameless,
            self._append,
        ]
        while not self._stop.is_set():
            step = self._random.choice(steps)
            began = time.monotonic()
            try:
                step()
            except (OSError, AssertionError) as fault:
                self.errors.append(f"{step.__name__} number {self.operations}: {fault!r}")
                return
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.operations += 1

    # --- what an application does ---------------------------------------------------------------------------

    def _free(self) -> str:
        return self._random.choice([f"n{at}" for at in range(NAMES) if f"n{at}" not in self._files])

    def _taken(self) -> str | None:
        return self._random.choice(sorted(self._files)) if self._files else None

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.randrange(1, 9000))

    def _make(self) -> None:
        if len(self._files) == NAMES:
            return self._unlink()
        name, data = self._free(), self._bytes()
        fd = os.open(self.folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(fd, data)
            if self._random.random() < 0.5:
                os.fsync(fd)
        finally:
            os.close(fd)
        self._files[name] = data
        return None

    def _write(self) -> None:
        if (name := self._taken()) is None:
            return
        data, was = self._bytes(), self._files[name]
        at = self._random.randrange(len(was) + 1)
        with open(self.folder / name, "r+b", buffering=0) as file:
            file.seek(at)
            file.write(data)
            os.fdatasync(file.fileno())
        self._files[name] = was[:at] + data + was[at + len(data) :]

    def _rename(self) -> None:
        if (name := self._taken()) is None:
            return
        target = self._random.choice([f"n{at}" for at in range(NAMES) if f"n{at}" != name])
        os.rename(self.folder / name, self.folder / target)
        self._files[target] = self._files.pop(name)
        self._marks.discard(target)
        if name in self._marks:
            self._marks.remove(name)
            self._marks.add(target)

    def _exchange(self) -> None:
        if len(self._files) < 2:
            return
        one, two = self._random.sample(sorted(self._files), 2)
        exchange(self.folder / one, self.folder / two)
        self._files[one], self._files[two] = self._files[two], self._files[one]
        if (one in self._marks) != (two in self._marks):
            self._marks ^= {one, two}

    def _link(self) -> None:
        if (name := self._taken()) is None:
            return
        other = self.folder / "linked"
        os.link(self.folder / name, other)
        assert os.stat(other).st_nlink == 2
        os.unlink(other)

    def _unlink(self) -> None:
        if (name := self._taken()) is None:
            return
        os.unlink(self.folder / name)
        del self._files[name]
        self._marks.discard(name)

    def _folder(self) -> None:
        inner = self.folder / "inner"
        inner.mkdir()
        os.symlink("nowhere", inner / "sign")
        assert os.listdir(inner) == ["sign"]
        os.unlink(inner / "sign")
        inner.rmdir()

    def _mark(self) -> None:
        if (name := self._taken()) is None:
            return
        if name in self._marks:
            os.removexattr(self.folder / name, "user.mark")
        else:
            os.setxattr(self.folder / name, "user.mark", b"x", os.XATTR_CREATE)
        self._marks ^= {name}

    def _truncate(self) -> None:
        if (name := self._taken()) is None:
            return
        size = self._random.randrange(9000)
        os.truncate(self.folder / name, size)
        self._files[name] = self._files[name][:size].ljust(size, b"\0")

    def _unlinked(self) -> None:
        """A file is used after its last name is gone."""
        if (name := self._taken()) is None:
            return
        fd = os.open(self.folder / name, os.O_RDWR)
        try:
            os.unlink(self.folder / name)
            was = self._files.pop(name)
            self._marks.discard(name)
            os.pwrite(fd, b"more", len(was))
            os.fsync(fd)
            assert os.pread(fd, 20_000, 0) == was + b"more"
        finally:
            os.close(fd)

    def _nameless(self) -> None:
        fd = os.open(self.folder, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            data = self._bytes()
            os.write(fd, data)
            assert os.pread(fd, 20_000, 0) == data
        finally:
            os.close(fd)

    def _append(self) -> None:
        os.write(self._log, b"%08d\n" % self._lines)
        self._lines += 1

    # --- what must be there ---------------------------------------------------------------------------------

    def wrong(self) -> Iterator[str]:
        expected = {**self._files, "log": b"".join(b"%08d\n" % line for line in range(self._lines))}
        found = {name: (self.folder / name).read_bytes() for name in os.listdir(self.folder)}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                was, wanted = _said(found.get(name)), _said(expected.get(name))
                yield f"{self.folder.name}/{name}: {was} instead of {wanted}"
        for name in self._files.keys() & found.keys():
            if (name in self._marks) != ("user.mark" in os.listxattr(self.folder / name)):
                yield f"{self.folder.name}/{name}: its extended attribute"


def _said(data: bytes | None) -> str:
    return "absent" if data is None else f"{len(data)} bytes"


def exchange(one: Path, two: Path) -> None:
    folder = os.open(one.parent, os.O_PATH)
    try:
        host_disk.rename(
            folder, os.fsencode(one.name), folder, os.fsencode(two.name), host_disk.RENAME_EXCHANGE
        )
    finally:
        os.close(folder)


@contextmanager
def working(mirror: Process, seed: int) -> Iterator[list[Worker]]:
    workers = [Worker(mirror.tree / f"w{number}", seed + number) for number in range(WORKERS)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()


class Alone(Process):
    """A mirror of this node alone."""

    def serve(self) -> Agent:
        agent = self.start()
        agent.ask("take_reign", record=record(1, "paris", agent.ask("status")["life"], ["paris"]))
        agent.event("reign_taken")
        return agent


@contextmanager
def alone(base: Path) -> Iterator[Alone]:
    """Its files on a disk of their own, below `base`."""
    with ext4(base / "image", base / "disk") as disk:
        tree = disk / "orders"
        tree.mkdir()
        thing = Alone(base, tree)
        try:
            yield thing
        finally:
            thing.end()


def kill_again_and_again(
    mirror: Process, count: int, seed: int, tell: Callable[[str], None] = lambda line: None
) -> Report:
    """Kill the replicator of a mirror that serves so many times, at random moments; what was seen of it."""
    report = Report()
    moments = random.Random(seed)
    with working(mirror, seed) as workers:

        def all_go_on(before: list[int]) -> bool:
            pairs = zip(workers, before, strict=True)
            return any(each.errors for each in workers) or all(each.operations > was for each, was in pairs)

        while report.kills < count and not any(each.errors for each in workers):
            before = [each.operations for each in workers]
            eventually(lambda was=before: all_go_on(was), _LIMIT_S)
            time.sleep(moments.uniform(0, SOON_S))
            if not (victim := mirror.replicator()):
                continue
            os.kill(victim, signal.SIGKILL)
            report.kills += 1
            if report.kills % 10 == 0:
                tell(f"{report.kills} kills, {sum(each.operations for each in workers)} operations")
        before = [each.operations for each in workers]
        eventually(lambda: all_go_on(before), _LIMIT_S)
    report.operations = sum(each.operations for each in workers)
    report.longest_stall_s = max(each.longest_s for each in workers)
    report.errors = [error for each in workers for error in each.errors]
    if not report.errors:
        report.wrong = [line for each in workers for line in each.wrong()]
    return report
