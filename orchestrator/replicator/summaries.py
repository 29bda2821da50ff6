"""A directory in a few numbers: they are equal on both sides where all its names and attributes are."""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
_KIND: Final = 0o170000
_ROW: Final = struct.Struct("<HIIIIqQQ")
"""Lengths of the name and of what follows it; mode, user, group, time of modification, size, device."""
_SCANNERS: Final = ThreadPoolExecutor(2, "scan", initializer=disk.own_umask)
"""Threads with a working directory of their own; two, as a node may be asked while it copies to a third."""


@dataclass(slots=True)
class Summary:
    """What one directory holds."""

    digests: list[int]
    """One for each bucket: names fall into buckets by their hash. 0: no name falls into it."""
    linked: dict[bytes, str] = field(default_factory=dict)
    """Names of objects that have several: which object it is, is no matter of its attributes."""
    tells_links: bool = True
    """False, of a peer's: more names than an answer holds have objects with several."""
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
    return _SCANNERS.submit(_summarize, root, volume, path, buckets, excluded).result()


def _summarize(root: int, volume: int, path: bytes, buckets: int, excluded: Excluded) -> Summary | None:
    try:
        fd = trees.open_path(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        # A name in the working directory is found twice as fast as through a descriptor, and as surely.
        os.fchdir(fd)
        names = os.listdir(b".")
        if not path and HIDDEN in names:
            names.remove(HIDDEN)
        summary = Summary([])
        rows: list[list[bytes]] = [[] for _ in range(buckets)]
        puts = [row.append for row in rows]
        chosen = None if excluded is trees.nothing_excluded else excluded
        # This is done a million times: what is not needed each time is not done each time.
        lstat, list_xattrs, pack, crc32 = os.lstat, os.listxattr, _ROW.pack, zlib.crc32
        for name in names:
            try:
                status = lstat(name)
                mode, size, more = status.st_mode, status.st_size, b""
                if chosen and chosen(volume, trees.join(path, name), stat.S_ISDIR(mode)):
                    continue
                if mode & _KIND != stat.S_IFREG:
                    size, more = 0, _more(name, mode)
                elif keys := list_xattrs(name, follow_symlinks=False):
                    more = _values(name, keys)
            except OSError as fault:
                if fault.errno != errno.EOPNOTSUPP:
                    continue  # taken away meanwhile
            row = pack(
                len(name),
                len(more),
                mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                size,
                status.st_rdev,
            )
            puts[crc32(name) % buckets](row + name + more)
            if size or mode & _KIND != stat.S_IFREG or status.st_nlink > 1:
                _sort(summary, name, status)
        summary.count = sum(map(len, rows))
        summary.digests = [_digest(row) for row in rows]
        return summary
    finally:
        os.close(fd)
        os.chdir("/")


def _more(name: bytes, mode: int) -> bytes:
    """What an object that is no file has beside its numbers: a target, extended attributes."""
    if stat.S_ISLNK(mode):
        return os.readlink(name)
    try:
        keys = os.listxattr(name, follow_symlinks=False)
    except OSError:
        return b""  # a kind of object without extended attributes
    return _values(name, keys)


def _values(name: bytes, keys: Sequence[str]) -> bytes:
    values = {os.fsencode(key): os.getxattr(name, key, follow_symlinks=False) for key in keys}
    return b"".join(b"%s\0%d\0%s" % (key, len(values[key]), values[key]) for key in sorted(values))


def _sort(summary: Summary, name: bytes, status: os.stat_result) -> None:
    """What of it is looked at beyond its name and attributes."""
    if stat.S_ISDIR(status.st_mode):
        summary.directories.append(name)
        return
    if status.st_size and stat.S_ISREG(status.st_mode):
        summary.filled.append((name, status.st_size))
    if status.st_nlink > 1:
        summary.linked[name] = _handle(name, status.st_ino)


def _handle(name: bytes, inode: int) -> str:
    try:
        return disk.handle_of(disk.HERE, name).hex()
    except OSError:
        return str(inode)


def _digest(rows: list[bytes]) -> int:
    rows.sort()
    return int.from_bytes(blake2b(b"".join(rows), digest_size=8).digest(), "little") or 1 if rows else 0


def names_in(
    root: int, volume: int, path: bytes, buckets: int, wanted: set[int], excluded: Excluded
) -> list[bytes]:
    """The names of a directory that fall into these buckets, sorted; none when it is not there."""
    try:
        with _scanned(root, path) as (_, items):
            names = ((os.fsencode(item.name), item.is_dir(follow_symlinks=False)) for item in items)
            found = [(name, is_dir) for name, is_dir in names if zlib.crc32(name) % buckets in wanted]
    except OSError:
        return []
    children = ((name, trees.join(path, name), is_dir) for name, is_dir in sorted(found))
    return [
        name for name, child, is_dir in children if child != HIDDEN and not excluded(volume, child, is_dir)
    ]


@contextmanager
def _scanned(root: int, path: bytes) -> Iterator[tuple[int, Iterator[os.DirEntry[str]]]]:
    fd = trees.open_path(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as items:
            yield fd, items
    finally:
        os.close(fd)
