"""The may-differ log: what another node's copy may lack or have otherwise, as state and as bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from orchestrator.mirror.lineage import Position

Key = tuple[int, int, int, int]
"""(volume, inode, data | attributes | names, extent)."""

HOT_MAX: Final = 1024
"""Entries kept although both disks are equal: 4 GiB of hot extents; a steady database pays nothing."""

IN_USE: Final = 1 << 63
"""The stamp of an entry whose change is not in the stream yet, or whose copy is not finished."""

UNUSED: Final = 0
"""The stamp of an entry that no change has needed yet."""

_MAGIC: Final = 0x6C6F6748
_BATCH: Final = struct.Struct("<IIII")  # magic, number of the batch, records, checksum of all but itself
_RECORD: Final = struct.Struct("<BBHIQq")  # kind, what, volume, how many more inodes follow, inode, extent
_BASE: Final = struct.Struct(
    "<B7x16s"
)  # kind, first half of a baseline; sequence in the spare record after it
_RECORDS_MAX: Final = 1 << 20
_RUN_MAX: Final = 1 << 16  # far above any run of ours: a damaged record must not fill the memory
_ADD, _RETIRE, _BASELINE, _SEQUENCE, _UNKNOWN = 1, 2, 3, 4, 5


@dataclass
class MayDiffer:
    """One log: the entries, when each was last used, and the position that it counts from.

    An entry may go only when the peer and this node hold everything up to its stamp on disk (S2); so its
    stamp is `IN_USE` until the change is in the stream.
    """

    stamps: dict[Key, int] = field(default_factory=dict)
    """Oldest use first."""
    users: dict[Key, int] = field(default_factory=dict)
    """By how many changes on their way an entry is held; absent: by none."""
    baseline: Position | None = None

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those of these keys that must become durable before the change."""
        return [key for key in keys if key not in self.stamps]

    def unsettled(self) -> list[Key]:
        """The entries of which the peer's disk may lack a change; the others are kept as they are hot."""
        confirmed = self.baseline.sequence if self.baseline is not None else -1
        return [key for key, stamp in self.stamps.items() if stamp > confirmed]

    def hold(self, keys: Iterable[Key]) -> None:
        """One more change uses these entries; each stays until as many released it as hold it."""
        for key in keys:
            self.users[key] = self.users.get(key, 0) + 1
            self.pin((key,))

    def release(self, keys: Iterable[Key], stamp: int) -> None:
        """One of their changes is in the stream at `stamp` at the latest, or was never made."""
        for key in keys:
            left = self.users.pop(key) - 1
            if left:
                self.users[key] = left
            else:
                del self.stamps[key]
                self.stamps[key] = stamp

    def pin(self, keys: Iterable[Key]) -> None:
        """These entries stay, whoever uses them: a copy is to come first."""
        for key in keys:
            self.stamps.pop(key, None)
            self.stamps[key] = IN_USE

    def unpin(self, stamp: int) -> None:
        """The copy is in the stream, at `stamp` at the latest: what nobody else uses has been used by it."""
        for key, used in list(self.stamps.items()):
            if used == IN_USE and key not in self.users:
                self.stamps[key] = stamp

    def reserve(self, key: Key, count: int) -> None:
        """Entries for this inode and those after it, without a use yet: durable before they are needed."""
        volume, inode, what, extent = key
        for number in range(inode, inode + count):
            self.stamps.setdefault((volume, number, what, extent), UNUSED)

    def retirable(self, flushed: int, hot_max: int = HOT_MAX) -> list[Key]:
        """The coldest entries beyond the hot set that are equal and durable on both sides up to `flushed`."""
        surplus = len(self.stamps) - hot_max
        cold = (key for key, stamp in self.stamps.items() if stamp <= flushed)
        return [key for key, _ in zip(cold, range(max(surplus, 0)), strict=False)]

    def retire(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.stamps.pop(key, None)


def encode_add(keys: Iterable[Key]) -> list[bytes]:
    return [_RECORD.pack(_ADD, what, volume, 0, inode, extent) for volume, inode, what, extent in keys]


def encode_run(key: Key, count: int) -> bytes:
    """The same entry for `count` inodes that follow each other, as one record."""
    volume, inode, what, extent = key
    return _RECORD.pack(_ADD, what, volume, count - 1, inode, extent)


def encode_retire(keys: Iterable[Key]) -> list[bytes]:
    return [_RECORD.pack(_RETIRE, what, volume, 0, inode, extent) for volume, inode, what, extent in keys]


def encode_baseline(position: Position | None) -> list[bytes]:
    """None: the log alone says nothing any more, the next meeting compares in full."""
    if position is None:
        return [_RECORD.pack(_UNKNOWN, 0, 0, 0, 0, 0)]
    first = _BASE.pack(_BASELINE, bytes.fromhex(position.stream))
    return [first, _RECORD.pack(_SEQUENCE, 0, 0, 0, position.sequence, 0)]


def encode_batch(number: int, records: list[bytes]) -> bytes:
    """Records that become durable together."""
    assert 0 < len(records) <= _RECORDS_MAX
    body = b"".join(records)
    checksum = zlib.crc32(body, zlib.crc32(_BATCH.pack(_MAGIC, number, len(records), 0)))
    return _BATCH.pack(_MAGIC, number, len(records), checksum) + body


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a log's bytes say."""

    verdict: Literal["whole", "torn", "unreadable"]
    """`torn`: the last append did not finish, nothing durable is lost. `unreadable`: compare in full."""
    log: MayDiffer
    batches: int
    length: int
    """How many bytes are good; what follows is cut off before the next append."""


def decode(data: bytes) -> Loaded:
    """Read a log back. One batch was in flight at most, so damage before a good batch is no torn tail."""
    log = MayDiffer()
    at = 0
    batches = 0
    while at < len(data):
        body = _batch_at(data, at, batches)
        if body is None:
            broken = any(True for _ in _later_batches(data, at + 1))
            return Loaded("unreadable" if broken else "torn", log, batches, at)
        if not _replay(log, body):
            return Loaded("unreadable", log, batches, at)
        at += _BATCH.size + len(body)
        batches += 1
    return Loaded("whole", log, batches, at)


def _batch_at(data: bytes, at: int, number: int | None) -> bytes | None:
    if at + _BATCH.size > len(data):
        return None
    magic, found, count, checksum = _BATCH.unpack_from(data, at)
    if magic != _MAGIC or not 0 < count <= _RECORDS_MAX or (number is not None and found != number):
        return None
    body = data[at + _BATCH.size : at + _BATCH.size + count * _RECORD.size]
    head = _BATCH.pack(_MAGIC, found, count, 0)
    if len(body) != count * _RECORD.size or zlib.crc32(body, zlib.crc32(head)) != checksum:
        return None
    return body


def _later_batches(data: bytes, at: int) -> Iterator[int]:
    magic = struct.pack("<I", _MAGIC)
    while (at := data.find(magic, at)) >= 0:
        if _batch_at(data, at, None) is not None:
            yield at
        at += 1


def _replay(log: MayDiffer, body: bytes) -> bool:
    stream = b""
    for at in range(0, len(body), _RECORD.size):
        kind, what, volume, more, inode, extent = _RECORD.unpack_from(body, at)
        if kind == _ADD and more < _RUN_MAX:
            log.stamps.update(((volume, inode + next, what, extent), IN_USE) for next in range(more + 1))
        elif kind == _RETIRE:
            log.stamps.pop((volume, inode, what, extent), None)
        elif kind == _BASELINE:
            stream = _BASE.unpack_from(body, at)[1]
        elif kind == _SEQUENCE and stream:
            log.baseline = Position(stream.hex(), inode)
        elif kind == _UNKNOWN:
            log.baseline = None
        else:
            return False
    return True
