"""A small file system of its own, in a mount namespace that nobody else sees."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_NEWNS = 0x20000
_BIND = 4096
_DETACH = 2
_STRICT_TIMES = 1 << 24
_BUSY_S = 10.0
"""The kernel takes the memory and the files of a killed process apart in its own time."""
_private = False


def enter_private_mounts() -> None:
    """From now on what this process mounts is seen by it and its children only."""
    global _private
    if not _private:
        assert _libc.unshare(_NEWNS) == 0
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


class LoopDisk:
    """A disk of its own at `at`, a second time at `plain`, beneath whatever covers a directory of it.

    Each read leaves its time, so that anybody can see what was read.

    What was written to the device when the current fails is kept; that of a disk's own memory is not tried.
    """

    def __init__(self, kind: str, image: Path, at: Path, plain: Path) -> None:
        """`image`: a file system of this kind, `ext4` or `xfs`, that nobody else has mounted."""
        self.kind, self.at, self.plain = kind, at, plain
        for folder in (at, plain):
            folder.mkdir(exist_ok=True)
        done = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True)
        self._device = done.stdout.strip()
        self.mounted = False

    def mount(self) -> None:
        """Its journal is replayed, as by a machine that boots."""
        assert not self.mounted
        kind, flags = self.kind.encode(), _STRICT_TIMES
        _check(_libc.mount(_bytes(self._device), _bytes(self.at), kind, flags, None), self.at)
        self.mounted = True
        _check(_libc.mount(_bytes(self.at), _bytes(self.plain), None, _BIND, None), self.plain)

    def unmount(self) -> None:
        """Nothing of it is left in memory; whoever was killed a moment ago is waited for."""
        if not self.mounted:
            return
        for point in (self.plain, self.at):
            end = time.monotonic() + _BUSY_S
            while _libc.umount2(_bytes(point), 0) < 0:
                number = ctypes.get_errno()
                if number == errno.EINVAL:
                    break  # not mounted: the second mount failed
                if number != errno.EBUSY or time.monotonic() > end:
                    raise OSError(number, os.strerror(number), str(point))
                time.sleep(0.002)
        self.mounted = False

    def faults(self) -> str:
        """What the file system's own checker says, empty when all is sound. Not mounted, and replayed."""
        assert not self.mounted
        command = {"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"]}[self.kind]
        done = subprocess.run([*command, self._device], capture_output=True, text=True)
        return "" if done.returncode == 0 else (done.stdout + done.stderr)[-600:]

    def close(self) -> None:
        """Gone, whatever state it is in."""
        for point in (self.plain, self.at):
            while _libc.umount2(_bytes(point), _DETACH) == 0:
                pass
        self.mounted = False
        subprocess.run(["losetup", "-d", self._device], check=True)


def make_image(kind: str, image: Path, size: str = "") -> None:
    """An empty file system in a file, of which little more than what is written takes room."""
    sizes = {"ext4": "48M", "xfs": "320M"}
    make = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
    subprocess.run(["truncate", "-s", size or sizes[kind], image], check=True)
    subprocess.run([*make[kind], image], check=True)


def _bytes(path: Path | str) -> bytes:
    return os.fsencode(path)


def _check(result: int, what: Path) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(what))


@contextmanager
def thin(at: Path, size: str) -> Iterator[Path]:
    """Room for images that promise more: what is written to them when it has run out fails."""
    enter_private_mounts()
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def run_out(at: Path) -> None:
    """Nothing more can be stored there where nothing was before."""
    with (at / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1 << 16))
        except OSError:
            pass


def there_is_room(at: Path) -> None:
    """Again."""
    (at / "filler").unlink()
