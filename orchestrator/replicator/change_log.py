"""One may-differ log on this node's disk."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from orchestrator.host import disk
from orchestrator.host.store import write_durable
from orchestrator.mirror import differ, folding
from orchestrator.mirror.differ import ALL, IN_USE, Key, MayDiffer, Place, PlaceOf, nowhere
from orchestrator.mirror.lineage import Position
from orchestrator.model.errors import StoreFailed
from orchestrator.replicator.ops import FRESH_RUN, NAMES, Named

log = logging.getLogger("hafarm.logs")

IN_BULK: Final = "more changed than is kept one by one, so directories are compared with all that is in them"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SLACK_BATCHES: Final = 4096  # so many appends before the file is written anew without what is gone
_SLACK_BYTES: Final = 16 << 20
"""So much more than it needs at least: places of what moves while a peer is away for days add up."""


class ChangeLog:
    """One may-differ log in one file: appends are made durable together, by whichever thread comes first."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.before_retiring: Callable[[], None] = lambda: None
        """Called before entries go; what they speak of was changed before."""
        self.began_to_fold: Callable[[], None] = lambda: None
        """Called when directories begin to be kept with all that is in them, with nothing held."""
        self._fd = -1
        self._lock = threading.Condition()
        self._queue: list[bytes] = []
        self._moved: dict[tuple[int, int], None] = {}
        """Whose place changed: told with the next append, nobody waits for it."""
        self._made: dict[int, int] = {}
        """By volume: the number of the object that was made last."""
        self._queued = self._durable = 0
        self._busy = False
        self._failed: OSError | None = None
        self._fold_from = folding.FOLD_FROM
        """Entries with which the next fold is tried."""
        self._began = False
        self._load()

    def _load(self) -> None:
        data = b""
        if os.path.exists(self.path):
            with open(self.path, "rb") as file:
                data = file.read()
        loaded = differ.decode(data)
        self.log: MayDiffer = loaded.log
        if not self.log.stamps:
            self.log.placed = True  # a log that begins
        self.unreadable = loaded.verdict == "unreadable"
        if self.unreadable:
            self.log.baseline = None  # what the middle said is unknown: the next meeting compares in full
        try:
            self._write_anew()
        except StoreFailed:
            if self._failed is not None or loaded.verdict == "unreadable" or not data:
                raise
            self._go_on_with(loaded)

    def _go_on_with(self, loaded: differ.Loaded) -> None:
        """There is no room for a shorter file: the one that is there, without its torn end."""
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        os.ftruncate(self._fd, loaded.length)
        disk.fdatasync(self._fd)
        self._batch, self._length, self._room = loaded.batches, loaded.length, _SLACK_BYTES

    def _write_anew(self) -> None:
        """The file with nothing in it but what still counts."""
        log = self.log
        log.forget_places()
        records = differ.encode_baseline(log.baseline) + differ.encode_add(log.stamps)
        records += [*([differ.encode_placed()] if log.placed else []), *differ.encode_places(log.places)]
        records += [differ.encode_overflowed()] if log.overflowed else []
        batches = differ.encode_batches(0, records)
        data = b"".join(batches)
        try:
            write_durable(self.path, data)
        except StoreFailed as fault:
            if not _is_no_room(fault.__cause__):
                # It may have the name already, and nobody would find what is appended to the former one.
                self._failed = disk.SyncFailed(errno.EIO, fault.why)
            raise
        self._moved.clear()  # what they say is in the records
        self._room = len(data) + max(len(data), _SLACK_BYTES)
        """Bytes that may be appended before it is written anew."""
        former, self._fd = self._fd, os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if former >= 0:
            os.close(former)
        self._batch = len(batches)
        self._length = len(data)

    def close(self) -> None:
        os.close(self._fd)

    def hold(self, keys: Sequence[Key], place_of: PlaceOf = nowhere) -> None:
        """Return when these entries are durable; they stay until each `hold` has its `release`."""
        self._add(keys, self.log.hold, place_of, knows_names=True)

    def pin(self, keys: Sequence[Key], place_of: PlaceOf = nowhere) -> None:
        """Return when these entries are durable; they stay until `unpin`."""
        self._add(keys, self.log.pin, place_of, knows_names=False)

    def _add(
        self,
        keys: Sequence[Key],
        keep: Callable[[Sequence[Key]], None],
        place_of: PlaceOf,
        knows_names: bool,
    ) -> None:
        with self._lock:
            self._raise_if_failed()
            if self._drops and not knows_names:
                keys = ()  # all is compared anyway
            missing = [] if self._drops else self.log.missing(keys)
            unplaced = [] if self._drops else self.log.unplaced(keys)
            keep(keys)
            if not knows_names:
                self._forget_names(keys)
            # A hot entry may still be on its way to the disk for another thread: wait for that append too.
            if (missing or unplaced) and not self._has_too_many():
                if knows_names:
                    self.log.names.update((key[:2], set()) for key in missing if key[2] == NAMES)
                for volume, inode in dict.fromkeys(key[:2] for key in (*missing, *unplaced)):
                    self._place(volume, inode, place_of(volume, inode))
                if missing or self._moved:
                    self._append(differ.encode_add(missing))
            self._settle(self._queued)
            self._shorten()
        self._tell_of_fold()

    @property
    def _drops(self) -> bool:
        """It overflowed, and no copy has come since: a further entry says nothing new."""
        return self.log.overflowed and self.log.counts_from is None

    def _has_too_many(self) -> bool:
        """Many entries are kept by directory; of too many none from now on. Durable with the next append."""
        if len(self.log.stamps) <= self._fold_from:
            return False
        self._fold()
        self._fold_from = max(folding.FOLD_FROM, len(self.log.stamps) + folding.FOLD_EVERY)
        return self._fold_from > differ.ENTRIES_MAX and self._overflow()

    def _fold(self) -> None:
        fold = folding.plan(self.log, disk.inode_of, folding.FOLD_EVERY)
        if fold.instead and not self.log.folds:
            log.warning("%s: %s (%d entries)", self.path, IN_BULK, len(self.log.stamps))
            self._began = True
        folding.carry_out(self.log, fold)
        for (volume, inode), place in fold.places.items():
            self._place(volume, inode, place)
        self._append(differ.encode_add(fold.instead) + differ.encode_retire(fold.gone))

    def _tell_of_fold(self) -> None:
        if self._began:
            self._began = False
            self.began_to_fold()

    def _overflow(self) -> bool:
        what = "more directories changed than are kept: the next meeting with that node compares everything"
        log.warning("%s: %s (%d entries)", self.path, what, len(self.log.stamps))
        self.log.overflow()
        self._moved.clear()
        self._append([*differ.encode_baseline(None), differ.encode_overflowed()])
        self._room = -1  # what the file holds is of no use any more
        self._fold_from = folding.FOLD_FROM
        return True

    @property
    def says_too_little(self) -> bool:
        """What is in it is not all that may differ."""
        return self.unreadable or self.log.overflowed

    def _place(self, volume: int, inode: int, place: Place | None) -> None:
        """Remember where this is, on the disk with the next append. None: nobody knows."""
        known = self.log.places.get((volume, inode))
        if place is None:
            if known is not None:
                self.log.places[volume, inode] = replace(known, sure=False)
            return
        self.log.places[volume, inode] = place
        if known != place:
            self._moved[volume, inode] = None

    def reserve(self, key: Key, place: Place | None) -> None:
        """Return when this new object's entry is durable, and those of the numbers that come next."""
        with self._lock:
            self._raise_if_failed()
            if self._drops:
                return  # what is held while its change is on its way is all that is kept
            if key not in self.log.stamps:
                first, count = self._run(key)
                self.log.reserve(first, count)
                self._append([differ.encode_run(first, count)])
                self._has_too_many()
            self._made[key[0]] = key[1]
            self._place(key[0], key[1], place)
            self._settle(self._queued)
        self._tell_of_fold()

    def _run(self, key: Key) -> tuple[Key, int]:
        """The first of the entries that become durable with this one, and how many they are.

        Numbers are given upwards, but by ext4 downwards where much was deleted a moment ago.
        """
        volume, inode, what, extent = key
        if self._made.get(volume, 0) < inode:
            return key, FRESH_RUN
        first = max(inode - FRESH_RUN + 1, 1)
        return (volume, first, what, extent), inode - first + 1

    def named(self, keys: Iterable[Key], names: Iterable[Named] | None) -> None:
        """The names that a change is about, whose directories' entries are held; None: any of them."""
        if names is not None:
            for named in names:
                self.log.named(*named)
            return
        self._forget_names(keys)

    def _forget_names(self, keys: Iterable[Key]) -> None:
        """Any name in these directories may have changed."""
        for key in keys:
            if key[2] == NAMES:
                self.log.names.pop(key[:2], None)

    def names(self) -> dict[tuple[int, int], frozenset[bytes]]:
        """Of directories whose entries came in this life: the names that changed, and no others."""
        with self._lock:
            # A thread that holds an entry may add a name at any time: copied in one step.
            return {about: frozenset(names.copy()) for about, names in list(self.log.names.items())}

    def moved(self, volume: int, inode: int, place: Place | None) -> None:
        """It has this place now, or one that nobody knows; of interest only if it has entries."""
        with self._lock:
            if (volume, inode) in self.log.places:
                self._place(volume, inode, place)

    def release(self, keys: Iterable[Key], sequence: int) -> None:
        """The changes are in the stream, up to this number at most."""
        with self._lock:
            if self._failed is not None:
                return  # nothing goes from here any more, and nobody knows what was held
            self.log.release(keys, sequence)

    def confirmed(self, position: Position) -> None:
        """Peer and own disk hold everything up to here: cold entries that are older go (S2)."""
        # Decided once: what comes to be surplus after this look stays until the next one.
        may_go = len(self.log.stamps) > differ.HOT_MAX or not self.log.placed or self.log.folds
        if may_go:
            self.before_retiring()
        with self._lock:
            self._raise_if_failed()
            if self.log.overflowed and not self._ends_overflow(position.sequence):
                return
            known = self.log.baseline
            if known and known.stream == position.stream and known.sequence >= position.sequence:
                return
            self.log.baseline = position
            for volume, directory in list(self.log.names):
                self.log.names_settled((volume, directory, NAMES, 0), position.sequence)
            gone = self.log.retirable(position.sequence) if may_go else []
            self.log.retire(gone)
            self._append(differ.encode_baseline(position) + differ.encode_retire(gone))
            try:
                self._settle(self._queued)
            except OSError as fault:
                if not _is_no_room(fault):
                    raise
                return  # it stays queued, and what goes later is no loss
            if self._batch > _SLACK_BATCHES:
                self._renew()

    def _ends_overflow(self, flushed: int) -> bool:
        """A copy came, and both disks have it: the entries are all again. Held: the lock."""
        if not self.log.is_whole_again(flushed):
            return False
        while self._busy or self._durable < self._queued:
            self._settle(self._queued)
            if self._busy:
                self._lock.wait()
        # Once more: it may have overflowed again, while others were waited for.
        if self.log.is_whole_again(flushed):
            self.log.overflowed, self.log.counts_from = False, None
            self._write_anew()  # durable, with every entry in it, before one is believed
        return not self.log.overflowed

    def _shorten(self) -> None:
        """Begin a compact file when this one is long. Held: the lock."""
        if self._room < 0:
            self._renew()

    def _renew(self) -> None:
        """A shorter file, or this one for a while more if there is no room for both. Held: the lock."""
        if self._busy:
            return
        try:
            self._write_anew()
        except StoreFailed:
            self._raise_if_failed()
            self._room = _SLACK_BYTES

    def forget_baseline(self) -> None:
        """From now on only a full compare can tell; durable on return."""
        with self._lock:
            self.log.baseline = None
            self._append(differ.encode_baseline(None))
            self._settle(self._queued)

    def unpin(self, sequence: int) -> None:
        """A copy ended at this number: what was to be copied is as good as written then."""
        with self._lock:
            self.log.unpin(sequence)

    def pin_all(self) -> None:
        """Another stream begins: stamps of the former one say nothing of it; nothing goes before a copy."""
        with self._lock:
            self.log.begin_stream()

    def keys(self) -> list[Key]:
        """The entries that some change has needed."""
        with self._lock:
            return self.log.used()

    def places(self) -> tuple[dict[tuple[int, int], Place], bool]:
        """Where the entries' objects were, and whether an entry without a place was needed by none."""
        with self._lock:
            return self.log.places.copy(), self.log.placed

    def unsettled(self) -> list[Key] | None:
        """What a resync would look at for this log's sake; None: everything, as the log says too little."""
        with self._lock:
            return None if self.says_too_little or self.log.baseline is None else self.log.unsettled()

    def in_bulk(self) -> str:
        """Why a resync looks at more than what changed; nothing where it does not."""
        with self._lock:
            count = sum(key[2] == ALL for key in self.log.stamps) if self.log.folds else 0
        return f"{IN_BULK}: {count} of them" if count else ""

    def in_use(self) -> list[Key]:
        """The entries whose change is not in the stream yet, for all that is known."""
        with self._lock:
            return [key for key, stamp in self.log.stamps.items() if stamp == IN_USE]

    def _append(self, records: list[bytes]) -> None:
        self._queue += records
        self._queued += 1

    def _settle(self, ticket: int) -> None:
        """Wait until everything up to this ticket is durable; one waiter writes for all. Lock held."""
        while self._durable < ticket:
            self._raise_if_failed()
            if self._busy:
                self._lock.wait()
            else:
                self._write_queue()

    def _write_queue(self) -> None:
        """Held: the lock, which others may take meanwhile. OSError: there is no room, all stays queued."""
        places = {about: self.log.places[about] for about in self._moved if about in self.log.places}
        records, self._queue, self._moved = self._queue + differ.encode_places(places), [], {}
        upto, self._busy = self._queued, True
        batches = differ.encode_batches(self._batch, records)
        data = b"".join(batches)
        self._lock.release()
        fault: OSError | None = None
        full: OSError | None = None
        try:
            full = self._append_whole(data)
            if full is None:
                disk.fdatasync(self._fd)
        except OSError as failure:
            fault = failure
        finally:
            self._lock.acquire()
            self._busy = False
            self._failed = self._failed or fault
            self._lock.notify_all()
        if full is not None:
            self._queue = records + self._queue  # who comes next brings these along, or is refused too
            raise full
        if fault is None:
            self._durable = upto
            self._batch += len(batches)
            self._room -= len(data)
            self._length += len(data)

    def _append_whole(self, data: bytes) -> OSError | None:
        """Append it all, or nothing: the answer of a full disk, which is none of its faults."""
        try:
            written = os.write(self._fd, data)
            if written == len(data):
                return None
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as fault:
            if not _is_no_room(fault):
                raise
            full = fault
        os.ftruncate(self._fd, self._length)  # half a batch in the middle would make all of it unreadable
        return full

    def _raise_if_failed(self) -> None:
        if self._failed is not None:
            # The file may end in half a batch now: nothing more is believed durable in this life.
            raise type(self._failed)(
                self._failed.errno, f"the may-differ log {self.path}: {self._failed.strerror}"
            )


def _is_no_room(fault: BaseException | None) -> bool:
    """A full disk's answer to a write; of a sync it is none, as that lost what was to be written."""
    return isinstance(fault, OSError) and fault.errno in _NO_ROOM and not disk.is_disk_fault(fault)
