"""Two nodes' plain trees compared by nothing of the product: names, kinds, owners, modes, links and bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

OURS = ".hafarm"
"""The product's own directory below a volume; each node's is its own."""


def plain(first_pid: int, directory: Path) -> Path:
    """A directory on a machine's disk, beneath whatever is mounted over its public place."""
    return Path(f"/proc/{first_pid}/root{directory}")


def differences(one: Path, other: Path) -> list[str]:
    """The names that are not the same on both sides, with what differs; empty when the trees are equal."""
    left, right = dict(entries(one)), dict(entries(other))
    found = []
    for name in sorted(left.keys() | right.keys()):
        mine, its = left.get(name), right.get(name)
        if mine != its:
            found.append(f"{name}: {mine} / {its}")
    return found


def entries(root: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Each name below the root and everything that must be equal of it."""
    inodes: dict[int, str] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not (Path(folder) == root and name == OURS))
        for name in sorted([*folders, *files]):
            path = Path(folder) / name
            found = path.lstat()
            relative = str(path.relative_to(root))
            # Hard links are equal when the same names share one inode: the first of them stands for all.
            leader = inodes.setdefault(found.st_ino, relative)
            yield (
                relative,
                (oct(found.st_mode), found.st_uid, found.st_gid, leader, xattrs(path), content(path)),
            )


def xattrs(path: Path) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def content(path: Path) -> object:
    """Bytes as a digest with their size, a link's target, a device's number."""
    found = path.lstat()
    if stat.S_ISREG(found.st_mode):
        with path.open("rb") as file:
            return found.st_size, hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    if stat.S_ISLNK(found.st_mode):
        return os.readlink(path)
    return found.st_rdev
