"""A tree as everything that a user could miss of it, and two of them compared object by object."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Any

from tests.fidelity.worker import SET_TIMES

Picture = dict[bytes, dict[str, Any]]
_BLOCK = 4096


def picture(root: str, clock: bool, holes: bool) -> Picture:
    """Each name below the root, and the root.

    `clock`: with all times of modification, not only those set by hand; `holes`: with where data is.
    """
    leaders: dict[int, bytes] = {}
    return {
        path: _object(os.fsencode(root), path, leaders, clock, holes) for path in _paths(os.fsencode(root))
    }


def differences(one: Picture, other: Picture) -> list[str]:
    """What differs, a line each; empty when nothing does."""
    lines = []
    for path in sorted(one.keys() | other.keys()):
        if path not in one or path not in other:
            lines.append(f"{path!r}: only in the {'second' if path in other else 'first'}")
            continue
        for what, value in one[path].items():
            if value != other[path].get(what):
                lines.append(f"{path!r}: {what}: {value!r} / {other[path].get(what)!r}")
    return lines


def _paths(root: bytes) -> Iterator[bytes]:
    yield b"."
    for folder, folders, files in os.walk(root):
        folders.sort()  # the first name of a file is then the same one on both sides
        for name in sorted([*folders, *files]):
            yield os.path.relpath(os.path.join(folder, name), root)


def _object(root: bytes, path: bytes, leaders: dict[int, bytes], clock: bool, holes: bool) -> dict[str, Any]:
    full = os.path.join(root, path)
    status = os.lstat(full)
    mtime = status.st_mtime_ns
    facts: dict[str, Any] = {
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "links": status.st_nlink,
        "modified": mtime if clock or mtime in SET_TIMES else "by the clock",
        "device": status.st_rdev,
        # Hard links are equal when the same names share one inode: the first of them stands for all.
        "same as": leaders.setdefault(status.st_ino, path),
        "xattrs": _xattrs(full),
    }
    if stat.S_ISLNK(status.st_mode):
        facts["target"] = os.readlink(full)
    elif stat.S_ISREG(status.st_mode):
        facts["size"] = status.st_size
        facts["data"], extents = _data(full, status.st_size)
        if holes:
            facts["extents"] = extents
    return facts


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _data(path: bytes, size: int) -> tuple[str, list[tuple[int, int]]]:
    """The digest of all bytes, zeros told from no others, and where the file system says that data is."""
    digest = hashlib.blake2b(digest_size=8)
    extents = []
    fd = os.open(path, os.O_RDONLY)
    try:
        at = 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break  # a hole up to the end
            at = os.lseek(fd, start, os.SEEK_HOLE)
            extents.append((start, at))
            first = start - start % _BLOCK
            for offset in range(first, at, _BLOCK):
                block = os.pread(fd, _BLOCK, offset).rstrip(b"\0")
                if block:
                    digest.update(b"%d:" % offset + block)
    finally:
        os.close(fd)
    return digest.hexdigest(), extents


def settle_pages(root: str) -> None:
    """Nothing of these files is left in memory alone: what SEEK_HOLE says then is what the disk holds."""
    for path in _paths(os.fsencode(root)):
        full = os.path.join(os.fsencode(root), path)
        if stat.S_ISREG(os.lstat(full).st_mode):
            fd = os.open(full, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
