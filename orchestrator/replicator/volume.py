"""What every operation on one replicated directory shares: its locks, its mode, its way onto the stream."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from enum import Enum

from orchestrator.host import disk
from orchestrator.host.fuse import wire
from orchestrator.host.fuse.session import Caller
from orchestrator.model.choice import Choice
from orchestrator.replicator import ops
from orchestrator.replicator.handles import Node, Table
from orchestrator.replicator.ops import HIDDEN, ROOT, ChangeKey, Named, Operation, Outlet

log = logging.getLogger("hafarm.files")

_STRIPES = 64  # locks for objects: enough that two busy files seldom share one
_CACHED_S = 1  # how long the kernel may believe names and attributes while we alone change them
_REFUSALS_LOGGED_S = 10.0  # one line in so long: a retrying application must not fill the log


class Mode(Enum):
    """What this mount lets happen."""

    READ_ONLY = "read-only"
    OPEN = "open"
    CLOSED = "closed"


class Refusal(OSError):
    """This node says no, whatever its disk would say."""


def refusal(number: int) -> Refusal:
    return Refusal(number, os.strerror(number))


class Volume:
    """One replicated directory below its mount."""

    def __init__(
        self, number: int, root: int, table: Table, outlet: Outlet, choice: Choice, writeback: bool
    ) -> None:
        self.number = number
        self.root_fd = root
        self.table = table
        self.outlet = outlet
        self.writeback = writeback
        self.mode = Mode.READ_ONLY
        self.failed = False
        """The disk failed once: no later sync of this life is believed."""
        self.has_served = False
        """Changes were let in during the life of this mount."""
        self.volume_failed: Callable[[str], None] = lambda why: None
        self.names = threading.RLock()
        """The namespace lock: held while names change, and for the node table. Before any stripe."""
        self._stripes = tuple(threading.RLock() for _ in range(_STRIPES))
        self.choice = choice
        self._touched: dict[Node, None] = {}
        self._any_touched = threading.Event()
        self._last_refusal = 0.0
        self._thread = threading.local()

    # --- order ------------------------------------------------------------------------------------------

    def stripe(self, inode: int) -> AbstractContextManager[object]:
        """The lock that orders changes of one object's data and attributes."""
        return self._stripes[inode % _STRIPES]

    def check_open(self, caller: Caller, node: Node | None = None) -> None:
        """Refuse a change unless the gate is open; asked under the lock that orders it."""
        if self.mode is Mode.OPEN:
            return
        if self.mode is Mode.CLOSED:
            raise refusal(errno.EIO)
        self._log_refusal(caller, node)
        raise refusal(errno.EROFS)

    def _log_refusal(self, caller: Caller, node: Node | None) -> None:
        now = time.monotonic()
        if now - self._last_refusal < _REFUSALS_LOGGED_S:
            return
        self._last_refusal = now
        try:
            with open(f"/proc/{caller.pid}/comm") as file:
                command = file.read().strip()
        except OSError:
            command = "?"
        where = self.path_of(node) if node is not None else "?"
        log.warning(
            "refused a change: this node is not primary: pid=%d %s path=%s", caller.pid, command, where
        )

    def barrier(self) -> None:
        """Return when every change that was let in before has been emitted."""
        with self.names:
            pass
        for lock in self._stripes:
            with lock:
                pass

    def before(self, *keys: ChangeKey, names: Sequence[Named] = ()) -> None:
        self.outlet.before_change(keys, names)

    def named(self, parent: Node, name: bytes) -> Named:
        return (self.number, parent.inode, name)

    def key(self, node: Node, what: int, extent: int = 0) -> ChangeKey:
        if node.fresh and extent == 0:
            return (self.number, node.inode, ops.FRESH, 0)
        return (self.number, node.inode, what, extent)

    def data_keys(self, node: Node, start: int, end: int) -> list[ChangeKey]:
        """The keys of a range of bytes, with the file's attributes (its times and size change too)."""
        first, last = start // ops.EXTENT_BYTES, max(start, end - 1) // ops.EXTENT_BYTES
        if first == last and not node.fresh:
            number, inode = self.number, node.inode
            return [(number, inode, ops.ATTRIBUTES, 0), (number, inode, ops.DATA, first)]
        extents: Iterable[int] = range(first, last + 1)
        if last - first > 64:  # a quarter of a gigabyte in one call: note the whole file instead
            extents = (ops.WHOLE,)
        keys = [self.key(node, ops.ATTRIBUTES), *(self.key(node, ops.DATA, extent) for extent in extents)]
        return list(dict.fromkeys(keys)) if node.fresh else keys

    def send(self, operation: Operation, hurried: bool = False) -> int:
        return self.outlet.emit(operation, hurried)

    def fault(self, fault: OSError) -> None:
        """An error on its way to the caller: one that says that the disk failed costs this node its role."""
        if disk.is_disk_fault(fault) and not isinstance(fault, Refusal):
            self.failed, self.mode = True, Mode.CLOSED
            self.volume_failed(f"{fault.strerror or fault} in volume {self.number}")

    # --- ids on the stream ------------------------------------------------------------------------------

    def bind(self, node: Node) -> None:
        """Make the id known on the stream. Held: the namespace lock."""
        binding = self.outlet.binding
        unknown: list[tuple[Node, Node, bytes]] = []
        while not self.bound(node):
            above = self._bound_by(node)
            if above is None:
                break
            unknown.append((node, *above))
            node = above[0]
        for node, parent, name in reversed(unknown):  # from the top: each is named by one that is known
            self.send(ops.Bind(self.number, node.id, parent.id, name))
            node.bound = binding

    def _bound_by(self, node: Node) -> tuple[Node, bytes] | None:
        """The directory and the name by which it can be made known; None where nothing is to be told."""
        if node.id == ROOT:
            node.bound = self.outlet.binding
            return None
        if node.orphan:
            node.local = (
                True  # no name leads to it any more: a receiver that never knew it needs nothing of it
            )
            return None
        try:
            return self._some_name(node)
        except OSError:
            if not self._is_removed(node):
                raise
            node.local = True
            return None

    @staticmethod
    def _is_removed(node: Node) -> bool:
        with node as fd:
            return os.fstat(fd).st_nlink == 0

    def bound(self, node: Node) -> bool:
        """False when it must be bound first; asked under the object's lock."""
        return node.local or node.bound == self.outlet.binding

    def _some_name(self, node: Node) -> tuple[Node, bytes]:
        """A name that leads to this very object now; a remembered one is never believed unseen."""
        for parent_id, name in list(node.names):
            parent = self.table.nodes.get(parent_id)
            if parent is not None and self.table.leads_to(parent, name, node):
                return parent, name
            self.table.unnamed(node, parent_id, name)
        path = self.path_of(node)
        parent = self.table.nodes[ROOT]
        *directories, last = os.fsencode(path).split(b"/")
        for name in directories:
            with parent as fd:
                parent = self.find(parent, fd, name)
        if not self.table.leads_to(parent, last, node):
            raise refusal(errno.ESTALE)
        self.table.named(node, parent.id, last)
        return parent, last

    def path_of(self, node: Node) -> str:
        """The path below the root as the kernel knows it; for messages, and to be checked before belief."""
        try:
            with node as fd:
                path = os.readlink(disk.path_of(fd))
        except OSError:
            return "?"
        return os.path.relpath(path, os.readlink(disk.path_of(self.root_fd)))

    # --- nodes ------------------------------------------------------------------------------------------

    def node(self, number: int) -> Node:
        node = self.table.nodes.get(number)
        if node is None:
            raise refusal(errno.ESTALE)
        return node

    def find(
        self,
        parent: Node,
        parent_fd: int,
        name: bytes,
        status: os.stat_result | None = None,
        own: int | None = None,
    ) -> Node:
        """The node that this name leads to, made if it is new. Held: the namespace lock.

        `own`: a descriptor of the object itself.
        """
        if status is None:
            status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        key = disk.handle_of(parent_fd, name) if own is None else disk.handle_of(own, b"")
        node = self.table.by_key.get(key)
        if node is None:
            local = parent.local or self.is_local(parent, name, stat.S_ISDIR(status.st_mode))
            node = self.table.add(key, status.st_ino, stat.S_IFMT(status.st_mode), local)
        self.table.named(node, parent.id, name)
        return node

    def is_local(self, parent: Node, name: bytes, is_directory: bool) -> bool:
        """This name is local to the node."""
        if parent.local:
            return True
        if self.choice.everything:
            return False
        return self.choice.is_local_in(self.path_to(parent), name, is_directory)

    def path_to(self, directory: Node) -> bytes:
        """Where a directory is below the root, by names that lead to it now; empty: it is the root."""
        path = b""
        while directory.id != ROOT:
            directory, own = self._some_name(directory)
            path = own + b"/" + path if path else own
        return path

    def check_visible(self, parent: Node, name: bytes, number: int) -> None:
        if parent.id == ROOT and name == HIDDEN:
            raise refusal(number)

    def entry(self, node: Node, status: os.stat_result) -> bytes:
        """The reply that tells the kernel of a node. Held: the namespace lock."""
        self.table.count_up(node)
        valid = self.cached_s
        return wire.ENTRY.pack(node.id, 0, valid, valid, 0, 0) + self.attributes(node, status)

    def attributes(self, node: Node, status: os.stat_result) -> bytes:
        """As the caller is to see them: a hidden link is no name."""
        return wire.attr_bytes(status, 0 if node.orphan else status.st_nlink)

    @property
    def cached_s(self) -> int:
        return _CACHED_S if self.mode is Mode.OPEN else 0

    # --- times ------------------------------------------------------------------------------------------

    def touch(self, node: Node) -> None:
        """Its times changed by themselves: they travel a little later, once for many changes."""
        if not node.local:
            self._touched[node] = None
            if not self._any_touched.is_set():
                self._any_touched.set()

    def untouch(self, node: Node) -> bool:
        """Its times are about to be told; False when they did not change."""
        try:
            del self._touched[node]
        except KeyError:
            return False
        return True

    def settle(self, node: Node, open_fd: int | None = None) -> None:
        """Send the times of one touched object, which is open as `open_fd`. Held: nothing."""
        if not self.untouch(node):
            return
        with self.names:
            if self.table.nodes.get(node.id) is not node:
                return
            self.bind(node)
            with self.stripe(node.inode):
                if self.mode is not Mode.OPEN or node.local:
                    return
                if open_fd is None:
                    with node as fd:
                        status = os.fstat(fd)
                else:
                    status = os.fstat(open_fd)
                which = ops.ATIME | ops.MTIME
                times = (status.st_atime_ns, status.st_mtime_ns)
                self.send(ops.SetAttr(self.number, node.id, which, atime_ns=times[0], mtime_ns=times[1]))

    def settle_all(self) -> None:
        for node in list(self._touched):
            self.settle_if_there(node)

    def settle_if_there(self, node: Node) -> None:
        try:
            self.settle(node)
        except OSError:
            log.debug("times of %d not sent", node.id, exc_info=True)  # it is gone meanwhile

    # --- the caller's umask -----------------------------------------------------------------------------

    def apply_umask(self, mask: int) -> None:
        """The plain file system itself applies umask or default ACL, as it would for the caller."""
        if getattr(self._thread, "mask", None) is None:
            disk.own_umask()
        if getattr(self._thread, "mask", None) != mask:
            os.umask(mask)
            self._thread.mask = mask
