"""When the current fails: one page of memory that the campaign and all processes of both nodes share."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from orchestrator.demo.machine import FS_IOC_SHUTDOWN, NO_LOG_FLUSH

_STEP, _NODE, _CALLS, _VICTIMS, _FELL, _AT, _PIDS = range(7)
_FIELDS: Final = _PIDS + 4
"""A keeper and a replicator of each of two nodes stand last."""
BY_HAND: Final = 1 << 20
"""In place of a step's number: at a random moment."""


class Trigger:
    """Armed by the campaign for one step of one node; whoever reaches that step ends there, with its disk."""

    def __init__(self, path: Path, disks: Sequence[Path]) -> None:
        """`disks`: where each node's file system is mounted, above whatever covers a directory of it."""
        self.path = path
        self._disks = disks
        if not path.exists():
            path.write_bytes(bytes(8 * _FIELDS))
        with path.open("r+b") as file:
            self._memory = memoryview(mmap.mmap(file.fileno(), 8 * _FIELDS)).cast("q")
        self._one = threading.Lock()

    # --- the campaign's side --------------------------------------------------------------------------------

    def arm(self, step: int, node: int, calls: int, victims: int) -> None:
        """Cut when this node reaches this step for the so-manieth time. `victims`: bits, one a node."""
        memory = self._memory
        memory[_NODE], memory[_CALLS], memory[_VICTIMS] = node, calls, victims
        memory[_STEP] = step  # last: whoever sees it finds the rest

    def disarm(self) -> None:
        self._memory[_STEP] = 0

    @property
    def fell(self) -> int:
        """The step at which the current failed, 0 while it flows."""
        return self._memory[_FELL]

    @property
    def at_ns(self) -> int:
        """When, on the monotonic clock: what was acknowledged before counts."""
        return self._memory[_AT]

    @property
    def victims(self) -> int:
        return self._memory[_VICTIMS]

    def clear(self) -> None:
        """The current is back."""
        self.disarm()
        self._memory[_FELL] = 0

    def processes(self, node: int, keeper: int, replicator: int) -> None:
        """Whom a cut of this node ends."""
        self._memory[_PIDS + 2 * node], self._memory[_PIDS + 2 * node + 1] = keeper, replicator

    def pids(self, node: int) -> tuple[int, int]:
        return self._memory[_PIDS + 2 * node], self._memory[_PIDS + 2 * node + 1]

    # --- whoever cuts ---------------------------------------------------------------------------------------

    def is_armed(self, step: int, node: int) -> bool:
        return self._memory[_STEP] == step and self._memory[_NODE] == node

    def reached(self, step: int, node: int) -> bool:
        """Whether this call of this step is the one at which all ends."""
        with self._one:
            if not self.is_armed(step, node):
                return False
            self._memory[_CALLS] -= 1
            return self._memory[_CALLS] == 0

    def cut(self, step: int, victims: int = 0) -> None:
        """The current fails now: what was not synced is gone, and all processes with it.

        Does not return to a process that is among them.
        """
        memory = self._memory
        victims = victims or memory[_VICTIMS]
        struck = [node for node in range(len(self._disks)) if victims >> node & 1 and any(self.pids(node))]
        memory[_VICTIMS] = sum(1 << node for node in struck)  # who is down already loses nothing
        memory[_AT] = time.monotonic_ns()
        memory[_FELL] = step
        for node in struck:
            shut_down(self._disks[node])
        ended = [pid for node in struck for pid in self.pids(node) if pid]
        last = (os.getppid(), os.getpid())  # who loses its parent loses its life
        for pid in sorted(ended, key=lambda pid: last.index(pid) if pid in last else -1):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def shut_down(mounted: Path) -> None:
    """From here on the file system forgets whatever was not synced, and answers EIO."""
    fd = os.open(mounted, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, NO_LOG_FLUSH)
    finally:
        os.close(fd)
