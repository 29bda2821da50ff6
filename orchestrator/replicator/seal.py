"""What the plain trees were when hafarm let go of them: a record by which edits from outside are found."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.model.errors import CorruptState, StoreFailed
from orchestrator.replicator import ops, trees
from orchestrator.replicator.ops import HIDDEN, ChangeKey
from orchestrator.replicator.quarantine import HERE_CHANGED, HERE_DELETED, HERE_ONLY

_MAGIC: Final = b"hafarm seal 1\n"
_DIRECTORY: Final = struct.Struct("<IQQ")  # volume, inode, length of what follows
_ENTRY: Final = struct.Struct("<QIIIqqH")  # inode, mode, uid, gid, size, ctime in ns, length of the name
_PACK_LEVEL: Final = 1  # names and times: the first level finds most of what there is to save
RECORD_BYTES_MAX: Final = 1 << 30
"""Of a record before it is packed: some 15 million files, all of which a start has in memory at once."""
Blobs = dict[tuple[int, int], bytes]
"""By volume and inode of a directory: what was in it."""
Fields = tuple[int, int, int, int, int, int]
_CTIME: Final = 5  # of Fields


@dataclass(frozen=True, slots=True)
class Finding:
    """One name that is not as hafarm left it."""

    volume: int
    path: bytes
    why: str
    parent: int
    """The inode of the directory that has, or had, this name."""
    inode: int = 0
    """0: it is gone."""
    is_directory: bool = False

    def may_differ(self) -> list[ChangeKey]:
        """What another node's copy has otherwise now, in the words of the may-differ logs."""
        names: ChangeKey = (self.volume, self.parent, ops.NAMES, 0)
        if not self.inode:
            return [names]
        if self.is_directory:
            extent = ops.WHOLE if self.why == HERE_ONLY else 0
            own: ChangeKey = (self.volume, self.inode, ops.NAMES, extent)
        else:
            own = (self.volume, self.inode, ops.DATA, ops.WHOLE)
        return [names, own, (self.volume, self.inode, ops.ATTRIBUTES, 0)]


Excluded = Callable[[int, bytes, bytes, bool], bool]
"""(volume, path of a directory, name in it, is a directory): local to each node. Asked of every name."""
Entry = tuple[bytes, os.stat_result]
Directory = tuple[bytes, int, list[Entry]]
"""Path, inode, and what is in it by name."""


