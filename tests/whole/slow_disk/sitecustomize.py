"""Python reads this at its start where PYTHONPATH names this directory: a disk that is slow by order.

Each sync waits for as many seconds as the file SLOW_DISK says, before it begins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def _wait() -> None:
    try:
        with open(os.environ["SLOW_DISK"], encoding="ascii") as file:
            time.sleep(float(file.read()))
    except (OSError, KeyError, ValueError):
        pass  # nobody ordered it


def _slowly(sync: Callable[[int], None]) -> Callable[[int], None]:
    def synced(fd: int) -> None:
        _wait()
        sync(fd)

    return synced


os.fsync, os.fdatasync = _slowly(os.fsync), _slowly(os.fdatasync)
try:
    from orchestrator.host import disk
except ImportError:
    pass  # some other program
else:
    disk.sync_filesystem = _slowly(disk.sync_filesystem)
