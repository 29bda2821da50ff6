"""Large writes go to the disk while they go on: the sync at their end finds little that is left."""

from __future__ import annotations

import os
from collections.abc import Hashable
from functools import partial
from typing import Final

from orchestrator.host import disk
from orchestrator.replicator.workers import Workers

LARGE_BYTES: Final = 256 << 10
"""Of one write: of who copies or streams. A database's pages are smaller, and it syncs them itself."""
STEP_BYTES: Final = 8 << 20
"""Of one file between two times: a tenth of a second of a plain disk, and few enough to cost nothing."""
WAITING_MAX: Final = 64
"""Files whose turn has not come, of a descriptor each; a disk so far behind is writing all it can."""
FILES_MAX: Final = 256
"""Whose large writes are counted at a time; beyond it they are counted anew."""


class WriteBehind:
    """Asks the kernel to write back what a file got in large pieces; nobody waits for it."""

    def __init__(self) -> None:
        # One thread: a disk that cannot follow holds only this one up.
        self._workers = Workers(1, "behind")
        self._written: dict[Hashable, int] = {}

    def wrote(self, file: Hashable, fd: int, length: int) -> None:
        """So much of this file is in the kernel's memory now, by one write of LARGE_BYTES at least."""
        written = self._written.pop(file, 0) + length
        if written >= STEP_BYTES:
            if self._workers.waiting < WAITING_MAX:
                self._workers.put(partial(_begin, os.dup(fd)))
            return
        if len(self._written) >= FILES_MAX:
            self._written.clear()
        self._written[file] = written


def _begin(fd: int) -> None:
    try:
        disk.begin_write_back(fd)
    finally:
        os.close(fd)
