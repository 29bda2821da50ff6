"""The follower's side of the replication: admit a reign, apply its stream in order, confirm."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from orchestrator.model.events import ReignOffered, StreamDown
from orchestrator.model.record import Record, Reign
from tests.sim.session import Frame, Session
from tests.sim.volume import EXTENTS

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
        keeper.stream = stream
        keeper.seq = session.start
        keeper.synced_seq = session.durable
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
            volume.put(frame.extent, frame.value)
            self._confirm(session)
        elif frame.kind in ("sync", "barrier"):
            if self.host.cluster.module.ack == "memory":
                self._confirm(session)
            self.world.after(
                self.keeper.sync_s(), self.host, self._member_synced, session, frame, list(volume.memory),
                list(volume.dirty),
            )  # fmt: skip
        else:
            self._confirm(session)

    def _member_synced(self, session: Session, frame: Frame, memory: list[int], dirty: list[int]) -> None:
        if not self.keeper.alive or self.incoming is not session or self.keeper.failed:
            return
        if self.host.disk_bad:
            self.keeper.fail("input/output error")
            return
        self.host.volume.persist(memory, dirty)
        volume = self.host.volume
        if frame.kind == "barrier":
            # G3: a copy's history becomes the source's only when the copy is complete.
            volume.adopt(session.source.host.volume.standing())
            volume.inconsistent = volume.edited = volume.torn = False
            volume.retire(session.source.host.name, range(EXTENTS))
        # Of the source alone: whether a third copy is equal is not the source's to say (S8).
        clean = [extent for extent in frame.clean if volume.dirty[extent] == dirty[extent]]
        if clean:
            volume.retire(session.source.host.name, clean)
        self.keeper.synced_seq = max(self.keeper.synced_seq, frame.seq)
        self._confirm(session)

    def _confirm(self, session: Session) -> None:
        source = session.source
        self.keeper.send(source.host, source.confirmed, session, self.keeper.seq, self.keeper.synced_seq)
