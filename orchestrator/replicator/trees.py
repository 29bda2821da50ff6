"""What one side's tree holds, so that two can be compared: entries, listings, block hashes."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

from orchestrator.host import disk
from orchestrator.replicator.ops import HIDDEN

BLOCK_BYTES: Final = 256 << 10  # small enough to spare the wire, large enough to keep hashing fast
BLOCKS_MAX: Final = 256  # one answer covers 64 MiB: a fraction of a second of hashing
NAMES_MAX: Final = 10_000  # entries in one answer, some 2 MiB
PAGE_TEXT_BYTES: Final = 8 << 20
"""Of an answer that goes on in the next one: half of what one may have, as its last part may be large."""
PATH_BYTES_MAX: Final = 128 << 10
"""Of a path that a copy can tell: as text a quarter of what a question may have."""
_ZEROS: Final = bytes(BLOCK_BYTES)
WORKERS: Final = 6  # as many files as others copy at a time; reading and hashing leave the interpreter's lock


class _Hashers:
    """Reads and hashes blocks, never more than so many at a time in the whole process."""

    def __init__(self) -> None:
        self.bound_to(WORKERS)

    def bound_to(self, workers: int) -> None:
        self._turns = threading.BoundedSemaphore(workers)
        self._pool = ThreadPoolExecutor(workers, "hash")

    def hash(self, fd: int, blocks: range) -> list[str]:
        """Up to where the file ends by now."""
        hashed = functools.partial(self._hash, fd)
        # Most files are of one block: no thread is asked for those.
        found = self._pool.map(hashed, blocks) if len(blocks) > 1 else map(hashed, blocks)
        return list(itertools.takewhile(lambda digest: digest is not None, found))  # type: ignore[arg-type]

    def _hash(self, fd: int, block: int) -> str | None:
        with self._turns:
            return _hash_block(fd, block)


HASHERS: Final = _Hashers()
_ASKERS: Final = ThreadPoolExecutor(4, "ask")
"""One a copy or comparison that runs at a time; more of them wait for each other."""

T = TypeVar("T")
U = TypeVar("U")

_ENTRY_TEXT: Final = 400  # its numbers, their names, and a handle
_DIGEST_TEXT: Final = 40  # a digest, with what stands around it
_NO_NAMES: Final = frozenset({b"", b".", b".."})
Entry = dict[str, Any]
Excluded = Callable[[int, bytes, bool], bool]
"""(volume, path, is a directory): local to each node, never compared."""


def nothing_excluded(volume: int, path: bytes, is_directory: bool) -> bool:
    """Everything is replicated."""
    return False


def open_path(root: int, path: bytes, flags: int) -> int:
    """Open a relative path beneath the root; the empty one is the root itself."""
    if not path:
        return disk.reopen(root, flags | os.O_DIRECTORY)
    return disk.open_beneath(root, path, flags)


def join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def check_path(path: bytes) -> None:
    """Refuse what is no plain path below the root, or leads to our hidden directory; empty: the root."""
    if len(path) > PATH_BYTES_MAX:
        raise OSError(
            errno.ENAMETOOLONG, f"a path of {len(path)} bytes: no copy tells more than {PATH_BYTES_MAX}"
        )
    parts = path.split(b"/") if path else []
    if b"\0" in path or parts[:1] == [HIDDEN] or not _NO_NAMES.isdisjoint(parts):
        raise OSError(errno.EINVAL, f"not a path of the tree: {path!r:.80}")


def list_names(root: int, path: bytes) -> list[bytes]:
    """The names in a directory, sorted; without our hidden one."""
    fd = open_path(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = sorted(os.fsencode(name) for name in os.listdir(fd))
    finally:
        os.close(fd)
    return [name for name in names if path or name != HIDDEN]


def describe(root: int, path: bytes) -> Entry:
    """What one object is, without its data."""
    fd = open_path(root, path, os.O_PATH | os.O_NOFOLLOW) if path else os.dup(root)
    try:
        return describe_fd(fd)
    finally:
        os.close(fd)


def describe_fd(fd: int) -> Entry:
    status = os.stat(fd)
    entry: Entry = {
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "inode": status.st_ino,
        "handle": identity(fd, status.st_ino),
        "links": status.st_nlink,
        "mtime_ns": status.st_mtime_ns,
        "size": status.st_size if stat.S_ISREG(status.st_mode) else 0,
        "rdev": status.st_rdev,
    }
    if stat.S_ISLNK(status.st_mode):
        entry["target"] = os.readlink(b"", dir_fd=fd).hex()
    else:
        entry["xattrs"] = xattr_digests(fd)
    return entry


def text_of(entry: Entry | None) -> int:
    """About how many letters an entry has in an answer."""
    if entry is None:
        return 5
    names = entry.get("xattrs", ())
    return _ENTRY_TEXT + len(entry.get("target", "")) + sum(len(name) + _DIGEST_TEXT for name in names)


def identity(fd: int, inode: int) -> str:
    """Names this object and no later one that gets the same inode number."""
    try:
        return disk.handle_of(fd, b"").hex()
    except OSError:
        return str(inode)  # a file system without handles: overlayfs and the like


def xattr_digests(fd: int) -> dict[str, str]:
    try:
        names = disk.list_xattrs(fd)
    except OSError:
        return {}  # a kind of object or file system without extended attributes
    return {name.hex(): _digest(disk.get_xattr(fd, name)) for name in sorted(names)}


def status_of(root: int, path: bytes) -> os.stat_result | None:
    """What the file system says of this path, or nothing."""
    try:
        fd = open_path(root, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return os.stat(fd)
    finally:
        os.close(fd)


def look(root: int, path: bytes) -> Entry | None:
    """What is at this path, or nothing."""
    try:
        return describe(root, path)
    except OSError:
        return None


def list_entries(root: int, path: bytes, after: bytes) -> tuple[dict[bytes, Entry], bool]:
    """The objects in a directory whose names follow `after`, bounded; False: there are more."""
    fd = open_path(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = [name for name in list_names(root, path) if name > after]
        entries: dict[bytes, Entry] = {}
        text = seen = 0
        for name in names[:NAMES_MAX]:
            if text > PAGE_TEXT_BYTES:
                break
            seen += 1
            try:
                child = disk.open_name(fd, name)
            except FileNotFoundError:
                continue  # taken away meanwhile
            try:
                entries[name] = describe_fd(child)
            finally:
                os.close(child)
            text += 2 * len(name) + text_of(entries[name])
        return entries, seen == len(names)
    finally:
        os.close(fd)


def hash_blocks(fd: int, first: int, count: int) -> list[str]:
    """A digest for each block that begins before the end of the file; of nothing but zeros: empty."""
    ends = -(-os.fstat(fd).st_size // BLOCK_BYTES)
    blocks = range(first, min(first + min(count, BLOCKS_MAX), ends))
    return HASHERS.hash(fd, blocks)


def open_file(root: int, path: bytes) -> int:
    """Open a file for reading; of what is none there, which may be a device or a fifo, nothing is opened."""
    seen = open_path(root, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(seen).st_mode):
            raise OSError(errno.ENXIO, "only a file has data")
        return disk.reopen(seen, os.O_RDONLY)
    finally:
        os.close(seen)


def hash_at(root: int, path: bytes, first: int, count: int) -> list[str]:
    """The same of the file at this path; of what is no file there: nothing."""
    try:
        fd = open_file(root, path)
    except OSError:
        return []
    try:
        return hash_blocks(fd, first, count)
    finally:
        os.close(fd)


def _hash_block(fd: int, block: int) -> str | None:
    if is_hole(fd, block * BLOCK_BYTES, BLOCK_BYTES):
        return ""
    data = os.pread(fd, BLOCK_BYTES, block * BLOCK_BYTES)
    if not data:
        return None
    return "" if data == _ZEROS[: len(data)] else _digest(data)


def is_hole(fd: int, offset: int, length: int) -> bool:
    """Nothing was ever written there, or it was given back: it reads as zeros, and need not be read."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= offset + length
    except OSError as fault:
        # ENXIO: no data from here to the end. Else the file system cannot tell, and it is read.
        return fault.errno == errno.ENXIO


