"""What the ids of a stream stand for on this node: descriptors, bounded, and found again without names."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.host import disk
from orchestrator.mirror.differ import Key, Place
from orchestrator.replicator import ops

HANDLES_OPEN_MAX: Final = 4096  # O_PATH descriptors; far below the usual limit of 20,000 open files
WRITERS_OPEN_MAX: Final = 256  # descriptors open for writing: the files of a large database
IDS_MAX: Final = 4 << 20
"""Of objects that one stream may speak of at once: a kernel that knows of so many has some 8 GiB for them."""
ABSENT: Final = (errno.ENOENT, errno.ESTALE)


@dataclass(slots=True)
class _Object:
    """What an id stands for. Without a handle: the copy has not brought it here yet."""

    fd: int
    inode: int
    handle: bytes | None
    fresh: bool = False
    """Made by this stream: its changes count as those of a FRESH object."""
    place: Place | None = None
    """Where it was bound or moved to last."""


class Objects:
    """Id -> descriptor, bounded; what was closed is found again by its handle, never by a name."""

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = [
            os.open(disk.path_of(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for root in roots
        ]
        # Without handles (overlayfs), or the right to open them, what is open stays open.
        self._by_handle = all(disk.may_open_handles(root) for root in self._roots)
        self._tops = [disk.handle_of(root, b"") if self._by_handle else b"" for root in self._roots]
        self._known: dict[tuple[int, int], _Object] = {}
        self._ids: dict[tuple[int, int], int] = {}
        """By (volume, inode)."""
        self._open: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._writers: OrderedDict[tuple[int, int], int] = OrderedDict()

    def close(self) -> None:
        self.clear()
        for fd in self._roots:
            os.close(fd)

    def clear(self) -> None:
        """Another stream begins: ids of the former mean nothing."""
        for volume, id in list(self._known):
            self.drop(volume, id)

    def root(self, volume: int) -> int:
        if volume >= len(self._roots):
            raise OSError(errno.EINVAL, f"no replicated directory number {volume}")
        return self._roots[volume]

    def bind(self, volume: int, id: int, parent: int, name: bytes) -> int:
        """The id is what has this name now; its descriptor. An id without an object is kept as absent."""
        if id == ops.ROOT:
            raise OSError(errno.EINVAL, "the root's id is not given away")
        self._make_room(volume, id)
        try:
            fd = disk.open_name(self.get(volume, parent), name)
        except OSError as fault:
            if fault.errno in ABSENT:
                self._known[volume, id] = _Object(-1, 0, None)
            raise
        status = os.stat(fd)
        handle = disk.handle_of(fd, b"") if self._by_handle else None
        known = self._known[volume, id] = _Object(fd, status.st_ino, handle)
        known.place = self._place(volume, handle, status.st_mode, parent, name)
        self._ids[volume, status.st_ino] = id
        self._open[volume, id] = None
        self._shrink()
        return fd

    def _make_room(self, volume: int, id: int) -> None:
        """What the id stood for before means nothing now."""
        self.drop(volume, id)
        if len(self._known) >= IDS_MAX:
            raise OSError(errno.ENFILE, f"the stream speaks of more than {IDS_MAX} objects at once")

    def _place(self, volume: int, handle: bytes | None, mode: int, parent: int, name: bytes) -> Place | None:
        """What leads to an object with this handle that is called so."""
        if handle is None:
            return None
        if stat.S_ISDIR(mode):
            return Place(handle)
        above = self._tops[volume] if parent == ops.ROOT else self._object(volume, parent).handle
        return Place(handle, above, name) if above is not None else None

    def place_of(self, volume: int, inode: int) -> Place | None:
        """Where the object of this number was bound, or moved to last; None when no id stands for it."""
        known = self._known.get((volume, self._ids.get((volume, inode), 0)))
        return known.place if known is not None else None

    def place_at(self, volume: int, parent: int, name: bytes) -> tuple[int, Place | None] | None:
        """What has this name now: its number, and the place that leads to it; None when nothing has."""
        try:
            fd = disk.open_name(self.get(volume, parent), name)
        except FileNotFoundError:
            return None
        try:
            status = os.stat(fd)
            handle = disk.handle_of(fd, b"") if self._by_handle else None
        finally:
            os.close(fd)
        return status.st_ino, self._place(volume, handle, status.st_mode, parent, name)

    def moved(self, volume: int, inode: int, place: Place | None) -> None:
        """The object of this number has another place now."""
        known = self._known.get((volume, self._ids.get((volume, inode), 0)))
        if known is not None:
            known.place = place

    def loses_a_name(self, volume: int, inode: int) -> None:
        """The object of this number keeps others, and perhaps not the one that is known here."""
        known = self._known.get((volume, self._ids.get((volume, inode), 0)))
        if known is not None and known.place is not None:
            known.place = replace(known.place, sure=False)

    def adopt(self, volume: int, id: int, writer: int, parent: int, name: bytes) -> os.stat_result:
        """The id is what was made so as this descriptor, which is open for writing; what it is now."""
        try:
            self._make_room(volume, id)
            status = os.fstat(writer)
            inode = status.st_ino
            if self._by_handle:
                handle = disk.handle_of(writer, b"")
                place = self._place(volume, handle, status.st_mode, parent, name)
                self._known[volume, id] = _Object(-1, inode, handle, place=place)
            else:
                fd = os.open(disk.path_of(writer), os.O_PATH | os.O_CLOEXEC)
                self._known[volume, id] = _Object(fd, inode, None)
                self._open[volume, id] = None
        except OSError:  # as where the id was its own parent's
            os.close(writer)
            raise
        self._ids[volume, inode] = id
        self._keep_writer((volume, id), writer)
        return status

    def get(self, volume: int, id: int) -> int:
        """The O_PATH descriptor of an object; ENOENT when it is not here."""
        if id == ops.ROOT:
            return self.root(volume)
        known = self._object(volume, id)
        if known.fd < 0:
            if known.handle is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            known.fd = disk.open_handle(self.root(volume), known.handle, os.O_PATH)
            self._open[volume, id] = None
            self._shrink()
        self._open.move_to_end((volume, id))
        return known.fd

    def inode(self, volume: int, id: int) -> int:
        """This node's number of an object; ENOENT when it is not here."""
        if id == ops.ROOT:
            return os.fstat(self.root(volume)).st_ino
        known = self._object(volume, id)
        if known.fd < 0 and known.handle is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return known.inode

    def _object(self, volume: int, id: int) -> _Object:
        known = self._known.get((volume, id))
        if known is None:
            raise OSError(errno.EBADF, f"the stream never introduced the id {id}")
        return known

    def key(self, volume: int, id: int, what: int, extent: int = 0) -> Key:
        """The may-differ key of an object, in this node's own inode numbers."""
        inode = self.inode(volume, id)
        known = self._known.get((volume, id))
        fresh = known is not None and known.fresh and extent == 0
        return (volume, inode, ops.FRESH if fresh else what, extent)

    def made(self, volume: int, id: int) -> None:
        """It was made just now, by this stream."""
        self._known[volume, id].fresh = True

    def found(self, volume: int, id: int) -> tuple[int, bool]:
        """A descriptor of an object, and whether it is open for writing; else it is an O_PATH one."""
        writer = self._writers.get((volume, id))
        return (self.get(volume, id), False) if writer is None else (writer, True)

    def writer(self, volume: int, id: int) -> int:
        """A descriptor open for writing."""
        key = (volume, id)
        fd = self._writers.get(key)
        if fd is None:
            known = self.get(volume, id)
            _check_data(known, stat.S_IFREG)
            fd = disk.reopen(known, os.O_RDWR | os.O_NONBLOCK)
            self._keep_writer(key, fd)
        else:
            self._writers.move_to_end(key)
        return fd

    def _keep_writer(self, key: tuple[int, int], fd: int) -> None:
        self._writers[key] = fd
        if len(self._writers) > WRITERS_OPEN_MAX:
            os.close(self._writers.popitem(last=False)[1])

    def syncer(self, volume: int, id: int) -> int:
        """A descriptor of the caller's own that may be synced."""
        writer = self._writers.get((volume, id))
        if writer is not None:
            return os.dup(writer)
        known = self.get(volume, id)
        _check_data(known, stat.S_IFREG, stat.S_IFDIR)
        return disk.reopen(known, os.O_RDONLY | os.O_NONBLOCK)

    def drop(self, volume: int, id: int) -> None:
        known = self._known.pop((volume, id), None)
        if known is not None and self._ids.get((volume, known.inode)) == id:
            del self._ids[volume, known.inode]
        if known is not None and known.fd >= 0:
            os.close(known.fd)
        self._open.pop((volume, id), None)
        writer = self._writers.pop((volume, id), None)
        if writer is not None:
            os.close(writer)

    def _shrink(self) -> None:
        """Close the coldest descriptor, if its object can be found again without it."""
        if len(self._open) <= HANDLES_OPEN_MAX:
            return
        key = next(iter(self._open))
        known = self._known[key]
        if known.handle is None:
            self._open.move_to_end(key)  # a file system without handles: this one stays open
            return
        del self._open[key]
        os.close(known.fd)
        known.fd = -1


def _check_data(fd: int, *kinds: int) -> None:
    """Refuse what is no file: a device that is opened for writing is a disk, and some act when opened."""
    if stat.S_IFMT(os.fstat(fd).st_mode) not in kinds:
        raise OSError(errno.ENXIO, "only a file has data")
