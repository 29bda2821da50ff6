"""What the kernel holds of one volume: nodes and open files, kept in a journal that outlives the process."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from struct import Struct
from typing import Final

from orchestrator.host import disk
from orchestrator.mirror.differ import Place
from orchestrator.replicator.ops import ORPHANS, ROOT, orphan_name

_RECORD: Final = Struct("<cQQH")
CAPABILITY: Final = b"security.capability"
_OUTCOMES_MAX = 4096  # far more than the kernel keeps in flight at once
_JOURNAL_BYTES_MAX = 64 << 20  # then rewritten; a busy volume writes some 50 bytes an operation


class Node:
    """One object that the kernel (or the stream) knows by id; `with node as fd` lends an O_PATH one."""

    __slots__ = (
        "bound",
        "fd",
        "fresh",
        "fresh_names",
        "id",
        "inode",
        "key",
        "kind",
        "lacks_capability",
        "local",
        "lookups",
        "names",
        "opens",
        "orphan",
        "plain_in",
        "table",
        "timed_at",
        "users",
    )

    def __init__(self, table: Table, number: int, key: bytes, inode: int, kind: int, local: bool) -> None:
        self.table = table
        self.id = number
        self.key = key
        self.inode = inode
        self.kind = kind
        """The type bits of the mode."""
        self.local = local
        """Never replicated: excluded, or without a name."""
        self.names: set[tuple[int, bytes]] = set()
        self.fresh = False
        """Made in this process's life: its changes count as those of a FRESH object."""
        self.fresh_names: set[int] = set()
        """Directories in which it got a name since its last durable point."""
        self.lacks_capability = False
        """Known to have no CAPABILITY; the kernel asks before a first write and a change of owner."""
        self.lookups = 0
        self.opens = 0
        self.bound = 0
        self.orphan = False
        """Its last name is gone; a hidden link keeps it while it is open."""
        self.timed_at = 0.0
        """When its times went with a durable point last."""
        self.plain_in = 0
        """The binding in which it was seen to be neither setuid nor setgid, and no mode was set since."""
        self.fd = -1
        self.users = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.kind)

    def __enter__(self) -> int:
        table = self.table
        with table.descriptors:
            if self.fd < 0:
                self.fd = table.reach(self)
                table.note_open(self)
            self.users += 1
            return self.fd

    def __exit__(self, *_: object) -> None:
        with self.table.descriptors:
            self.users -= 1


class OpenFile:
    """One open file or directory: its own descriptor on the plain tree."""

    __slots__ = ("fd", "flags", "lock", "node", "number")

    def __init__(self, number: int, node: Node, flags: int, fd: int) -> None:
        self.number, self.node, self.flags, self.fd = number, node, flags, fd
        self.lock = threading.Lock()


