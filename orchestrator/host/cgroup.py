"""A group of processes that can be listed, and killed for certain, whatever they fork."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from orchestrator.model.errors import ProcessUnreachable

KILL_TIMEOUT_S = 5.0
"""SIGKILL takes milliseconds; what lives longer waits in the kernel for a device and cannot be killed."""
KILL_POLL_S = 0.005
"""Between two looks at a group that is being killed: short, a take-over may wait for it."""


class Group(Protocol):
    """What an application's processes live in."""

    certain: bool
    """False: a process that wipes its environment escapes; shown by status and preflight."""
    born_in: str
    """The directory in which a process can be born as a member; empty where it has to enter afterwards."""
    entered_by: str
    """The file by which a process with one thread enters; empty where there is nothing to enter."""

    def create(self) -> None: ...
    def enter(self) -> None:
        """Called in a child between fork and exec: must not log, import or lock."""
        ...

    def mark(self) -> dict[str, str]: ...
    def pids(self) -> list[int]: ...
    def signal(self, number: int) -> None: ...
    def remove(self) -> None: ...


def group(name: str) -> Group:
    """The group of that name (`MODULE/app`), by the best means that this machine has."""
    for kind, mount in hierarchies():
        if os.access(mount, os.W_OK):
            return Cgroup(mount / "hafarm" / name, unified=kind == "cgroup2")
    return MarkedGroup(name)


def hierarchies() -> list[tuple[str, Path]]:
    """The mounted hierarchies that can hold us, best first: unified, then the v1 freezer."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            found.setdefault("cgroup2", Path(where))
        elif kind == "cgroup" and "freezer" in options.split(","):
            found.setdefault("freezer", Path(where))
    return sorted(found.items())


class Cgroup:
    """A control group, v2 or v1 freezer: a child can never leave it by forking or by setsid."""

    certain = True

    def __init__(self, path: Path, unified: bool) -> None:
        self._path = path
        self._unified = unified
        self.born_in = str(path) if unified else ""
        # `tasks` moves one thread, and does not wait for all processors as `cgroup.procs` does.
        self.entered_by = "" if unified else f"{path}/tasks"

    def create(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)

    def enter(self) -> None:
        descriptor = os.open(f"{self._path}/cgroup.procs", os.O_WRONLY)
        os.write(descriptor, b"0")
        os.close(descriptor)

    def mark(self) -> dict[str, str]:
        return {}

    def pids(self) -> list[int]:
        try:
            return [int(pid) for pid in (self._path / "cgroup.procs").read_text().split()]
        except (FileNotFoundError, OSError) as fault:
            if isinstance(fault, FileNotFoundError) or not self._path.exists():
                return []
            raise

    def signal(self, number: int) -> None:
        if number == signal.SIGKILL and self._unified and (self._path / "cgroup.kill").exists():
            (self._path / "cgroup.kill").write_text("1")
            return
        # Frozen first, so that none forks away between the list and the signal.
        freezing = self._freeze(True) if number == signal.SIGKILL else False
        try:
            send(self.pids(), number)
        finally:
            if freezing:
                self._freeze(False)

    def _freeze(self, frozen: bool) -> bool:
        switch = self._path / ("cgroup.freeze" if self._unified else "freezer.state")
        if not switch.exists():
            return False
        words = ("0", "1") if self._unified else ("THAWED", "FROZEN")
        switch.write_text(words[frozen])
        return True

    def remove(self) -> None:
        """Take the empty group away, and the module's folder when it was the last."""
        for path in (self._path, self._path.parent):
            try:
                path.rmdir()
            except OSError:
                # Not empty (another group of the module), or gone already: it costs nothing to leave it.
                return


class MarkedGroup:
    """Where there is no cgroup: the processes whose environment carries our mark.

    A mark is found again after the agent restarts and after double forks, unlike a process group.
    """

    certain = False
    born_in = ""
    entered_by = ""

    def __init__(self, name: str) -> None:
        self._name = name

    def create(self) -> None: ...

    def enter(self) -> None: ...

    def mark(self) -> dict[str, str]:
        return {"HAFARM_GROUP": self._name}

    def pids(self) -> list[int]:
        wanted = f"HAFARM_GROUP={self._name}".encode()
        return [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if wanted in _environment(pid)
        ]

    def signal(self, number: int) -> None:
        send(self.pids(), number)

    def remove(self) -> None: ...


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # It ended between the list and the look, or is not ours to read.


def send(pids: list[int], number: int) -> None:
    """Signal each; one that has ended meanwhile is what was wanted."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


async def kill_all(
    group: Group, timeout_s: float = KILL_TIMEOUT_S, overtaken: Callable[[], bool] = lambda: False
) -> None:
    """SIGKILL until the group is empty; ProcessUnreachable when something cannot be killed.

    `overtaken`: what lives there now is somebody else's to end.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not overtaken() and (left := group.pids()):
        group.signal(signal.SIGKILL)
        if asyncio.get_running_loop().time() > deadline:
            raise ProcessUnreachable(
                what=f"process {', '.join(map(str, left))}",
                why="it survives SIGKILL, so it waits in the kernel for a device; repair that, or reboot",
            )
        await asyncio.sleep(KILL_POLL_S)
