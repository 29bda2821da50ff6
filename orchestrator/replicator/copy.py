"""Make another node's tree equal to the live one here, and say where it is not: what differs travels."""

from __future__ import annotations

import functools
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from orchestrator.host import disk
from orchestrator.mirror.differ import Key
from orchestrator.mirror.frames import Kind
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName
from orchestrator.replicator import codec, ops, trees
from orchestrator.replicator.codec import Remove, Sent
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.ops import Tree
from orchestrator.replicator.outbox import Outbox
from orchestrator.replicator.trees import BLOCK_BYTES, BLOCKS_MAX, Entry, Excluded

log = logging.getLogger("hafarm.copy")

BEHIND_MAX: Final = 64
"""Frames of a copy that the receiver has not applied: 16 MiB, so that a live write waits milliseconds."""
PASSES_MAX: Final = 4
"""Passes over what changed meanwhile; the last one holds the names still, so it is always the last."""
PROGRESS_EVERY_S: Final = 1.0

_TOLD: Final = ("mode", "uid", "gid", "mtime_ns")


class Source(Protocol):
    """What a copy needs of the primary."""

    outbox: Outbox
    logs: ChangeLogs
    tree: Tree
    volumes: int
    excluded: Excluded
    copy_bytes_per_s: int
    tell: Callable[[dict[str, Any]], None]

    def watch_changes(self, into: Changes) -> Callable[[], None]: ...


class Changes:
    """What the application changed while a copy ran."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: set[Key] = set()
        self.moves = 0
        """Renames and links so far: what they moved may have slipped past the copy."""

    def note(self, keys: Iterable[Key]) -> None:
        with self._lock:
            self._keys.update(keys)

    def moved(self) -> None:
        with self._lock:
            self.moves += 1

    def keys(self) -> set[Key]:
        with self._lock:
            return self._keys.copy()


class Cancelled(Exception):
    """The connection ended; the copy begins anew with the next one."""


@dataclass
class CopyPlan:
    """What to look at: everything, or what these entries name in this node's tree."""

    full: bool
    why: str = ""
    keys: set[Key] = field(default_factory=set)


@dataclass
class Tally:
    """How far a copy is, for people."""

    files: int = 0
    files_total: int = 0
    compared: int = 0
    sent: int = 0
    bytes_total: int = 0
    current: str = ""
    began: float = field(default_factory=time.monotonic)

    def as_dict(self) -> dict[str, Any]:
        elapsed = max(time.monotonic() - self.began, 1e-3)
        rate = self.compared / elapsed
        left = max(self.bytes_total - self.compared, 0)
        return {
            "files": self.files,
            "files_total": self.files_total,
            "bytes": self.compared,
            "bytes_total": self.bytes_total,
            "sent": self.sent,
            "rate": int(rate),
            "eta_s": round(left / rate, 1) if rate else None,
            "current": self.current,
        }


class _Wanted:
    """A plan's entries by inode."""

    def __init__(self, plan: CopyPlan) -> None:
        self.full = plan.full
        self._of: dict[tuple[int, int], set[tuple[int, int]]] = {}
        for volume, inode, what, extent in plan.keys:
            self._of.setdefault((volume, inode), set()).add((what, extent))

    def about(self, volume: int, inode: int) -> set[tuple[int, int]]:
        return self._of.get((volume, inode), set())


