"""What a copy sends: each thing is read and queued under the lock of the live changes (S7)."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from orchestrator.host import disk
from orchestrator.mirror.frames import Kind
from orchestrator.model.names import NodeName
from orchestrator.replicator import codec, ops, trees
from orchestrator.replicator.codec import Sent
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.ops import Tree
from orchestrator.replicator.outbox import Outbox
from orchestrator.replicator.plan import Changes, Progress
from orchestrator.replicator.throttle import Throttle
from orchestrator.replicator.trees import BLOCK_BYTES, Entry, Excluded

BEHIND_MAX: Final = 64
"""Frames of a copy that the receiver has not applied: 16 MiB, so that a live write waits milliseconds."""

IDS_MAX: Final = 100_000
"""Of objects that only the copy speaks of, some 50 MiB on the peer: far more than one batch needs."""

TOLD: Final = ("mode", "uid", "gid", "mtime_ns")


class Source(Protocol):
    """What a copy needs of the primary."""

    outbox: Outbox
    logs: ChangeLogs
    tree: Tree
    volumes: int
    excluded: Excluded
    throttle: Throttle
    tell: Callable[[dict[str, Any]], None]

    def watch_changes(self, into: Changes) -> Callable[[], None]: ...


class Cancelled(Exception):
    """The connection ended; the copy begins anew with the next one."""


class Sender:
    """Says to one peer how objects are made, named and filled, by the ids that both sides know."""

    def __init__(
        self, source: Source, peer: NodeName, progress: Progress, cancelled: threading.Event
    ) -> None:
        self._source = source
        self._tree = source.tree
        self._peer = peer
        self._progress = progress
        self._cancelled = cancelled
        self.holds_names = False
        """This pass keeps the live names still until it is done."""
        self.missed = False
        """Something had moved away before it could be said: another pass finds it."""
        self._ids: dict[tuple[int, str], int] = {}
        self._lent: dict[tuple[int, str], int] = {}
        """Ids of which only the copy speaks, the eldest first; the peer knows them until they are taken."""
        self._first: dict[tuple[int, str], tuple[bytes, str]] = {}
        self._claimed: dict[tuple[int, str], str] = {}

    def begin_pass(self) -> None:
        """Believe nothing of what was looked at before."""
        self.missed = False
        self._ids.clear()
        self._first.clear()
        self._claimed.clear()

    def check(self) -> None:
        """Cancelled when the copy is over."""
        if self._cancelled.is_set():
            raise Cancelled

    def wait_turn(self) -> None:
        """Wait while the copies are paused, or have sent more than their rate.

        Not while names are held still: the application would wait with us.
        """
        if not self.holds_names:
            self._source.throttle.wait(self._cancelled.is_set)
        self.check()

    # --- the stream ---------------------------------------------------------------------------------------

    def emit(self, operation: Sent) -> None:
        """Queue one operation for this peer alone."""
        self.check()
        data = codec.encode(operation)
        # Under a lock of the live changes no full window is waited for: the copy's share is bounded before.
        self._source.outbox.put(Kind.OPERATION, data, self._peer, wait=False)
        self._source.throttle.spent(len(data))

    def throttle(self) -> None:
        """Wait until the receiver has room for more of a copy, and the configured rate allows it."""
        if not self._source.outbox.wait_applied(self._peer, BEHIND_MAX, lambda: not self._cancelled.is_set()):
            raise Cancelled
        self.wait_turn()

    # --- names ----------------------------------------------------------------------------------------------

    def is_other(self, volume: int, own: Entry, theirs: Entry) -> bool:
        """Not the same object with other content, but another object: it is made anew."""
        if stat.S_IFMT(own["mode"]) != stat.S_IFMT(theirs["mode"]):
            return True
        if own.get("target") != theirs.get("target") or own["rdev"] != theirs["rdev"]:
            return True
        if stat.S_ISDIR(own["mode"]):
            return False
        # Hard links: one object there for two here, or two there for one here.
        return self.is_another_link(volume, own["handle"], theirs["handle"])

    def is_another_link(self, volume: int, own: str, theirs: str) -> bool:
        """These handles are of one name on both sides, but one of them was seen as another object's."""
        claimed = self._claimed.get((volume, theirs), own)
        _, first = self._first.get((volume, own), (b"", theirs))
        return claimed != own or first != theirs

    def claim(self, volume: int, path: bytes, own: Entry, handle: str) -> None:
        """Their object of this handle is ours at this path."""
        if not stat.S_ISDIR(own["mode"]):
            self.claim_link(volume, path, own["handle"], handle)

    def claim_link(self, volume: int, path: bytes, own: str, theirs: str) -> None:
        """The same of two handles."""
        self._claimed.setdefault((volume, theirs), own)
        self._first.setdefault((volume, own), (path, theirs))

    def is_claimed(self, volume: int, own: Entry) -> bool:
        """The peer has this object, by one of its names at least."""
        return (volume, own["handle"]) in self._first

    def make(self, volume: int, parent: int, path: bytes, name: bytes, own: Entry) -> bool:
        """Say how the object at this path is made; True: its data follow. False: it is one more name."""
        first = self._first.get((volume, own["handle"]))
        if first is not None and own["links"] > 1 and not stat.S_ISDIR(own["mode"]):
            self.emit(ops.Link(volume, self.id_at(volume, first[0]), parent, name))
            return False
        id = self._id_of(volume, own)
        mode, uid, gid = own["mode"], own["uid"], own["gid"]
        if stat.S_ISDIR(mode):
            self.emit(ops.Mkdir(volume, id, parent, name, stat.S_IMODE(mode), uid, gid))
        elif stat.S_ISLNK(mode):
            self.emit(ops.Symlink(volume, id, parent, name, bytes.fromhex(own["target"]), uid, gid))
        else:
            self.emit(ops.Create(volume, id, parent, name, mode, uid, gid, own["rdev"]))
        # No handle of theirs: a second name of this object is linked, whatever is there now.
        self._first[volume, own["handle"]] = (path, "")
        self._xattrs(volume, id, path, {})
        return True

    def id_at(self, volume: int, path: bytes) -> int:
        """The id of an object that the peer has at this path. Held: the namespace lock."""
        root = self._tree.root(volume)
        unknown: list[tuple[bytes, Entry]] = []
        id = ops.ROOT
        while path:  # no recursion: a path has more parts than Python has frames
            own = trees.describe(root, path)
            known = self._ids.get((volume, own["handle"]))
            if known is not None:
                id = known
                break
            path, _, name = path.rpartition(b"/")
            unknown.append((name, own))
        for name, own in reversed(unknown):
            above, id = id, self._id_of(volume, own)
            # Also of a known id: what the peer bound it to may not be what has this name there now.
            self.emit(ops.Bind(volume, id, above, name))
        return id

    def _id_of(self, volume: int, own: Entry) -> int:
        """The id of an object that is about to be bound or made, remembered from now on."""
        about = (volume, own["handle"])
        id = self._tree.id_of(volume, own["inode"])
        if id is None:
            id = self._lent.pop(about, 0) or self._tree.new_id(volume)
            self._lent[about] = id
        self._ids[about] = id
        return id

    def take_back(self) -> None:
        """The peer may forget the ids that were lent longest ago. Between batches: none of theirs goes."""
        while len(self._lent) > IDS_MAX:
            about = next(iter(self._lent))
            id = self._lent.pop(about)
            if self._ids.get(about) == id:
                del self._ids[about]
            self.emit(ops.Unbind(about[0], id))

    # --- attributes -----------------------------------------------------------------------------------------

    def attributes(self, volume: int, path: bytes, own: Entry, theirs: Entry) -> None:
        """Make owner, rights, times and extended attributes equal."""
        same = all(own[what] == theirs[what] for what in TOLD)
        if same and own.get("xattrs") == theirs.get("xattrs"):
            return
        with self._tree.namespace(volume), self._tree.object(volume, own["inode"]):
            try:
                now = trees.describe(self._tree.root(volume), path)
            except FileNotFoundError:
                return
            if now["handle"] != own["handle"]:
                return  # another object by now; the live stream made it
            id = self.id_at(volume, path)
            if now.get("xattrs") != theirs.get("xattrs"):
                self._xattrs(volume, id, path, theirs.get("xattrs", {}))
            which = ops.UID | ops.GID | ops.MTIME | (0 if stat.S_ISLNK(now["mode"]) else ops.MODE)
            self.emit(
                ops.SetAttr(volume, id, which, now["mode"], now["uid"], now["gid"], mtime_ns=now["mtime_ns"])
            )

    def _xattrs(self, volume: int, id: int, path: bytes, theirs: dict[str, str]) -> None:
        fd = trees.open_path(self._tree.root(volume), path, os.O_PATH | os.O_NOFOLLOW)
        try:
            if stat.S_ISLNK(os.stat(fd).st_mode):
                return
            own = trees.xattr_digests(fd)
            for name in sorted(set(theirs) - set(own)):
                self.emit(ops.RemoveXattr(volume, id, bytes.fromhex(name)))
            for name in sorted(own):
                if theirs.get(name) != own[name]:
                    value = disk.get_xattr(fd, bytes.fromhex(name))
                    self.emit(ops.SetXattr(volume, id, bytes.fromhex(name), value))
        finally:
            os.close(fd)

    # --- data -----------------------------------------------------------------------------------------------

    def send_all(self, volume: int, path: bytes, reader: int, own: Entry) -> None:
        """A new file: its data regions, then its size."""
        at = 0
        while True:
            try:
                at = os.lseek(reader, at, os.SEEK_DATA)
            except OSError:
                break  # ENXIO: nothing but a hole from here on
            end = os.lseek(reader, at, os.SEEK_HOLE)
            for offset in range(at - at % BLOCK_BYTES, end, BLOCK_BYTES):
                self.send_block(volume, path, reader, own, offset)
                self._progress.compared += BLOCK_BYTES
                self._progress.at(path)
            at = end
        self.send_size(volume, path, reader, own)

    def send_block(self, volume: int, path: bytes, reader: int, entry: Entry, offset: int) -> None:
        """One block as it is now, or the hole that it is."""
        id = self._bound(volume, path, entry)
        if id is None:
            return
        self.throttle()
        with self._tree.object(volume, entry["inode"]):
            data = os.pread(reader, BLOCK_BYTES, offset)
            if not data:
                return
            if data.count(0) == len(data) and trees.is_hole(reader, offset, len(data)):
                keep_and_punch = disk.FALLOC_KEEP_SIZE | disk.FALLOC_PUNCH_HOLE
                self.emit(ops.Allocate(volume, id, keep_and_punch, offset, len(data)))
                self._progress.sent += 1
            else:
                self.emit(ops.Write(volume, id, offset, data))
                self._progress.sent += len(data)

    def send_size(self, volume: int, path: bytes, reader: int, entry: Entry) -> None:
        """The size as it is now."""
        id = self._bound(volume, path, entry)
        if id is None:
            return
        with self._tree.object(volume, entry["inode"]):
            self.emit(ops.SetAttr(volume, id, ops.SIZE, size=os.fstat(reader).st_size))
            self._progress.sent += 1

    def _bound(self, volume: int, path: bytes, entry: Entry) -> int | None:
        """The id by which the peer knows the object that had this path; None: the path is another's now."""
        known = self._ids.get((volume, entry["handle"]))
        if known is not None:
            return known
        with self._tree.namespace(volume):
            try:
                if trees.describe(self._tree.root(volume), path)["handle"] == entry["handle"]:
                    id = self._ids[volume, entry["handle"]] = self.id_at(volume, path)
                    return id
            except FileNotFoundError:
                pass  # moved away: the next pass finds it
        self.missed = True
        return None