class Table:
    """Nodes by id, key and inode; open files by number. Callers hold the volume's namespace lock."""

    def __init__(self, mount_fd: int, journal_path: str, descriptors_max: int) -> None:
        self.mount_fd = mount_fd
        self._by_handle = disk.may_open_handles(mount_fd)
        self.descriptors = threading.RLock()
        self.nodes: dict[int, Node] = {}
        self.by_key: dict[bytes, Node] = {}
        self.by_inode: dict[int, Node] = {}
        self.files: dict[int, OpenFile] = {}
        self.outcomes: dict[int, bytes] = {}
        """Replies to operations that must not run twice, by the request's unique number."""
        self.exchanges: dict[int, bytes] = {}
        """Which object had the first name before an exchange of two, by the request's unique number."""
        self.started = False
        """The connection had its INIT."""
        self._next = ROOT
        self._opened: dict[Node, None] = {}
        self._descriptors_max = descriptors_max
        self._path = journal_path
        self._written = 0
        self._journal = -1
        self._notes: list[bytes] = []
        self._noting = threading.Lock()
        self._writing = False
        """Notes were taken that are not in the journal yet."""

    # --- beginning --------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read what an earlier process left, if any, and begin a compact journal."""
        try:
            with open(self._path, "rb") as file:
                self._replay(file.read())
        except FileNotFoundError:
            pass
        self._rewrite()

    def _replay(self, raw: bytes) -> None:
        at = 0
        reopened: dict[int, tuple[int, int]] = {}
        while at + _RECORD.size <= len(raw):
            kind, first, second, length = _RECORD.unpack_from(raw, at)
            at += _RECORD.size
            payload = raw[at : at + length]
            if len(payload) < length:
                break  # the process died in this very write: its request was not answered
            at += length
            if kind == b"O":
                # Never given again, also when it is closed: the kernel may ask once more to close it.
                self._next = max(self._next, first)
                reopened[first] = (second, int.from_bytes(payload, "little"))
            elif kind == b"C":
                reopened.pop(first, None)
            else:
                self._apply(kind, first, second, payload)
        for number, (node_id, flags) in reopened.items():
            if node_id in self.nodes:  # else the kernel forgot it, and its close was on the way
                self._install(number, self.nodes[node_id], flags, self._reopen(self.nodes[node_id], flags))

    @staticmethod
    def _reopen(node: Node, flags: int) -> int:
        try:
            with node as fd:
                return disk.reopen(fd, flags)
        except OSError as fault:
            if fault.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            return -1  # a directory that was removed while it was open: nothing is in it

    def _apply(self, kind: bytes, first: int, second: int, payload: bytes) -> None:
        if kind == b"S":
            self.started, self._next = bool(second), max(self._next, first)
        elif kind == b"N":
            mode, local = second >> 1, bool(second & 1)
            inode, key = int.from_bytes(payload[:8], "little"), payload[8:]
            self._insert(Node(self, first, key, inode, mode, local))
        elif kind == b"X":
            self.outcomes[first] = payload
            self.exchanges.pop(first, None)
        elif kind == b"E":
            self.exchanges[first] = payload
        elif (node := self.nodes.get(first)) is None:
            return
        elif kind == b"L":
            node.lookups += second
        elif kind == b"F":
            self._count_down(node, second)
        elif kind == b"+":
            node.names.add((second, payload))
        elif kind == b"-":
            node.names.discard((second, payload))
        elif kind == b"A":
            node.orphan = not second
        elif kind == b"R":
            node.local = False

    def _rewrite(self) -> None:
        records = [_RECORD.pack(b"S", self._next, int(self.started), 0)]
        for node in self.nodes.values():
            records.append(self._node_record(node))
            records.append(_RECORD.pack(b"L", node.id, node.lookups, 0))
            records += [_RECORD.pack(b"+", node.id, up, len(name)) + name for up, name in node.names]
            if node.orphan:
                records.append(_RECORD.pack(b"A", node.id, 0, 0))
        records += [self._file_record(file) for file in self.files.values()]
        records += [_RECORD.pack(b"E", unique, 0, len(key)) + key for unique, key in self.exchanges.items()]
        records += [_RECORD.pack(b"X", unique, 0, len(body)) + body for unique, body in self.outcomes.items()]
        with self._noting:
            self._notes = []  # what they say is in the records
            # A second file and a rename: whoever dies between finds one whole journal.
            with open(self._path + ".new", "wb") as file:
                file.write(b"".join(records))
            os.rename(self._path + ".new", self._path)
            if self._journal >= 0:
                os.close(self._journal)
            self._journal = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._written = 0

    # --- journal ----------------------------------------------------------------------------------------

    def _note(self, record: bytes) -> None:
        with self._noting:
            self._notes.append(record)

    def keep(self) -> None:
        """What was noted outlives this process: before each reply, as one write for all of one request.

        Also what another thread is writing for this one at the moment.
        """
        if not self._notes and not self._writing:
            return
        with self._noting:
            if not self._notes:
                return
            self._writing = True  # before the notes are taken: whoever finds none then waits for the lock
            data, self._notes = b"".join(self._notes), []
            os.write(self._journal, data)
            self._written += len(data)
            self._writing = False

    def shorten(self) -> None:
        """Begin a compact journal when this one is long."""
        if self._written > _JOURNAL_BYTES_MAX:
            self._rewrite()

    def note_started(self) -> None:
        self.started = True
        self._note(_RECORD.pack(b"S", self._next, 1, 0))
        self.keep()

    def note_outcome(self, unique: int, body: bytes) -> None:
        """Remember the reply before it is given."""
        self.outcomes[unique] = body
        self.exchanges.pop(unique, None)
        if len(self.outcomes) > _OUTCOMES_MAX:
            del self.outcomes[next(iter(self.outcomes))]
        self._note(_RECORD.pack(b"X", unique, 0, len(body)) + body)
        self.shorten()

    def note_exchange(self, unique: int, key: bytes) -> None:
        """About to exchange two names: done twice it is undone, and only this tells that it was done."""
        self.exchanges[unique] = key
        if len(self.exchanges) > _OUTCOMES_MAX:  # those that failed have no outcome
            del self.exchanges[next(iter(self.exchanges))]
        self._note(_RECORD.pack(b"E", unique, 0, len(key)) + key)
        self.keep()

    @staticmethod
    def _node_record(node: Node) -> bytes:
        payload = node.inode.to_bytes(8, "little") + node.key
        return _RECORD.pack(b"N", node.id, node.kind << 1 | int(node.local), len(payload)) + payload

    @staticmethod
    def _file_record(file: OpenFile) -> bytes:
        return _RECORD.pack(b"O", file.number, file.node.id, 4) + file.flags.to_bytes(4, "little")

    # --- nodes ------------------------------------------------------------------------------------------

    def _take_id(self) -> int:
        self._next += 1
        return self._next

    def new_id(self) -> int:
        """An id that neither the kernel nor this journal will give to anything else."""
        self._take_id()
        self._note(_RECORD.pack(b"S", self._next, int(self.started), 0))
        self.keep()
        return self._next

    def add(self, key: bytes, inode: int, kind: int, local: bool) -> Node:
        """The node of this object: the known one, or a new one."""
        node = self.by_key.get(key)
        if node is None:
            number = self._take_id() if self.nodes else ROOT
            node = Node(self, number, key, inode, kind, local)
            self._insert(node)
            self._note(self._node_record(node))
        return node

    def count_up(self, node: Node) -> None:
        """The kernel is about to hear of it once more. One too many is harmless, one less is not."""
        node.lookups += 1
        self._note(_RECORD.pack(b"L", node.id, 1, 0))

    def count_down(self, node: Node, times: int) -> bool:
        """The kernel forgot it so many times; True when it was dropped."""
        self._note(_RECORD.pack(b"F", node.id, times, 0))
        return self._count_down(node, times)

    def _count_down(self, node: Node, times: int) -> bool:
        node.lookups -= times
        if node.lookups > 0 or node.id == ROOT or node.opens:
            return False
        self.nodes.pop(node.id, None)
        if self.by_key.get(node.key) is node:
            del self.by_key[node.key]
        if self.by_inode.get(node.inode) is node:
            del self.by_inode[node.inode]
        self.close(node)
        return True

    def named(self, node: Node, parent: int, name: bytes) -> None:
        if (parent, name) not in node.names:
            node.names.add((parent, name))
            self._note(_RECORD.pack(b"+", node.id, parent, len(name)) + name)

    def unnamed(self, node: Node, parent: int, name: bytes) -> None:
        if (parent, name) in node.names:
            node.names.discard((parent, name))
            self._note(_RECORD.pack(b"-", node.id, parent, len(name)) + name)

    def place_of(self, inode: int) -> Place | None:
        """Where the node of this inode is, by its own handle or a directory's; needs no lock.

        A name from before this node served, or from an earlier process, may lead elsewhere by now.
        """
        node = self.by_inode.get(inode)
        if node is None:
            return None
        place = Place(node.key)
        if not node.is_directory:
            for parent, name in list(node.names):
                above = self.nodes.get(parent)
                if above is None:
                    continue
                if self.leads_to(above, name, node):
                    return Place(node.key, above.key, name)
                place = Place(node.key, above.key, name, sure=False)
        return place

    @staticmethod
    def leads_to(parent: Node, name: bytes, node: Node) -> bool:
        """This name in this directory is this very object's now."""
        try:
            with parent as fd:
                return disk.handle_of(fd, name) == node.key
        except OSError:
            return False

    def orphaned(self, node: Node, orphan: bool) -> None:
        """It has no name, but a hidden link; or no longer."""
        node.orphan = orphan
        self._note(_RECORD.pack(b"A", node.id, int(not orphan), 0))

    def replicated(self, node: Node) -> None:
        """It was local to this node, and is no longer."""
        node.local = False
        self._note(_RECORD.pack(b"R", node.id, 0, 0))

    def _insert(self, node: Node) -> None:
        self.nodes[node.id] = self.by_key[node.key] = self.by_inode[node.inode] = node
        self._next = max(self._next, node.id)

    # --- descriptors ------------------------------------------------------------------------------------

    def reach(self, node: Node) -> int:
        """An O_PATH descriptor of the object, whatever it is called now; ESTALE when it is gone."""
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        if self._by_handle:
            return disk.open_handle(self.mount_fd, node.key, flags)
        if node.id == ROOT:
            return os.open(".", flags, dir_fd=self.mount_fd)
        # Without the right to open by handle a name leads there, if it is still this object's.
        for parent, name in [(ROOT, ORPHANS + b"/" + orphan_name(node.id)), *node.names]:
            above = self.nodes.get(parent)
            if above is None:
                continue
            with above as directory, contextlib.suppress(OSError):
                fd = os.open(name, flags, dir_fd=directory)
                if disk.handle_of(fd, b"") == node.key:
                    return fd
                os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def note_open(self, node: Node) -> None:
        """Held: `descriptors`. Close the oldest descriptors that nobody uses when there are too many."""
        self._opened[node] = None
        if len(self._opened) <= self._descriptors_max or not self._by_handle:
            return
        for old in list(self._opened):
            if old.users == 0 and old is not node and old.id != ROOT:
                os.close(old.fd)
                old.fd = -1
                del self._opened[old]
                return

    def close(self, node: Node) -> None:
        with self.descriptors:
            if node.fd >= 0 and node.users == 0:
                os.close(node.fd)
                node.fd = -1
                self._opened.pop(node, None)

    # --- open files -------------------------------------------------------------------------------------

    def open_file(self, node: Node, flags: int, fd: int) -> OpenFile:
        file = self._install(self._take_id(), node, flags, fd)
        self._note(self._file_record(file))
        return file

    def _install(self, number: int, node: Node, flags: int, fd: int) -> OpenFile:
        file = OpenFile(number, node, flags, fd)
        self.files[number] = file
        node.opens += 1
        self._next = max(self._next, number)
        return file

    def close_file(self, number: int) -> Node:
        file = self.files.pop(number)
        file.node.opens -= 1
        self._note(_RECORD.pack(b"C", number, 0, 0))
        if file.fd >= 0:
            os.close(file.fd)
        return file.node

    def forget_journal(self) -> None:
        """The connection that the journal speaks of has ended."""
        os.unlink(self._path)
