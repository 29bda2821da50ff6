"""A small ext4 file system of its own, in a mount namespace that nobody else sees."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NEWNS = 0x20000
_private = False


def enter_private_mounts() -> None:
    """From now on what this process mounts is seen by it and its children only."""
    global _private
    if not _private:
        assert ctypes.CDLL(None, use_errno=True).unshare(_NEWNS) == 0
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        _private = True


@contextmanager
def ext4(image: Path, at: Path, size: str = "64M") -> Iterator[Path]:
    """A fresh ext4 mounted at `at`."""
    enter_private_mounts()
    at.mkdir(exist_ok=True)
    subprocess.run(["truncate", "-s", size, image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)
