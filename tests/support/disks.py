"""A small file system of its own, in a mount namespace that nobody else sees."""

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
def ext4(
    image: Path, at: Path, size: str = "64M", options: str = "", make: tuple[str, ...] = ()
) -> Iterator[Path]:
    """A fresh ext4 mounted at `at` with these options, made with those."""
    with _made(image, at, size, ["mkfs.ext4", "-q", "-F", *make], options):
        yield at


@contextmanager
def xfs(image: Path, at: Path, size: str = "512M", options: str = "") -> Iterator[Path]:
    """A fresh XFS mounted at `at`; it takes 300 MiB at least, of which the image holds what is written."""
    with _made(image, at, size, ["mkfs.xfs", "-q", "-f"], options):
        yield at


@contextmanager
def _made(image: Path, at: Path, size: str, make: list[str], options: str) -> Iterator[None]:
    enter_private_mounts()
    at.mkdir(exist_ok=True)
    subprocess.run(["truncate", "-s", size, image], check=True)
    subprocess.run([*make, image], check=True)
    subprocess.run(["mount", "-o", ",".join(filter(None, ("loop", options))), image, at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", at], check=True)