def scan(root: int, volume: int, excluded: Excluded) -> Iterator[Directory]:
    """Every directory with what is in it, one before those that it holds."""
    pending = [b""]
    while pending:
        path = pending.pop()
        try:
            fd = trees.open_path(root, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # taken away meanwhile: somebody edits, and the next look finds more
        below: list[bytes] = []
        try:
            entries = []
            with os.scandir(fd) as found:
                for item in found:
                    name, is_directory = os.fsencode(item.name), item.is_dir(follow_symlinks=False)
                    if (path or name != HIDDEN) and not excluded(volume, path, name, is_directory):
                        entries.append((name, item.stat(follow_symlinks=False)))
                        if is_directory:
                            below.append(name)
            yield path, os.fstat(fd).st_ino, entries
        finally:
            os.close(fd)
        pending += [trees.join(path, name) for name in below]


def take(roots: Sequence[int], excluded: Excluded) -> bytes:
    """The record of these trees as they are now; StoreFailed when there is too much for one."""
    packer = zlib.compressobj(_PACK_LEVEL)
    parts = [_MAGIC]
    length = 0
    for volume, root in enumerate(roots):
        for _, inode, entries in scan(root, volume, excluded):
            blob = _blob(entries)
            length += _DIRECTORY.size + len(blob)
            if length > RECORD_BYTES_MAX:
                raise StoreFailed("the record of a clean stop", "there are too many files for one")
            parts.append(packer.compress(_DIRECTORY.pack(volume, inode, len(blob)) + blob))
    return b"".join([*parts, packer.flush()])


def _blob(entries: Sequence[Entry]) -> bytes:
    parts: list[bytes] = []
    for name, status in sorted(entries):
        mode = status.st_mode
        # A directory's size is the file system's own affair.
        size = 0 if stat.S_ISDIR(mode) else status.st_size
        uid, gid, ctime = status.st_uid, status.st_gid, status.st_ctime_ns
        parts.append(_ENTRY.pack(status.st_ino, mode, uid, gid, size, ctime, len(name)))
        parts.append(name)
    return b"".join(parts)


def read(data: bytes) -> Blobs:
    """A record as `take` made it; CorruptState when it is none."""
    if not data.startswith(_MAGIC):
        raise CorruptState("the record of a clean stop", "it does not begin as one")
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(data[len(_MAGIC) :], RECORD_BYTES_MAX)
        if not unpacker.eof:
            raise CorruptState("the record of a clean stop", "it has no end")
        blobs: Blobs = {}
        at = 0
        while at < len(raw):
            volume, inode, length = _DIRECTORY.unpack_from(raw, at)
            at += _DIRECTORY.size
            blobs[volume, inode] = raw[at : at + length]
            at += length
    except (zlib.error, struct.error) as fault:
        raise CorruptState("the record of a clean stop", str(fault)) from fault
    return blobs


def compare(blobs: Blobs, roots: Sequence[int], excluded: Excluded) -> Iterator[Finding]:
    """What was changed since the record was taken."""
    blobs = dict(blobs)
    gone: list[tuple[int, bytes, int]] = []
    for volume, root in enumerate(roots):
        touched: set[int] = set()
        for path, inode, entries in scan(root, volume, excluded):
            before, now = blobs.pop((volume, inode), b""), _blob(entries)
            if before != now:
                was, names = _unpacked(before), _unpacked(now)
                yield from _changed(volume, path, inode, was, names, touched)
                for name in sorted(was.keys() - names.keys()):
                    if excluded(volume, path, name, stat.S_ISDIR(was[name][1])):
                        continue  # it became local since, by the configuration
                    child = trees.join(path, name)
                    yield Finding(volume, child, HERE_DELETED, inode)
                    gone.append((volume, child, was[name][0]))
            elif inode in touched:
                # Its names stand, and its own time moved on: rights, owner or an extended attribute.
                yield Finding(volume, path, HERE_CHANGED, inode, inode, True)
    while gone:
        # What was in a directory that did not turn up elsewhere is gone with it.
        volume, path, inode = gone.pop()
        for name, fields in _unpacked(blobs.pop((volume, inode), b"")).items():
            if excluded(volume, path, name, stat.S_ISDIR(fields[1])):
                continue
            child = trees.join(path, name)
            yield Finding(volume, child, HERE_DELETED, inode)
            gone.append((volume, child, fields[0]))


def _changed(
    volume: int,
    path: bytes,
    inode: int,
    was: dict[bytes, Fields],
    now: dict[bytes, Fields],
    touched: set[int],
) -> Iterator[Finding]:
    """The names of one directory that are new or differ; a directory of which only the time does is noted."""
    for name, fields in now.items():
        is_directory, child = stat.S_ISDIR(fields[1]), trees.join(path, name)
        before = was.get(name)
        if before is None:
            yield Finding(volume, child, HERE_ONLY, inode, fields[0], is_directory)
        elif is_directory and before[:_CTIME] == fields[:_CTIME]:
            if before != fields:
                touched.add(fields[0])
        elif before != fields:
            yield Finding(volume, child, HERE_CHANGED, inode, fields[0], is_directory)


def _unpacked(blob: bytes) -> dict[bytes, Fields]:
    found: dict[bytes, Fields] = {}
    at = 0
    while at < len(blob):
        *fields, length = _ENTRY.unpack_from(blob, at)
        at += _ENTRY.size
        found[blob[at : at + length]] = (*fields,)
        at += length
    return found


def later(
    roots: Sequence[int],
    excluded: Excluded,
    marks: Sequence[int],
    is_ours: Callable[[int, int, os.stat_result], bool],
    is_being_made: Callable[[int, int, bytes, os.stat_result], bool],
) -> Iterator[Finding]:
    """After a crash: each name younger than its volume's mark, in ns, that is not ours; also the roots.
    Ours by `is_ours(volume, directory, status)`, or `is_being_made(volume, directory, path, status)`."""
    for volume, (root, mark) in enumerate(zip(roots, marks, strict=True)):
        for path, inode, entries in scan(root, volume, excluded):
            own = os.fstat(root)
            if not path and own.st_ctime_ns > mark and not is_ours(volume, inode, own):
                yield Finding(volume, path, HERE_CHANGED, inode, inode, True)
            for name, status in entries:
                if status.st_ctime_ns <= mark or is_ours(volume, inode, status):
                    continue
                child = trees.join(path, name)
                if not is_being_made(volume, inode, child, status):
                    is_directory = stat.S_ISDIR(status.st_mode)
                    yield Finding(volume, child, HERE_CHANGED, inode, status.st_ino, is_directory)
