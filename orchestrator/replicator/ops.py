"""The replicated operations: what the primary did to its tree, in the order in which it did it.

Objects are addressed by an id that the primary gives: `ROOT` is a volume's root, every other id is introduced
on a stream by `Bind` or by the operation that makes the object, and is never given to a second object in the
life of a keeper. An id stays good when names change and when the last name is gone. Namespace operations name
their objects as (parent id, name). An operation is emitted only after it succeeded locally.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from orchestrator.mirror.differ import ALL as ALL  # of those below, the one that a log itself knows
from orchestrator.mirror.differ import Place

ROOT: Final = 1
HIDDEN: Final = b".hafarm"
"""A directory of ours in the root of each tree: orphans, set-aside files; never replicated, never shown."""

ORPHANS: Final = HIDDEN + b"/orphans"


def orphan_name(id: int) -> bytes:
    """What an unlinked open file is called among the orphans."""
    return b"%x" % id


def orphan_number(name: bytes) -> int:
    """The reverse of `orphan_name`; 0, which no object has, for any other name."""
    try:
        return int(name, 16)
    except ValueError:
        return 0


# What a SetAttr sets.
MODE, UID, GID, SIZE, ATIME, MTIME = 1, 2, 4, 8, 16, 32

# What a may-differ key speaks of; EXTENT_BYTES is how coarsely a file's data is logged.
DATA, ATTRIBUTES, NAMES = 0, 1, 2
FRESH = 3
"""Of an object made a short while ago: its attributes, its first extent, its names if it is a directory."""

FRESH_RUN: Final = 256
"""Inode numbers that get their FRESH entry at once: file systems give neighbouring numbers to what is made
one after the other, so that of so many new files one waits for the log's disk. Upwards, or downwards where
the last was higher: ext4 gives them from the end of a group in which much was deleted lately."""

EXTENT_BYTES: Final = 4 << 20  # one log entry covers so much; DRBD's activity log does the same

WHOLE: Final = -1
"""In place of an extent's number: all data of the object."""

ChangeKey = tuple[int, int, int, int]
"""(volume, inode number on this node's own disk, what of it (DATA, ...), extent, WHOLE or 0)."""


Named = tuple[int, int, bytes]
"""(volume, inode number of a directory, a name in it)."""


def whole_key(volume: int, status: os.stat_result) -> ChangeKey:
    """All of an object, with all below a directory; for what gets another name, as what it is compared with
    there may be anything. Of a small file the entry that it has already if it was made lately."""
    if stat.S_ISDIR(status.st_mode):
        return (volume, status.st_ino, NAMES, WHOLE)
    if status.st_size <= EXTENT_BYTES:
        return (volume, status.st_ino, FRESH, 0)
    return (volume, status.st_ino, DATA, WHOLE)


@dataclass(frozen=True, slots=True)
class Bind:
    """From now on `id` is the object that has this name at this point of the stream."""

    volume: int
    id: int
    parent: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Unbind:
    """The id is not used again: the receiver may drop its handle."""

    volume: int
    id: int


@dataclass(frozen=True, slots=True)
class Create:
    """A new file, fifo, socket or device: `mode` holds the type; rights as they are after all rules."""

    volume: int
    id: int
    parent: int
    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: int = 0


@dataclass(frozen=True, slots=True)
class Mkdir:
    volume: int
    id: int
    parent: int
    name: bytes
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Symlink:
    volume: int
    id: int
    parent: int
    name: bytes
    target: bytes
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Link:
    """One more name for a bound object."""

    volume: int
    id: int
    parent: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Unlink:
    volume: int
    parent: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Rmdir:
    volume: int
    parent: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Rename:
    """`flags` as renameat2: 0 (replaces), 1 NOREPLACE, 2 EXCHANGE."""

    volume: int
    parent: int
    name: bytes
    new_parent: int
    new_name: bytes
    flags: int


