"""The primary's side of the replication: one ordered stream to every other node, and the gate it feeds."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from orchestrator.host import disk
from orchestrator.mirror import frames
from orchestrator.mirror.frames import Acknowledged, Kind
from orchestrator.mirror.gate import Gate
from orchestrator.mirror.lineage import Position
from orchestrator.model.errors import CorruptState, HafarmError, MemberNotReady, StoreFailed
from orchestrator.model.names import NodeName
from orchestrator.model.record import Record
from orchestrator.replicator import codec
from orchestrator.replicator.history import History
from orchestrator.replicator.link import ConnectionLost, LinkSettings, Tell
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.ops import FRESH, ChangeKey, Link, Named, Operation, Rename, Tree
from orchestrator.replicator.outbox import Outbox
from orchestrator.replicator.outgoing import PeerLink
from orchestrator.replicator.plan import Changes
from orchestrator.replicator.throttle import Throttle
from orchestrator.replicator.trees import Excluded, nothing_excluded
from orchestrator.replicator.verify import Verifier

log = logging.getLogger("hafarm.stream")

FLUSH_EVERY_S: Final = 5.0
"""Between two positions confirmed durable on both sides: the kernel's own write-back wakes as often."""

UNHURRIED_S: Final = 0.05  # beyond the start of an application
_NOT_YET: Final = 1 << 63  # beyond every number of a stream

CATCH_UP_S: Final = 1.0
"""A joiner that is ready is behind by what was acknowledged during one message to the agent and back."""


