"""The may-differ log: what another node's copy may lack or have otherwise, as state and as bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from orchestrator.mirror.lineage import Position

Key = tuple[int, int, int, int]
"""(volume, inode, data | attributes | names, extent)."""

ALL: Final = 4
"""What an entry in place of many speaks of: of a directory its names, and all of each object in it that is no
directory; of any other object all of it."""

HOT_MAX: Final = 1024
"""Entries kept although both disks are equal: 4 GiB of hot extents; a steady database pays nothing."""

ENTRIES_MAX: Final = 1 << 20
"""Entries of one log, some 550 MiB with their places: beyond, everything is compared. With half of them the
eldest begin to be kept by directory (`folding.py`)."""

NAMES_MAX: Final = 4096
"""Changed names that are known one by one: beyond, a directory is compared as quickly as it is listed."""

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
_BATCH_RECORDS: Final = 1 << 16  # when a log is written anew: a batch is checked as a whole
_RUN_MAX: Final = 1 << 16  # far above any run of ours: a damaged record must not fill the memory
_ADD, _RETIRE, _BASELINE, _SEQUENCE, _UNKNOWN, _PLACE, _PLACED, _OVERFLOWED = 1, 2, 3, 4, 5, 6, 7, 8
_ADD_ALL = 9  # an older release takes a log with one for unreadable: it would look at too little


@dataclass(frozen=True, slots=True)
class Place:
    """Which object an entry's inode number is, and where it was: to be seen there before it is believed."""

    handle: bytes
    """The file system's lasting name of the object, with the generation of its number in it."""
    directory: bytes = b""
    """The same of a directory that held it; of a directory itself: nothing, its own handle leads there."""
    name: bytes = b""
    sure: bool = field(default=True, compare=False)
    """It was seen in this process's life, and every change of it since was told. Of one from an earlier life,
    the last change may not have come to the disk."""


PlaceOf = Callable[[int, int], Place | None]
"""The place of (volume, inode) now; None where it is not known."""