class Copier:
    """One copy to one peer. What is sent is read and queued under the lock of the live changes (S7)."""

    def __init__(
        self,
        source: Source,
        peer: NodeName,
        ask: Callable[[dict[str, Any]], dict[str, Any]],
        plan: CopyPlan,
        done: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._source = source
        self._tree = source.tree
        self._peer = peer
        self._ask = ask
        self._plan = plan
        self._done = done
        self._failed = failed
        self._cancelled = threading.Event()
        self._tally = Tally()
        self._told = 0.0
        self._wanted = _Wanted(plan)
        self._missed = False
        self._passed_over = 0
        self._ids: dict[tuple[int, str], int] = {}
        self._first: dict[tuple[int, str], tuple[bytes, str]] = {}
        self._claimed: dict[tuple[int, str], str] = {}
        self._compared: set[tuple[int, str]] = set()
        self._directories: list[tuple[int, bytes]] = []
        self._touched = Changes()
        self._forget = source.watch_changes(self._touched)
        # A change that is on its way now passed the watchers by; its entries are in use until it is emitted.
        self._touched.note(source.logs.of[peer].in_use())
        self._thread = threading.Thread(target=self._run, name=f"copy to {peer}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """End it, begun or not; what it queued stays queued."""
        self._cancelled.set()
        self._forget()

    def progress(self) -> dict[str, Any]:
        return self._tally.as_dict() | {"full": self._plan.full, "why": self._plan.why}

    # --- passes --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if not self._plan.full:
                self._unite()
            self._passes(self._touched)
            self._tell()
            self._done()
        except Cancelled:
            pass
        except (HafarmError, OSError) as fault:
            if not self._cancelled.is_set():
                log.warning("copy to %s stopped: %s", self._peer, fault)
                self._failed(str(fault))
        finally:
            self._forget()

    def _unite(self) -> None:
        """To copy = our log and theirs (S5); theirs is durable in ours before anything is copied (S6)."""
        own = self._source.logs.of[self._peer]
        answer = self._question("changed")
        if answer.get("unreadable"):
            own.forget_baseline()
            self._plan = CopyPlan(True, "the joiner's may-differ log is unreadable")
        else:
            theirs = [
                self._here(int(v), bytes.fromhex(p), int(w), int(e)) for v, p, w, e in answer["changed"]
            ]
            own.use(theirs)
            self._plan.keys.update(own.keys())
        self._wanted = _Wanted(self._plan)

    def _here(self, volume: int, path: bytes, what: int, extent: int) -> Key:
        """Their entry in our tree; what is not here is a matter of the names around it."""
        root = self._tree.root(volume)
        while True:
            try:
                entry = trees.describe(root, path)
            except OSError:
                path, what, extent = path.rpartition(b"/")[0], ops.NAMES, 0
                continue
            if what == ops.NAMES and not stat.S_ISDIR(entry["mode"]):
                what, extent = ops.DATA, ops.WHOLE
            return (volume, entry["inode"], what, extent)

    def _passes(self, touched: Changes) -> None:
        for number in range(1, PASSES_MAX + 1):
            with ExitStack() as still:
                if number == PASSES_MAX:
                    for volume in range(self._source.volumes):
                        still.enter_context(self._tree.namespace(volume))
                before = self._passed_over, touched.moves
                self._missed = False
                self._pass()
                self._passed_over = int(self._question("passed_over")["count"])
                if (self._passed_over, touched.moves) == before and not self._missed:
                    return
            # The receiver passed over changes of what it did not have yet, or something moved past us: look
            # at all that was changed meanwhile again.
            self._wanted = _Wanted(CopyPlan(False, "changed meanwhile", touched.keys()))

    def _pass(self) -> None:
        self._ids.clear()
        self._first.clear()
        self._claimed.clear()
        self._compared.clear()
        self._count()
        for volume in range(self._source.volumes):
            self._visit(volume, b"", self._wanted.full)
        self._finish_directories()

    def _count(self) -> None:
        for volume in range(self._source.volumes):
            root = self._tree.root(volume)
            for path, inode, is_directory in trees.walk(root, volume, self._source.excluded):
                if is_directory or not (self._wanted.full or self._wanted.about(volume, inode)):
                    continue
                self._tally.files_total += 1
                try:
                    self._tally.bytes_total += trees.describe(root, path)["size"]
                except OSError:
                    continue  # taken away meanwhile
                self._check()

    # --- directories ---------------------------------------------------------------------------------------

    def _visit(self, volume: int, path: bytes, full: bool, names_only: bool = False) -> None:
        """Compare a directory that exists on both sides, then what is below it."""
        pending = [(path, full, names_only)]
        while pending:
            self._check()
            directory, whole, shallow = pending.pop()
            try:
                pending += self._visit_one(volume, directory, whole, shallow)
            except FileNotFoundError:
                self._missed = True  # taken away meanwhile, or moved before it was looked at

    def _visit_one(
        self, volume: int, path: bytes, full: bool, shallow: bool
    ) -> list[tuple[bytes, bool, bool]]:
        root = self._tree.root(volume)
        own = trees.describe(root, path)
        about = self._wanted.about(volume, own["inode"])
        full = full or (ops.NAMES, ops.WHOLE) in about
        all_names = full or shallow or (ops.NAMES, 0) in about
        children = self._children(volume, path, full, all_names)
        if full or all_names or about:
            self._directories.append((volume, path))
        files = [name for name, is_directory in children if not is_directory]
        theirs = self._list(volume, path) if all_names or files else {}
        made: set[bytes] = set()
        if self._names_differ(volume, path, theirs, None if all_names else files):
            with self._tree.namespace(volume):
                theirs = self._list(volume, path)
                made = self._fix_names(volume, path, theirs, None if all_names else files)
        below = []
        for name, is_directory in children:
            child = trees.join(path, name)
            if is_directory:
                below.append((child, full or name in made, all_names and not full))
            else:
                self._file(volume, path, name, theirs.get(name), full or name in made, all_names)
        return below

    def _children(self, volume: int, path: bytes, full: bool, all_names: bool) -> list[tuple[bytes, bool]]:
        """(name, is a directory) of what must be looked at; each directory, since it may hold some."""
        fd = trees.open_path(self._tree.root(volume), path, os.O_RDONLY | os.O_DIRECTORY)
        found = []
        try:
            with os.scandir(fd) as items:
                for item in items:
                    name, inode = os.fsencode(item.name), item.inode()
                    child = trees.join(path, name)
                    if child == ops.HIDDEN or self._source.excluded(volume, child):
                        continue
                    is_directory = item.is_dir(follow_symlinks=False)
                    if full or all_names or is_directory or self._wanted.about(volume, inode):
                        found.append((name, is_directory))
        finally:
            os.close(fd)
        return sorted(found)

    def _names_differ(
        self, volume: int, path: bytes, theirs: dict[bytes, Entry], only: list[bytes] | None
    ) -> bool:
        root = self._tree.root(volume)
        names = self._own_names(volume, path) if only is None else only
        if not set(names) <= set(theirs) or (only is None and len(names) != len(theirs)):
            return True
        for name in names:
            child = trees.join(path, name)
            try:
                own = trees.describe(root, child)
            except FileNotFoundError:
                return True
            if self._is_other(volume, own, theirs[name]):
                return True
            self._claim(volume, child, own, theirs[name]["handle"])
        return False

    def _own_names(self, volume: int, path: bytes) -> list[bytes]:
        names = trees.list_names(self._tree.root(volume), path)
        return [name for name in names if not self._source.excluded(volume, trees.join(path, name))]

    def _is_other(self, volume: int, own: Entry, theirs: Entry) -> bool:
        """Not the same object with other content, but another object: it is made anew."""
        if stat.S_IFMT(own["mode"]) != stat.S_IFMT(theirs["mode"]):
            return True
        if own.get("target") != theirs.get("target") or own["rdev"] != theirs["rdev"]:
            return True
        if stat.S_ISDIR(own["mode"]):
            return False
        # Hard links: one object there for two here, or two there for one here.
        claimed = self._claimed.get((volume, theirs["handle"]), own["handle"])
        _, first = self._first.get((volume, own["handle"]), (b"", theirs["handle"]))
        return bool(claimed != own["handle"] or first != theirs["handle"])

    def _fix_names(
        self, volume: int, path: bytes, theirs: dict[bytes, Entry], only: list[bytes] | None
    ) -> set[bytes]:
        """Take away what is too many, make what is missing; the names made. Held: the namespace lock."""
        root = self._tree.root(volume)
        parent = self._id(volume, path)
        names = self._own_names(volume, path)
        made = set()
        for name in sorted(set(theirs) - set(names)):
            self._emit(Remove(volume, parent, name))
            del theirs[name]
        for name in names if only is None else set(only) & set(names):
            child = trees.join(path, name)
            own = trees.describe(root, child)
            if name in theirs and not self._is_other(volume, own, theirs[name]):
                self._claim(volume, child, own, theirs[name]["handle"])
                continue
            if name in theirs:
                self._emit(Remove(volume, parent, name))
            theirs.pop(name, None)
            self._make(volume, parent, child, name, own)
            made.add(name)
        return made

    def _claim(self, volume: int, path: bytes, own: Entry, handle: str) -> None:
        if not stat.S_ISDIR(own["mode"]):
            self._claimed.setdefault((volume, handle), own["handle"])
            self._first.setdefault((volume, own["handle"]), (path, handle))

    def _make(self, volume: int, parent: int, path: bytes, name: bytes, own: Entry) -> None:
        """Say how the object at this path is made; its data follow."""
        first = self._first.get((volume, own["handle"]))
        if first is not None and own["links"] > 1 and not stat.S_ISDIR(own["mode"]):
            self._emit(ops.Link(volume, self._id(volume, first[0]), parent, name))
            return
        id = self._tree.id_of(volume, own["inode"]) or self._tree.new_id(volume)
        self._ids[volume, own["handle"]] = id
        mode, uid, gid = own["mode"], own["uid"], own["gid"]
        if stat.S_ISDIR(mode):
            self._emit(ops.Mkdir(volume, id, parent, name, stat.S_IMODE(mode), uid, gid))
        elif stat.S_ISLNK(mode):
            self._emit(ops.Symlink(volume, id, parent, name, bytes.fromhex(own["target"]), uid, gid))
        else:
            self._emit(ops.Create(volume, id, parent, name, mode, uid, gid, own["rdev"]))
        # No handle of theirs: a second name of this object is linked, whatever is there now.
        self._first[volume, own["handle"]] = (path, "")
        self._send_xattrs(volume, id, path, {})

    def _id(self, volume: int, path: bytes) -> int:
        """The id of an object that the peer has at this path. Held: the namespace lock."""
        if not path:
            return ops.ROOT
        own = trees.describe(self._tree.root(volume), path)
        known = self._ids.get((volume, own["handle"]))
        if known is not None:
            return known
        above, _, name = path.rpartition(b"/")
        id = self._tree.id_of(volume, own["inode"]) or self._tree.new_id(volume)
        self._ids[volume, own["handle"]] = id
        # Said again even of a known id: what the peer bound it to may not be what has this name there now.
        self._emit(ops.Bind(volume, id, self._id(volume, above), name))
        return id

    def _finish_directories(self) -> None:
        """Attributes of directories come last: each name made below changes their times."""
        while self._directories:
            volume, path = self._directories.pop()
            try:
                own = trees.describe(self._tree.root(volume), path)
                self._attributes(volume, path, own, self._describe(volume, path))
            except FileNotFoundError:
                continue  # taken away meanwhile

    # --- attributes ----------------------------------------------------------------------------------------

    def _attributes(self, volume: int, path: bytes, own: Entry, theirs: Entry) -> None:
        """Make owner, rights, times and extended attributes equal."""
        same = all(own[what] == theirs[what] for what in _TOLD)
        if same and own.get("xattrs") == theirs.get("xattrs"):
            return
        with self._tree.namespace(volume), self._tree.object(volume, own["inode"]):
            try:
                now = trees.describe(self._tree.root(volume), path)
            except FileNotFoundError:
                return
            if now["handle"] != own["handle"]:
                return  # another object by now; the live stream made it
            id = self._id(volume, path)
            if now.get("xattrs") != theirs.get("xattrs"):
                self._send_xattrs(volume, id, path, theirs.get("xattrs", {}))
            which = ops.UID | ops.GID | ops.MTIME | (0 if stat.S_ISLNK(now["mode"]) else ops.MODE)
            self._emit(
                ops.SetAttr(volume, id, which, now["mode"], now["uid"], now["gid"], mtime_ns=now["mtime_ns"])
            )

    def _send_xattrs(self, volume: int, id: int, path: bytes, theirs: dict[str, str]) -> None:
        fd = self._open(volume, path, os.O_PATH | os.O_NOFOLLOW)
        try:
            if stat.S_ISLNK(os.stat(fd).st_mode):
                return
            own = trees.xattr_digests(fd)
            for name in sorted(set(theirs) - set(own)):
                self._emit(ops.RemoveXattr(volume, id, bytes.fromhex(name)))
            for name in sorted(own):
                if theirs.get(name) != own[name]:
                    value = disk.get_xattr(fd, bytes.fromhex(name))
                    self._emit(ops.SetXattr(volume, id, bytes.fromhex(name), value))
        finally:
            os.close(fd)

    # --- files ---------------------------------------------------------------------------------------------

    def _file(
        self, volume: int, path: bytes, name: bytes, theirs: Entry | None, full: bool, named: bool
    ) -> None:
        """Make one object that is no directory equal: data, size, attributes."""
        child = trees.join(path, name)
        self._tell(child)
        try:
            fd = self._open(volume, child, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            self._missed = True
            return
        try:
            own = trees.describe_fd(fd)
            about = self._wanted.about(volume, own["inode"])
            key = (volume, own["handle"])
            sent = self._tally.sent
            if stat.S_ISREG(own["mode"]) and (full or named or about) and key not in self._compared:
                self._compared.add(key)
                self._data(volume, child, fd, own, theirs, full or (ops.DATA, ops.WHOLE) in about)
            self._tally.files += 1
            if theirs is not None and self._tally.sent > sent:
                theirs = theirs | {"mtime_ns": None}
            # Without an entry of theirs it was made just now; its times are what is left to say.
            self._attributes(
                volume,
                child,
                own,
                theirs or dict.fromkeys(_TOLD) | {"xattrs": own.get("xattrs")},
            )
        finally:
            os.close(fd)

    def _data(self, volume: int, path: bytes, fd: int, own: Entry, theirs: Entry | None, whole: bool) -> None:
        reader = disk.reopen(fd, os.O_RDONLY)
        try:
            if theirs is None:
                self._send_all(volume, path, reader, own)
                return
            resized = own["size"] != theirs["size"]
            extents = sorted(
                extent for what, extent in self._wanted.about(volume, own["inode"]) if what == ops.DATA
            )
            if resized:
                self._send_size(volume, path, reader, own)
            if whole or resized:
                self._compare(volume, path, reader, own, 0, max(own["size"], 1))
            else:
                for extent in extents:
                    start = extent * ops.EXTENT_BYTES
                    self._compare(volume, path, reader, own, start, start + ops.EXTENT_BYTES)
        finally:
            os.close(reader)

    def _compare(self, volume: int, path: bytes, reader: int, entry: Entry, start: int, end: int) -> None:
        """Hash both sides block by block; what differs is read again and queued under the object's lock.

        Equal at different moments is equal for good: every live write between the two readings is applied,
        or will be, on both sides, and a write done twice is a write done once.
        """
        for first in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES), BLOCKS_MAX):
            self._check()
            count = min(BLOCKS_MAX, -(-end // BLOCK_BYTES) - first)
            blocks, own = trees.side_by_side(
                functools.partial(self._hashes, volume, path, first, count),
                functools.partial(trees.hash_blocks, reader, first, count),
            )
            for number, digest in enumerate(own):
                if number >= len(blocks) or blocks[number] != digest:
                    self._send_block(volume, path, reader, entry, (first + number) * BLOCK_BYTES)
            self._tally.compared += len(own) * BLOCK_BYTES
            self._tell(path)

    def _hashes(self, volume: int, path: bytes, first: int, count: int) -> list[str]:
        try:
            blocks: list[str] = self._question("hash", volume, path, first=first, count=count)["blocks"]
        except FileNotFoundError:
            return []
        return blocks

    def _send_all(self, volume: int, path: bytes, reader: int, own: Entry) -> None:
        """A new file: its data regions, then its size."""
        at = 0
        while True:
            try:
                at = os.lseek(reader, at, os.SEEK_DATA)
            except OSError:
                break  # ENXIO: nothing but a hole from here on
            end = os.lseek(reader, at, os.SEEK_HOLE)
            for offset in range(at - at % BLOCK_BYTES, end, BLOCK_BYTES):
                self._send_block(volume, path, reader, own, offset)
                self._tally.compared += BLOCK_BYTES
                self._tell(path)
            at = end
        self._send_size(volume, path, reader, own)

    def _send_block(self, volume: int, path: bytes, reader: int, entry: Entry, offset: int) -> None:
        id = self._bound(volume, path, entry)
        if id is None:
            return
        self._throttle()
        with self._tree.object(volume, entry["inode"]):
            data = os.pread(reader, BLOCK_BYTES, offset)
            if not data:
                return
            if data.count(0) == len(data) and _is_hole(reader, offset, len(data)):
                keep_and_punch = disk.FALLOC_KEEP_SIZE | disk.FALLOC_PUNCH_HOLE
                self._emit(ops.Allocate(volume, id, keep_and_punch, offset, len(data)))
                self._tally.sent += 1
            else:
                self._emit(ops.Write(volume, id, offset, data))
                self._tally.sent += len(data)

    def _send_size(self, volume: int, path: bytes, reader: int, entry: Entry) -> None:
        id = self._bound(volume, path, entry)
        if id is None:
            return
        with self._tree.object(volume, entry["inode"]):
            self._emit(ops.SetAttr(volume, id, ops.SIZE, size=os.fstat(reader).st_size))
            self._tally.sent += 1

    def _bound(self, volume: int, path: bytes, entry: Entry) -> int | None:
        """The id by which the peer knows the object that had this path; None: the path is another's now."""
        known = self._ids.get((volume, entry["handle"]))
        if known is not None:
            return known
        with self._tree.namespace(volume):
            try:
                if trees.describe(self._tree.root(volume), path)["handle"] == entry["handle"]:
                    id = self._ids[volume, entry["handle"]] = self._id(volume, path)
                    return id
            except FileNotFoundError:
                pass  # moved away: the next pass finds it
        self._missed = True
        return None

    # --- the wire ------------------------------------------------------------------------------------------

    def _open(self, volume: int, path: bytes, flags: int) -> int:
        return trees.open_path(self._tree.root(volume), path, flags)

    def _emit(self, operation: Sent) -> None:
        self._check()
        # Under a lock of the live changes no full window is waited for: the copy's share is bounded before.
        self._source.outbox.put(Kind.OPERATION, codec.encode(operation), self._peer, wait=False)

    def _throttle(self) -> None:
        """Wait until the receiver has room for more of a copy, and the configured rate allows it."""
        if not self._source.outbox.wait_applied(self._peer, BEHIND_MAX, lambda: not self._cancelled.is_set()):
            raise Cancelled
        rate = self._source.copy_bytes_per_s
        if rate:
            ahead_s = self._tally.sent / rate - (time.monotonic() - self._tally.began)
            self._cancelled.wait(max(ahead_s, 0.0))

    def _question(self, do: str, volume: int = 0, path: bytes = b"", **more: Any) -> dict[str, Any]:
        """Ask about the peer's tree as it is once everything sent up to now is applied."""
        self._check()
        request = {"do": do, "volume": volume, "path": path.hex(), "after": self._source.outbox.last, **more}
        return self._ask(request)

    def _describe(self, volume: int, path: bytes) -> Entry:
        entry: Entry = self._question("describe", volume, path)["entry"]
        return entry

    def _list(self, volume: int, path: bytes) -> dict[bytes, Entry]:
        entries: dict[bytes, Entry] = {}
        last = b""
        while True:
            answer = self._question("list", volume, path, **{"from": last.hex()})
            page = {bytes.fromhex(name): entry for name, entry in answer["entries"].items()}
            entries |= page
            if answer["whole"] or not page:
                return {
                    name: entry
                    for name, entry in entries.items()
                    if not self._source.excluded(volume, trees.join(path, name))
                }
            last = max(page)

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def _tell(self, path: bytes | None = None) -> None:
        if path is not None:
            self._tally.current = os.fsdecode(path).encode("utf-8", "replace").decode()
        now = time.monotonic()
        if path is None or now - self._told >= PROGRESS_EVERY_S:
            self._told = now
            self._source.tell({"event": "progress", "peer": self._peer, **self.progress()})


def _is_hole(fd: int, offset: int, length: int) -> bool:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= offset + length
    except OSError:
        return True  # ENXIO: no data from here to the end