@dataclass(frozen=True, slots=True)
class Write:
    """`data` is not changed after the emit; a receiver may keep it."""

    volume: int
    id: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SetAttr:
    """Only the fields named by `which` count. Applied in this order: size, owner, mode, times."""

    volume: int
    id: int
    which: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Allocate:
    """fallocate(2) with the same mode bits: keep size 1, punch hole 2, zero range 16."""

    volume: int
    id: int
    mode: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class SetXattr:
    """Also ACLs, under their system.posix_acl_* names and in the kernel's own encoding."""

    volume: int
    id: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class RemoveXattr:
    volume: int
    id: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Sync:
    """A durable point: everything up to here of this object, and the directories where it got names since.

    `times`: of access and modification, in nanoseconds, when they changed by themselves since they were told.
    """

    volume: int
    id: int
    data_only: bool
    directories: tuple[int, ...] = ()
    times: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    """A durable point: the names in this directory."""

    volume: int
    id: int


Operation = (
    Bind
    | Unbind
    | Create
    | Mkdir
    | Symlink
    | Link
    | Unlink
    | Rmdir
    | Rename
    | Write
    | SetAttr
    | Allocate
    | SetXattr
    | RemoveXattr
    | Sync
    | SyncDirectory
)


class Outlet(Protocol):
    """Where the files send what they did; called from many threads at once."""

    @property
    def binding(self) -> int:
        """Grows when a receiver begins that knows no id (1 at first, 0 never): ids bound under a smaller
        number are bound again before they are used. Read under the lock that orders the emit."""
        ...

    def emit(self, operation: Operation, hurried: bool = False) -> int:
        """Put it at the end of the stream; its sequence number. `hurried`: `hurry` follows in this thread.

        Called under the object's lock (for names: the namespace lock), directly after the local operation
        succeeded, so that the stream has the local order. Waits for no network, except that a full window
        holds the caller.
        """
        ...

    def before_change(self, keys: Iterable[ChangeKey], names: Sequence[Named] | None = None) -> None:
        """Return when these may-differ entries are durable; called before the local change.

        `names`: which names the change is about, where it is about names; None: any in those directories.

        Raises OSError when the log cannot be written: the change is then refused.
        """
        ...

    def hurry(self) -> None:
        """Somebody waits for what was emitted: it leaves now. Called without locks, before the own wait."""
        ...

    def made(self, volume: int, inode: int) -> None:
        """Return when the FRESH entry of this new object is durable; called before anything is done to it."""
        ...

    def folded(self, volume: int, directory: int) -> bool:
        """One entry of this directory may stand for those of what is in it: what loses its name there and
        keeps others needs one for all of it. Asked once an entry of its own is held."""
        ...

    def moved(self, volume: int, inode: int) -> None:
        """It has other names now, and not the one by which it was found last, perhaps. Waits for nothing."""
        ...

    def when_durable(self, sequence: int, callback: Callable[[int], None]) -> None:
        """Run `callback(0)` once every required *other* member has all up to `sequence` on its disk (at once
        when there is none), `callback(EIO)` when the gate was closed meanwhile or is not open. Any thread."""
        ...

    def synced(self, sequence: int) -> None:
        """The own disk has this durable point, after `when_durable` of it. Waits for nothing. Any thread."""
        ...


class Tree(Protocol):
    """What a copy needs of the primary's live tree, and how it enters the order of the live changes."""

    def root(self, volume: int) -> int:
        """The O_PATH descriptor of the plain tree below the mount."""
        ...

    def namespace(self, volume: int) -> AbstractContextManager[object]:
        """While held, no name in this volume changes. Taken before `object`, never after."""
        ...

    def object(self, volume: int, inode: int) -> AbstractContextManager[object]:
        """While held, no data or attribute of this inode changes: read a block and emit it under this."""
        ...

    def id_of(self, volume: int, inode: int) -> int | None:
        """The id of this inode, bound on the stream if it was not; None when no id was ever given to it.

        Held: the namespace lock.
        """
        ...

    def place_of(self, volume: int, inode: int) -> Place | None:
        """Where this inode is, for the may-differ log to remember; None when it has no id. Any thread."""
        ...

    def new_id(self, volume: int) -> int:
        """An id never used before, for an object that only the copy speaks of."""
        ...
