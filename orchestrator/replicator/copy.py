"""Make another node's tree equal to the live one here, and say where it is not: what differs travels."""

from __future__ import annotations

import functools
import logging
import os
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from orchestrator.host import disk
from orchestrator.mirror.differ import Key
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName
from orchestrator.replicator import ops, trees
from orchestrator.replicator.codec import Remove
from orchestrator.replicator.plan import Changes, CopyPlan, Progress, Wanted
from orchestrator.replicator.sender import TOLD, Cancelled, Sender, Source
from orchestrator.replicator.trees import BLOCK_BYTES, BLOCKS_MAX, Entry

log = logging.getLogger("hafarm.copy")

PASSES_MAX: Final = 4
"""Passes over what changed meanwhile; the last one holds the names still, so it is always the last."""


class Copier:
    """One copy to one peer: looks at what may differ, in passes, until nothing slipped past."""

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
        self._progress = Progress(peer, plan, source.tell, source.throttle)
        self._sender = Sender(source, peer, self._progress, self._cancelled)
        self._wanted = Wanted(plan)
        self._passed_over = 0
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
        self._source.throttle.wake()
        self._forget()

    def progress(self) -> dict[str, Any]:
        return self._progress.as_dict()

    def tell_progress(self) -> None:
        self._progress.tell()

    # --- passes --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._progress.tell()
            if not self._plan.full:
                self._unite()
            self._passes(self._touched)
            self._progress.tell()
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
            self._plan.full, self._plan.why = True, "the joiner's may-differ log is unreadable"
        else:
            theirs = [
                self._here(int(v), bytes.fromhex(p), int(w), int(e)) for v, p, w, e in answer["changed"]
            ]
            own.pin(theirs)
            self._plan.keys.update(own.keys())
        self._wanted = Wanted(self._plan)

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
                    self._sender.holds_names = True
                before = self._passed_over, touched.moves
                self._pass()
                self._passed_over = int(self._question("passed_over")["count"])
                if (self._passed_over, touched.moves) == before and not self._sender.missed:
                    return
            # The receiver passed over changes of what it did not have yet, or something moved past us: look
            # at all that was changed meanwhile again.
            self._wanted = Wanted(CopyPlan(False, "changed meanwhile", touched.keys()))

    def _pass(self) -> None:
        self._sender.begin_pass()
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
                self._progress.files_total += 1
                try:
                    self._progress.bytes_total += trees.describe(root, path)["size"]
                except OSError:
                    continue  # taken away meanwhile
                self._sender.check()

    # --- directories ---------------------------------------------------------------------------------------

    def _visit(self, volume: int, path: bytes, full: bool, names_only: bool = False) -> None:
        """Compare a directory that exists on both sides, then what is below it."""
        pending = [(path, full, names_only)]
        while pending:
            self._sender.wait_turn()
            directory, whole, shallow = pending.pop()
            try:
                pending += self._visit_one(volume, directory, whole, shallow)
            except FileNotFoundError:
                self._sender.missed = True  # taken away meanwhile, or moved before it was looked at

    def _visit_one(
        self, volume: int, path: bytes, full: bool, shallow: bool
    ) -> list[tuple[bytes, bool, bool]]:
        root = self._tree.root(volume)
        own = trees.describe(root, path)
        about = self._wanted.about(volume, own["inode"])
        full = full or (ops.NAMES, ops.WHOLE) in about
        all_names = full or shallow or (ops.NAMES, 0) in about or (ops.FRESH, 0) in about
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
            if self._sender.is_other(volume, own, theirs[name]):
                return True
            self._sender.claim(volume, child, own, theirs[name]["handle"])
        return False

    def _own_names(self, volume: int, path: bytes) -> list[bytes]:
        names = trees.list_names(self._tree.root(volume), path)
        return [name for name in names if not self._source.excluded(volume, trees.join(path, name))]

    def _fix_names(
        self, volume: int, path: bytes, theirs: dict[bytes, Entry], only: list[bytes] | None
    ) -> set[bytes]:
        """Take away what is too many, make what is missing; the names made. Held: the namespace lock."""
        root = self._tree.root(volume)
        parent = self._sender.id_at(volume, path)
        names = self._own_names(volume, path)
        made = set()
        for name in sorted(set(theirs) - set(names)):
            self._sender.emit(Remove(volume, parent, name))
            del theirs[name]
        for name in names if only is None else set(only) & set(names):
            child = trees.join(path, name)
            own = trees.describe(root, child)
            if name in theirs and not self._sender.is_other(volume, own, theirs[name]):
                self._sender.claim(volume, child, own, theirs[name]["handle"])
                continue
            if name in theirs:
                self._sender.emit(Remove(volume, parent, name))
            theirs.pop(name, None)
            self._sender.make(volume, parent, child, name, own)
            made.add(name)
        return made

    def _finish_directories(self) -> None:
        """Attributes of directories come last: each name made below changes their times."""
        while self._directories:
            volume, path = self._directories.pop()
            try:
                own = trees.describe(self._tree.root(volume), path)
                self._sender.attributes(volume, path, own, self._describe(volume, path))
            except FileNotFoundError:
                continue  # taken away meanwhile

    # --- files ---------------------------------------------------------------------------------------------

    def _file(
        self, volume: int, path: bytes, name: bytes, theirs: Entry | None, full: bool, named: bool
    ) -> None:
        """Make one object that is no directory equal: data, size, attributes."""
        child = trees.join(path, name)
        self._progress.at(child)
        try:
            fd = trees.open_path(self._tree.root(volume), child, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            self._sender.missed = True
            return
        try:
            own = trees.describe_fd(fd)
            about = self._wanted.about(volume, own["inode"])
            key = (volume, own["handle"])
            sent = self._progress.sent
            if stat.S_ISREG(own["mode"]) and (full or named or about) and key not in self._compared:
                self._compared.add(key)
                self._data(volume, child, fd, own, theirs, full or (ops.DATA, ops.WHOLE) in about)
            self._progress.files += 1
            if theirs is not None and self._progress.sent > sent:
                theirs = theirs | {"mtime_ns": None}
            # Without an entry of theirs it was made just now; its times are what is left to say.
            self._sender.attributes(
                volume,
                child,
                own,
                theirs or dict.fromkeys(TOLD) | {"xattrs": own.get("xattrs")},
            )
        finally:
            os.close(fd)

    def _data(self, volume: int, path: bytes, fd: int, own: Entry, theirs: Entry | None, whole: bool) -> None:
        reader = disk.reopen(fd, os.O_RDONLY)
        try:
            if theirs is None:
                self._sender.send_all(volume, path, reader, own)
                return
            resized = own["size"] != theirs["size"]
            about = self._wanted.about(volume, own["inode"])
            # A FRESH entry means the first extent, as its number says.
            extents = sorted({extent for what, extent in about if what in (ops.DATA, ops.FRESH)})
            if resized:
                self._sender.send_size(volume, path, reader, own)
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
            self._sender.wait_turn()
            count = min(BLOCKS_MAX, -(-end // BLOCK_BYTES) - first)
            blocks, own = trees.side_by_side(
                functools.partial(self._hashes, volume, path, first, count),
                functools.partial(trees.hash_blocks, reader, first, count),
            )
            for number, digest in enumerate(own):
                if number >= len(blocks) or blocks[number] != digest:
                    self._sender.send_block(volume, path, reader, entry, (first + number) * BLOCK_BYTES)
            self._progress.compared += len(own) * BLOCK_BYTES
            self._progress.at(path)

    def _hashes(self, volume: int, path: bytes, first: int, count: int) -> list[str]:
        try:
            blocks: list[str] = self._question("hash", volume, path, first=first, count=count)["blocks"]
        except FileNotFoundError:
            return []
        return blocks

    # --- the wire ------------------------------------------------------------------------------------------

    def _question(self, do: str, volume: int = 0, path: bytes = b"", **more: Any) -> dict[str, Any]:
        """Ask about the peer's tree as it is once everything sent up to now is applied."""
        self._sender.check()
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
