"""The follower's side of the replication: admit a reign, apply its stream in order, confirm."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from orchestrator.model.events import ReignOffered, StreamDown
from orchestrator.model.record import Record, Reign
from tests.sim.gate import covered
from tests.sim.session import Frame, Session
from tests.sim.volume import DIRECTORY, EVERYTHING

if TYPE_CHECKING:
    from tests.sim.keeper import Keeper


class Follower:
    """Follows one primary at a time; what it says is applied only under a reign that was admitted."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.host = keeper.host
        self.world = keeper.world
        self.following: Record | None = None
        self.admitted: Record | None = None
        self.incoming: Session | None = None
        self.waiting: deque[Frame] = deque()
        """Frames behind a reign that was not admitted yet."""
        self.offered: Record | None = None
        self.named: dict[int, int] = {}
        """Files that the directory names since their last durable point, and its value that did (O7)."""
        self.named_seq = 0
        """Up to where of the stream the directory is on this disk."""
        self.syncing: dict[int, frozenset[int] | None] = {}
        """Syncs in the stream's order, and what those brought to the disk that are done."""

    # --- what the agent orders ----------------------------------------------------------------------------

    def follow(self, record: Record) -> None:
        """Follow."""
        self.host.before_use(record, "followed")
        if self.keeper.gate.open:
            # A reign that was ordered before a planned end was done opened it once more; nothing runs on it.
            self.keeper.gate.shut()
        source = self.incoming
        if source is not None and source.source.host.name != record.primary:
            self.leave_source("another primary is followed")
        for session in list(self.keeper.streams.sessions.values()):
            self.keeper.streams.end(session, "another primary is followed")
        # Where its own stream ended is where a gate that was drained stands.
        self.keeper.owns = False
        self.following = self.admitted = record
        if self.incoming is not None and self.offered is not None and self.offered.epoch <= record.epoch:
            self.admit(record)

    def admit(self, record: Record) -> None:
        """AdmitReign."""
        self.host.before_use(record, "admitted")
        self.following = self.admitted = record
        if self.offered is not None and self.offered.epoch <= record.epoch:
            self.offered = None
        if self.incoming is not None and self.incoming.ready:
            self.adopt(record)
        self._drain_waiting()

    # --- the stream ---------------------------------------------------------------------------------------

    def begin(self, session: Session, stream: Reign | None) -> None:
        """The two sides agreed on where this one stands."""
        keeper = self.keeper
        self.incoming = session
        if (keeper.stream, keeper.seq) != (stream, session.start):
            self.syncing.clear()  # else the disk is still at what it was asked over the former connection
        keeper.stream = stream
        keeper.seq = session.start
        keeper.synced_seq, self.named_seq = session.durable, session.named
        self.waiting.clear()
        self.offered = None

    def offer(self, record: Record) -> None:
        """A reign that this node's agent has not admitted yet."""
        self.offered = record
        self.host.agent.tell(ReignOffered(self.host.module, record))

    def source_ended(self, session: Session) -> None:
        if self.incoming is session:
            self.leave_source("the primary closed the stream")

    def leave_source(self, why: str) -> None:
        session = self.incoming
        if session is None:
            return
        self.incoming = None
        self.waiting.clear()
        self.offered = None
        self.host.agent.tell(StreamDown(self.host.module, session.source.host.name, why))
        if session.alive:
            self.keeper.send(session.source.host, session.source.end, session, why)

    def fits(self, frame: Frame, epoch: int) -> bool:
        """R6: the epoch is not lower than the durable one, and the position follows exactly."""
        assert self.admitted is not None
        keeper = self.keeper
        follows = frame.stream == keeper.stream and frame.seq == keeper.seq + len(self.waiting) + 1
        return follows and epoch >= self.admitted.epoch

    def receive(self, frame: Frame, epoch: int) -> None:
        """One frame, perhaps late, doubled or of an earlier connection."""
        keeper = self.keeper
        if not keeper.alive or self.following is None or self.incoming is None or keeper.failed:
            return
        if not self.fits(frame, epoch):
            self.world.counts["frame refused"] += 1
            return
        self.waiting.append(frame)
        self._drain_waiting()

    def _drain_waiting(self) -> None:
        while self.waiting and self.offered is None and self.incoming is not None:
            frame = self.waiting[0]
            if frame.kind == "reign" and self.admitted is not None and frame.record is not None:
                if frame.record.epoch > self.admitted.epoch:
                    self.offer(frame.record)
                    return
                if self.incoming.ready:
                    self.adopt(frame.record)
            self.waiting.popleft()
            self.keeper.seq = frame.seq
            self._apply(frame)

    def adopt(self, record: Record) -> None:
        """G1: durable in a copy's lineage before it acknowledges anything under it."""
        if self.incoming is not None:
            self.host.volume.add_reign(record)

    def _apply(self, frame: Frame) -> None:
        volume = self.host.volume
        session = self.incoming
        assert session is not None
        if frame.kind in ("write", "copy"):
            self._change(session, frame)
            self._confirm(session)
        elif frame.kind in ("sync", "barrier"):
            if self.host.cluster.module.ack == "memory":
                self._confirm(session)
            self.syncing[frame.seq] = None
            self.host.on_disk(
                self.keeper.sync_s(), self._member_synced, session, frame, list(volume.memory),
                list(volume.dirty), self.covers(frame),
            )  # fmt: skip
        else:
            self._confirm(session)

    def _change(self, session: Session, frame: Frame) -> None:
        volume = self.host.volume
        if frame.extent in session.aside:
            # G4: before its first byte is overwritten, by a copied block or by a live write.
            session.aside.remove(frame.extent)
            volume.keep_aside([frame.extent])
        if frame.of is None:
            volume.put(frame.extent, frame.value)
        else:
            volume.rename(frame.of, frame.value)
            self.named[frame.of] = frame.value

    def covers(self, frame: Frame) -> frozenset[int]:
        """What this sync brings to this disk (O7)."""
        return covered(frame.of, self.named)

    def _member_synced(
        self, session: Session, frame: Frame, memory: list[int], dirty: list[int], places: frozenset[int]
    ) -> None:
        if not self.keeper.alive or self.keeper.failed:
            return
        if frame.stream != self.keeper.stream or frame.seq not in self.syncing:
            return  # another stream has begun since
        if self.host.disk_bad:
            self.keeper.fail("input/output error")
            return
        self.host.volume.persist(memory, dirty, places)
        volume = self.host.volume
        source = session.source.host
        if frame.joiner == self.host.name:
            if self.incoming is not session:
                return  # the copy ended with its connection
            # G3: a copy's history becomes the source's only when the copy is complete.
            self.adopt_lineage(session)
            volume.inconsistent = volume.edited = volume.torn = False
            volume.rolled_back.clear()
            source.volume.rolled_back.discard(self.host.name)
            volume.retire(source.name, EVERYTHING, frame.at)
        # Of the source alone: whether a third copy is equal is not the source's to say (S8).
        clean = [extent for extent in frame.clean if volume.dirty[extent] == dirty[extent]]
        if clean:
            volume.retire(source.name, clean, frame.at)
        self._is_synced(frame.seq, places)
        if self.incoming is not None:
            self._confirm(self.incoming)

    def adopt_lineage(self, session: Session) -> None:
        """All that is in the source's copy is in this one."""
        self.host.volume.adopt(session.source.host.volume.standing())

    def _is_synced(self, seq: int, places: frozenset[int]) -> None:
        """A sync is done; it is told when all before it are, of which it says nothing."""
        self.syncing[seq] = places
        for first, brought in list(self.syncing.items()):
            if brought is None:
                break
            del self.syncing[first]
            self.keeper.is_synced(first)
            if DIRECTORY in brought:
                self.named_seq = first

    def _confirm(self, session: Session) -> None:
        source, keeper = session.source, self.keeper
        keeper.send(source.host, source.confirmed, session, keeper.seq, keeper.synced_seq, self.named_seq)
