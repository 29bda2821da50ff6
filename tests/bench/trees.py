"""Trees of many files, made the same on every disk, and changed a little.

trees.py make DIRECTORY COUNT       COUNT files in directories of a thousand
trees.py change DIRECTORY COUNT N   new contents for a thousand of them, different for each N
trees.py big DIRECTORY              one sparse file of 10 GiB
trees.py touch DIRECTORY N          three megabytes of it, different for each N
"""

from __future__ import annotations

import os
import random
import stat
import sys
from collections.abc import Callable

CHANGED = 1000
FILE_BYTES = 4096
"""What a file that is changed later holds; all others are empty: a million of them is made in seconds."""
FOLDER_FILES = 1000
BIG_BYTES = 10 << 30
TOUCHED = (1 << 20, 5 << 30, (10 << 30) - (2 << 20))
"""Where in the big file a megabyte is changed."""
_WHEN_NS = 1_700_000_000 * 10**9


def make(place: str, count: int) -> None:
    """Equal on both sides, times included: nothing has to be copied first."""
    step = count // CHANGED
    for folder in range(count // FOLDER_FILES):
        path = f"{place}/{folder:04d}"
        os.makedirs(path)
        above = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(FOLDER_FILES):
            name = f"{number:04d}"
            os.mknod(name, stat.S_IFREG | 0o644, dir_fd=above)
            if (folder * FOLDER_FILES + number) % step == 0:
                _fill(f"{path}/{name}", b"o" * FILE_BYTES)
            os.utime(name, ns=(_WHEN_NS, _WHEN_NS), dir_fd=above)
        os.utime(above, ns=(_WHEN_NS, _WHEN_NS))
        os.close(above)
    os.utime(place, ns=(_WHEN_NS, _WHEN_NS))


def change(place: str, count: int, number: int) -> None:
    step = count // CHANGED
    data = random.Random(number).randbytes(FILE_BYTES)
    for file in range(0, count, step):
        folder, name = divmod(file, FOLDER_FILES)
        _fill(f"{place}/{folder:04d}/{name:04d}", data)


def _fill(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, 0)
    os.close(fd)


def big(place: str) -> None:
    os.makedirs(place)
    path = f"{place}/big"
    os.mknod(path, stat.S_IFREG | 0o644)
    os.truncate(path, BIG_BYTES)
    for name in (path, place):
        os.utime(name, ns=(_WHEN_NS, _WHEN_NS))


def touch(place: str, number: int) -> None:
    chance = random.Random(number)
    fd = os.open(f"{place}/big", os.O_WRONLY)
    for offset in TOUCHED:
        os.pwrite(fd, chance.randbytes(1 << 20), offset)
    os.close(fd)


if __name__ == "__main__":
    what, where, *numbers = sys.argv[1:]
    acts: dict[str, Callable[..., None]] = {"make": make, "change": change, "big": big, "touch": touch}
    acts[what](where, *map(int, numbers))