def side_by_side(theirs: Callable[[], T], own: Callable[[], U]) -> tuple[T, U]:
    """Let the peer work while this node works; what either raises is raised, the peer's first."""
    asked = _ASKERS.submit(theirs)
    try:
        mine = own()
    finally:
        wait([asked])
    return asked.result(), mine


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def walk(root: int, volume: int, excluded: Excluded) -> Iterator[tuple[bytes, int, bool]]:
    """Every object below the root: (path, inode, is a directory), a directory before what it holds."""
    pending = [b""]
    while pending:
        path = pending.pop()
        try:
            fd = open_path(root, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # taken away meanwhile: its directory's names are in the log
        try:
            with os.scandir(fd) as found:
                children = [
                    (os.fsencode(item.name), item.inode(), item.is_dir(follow_symlinks=False))
                    for item in found
                ]
        finally:
            os.close(fd)
        for name, inode, is_directory in sorted(children, reverse=True):
            child = join(path, name)
            if child == HIDDEN or excluded(volume, child, is_directory):
                continue
            yield child, inode, is_directory
            if is_directory:
                pending.append(child)


def sizes(root: int, volume: int, excluded: Excluded) -> Iterator[int]:
    """Of everything below the root that is no directory."""
    pending = [b""]
    while pending:
        path = pending.pop()
        try:
            fd = open_path(root, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # taken away meanwhile
        try:
            with os.scandir(fd) as found:
                for item in found:
                    child, is_directory = (
                        join(path, os.fsencode(item.name)),
                        item.is_dir(follow_symlinks=False),
                    )
                    if child == HIDDEN or excluded(volume, child, is_directory):
                        continue
                    if is_directory:
                        pending.append(child)
                    else:
                        with contextlib.suppress(OSError):  # taken away meanwhile
                            yield item.stat(follow_symlinks=False).st_size
        finally:
            os.close(fd)