class Primary:
    """The outlet of the files, and everything behind it up to the other nodes' disks."""

    def __init__(
        self,
        settings: LinkSettings,
        history: History,
        logs: ChangeLogs,
        tell: Tell,
        excluded: Excluded = nothing_excluded,
    ) -> None:
        self.settings = settings
        self.history = history
        self.logs = logs
        self.tell = tell
        self.excluded = excluded
        self.throttle = Throttle(settings.copy_bytes_per_s)
        self.busy = threading.Event()
        """Set with every change, for whoever notes that this node is at work."""
        self._watchers: list[Changes] = []
        self.stream = ""
        self.outbox = Outbox(window_bytes=settings.window_bytes)
        self.record: Record | None = None
        self.volumes = 0
        self._gate: Gate[Callable[[int], None]] = Gate(settings.node)
        self._lock = threading.Lock()
        self._links: dict[NodeName, PeerLink] = {}
        self._stop = threading.Event()
        self._flushed = 0
        self._flushing = threading.Lock()
        self._told_at = _NOT_YET
        """The number at which the last record is in the stream."""
        for peer, log_of_peer in logs.of.items():
            log_of_peer.began_to_fold = partial(tell, {"event": "log_folded", "peer": peer})

    def serve_tree(self, tree: Tree, volumes: int) -> None:
        """The files whose changes are emitted here; given once, before the first reign."""
        self.tree = tree
        self.volumes = volumes

    # --- the outlet ----------------------------------------------------------------------------------------

    @property
    def binding(self) -> int:
        return self.outbox.binding

    def emit(self, operation: Operation, hurried: bool = False) -> int:
        if self._watchers and isinstance(operation, Rename | Link):
            for watcher in self._watchers:
                watcher.moved()
        if not self.busy.is_set():
            self.busy.set()
        return self.outbox.put(Kind.OPERATION, codec.encode(operation), hurried=hurried)

    def before_change(self, keys: Iterable[ChangeKey], names: Sequence[Named] | None = None) -> None:
        keys = list(keys)
        self.logs.before_change(keys, self.outbox.last, self.tree.place_of, names)
        for watcher in self._watchers:
            watcher.note(keys)

    def hurry(self) -> None:
        """To those that are waited for: for any other the application must not wait in its own thread."""
        required = self._gate.required
        for peer, link in self._links.items():
            if peer in required:
                link.hurry()
            else:
                self.outbox.hurry(peer)

    def made(self, volume: int, inode: int) -> None:
        self.logs.made(volume, inode, self.outbox.last, self.tree.place_of(volume, inode))
        for watcher in self._watchers:
            watcher.note([(volume, inode, FRESH, 0)])

    def folded(self, volume: int, directory: int) -> bool:
        return self.logs.folded(volume, directory)

    def moved(self, volume: int, inode: int) -> None:
        self.logs.moved(volume, inode, self.tree.place_of(volume, inode))

    def watch_changes(self, into: Changes) -> Callable[[], None]:
        """Note every change from now on, until the returned function is called."""
        self._watchers = [*self._watchers, into]

        def forget() -> None:
            self._watchers = [watcher for watcher in self._watchers if watcher is not into]

        return forget

    def when_durable(self, sequence: int, callback: Callable[[int], None]) -> None:
        for link in self._links.values():
            link.pacing.asked(sequence)
        with self._lock:
            if not self._gate.is_open:
                number = errno.EIO
            elif self._gate.hold(sequence, callback):
                number = 0
            else:
                return
        callback(number)

    def synced(self, sequence: int) -> None:
        for link in self._links.values():
            link.pacing.synced(sequence)

    # --- what the agent orders -----------------------------------------------------------------------------

    @property
    def required(self) -> frozenset[NodeName]:
        return self._gate.required

    @property
    def is_open(self) -> bool:
        return self._gate.is_open

    @property
    def held(self) -> int:
        """How many durable points wait for a member."""
        return self._gate.held

    def has_heir(self) -> bool:
        """A connected member has every durable point on its disk: whoever waits now waits for this disk."""
        with self._lock:
            settled = self._gate.is_open and not self._gate.held
            members = self._gate.required - {self.settings.node}
        return settled and any(link.is_up for peer, link in self._links.items() if peer in members)

    def widen(self, members: Iterable[NodeName]) -> None:
        """Need these members' disks too, from now on (R2). Raises MemberNotReady.

        A point acknowledged after a joiner said that it was ready, and before this, did not wait for it: the
        bid that makes it a member leaves only when it has that too.
        """
        with self._lock:
            newcomers = frozenset(members) - self._gate.required
            self._gate.widen(newcomers)
        deadline = time.monotonic() + CATCH_UP_S
        while self._gate.lacking(newcomers) and time.monotonic() < deadline:
            time.sleep(0.005)  # as long as a disk's flush: whoever asks waits for no more than that
        with self._lock:
            lacking = self._gate.lacking(newcomers)
            settled = self._gate.narrow(newcomers) if lacking else []
        for callback in settled:
            callback(0)
        for peer in lacking & self._links.keys():
            self._links[peer].end_session("it was not ready any more")
        if lacking:
            raise MemberNotReady(", ".join(sorted(lacking)))

    def take_reign(
        self,
        record: Record,
        required: Iterable[NodeName] = (),
        served: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve under this proved record: durable in the lineage first (G1), then told to the others.

        Raises CorruptState for half a copy, StoreFailed.

        `required`: what a gate that outlived its replicator needs beside the record's members.
        `served`: called as soon as the gate serves, before the others are dialled.
        """
        assert record.primary == self.settings.node
        if self.history.standing.inconsistent and not record.forced:
            raise CorruptState(f"this node's copy of {record.module}", "a copy into it did not end")
        self.history.change(inconsistent=False, edited=False)  # what was edited is this history's now
        self._told_at = _NOT_YET
        # One that an order began may lack what others hold.
        self.history.add_reign(record, unheard=len(record.in_sync) > 1 and not record.forced)
        first = not self._links
        if first:
            self._begin_stream()
        self.record = record
        self._told_at = self.outbox.put(Kind.RECORD, json.dumps(record.as_dict()).encode(), wait=False)
        with self._lock:
            settled = self._gate.serve(record.in_sync | frozenset(required))
        for callback in settled:
            callback(0)
        served()
        if first:
            threading.Thread(target=self._flush_now_and_then, name="flush", daemon=True).start()
            for peer, link in self._links.items():
                # Nobody waits for a node that is not in sync, and the application is about to start.
                link.start(0.0 if peer in record.in_sync else UNHURRIED_S)
        else:
            # Who was dropped while its stream stands lacks nothing, and nothing else would ever say so again.
            for link in list(self._links.values()):
                link.tell_ready_if_complete()

    def _begin_stream(self) -> None:
        self.stream = secrets.token_hex(16)
        self.outbox = Outbox(self.outbox.binding + 1, self.settings.window_bytes)
        self._stop = threading.Event()
        self._flushed = 0
        for log in self.logs.of.values():
            log.pin_all()
        with self._lock:
            self._gate.begin_stream()
        self._links = {peer: PeerLink(self, peer) for peer in self.settings.peers}

    def close_gate(self) -> None:
        """Acknowledge nothing more."""
        with self._lock:
            refused = self._gate.close()
        for callback in refused:
            callback(errno.EIO)

    def stop(self) -> None:
        """Close the gate and end every connection: the stream is over. A later reign begins another."""
        self.close_gate()
        self._stop.set()
        self.outbox.stop()
        links, self._links = self._links, {}
        for link in links.values():
            link.stop()
        for link in links.values():
            link.join()

    def compare_in_full(self) -> None:
        """Drop what the logs know: each connected peer is compared file by file."""
        for peer, log in self.logs.of.items():
            log.forget_baseline()
            if peer in self._links:
                self.outbox.detach(peer)
                self._links[peer].end_session("a full compare was ordered")

    def verify(self, peer: NodeName) -> list[str]:
        """The names that differ on this peer, compared in place; nothing is changed."""
        return self.verifier(peer).differing()

    def verifier(self, peer: NodeName, tell: Tell = lambda report: None) -> Verifier:
        """What compares this peer in place, whole or in parts; ConnectionLost where this is no primary."""
        if peer not in self._links:
            raise ConnectionLost("this node is not primary")
        return self._links[peer].verifier(tell)

    def tell_progress(self) -> None:
        """Say now how far each copy is."""
        for link in list(self._links.values()):
            link.tell_progress()

    def status(self) -> dict[str, Any]:
        return {
            "stream": self.stream,
            "sequence": self.outbox.last,
            "required": sorted(self._gate.required),
            "open": self._gate.is_open,
            "held": self._gate.held,
            "peers": {peer: link.status() for peer, link in self._links.items()},
        }

    # --- what the links report -----------------------------------------------------------------------------

    def acknowledged(self, peer: NodeName, progress: Acknowledged) -> None:
        """A member told how far it is."""
        if progress.applied >= self._told_at and self.history.standing.unheard is not None:
            self.history.heard()  # before anything is acknowledged on its word
        with self._lock:
            reached = progress.applied if self.settings.ack == "memory" else progress.points
            settled = self._gate.confirm(peer, reached)
        for callback in settled:
            callback(0)
        self.outbox.applied(peer, progress.applied)

    def oldest_held(self) -> int:
        """How many points wait; a link uses it to know whether its peer is asked for anything."""
        return self._gate.held

    def lost(self, peer: NodeName, why: str) -> None:
        if self._gate.is_open and peer in self._gate.required:
            self.tell({"event": "member_lost", "peer": peer, "why": why})

    # --- durable positions ---------------------------------------------------------------------------------

    def _flush_now_and_then(self) -> None:
        stop = self._stop
        while not stop.wait(FLUSH_EVERY_S):
            if self.outbox.last > self._flushed:
                try:
                    self.flush()
                except (OSError, HafarmError) as fault:
                    if _is_of_a_full_disk(fault):
                        log.warning("what both disks hold could not be kept: %s", fault)
                        continue  # the position before it stands, and the next one may find room
                    self.tell({"event": "volume_failed", "why": str(fault)})
                    return

    def flush(self) -> int:
        """This disk holds everything up to the returned number, and each receiver is asked to follow."""
        with self._flushing:
            position = self.outbox.last
            for volume in range(self.volumes):
                plain = disk.reopen(self.tree.root(volume), 0)
                try:
                    disk.sync_filesystem(plain)
                finally:
                    os.close(plain)
            self.history.advance(Position(self.stream, position))
            self._flushed = self.outbox.put(Kind.FLUSH, frames.encode_flushed(position))
            return self._flushed

    def drain(self, timeout_s: float) -> frozenset[NodeName]:
        """Let the members hold all; those that do. Raises OSError, StoreFailed."""
        if not self._links:
            return frozenset()
        target = self.flush()
        deadline = time.monotonic() + timeout_s
        links = {peer: link for peer, link in self._links.items() if peer in self._gate.required}
        while time.monotonic() < deadline:
            waiting = [link for link in links.values() if link.is_up and link.flushed < target]
            if not waiting:
                break
            with self.outbox.changed:
                self.outbox.changed.wait(0.02)
        return frozenset(peer for peer, link in links.items() if link.is_up and link.flushed >= target)


def _is_of_a_full_disk(fault: Exception) -> bool:
    """The position's own file could not grow; the files are on their disk."""
    return isinstance(fault, StoreFailed) and not disk.is_disk_fault(fault.__cause__)