def nowhere(volume: int, inode: int) -> Place | None:
    """Knows no place: what is noted with it is found by a walk."""
    return None


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
    places: dict[tuple[int, int], Place] = field(default_factory=dict)
    """By (volume, inode)."""
    names: dict[tuple[int, int], set[bytes]] = field(default_factory=dict)
    """By (volume, directory): every name that changed since its entry came. Only in this process's memory; of
    a directory that is absent here any name may have changed."""
    placed: bool = True
    """Each entry came with its place; a reserved one that no object needed yet has none. A reserved one's
    place is on the disk before the entry of the directory in which it was made may go."""
    overflowed: bool = False
    """More changed than is kept one by one: the entries that are here are not all, and say nothing."""
    counts_from: int | None = None
    """Of one that overflowed: a copy has come, and from this position on all entries are kept again."""
    last: int = 0
    """The highest stamp that was given."""
    folds: bool = False
    """Some entries are of directories with all that is in them."""

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
                if not self.overflowed or self.counts_from is not None:
                    self.stamps[key] = stamp
        self.last = max(self.last, stamp)

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
        self.last = max(self.last, stamp)
        if self.overflowed:
            self.counts_from = self.last

    def overflow(self) -> None:
        """Keep no entries but those of changes on their way; from now on only a full comparison can tell."""
        self.stamps = {key: IN_USE for key in self.stamps if key in self.users}
        self.places.clear()
        self.names.clear()
        self.baseline = None
        self.overflowed, self.counts_from, self.folds = True, None, False

    def begin_stream(self) -> None:
        """Stamps of the former stream say nothing of this one."""
        self.pin(self.used())
        self.last, self.counts_from = 0, None

    def is_whole_again(self, flushed: int) -> bool:
        """Of one that overflowed: both disks have everything up to here, and all since is kept."""
        return self.counts_from is not None and flushed >= self.counts_from

    def reserve(self, key: Key, count: int, stamp: int = UNUSED) -> None:
        """Entries for this inode and those after it, without a use yet: durable before they are needed."""
        volume, inode, what, extent = key
        new = {
            (volume, number): (volume, number, what, extent)
            for number in range(inode, inode + count)
            if (volume, number, what, extent) not in self.stamps
        }
        # What entries that are gone have left: with a place a reserved entry would look as if it was needed.
        if stale := new.keys() & self.places.keys():
            for about in stale - {key[:2] for key in self.stamps}:
                del self.places[about]
        self.stamps.update(dict.fromkeys(new.values(), stamp))

    def unplaced(self, keys: Iterable[Key]) -> list[Key]:
        """Those that are here, as they were reserved, and without a place: it must become durable too."""
        return [key for key in keys if key in self.stamps and key[:2] not in self.places]

    def used(self) -> list[Key]:
        """The entries that some change has needed."""
        return [key for key, stamp in self.stamps.items() if stamp != UNUSED]

    def named(self, volume: int, directory: int, name: bytes) -> None:
        """This name changes; of a directory in which too many did, all are compared."""
        names = self.names.get((volume, directory))
        if names is not None:
            names.add(name)
            if len(names) > NAMES_MAX:
                del self.names[volume, directory]

    def names_settled(self, key: Key, flushed: int) -> None:
        """What changed in this directory up to here is equal, if its entry says so."""
        if self.stamps.get(key, IN_USE) <= flushed:
            self.names[key[:2]] = set()

    def retirable(self, flushed: int, hot_max: int = HOT_MAX) -> list[Key]:
        """The coldest entries beyond the hot set that are equal and durable on both sides up to `flushed`.

        Also every such entry of a directory with all that is in it: too much is looked at for its sake. In a
        log of an older version also every one without a place.
        """
        surplus = len(self.stamps) - hot_max
        cold = (key for key, stamp in self.stamps.items() if stamp <= flushed)
        gone = [key for key, _ in zip(cold, range(max(surplus, 0)), strict=False)]
        if not self.placed or self.folds:
            gone += [
                key
                for key, stamp in self.stamps.items()
                if stamp <= flushed and (key[2] == ALL or (not self.placed and key[:2] not in self.places))
            ]
            gone = list(dict.fromkeys(gone))
        return gone

    def retire(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.stamps.pop(key, None)
            self.names.pop(key[:2], None)
        if len(self.places) > 2 * len(self.stamps) + HOT_MAX:
            self.forget_places()
        self.placed = self.placed or all(key[:2] in self.places for key in self.stamps)
        self.folds = self.folds and any(key[2] == ALL for key in self.stamps)

    def forget_places(self) -> None:
        """Drop the places of what has no entry any more."""
        alive = {key[:2] for key in self.stamps}
        self.places = {about: place for about, place in self.places.items() if about in alive}


def encode_overflowed() -> bytes:
    """What the entries say is not all; an older release takes such a log for unreadable, which is as good."""
    return _RECORD.pack(_OVERFLOWED, 0, 0, 0, 0, 0)


def encode_placed() -> bytes:
    """From the first record on each entry has its place."""
    return _RECORD.pack(_PLACED, 0, 0, 0, 0, 0)


def encode_places(places: Mapping[tuple[int, int], Place]) -> list[bytes]:
    return [_encode_place(volume, inode, place) for (volume, inode), place in places.items()]


def _encode_place(volume: int, inode: int, place: Place) -> bytes:
    """A record that tells lengths, and as many more of the records' size as the place takes."""
    text = place.handle + place.directory + place.name
    more = -(-len(text) // _RECORD.size)
    lengths = len(place.directory) << 16 | len(place.name)
    return _RECORD.pack(_PLACE, len(place.handle), volume, lengths, inode, more) + text.ljust(
        more * _RECORD.size, b"\0"
    )


def encode_add(keys: Iterable[Key]) -> list[bytes]:
    return [
        _RECORD.pack(_ADD_ALL if what == ALL else _ADD, what, volume, 0, inode, extent)
        for volume, inode, what, extent in keys
    ]


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
    body = b"".join(records)
    count = len(body) // _RECORD.size
    assert 0 < count <= _RECORDS_MAX
    checksum = zlib.crc32(body, zlib.crc32(_BATCH.pack(_MAGIC, number, count, 0)))
    return _BATCH.pack(_MAGIC, number, count, checksum) + body


def encode_batches(number: int, records: list[bytes]) -> list[bytes]:
    """Any number of records, as batches that follow each other from this number on."""
    starts = range(0, len(records), _BATCH_RECORDS)
    return [
        encode_batch(number + count, records[start : start + _BATCH_RECORDS])
        for count, start in enumerate(starts)
    ]


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
    log = MayDiffer(placed=False)
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
    at = 0
    while at < len(body):
        kind, what, volume, more, inode, extent = _RECORD.unpack_from(body, at)
        at += _RECORD.size
        if (kind == _ADD and not more) or (kind == _ADD_ALL and what == ALL):
            log.folds = log.folds or what == ALL
            log.stamps[volume, inode, what, extent] = IN_USE
        elif kind == _ADD and more < _RUN_MAX:
            log.reserve((volume, inode, what, extent), more + 1, IN_USE)
        elif kind == _RETIRE:
            log.stamps.pop((volume, inode, what, extent), None)
        elif kind == _BASELINE:
            stream = _BASE.unpack_from(body, at - _RECORD.size)[1]
        elif kind == _SEQUENCE and stream:
            log.baseline = Position(stream.hex(), inode)
        elif kind == _UNKNOWN:
            log.baseline = None
        elif kind == _PLACED:
            log.placed = True
        elif kind == _OVERFLOWED:
            log.overflowed, log.baseline = True, None
        elif kind == _PLACE and 0 <= extent * _RECORD.size <= len(body) - at:
            log.places[volume, inode] = _decode_place(body[at : at + extent * _RECORD.size], what, more)
            at += extent * _RECORD.size
        else:
            return False
    return True


def _decode_place(text: bytes, handle: int, lengths: int) -> Place:
    directory = handle + (lengths >> 16)
    name = text[directory : directory + (lengths & 0xFFFF)]
    return Place(text[:handle], text[handle:directory], name, sure=False)
