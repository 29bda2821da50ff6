"""A directory in a few numbers: they are equal on both sides where all its names and attributes are."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from orchestrator.host import disk
from orchestrator.replicator import trees
from orchestrator.replicator.ops import HIDDEN
from orchestrator.replicator.trees import Excluded

_BYTES_A_BUCKET: Final = 4096
"""Of a directory's own size, some hundred names: where one of them differs, so many are looked at."""
BUCKETS_MAX: Final = 16_384  # an answer of 256 KiB, for a directory of a million names
_ATTRIBUTES: Final = struct.Struct("<IIIqQQ")  # mode, user, group, time of modification, size, device


@dataclass(slots=True)
class Summary:
    """What one directory holds."""

    digests: list[int]
    """One for each bucket: names fall into buckets by their hash. 0: no name falls into it."""
    linked: dict[bytes, str] = field(default_factory=dict)
    """Names of objects that have several: which object it is, is no matter of its attributes."""
    directories: list[bytes] = field(default_factory=list)
    filled: list[tuple[bytes, int]] = field(default_factory=list)
    """Files that are not empty, with their size."""
    count: int = 0


def buckets_for(root: int, path: bytes) -> int:
    """Into how many parts the names of this directory are sorted."""
    status = trees.status_of(root, path) if path else os.fstat(root)
    size = status.st_size if status is not None else 0
    return min(max(1, size // _BYTES_A_BUCKET), BUCKETS_MAX)


def summarize(root: int, volume: int, path: bytes, buckets: int, excluded: Excluded) -> Summary | None:
    """A directory's summary; None when there is no directory at this path."""
    try:
        with _scanned(root, path) as (fd, items):
            summary = Summary([0] * buckets)
            # A path to each object that no symbolic link on the way can change; the object itself as it is.
            prefix = os.fsencode(disk.path_of(fd)) + b"/"
            for item in items:
                name = os.fsencode(item.name)
                child = trees.join(path, name)
                if child != HIDDEN and not excluded(volume, child):
                    try:
                        _add(summary, fd, prefix, name, item.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue  # taken away meanwhile
            return summary
    except OSError:
        return None


def _add(summary: Summary, fd: int, prefix: bytes, name: bytes, status: os.stat_result) -> None:
    mode = status.st_mode
    kind = stat.S_IFMT(mode)
    size = status.st_size if kind == stat.S_IFREG else 0
    what = name + _ATTRIBUTES.pack(
        mode, status.st_uid, status.st_gid, status.st_mtime_ns, size, status.st_rdev
    )
    if kind == stat.S_IFLNK:
        what += os.readlink(name, dir_fd=fd)
    else:
        what += _xattrs(prefix + name)
    buckets = len(summary.digests)
    bucket = zlib.crc32(name) % buckets if buckets > 1 else 0
    summary.digests[bucket] ^= int.from_bytes(blake2b(what, digest_size=8).digest(), "little")
    summary.count += 1
    if kind == stat.S_IFDIR:
        summary.directories.append(name)
        return
    if size:
        summary.filled.append((name, size))
    if status.st_nlink > 1:
        summary.linked[name] = _handle(fd, name, status.st_ino)


def _xattrs(path: bytes) -> bytes:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return b""  # a kind of object or file system without extended attributes
    if not names:
        return b""
    values = {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}
    return b"".join(b"\0%s\0%d\0%s" % (name, len(values[name]), values[name]) for name in sorted(values))


def _handle(fd: int, name: bytes, inode: int) -> str:
    try:
        return disk.handle_of(fd, name).hex()
    except OSError:
        return str(inode)


def names_in(
    root: int, volume: int, path: bytes, buckets: int, wanted: set[int], excluded: Excluded
) -> list[bytes]:
    """The names of a directory that fall into these buckets, sorted; none when it is not there."""
    try:
        with _scanned(root, path) as (_, items):
            names = (os.fsencode(item.name) for item in items)
            found = [name for name in names if zlib.crc32(name) % buckets in wanted]
    except OSError:
        return []
    children = ((name, trees.join(path, name)) for name in sorted(found))
    return [name for name, child in children if child != HIDDEN and not excluded(volume, child)]


@contextmanager
def _scanned(root: int, path: bytes) -> Iterator[tuple[int, Iterator[os.DirEntry[str]]]]:
    fd = trees.open_path(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as items:
            yield fd, items
    finally:
        os.close(fd)
