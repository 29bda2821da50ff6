"""A model of one mirror's replicator: volume, gate, ordered stream, may-differ logs, copies."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.mirror.lineage import Joiner, Standing, Verdict, judge
from orchestrator.model.events import (
    GateClosed,
    HandshakeRefused,
    MemberLost,
    MemberReady,
    ReignOffered,
    ReignTaken,
    StreamDown,
    StreamUp,
    VolumeFailed,
)
from orchestrator.model.names import NodeName, Nonce
from orchestrator.model.record import Record, Reign
from tests.sim.ghost import EMPTY
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.host import Host

EXTENTS = 4
"""Few, so that writes meet copies and each other."""
DIAL_S = 0.4
RESEND_S = 0.5
DRAIN_S = 5.0
SYNC_S = 0.012


class Volume:
    """What one disk and its page cache hold; survives every process, the disk part also power cuts."""

    __slots__ = (
        "aside",
        "dirty",
        "disk",
        "flushed",
        "inconsistent",
        "lineage",
        "logs",
        "memory",
        "touched",
        "version",
    )

    def __init__(self, others: list[str]) -> None:
        self.memory = [EMPTY] * EXTENTS
        self.disk = [EMPTY] * EXTENTS
        self.version = 0
        self.dirty = [0] * EXTENTS
        """The version at which an extent was last changed in memory."""
        self.flushed = [0] * EXTENTS
        self.lineage: list[Reign] = []
        self.logs: dict[str, set[int]] = {name: set() for name in others}
        self.aside: set[tuple[int, int]] = set()
        """What a diverged copy held before it was overwritten: kept until an operator releases it."""
        self.inconsistent = False
        """A copy into it began and did not end: durable."""
        self.touched = True
        """Something changed that the invariants look at."""

    def put(self, extent: int, value: int) -> None:
        """Change the page cache, after the logs name the extent durably (S1, S8)."""
        for log in self.logs.values():
            log.add(extent)
        self.memory[extent] = value
        self.touched = True
        self.version += 1
        self.dirty[extent] = self.version

    def persist(self, memory: list[int], dirty: list[int]) -> None:
        """What memory held when a sync began is on disk, unless something newer is already."""
        self.touched = True
        for extent in range(EXTENTS):
            if dirty[extent] > self.flushed[extent]:
                self.disk[extent] = memory[extent]
                self.flushed[extent] = dirty[extent]

    def lose_power(self, chance: random.Random) -> None:
        """Any subset of what was not synced is kept."""
        for extent in range(EXTENTS):
            if self.dirty[extent] > self.flushed[extent] and chance.random() < 0.5:
                self.disk[extent] = self.memory[extent]
        self.forget()

    def add_reign(self, reign: Reign) -> None:
        """Durable before anything is acknowledged under it (G1)."""
        if reign not in self.lineage:
            self.lineage = list(Standing(tuple(self.lineage)).with_reign(reign).reigns)

    def standing(self) -> Standing:
        """What this copy shows at a handshake."""
        return Standing(tuple(self.lineage), self.inconsistent)

    def keep_aside(self, extents: Iterable[int]) -> None:
        """G4: durably, before the first of them is overwritten."""
        for extent in extents:
            self.aside |= {(extent, self.memory[extent]), (extent, self.disk[extent])}

    def forget(self) -> None:
        """What the page cache held is gone; the disk is what there is."""
        self.touched = True
        self.memory = list(self.disk)
        self.version += 1
        self.dirty = [self.version] * EXTENTS
        self.flushed = [self.version] * EXTENTS


class Frame:
    """One message of the ordered stream."""

    __slots__ = ("clean", "extent", "kind", "record", "seq", "stream", "value")

    def __init__(self, kind: str, extent: int = 0, value: int = 0, record: Record | None = None) -> None:
        self.kind = kind
        self.extent = extent
        self.value = value
        self.record = record
        self.clean: tuple[int, ...] = ()


class Point:
    """One fsync that is held until everybody required has it on disk."""

    __slots__ = ("extent", "local", "seq", "since", "value")

    def __init__(self, seq: int, extent: int, value: int, since: float) -> None:
        self.seq = seq
        self.extent = extent
        self.value = value
        self.local = False
        self.since = since


class Session:
    """The stream from a primary's gate to one other node's replicator."""

    __slots__ = (
        "alive", "applied", "arrives", "asked_at", "copying", "durable", "frames", "last", "ready",
        "ready_at", "resending", "source", "start", "target",
    )  # fmt: skip

    def __init__(self, source: Keeper, target: Keeper, start: int, copying: list[int] | None) -> None:
        self.source = source
        self.target = target
        self.start = start
        self.applied = start
        self.durable = start if copying is not None else target.synced_seq
        self.frames: deque[Frame] = deque()
        self.copying = copying
        """Extents still to be copied; None: in sync, nothing was to be copied."""
        self.ready_at = 0
        self.ready = copying is None
        self.last: dict[int, int] = {}
        self.alive = True
        self.resending = False
        self.arrives = 0.0
        """When the newest frame arrives: a connection keeps the order."""
        self.asked_at: float | None = None


class Keeper:
    """One life of a gate, with the replicator beneath it."""

    def __init__(self, host: Host, life: Nonce) -> None:
        self.host = host
        self.world = host.world
        self.life = life
        self.record: Record | None = None
        self.required: frozenset[NodeName] = frozenset()
        self.open = False
        self.draining = False
        self.alive = True
        self.failed = ""
        self.following: Record | None = None
        self.admitted: Record | None = None
        self.stream: Reign | None = None
        self.owns = False
        """The stream is this gate's own; False: it is the one that is followed."""
        self.seq = 0
        self.kept: deque[Frame] = deque()
        """Own frames that some member does not have on disk yet."""
        self.base: tuple[Reign | None, int] = (None, 0)
        """Where the stream before this one stood when this gate opened: equal members stand there too."""
        self.points: list[Point] = []
        self.acked_seq = 0
        self.sessions: dict[str, Session] = {}
        self.dialling: set[str] = set()
        self.incoming: Session | None = None
        self.waiting: deque[Frame] = deque()
        """Frames behind a reign that was not admitted yet."""
        self.offered: Record | None = None
        self.synced_seq = 0
        self.turn = 0
        """Counts openings and closings: what was begun before is void after."""

    # --- the gate -----------------------------------------------------------------------------------------

    def take(self, record: Record) -> None:
        """TakeReign."""
        if self.failed:
            self.host.tell(VolumeFailed(self.host.module, self.failed))
            return
        self.turn += 1
        self.world.after(self._sync_s(), self.host, self._taken, record, self.turn)

    def _taken(self, record: Record, turn: int) -> None:
        if not self.alive or turn != self.turn:
            return
        if self.host.disk_bad:
            self.fail("input/output error")
            return
        volume = self.host.volume
        opening = not self.open
        self.host.before_use(record, "opened a gate")
        if record.nonce != self.life or record.primary != self.host.name:
            raise Violation(f"{self.host.name} opens under a record that does not name this life of its gate")
        if opening:
            self._leave_source("a reign is taken here")
            self.flush()
            if not self.owns:
                self._begin_stream(record)
            self.following = self.admitted = None
        if volume.inconsistent and not record.forced:
            raise Violation(f"{self.host.name} opens with half a copy")
        volume.inconsistent = False
        volume.add_reign(record.reign)
        self.record = record
        self.required = record.in_sync
        for bid in self.host.bids:
            if bid.epoch > record.epoch and not bid.in_sync <= self.required:
                raise Violation(f"{self.host.name} forgets whom its bid for epoch {bid.epoch} names")
        self.open = True
        self.draining = False
        if opening:
            self.host.ghost.opens(self.host.name, record, volume.memory, volume.disk)
            self.world.note(f"{self.host.name} gate open {record.epoch}")
            for session in self.sessions.values():
                if session.copying is not None and not session.ready_at:
                    self.world.after(0.01, self.host, self._copy, session)
        if self.sessions:
            self.emit(Frame("reign", record=record))
        self.settle()
        self.host.cluster.exclusive()
        self.tell_ready()
        if opening:
            for other in self.host.volume.logs:
                self.redial(other)
            self.watch_members()
        self.host.tell(ReignTaken(self.host.module, record))

    def tell_ready(self) -> None:
        """Who lacks nothing and is not in the set: a joiner, or a member that was dropped and is here."""
        for name, session in list(self.sessions.items()):
            if session.ready and self.record is not None and name not in self.record.in_sync:
                self.host.tell(MemberReady(self.host.module, NodeName(name), session.target.life))

    def _begin_stream(self, record: Record) -> None:
        """A stream of its own; a member that stood where this node stood may go on from there."""
        self.base = (self.stream, self.seq)
        self.stream = record.reign
        self.seq = self.synced_seq = self.acked_seq = 0
        self.kept.clear()
        self.owns = True

    def widen(self, members: frozenset[NodeName]) -> bool:
        """WidenRequired; refused for a newcomer that lacks something acknowledged."""
        for name in sorted(members - self.required - {self.host.name}):
            session = self.sessions.get(name)
            if session is None or not session.ready or self._reached(session) < self.acked_seq:
                self.world.counts["widening refused"] += 1
                if session is not None:
                    self.end(session, "it was not ready any more")
                return False
        self.required |= members
        return True

    def close(self, drain: bool) -> None:
        """CloseGate."""
        if not drain:
            self._shut()
            self.host.tell(GateClosed(self.host.module, frozenset()))
            return
        self.draining = True
        self.turn += 1
        if self.open:
            self.point(None)
        self.world.after(0.005, self.host, self._drain, self.turn, self.world.at + DRAIN_S)

    def _shut(self) -> None:
        self.turn += 1
        self.open = False
        self.draining = False
        self.points.clear()
        self.host.cluster.held_failed(self.host)
        for session in list(self.sessions.values()):
            self.end(session, "the gate is closed")

    def _drain(self, turn: int, until: float) -> None:
        if not self.alive or turn != self.turn:
            return
        waited = [s for s in self.sessions.values() if s.alive and s.ready and s.durable < self.seq]
        if (waited or self.synced_seq < self.seq) and self.world.at < until:
            self.world.after(0.01, self.host, self._drain, turn, until)
            return
        volume = self.host.volume
        equal = {s.target.host.name for s in self.sessions.values() if s.ready and s.durable >= self.seq}
        if volume.memory != volume.disk:
            equal = set()
        self.open = False
        self.points.clear()
        self.host.cluster.held_failed(self.host)
        self.world.note(f"{self.host.name} gate drained {sorted(equal)}")
        self.host.tell(GateClosed(self.host.module, frozenset(equal | {self.host.name})))

    # --- writes -------------------------------------------------------------------------------------------

    def write(self, extent: int, durable: bool) -> bool:
        """One write of the application, and its fsync. False: refused."""
        if not self.open or self.draining or self.failed:
            return False
        volume = self.host.volume
        value = self.host.ghost.write(self.host.name, extent, volume.memory[extent])
        volume.put(extent, value)
        self._change(Frame("write", extent, value))
        if durable:
            self.point((extent, value))
        return True

    def _change(self, frame: Frame) -> None:
        self.emit(frame)
        for session in self.sessions.values():
            session.last[frame.extent] = self.seq

    def point(self, what: tuple[int, int] | None) -> None:
        """A durable point: local disk and members side by side."""
        frame = Frame("sync")
        frame.clean = self._clean()
        self.emit(frame)
        if what is not None:
            self.points.append(Point(self.seq, *what, self.world.at))
        volume = self.host.volume
        self.world.after(
            self._sync_s(),
            self.host,
            self._synced,
            self.seq,
            list(volume.memory),
            list(volume.dirty),
            self.turn,
        )

    def _synced(self, seq: int, memory: list[int], dirty: list[int], turn: int) -> None:
        if not self.alive:
            return
        if self.host.disk_bad:
            self.fail("input/output error")
            return
        self.host.volume.persist(memory, dirty)
        self.synced_seq = max(self.synced_seq, seq)
        for point in self.points:
            if point.seq <= seq:
                point.local = True
        self.settle()

    def settle(self) -> None:
        """Answer the fsyncs that each of `required` has on disk (R1)."""
        if not self.open:
            return
        sessions = [self.sessions.get(name) for name in self.required if name != self.host.name]
        # Somebody required who is being copied to lacks what was written before its stream began.
        bound = min(
            (self._reached(s) if s is not None and s.ready else -1 for s in sessions), default=self.seq
        )
        for point in [point for point in self.points if point.local and point.seq <= bound]:
            self.points.remove(point)
            self.acked_seq = max(self.acked_seq, point.seq)
            self.host.ghost.acknowledge(self.host.name, point.extent, point.value)
            self.host.cluster.told(self.host)

    def _reached(self, session: Session) -> int:
        """How far a member must be: on its disk, or with `ack: memory` in its memory."""
        return session.applied if self.host.cluster.module.ack == "memory" else session.durable

    def can_acknowledge(self) -> bool:
        """Nothing that this node does not command keeps a write from being acknowledged here."""
        if not self.alive or not self.open:
            return False
        for name in self.required:
            if name == self.host.name:
                continue
            session = self.sessions.get(name)
            if session is None or session.target.incoming is not session or not session.target.alive:
                return False
        return True

    def flush(self) -> None:
        """Everything in memory is on disk."""
        volume = self.host.volume
        self.host.volume.persist(list(volume.memory), list(volume.dirty))

    def fail(self, why: str) -> None:
        """The disk failed: the gate closes by itself, and stays failed."""
        self.failed = why
        self.world.note(f"{self.host.name} volume failed")
        source = self.incoming
        if source is not None and source.alive:
            self._leave_source(why)
            self._to(source.source.host, source.source.member_lost, self.host.name, why)
        self._shut()
        self.host.tell(VolumeFailed(self.host.module, why))

    def die(self) -> None:
        """The keeper's process is gone, and its replicator with it."""
        self.alive = False
        self.open = False
        self.points.clear()
        self.reset("the process ended")

    def reset(self, why: str) -> None:
        """All streams end: the process died, or its replicator was replaced and knows no position."""
        self.kept.clear()
        if not self.owns:
            self.stream = None
        for session in list(self.sessions.values()):
            self.end(session, why)
        self._leave_source(why)

    # --- the stream, the primary's side -------------------------------------------------------------------

    def redial(self, other: str) -> None:
        """Dial until the gate closes; a dialling wire alone is no reason to keep a quiet stretch busy."""
        if other not in self.dialling:
            self.dialling.add(other)
            self.world.after(DIAL_S * self.world.random.random(), self.host, self._dial, other, beat=True)

    def watch_members(self) -> None:
        """A member without a stream for T is given up."""
        if self.open and self.record is not None:
            for name in sorted(self.record.in_sync - {self.host.name}):
                if name not in self.sessions:
                    self.world.after(self.host.timings.detection_s, self.host, self._still_gone, name)

    def _still_gone(self, name: NodeName) -> None:
        if self.alive and self.open and name not in self.sessions:
            self.member_lost(name, "silent on its stream")

    def _dial(self, other: str) -> None:
        if not self.alive or not self.open or other in self.sessions:
            self.dialling.discard(other)
            return
        world, here = self.world, self.host.name
        target = self.host.cluster.hosts[other]
        world.after(DIAL_S, self.host, self._dial, other, beat=True)
        if (here, other) in world.cuts or (other, here) in world.cuts or target.frozen or not target.powered:
            return
        if target.keeper is not None and target.keeper.alive:
            self._handshake(target.keeper)

    def _handshake(self, other: Keeper) -> None:
        """Both sides as they are now: continue by sequence, copy, or refuse."""
        following = other.following
        name = other.host.name
        assert self.record is not None
        if following is None or following.primary != self.host.name or other.failed or other.open:
            return
        if following.epoch > self.record.epoch or self.host.disk_bad:
            return
        # It stands where this node stood when both were equal on disk, or still follows this very stream.
        member = name in self.record.in_sync
        equal = member and (other.stream, other.seq) == self.base and self._keeps(1)
        follows = other.stream == self.stream and self._keeps(other.seq + 1)
        mine, theirs = self.host.volume.standing(), other.host.volume.standing()
        joiner = Joiner(name, theirs, empty=not theirs.reigns, resumes=equal or follows)
        ruling = judge(self.record, mine, joiner, log_fits=True, log_why="")
        self.world.counts["verdict " + ruling.verdict.value] += 1
        if ruling.refused:
            raise Violation(f"{name} meets {self.host.name}: {ruling.verdict.value}: {mine} {theirs}")
        if ruling.verdict is Verdict.UNPROVEN:
            # It restarted: it is bid out first, and comes back by delta.
            self.host.tell(MemberLost(self.host.module, name, "it restarted"))
        elif ruling.copy:
            self._begin_copy(other, ruling.set_aside)
        else:
            start = 0 if equal else other.seq
            if equal:
                other.synced_seq = 0
            missing = [frame for frame in self.kept if frame.seq > start]
            self._begin(Session(self, other, start, None), missing)

    def _keeps(self, seq: int) -> bool:
        """The frames from this one on are still here."""
        return seq > self.seq or (bool(self.kept) and self.kept[0].seq <= seq)

    def _begin_copy(self, other: Keeper, set_aside: bool) -> None:
        """Both sides' logs united (S5), durable here before the first block travels (S6)."""
        mine = self.host.volume.logs[other.host.name]
        mine |= other.host.volume.logs[self.host.name]
        if set_aside:
            self.host.tell(HandshakeRefused(self.host.module, other.host.name, "diverged"))
            other.host.volume.keep_aside(sorted(mine))
        other.host.volume.inconsistent = True
        self.world.counts["copy begun"] += 1
        self._begin(Session(self, other, self.seq, sorted(mine)), [])

    def _begin(self, session: Session, missing: list[Frame]) -> None:
        other = session.target
        old = other.incoming
        if old is not None:
            old.source.end(old, "replaced")
        self.sessions[other.host.name] = session
        other.incoming = session
        other.stream = self.stream
        other.seq = session.start
        other.synced_seq = session.durable
        other.waiting.clear()
        other.offered = None
        self.world.note(f"stream {self.host.name}-{other.host.name} {session.copying}")
        self.host.tell(StreamUp(self.host.module, other.host.name))
        other.host.tell(StreamUp(self.host.module, self.host.name))
        self.world.disturb()
        assert self.record is not None
        assert other.following is not None
        if self.record.reign != other.following.reign:
            other.offer(self.record)
        elif session.copying is None:
            other.adopt(self.record)
        for frame in missing:
            if frame.kind in ("write", "copy"):
                session.last[frame.extent] = frame.seq
            self._push(session, frame)
        if session.copying is not None:
            self.world.after(0.01, self.host, self._copy, session)
        else:
            # A sync that broke off with the former connection is asked again.
            self.emit(Frame("sync"))
            if other.host.name not in self.record.in_sync and session.durable < self.seq:
                # Ready when its disk has what was acknowledged meanwhile.
                session.ready, session.ready_at = False, self.seq
        self.host.cluster.exclusive()

    def _copy(self, session: Session) -> None:
        """One block at a time, read and queued in the stream's order (S7)."""
        if not session.alive or not self.open or self.draining:
            return
        copying = session.copying
        assert copying is not None
        if copying:
            extent = copying.pop(0)
            self.world.counts["block copied"] += 1
            self._change(Frame("copy", extent, self.host.volume.memory[extent]))
            self.world.after(0.02 + 0.1 * self.world.random.random(), self.host, self._copy, session)
        else:
            frame = Frame("barrier")
            self.emit(frame)
            session.ready_at = self.seq

    def emit(self, frame: Frame) -> None:
        """Into the stream's order, and out to everybody connected."""
        assert self.stream is not None
        assert self.record is not None
        self.seq += 1
        frame.seq = self.seq
        frame.stream = self.stream
        self.kept.append(frame)
        for session in self.sessions.values():
            self._push(session, frame)

    def _push(self, session: Session, frame: Frame) -> None:
        session.frames.append(frame)
        if session.asked_at is None:
            session.asked_at = self.world.at
        self._deliver(session, frame)
        if not session.resending:
            session.resending = True
            self.world.after(RESEND_S, self.host, self._resend, session)

    def _deliver(self, session: Session, frame: Frame) -> None:
        """A frame carries the epoch under which it is sent, also when it is sent again."""
        assert self.record is not None
        world, target = self.world, session.target
        session.arrives = max(session.arrives, world.at + world.delay())
        world.send(
            self.host.name, target.host.name, target.host, target.receive, frame, self.record.epoch,
            arrives=session.arrives,
        )  # fmt: skip

    def _to(self, other: Host, do: object, *args: object) -> None:
        self.world.send(self.host.name, other.name, other, do, *args)  # type: ignore[arg-type]

    def _resend(self, session: Session) -> None:
        """What was not confirmed is sent again, as TCP does; a silent member is given up."""
        session.resending = False
        if not session.alive or not session.frames:
            return
        if (
            session.asked_at is not None
            and self.world.at - session.asked_at > self.host.timings.ack_timeout_s
        ):
            self.member_lost(session.target.host.name, "acknowledged nothing for too long")
            return
        for frame in list(session.frames):
            if frame.seq > session.applied:
                self._deliver(session, frame)
        session.resending = True
        self.world.after(RESEND_S, self.host, self._resend, session)

    def confirmed(self, session: Session, applied: int, durable: int) -> None:
        """A member says how far it has applied, and how far it has synced."""
        if not session.alive or not self.alive:
            return
        if applied > session.applied or durable > session.durable:
            session.asked_at = self.world.at
        session.applied = max(session.applied, applied)
        session.durable = max(session.durable, durable)
        while session.frames and session.frames[0].seq <= session.durable:
            session.frames.popleft()
        if not session.frames or (session.frames[-1].kind != "sync" and session.applied >= self.seq):
            session.asked_at = None
        self._retire(session)
        self._forget_kept()
        if not session.ready and session.ready_at and session.durable >= session.ready_at:
            session.ready = True
            self.world.counts["member ready"] += 1
            self.host.tell(MemberReady(self.host.module, session.target.host.name, session.target.life))
        self.settle()

    def _retire(self, session: Session) -> None:
        """An entry leaves when both copies are known durable and nothing is queued for it (S2)."""
        volume = self.host.volume
        log = volume.logs[session.target.host.name]
        pending = session.copying or ()
        for extent in sorted(log):
            if extent in pending or volume.memory[extent] != volume.disk[extent]:
                continue
            if session.last.get(extent, session.start) <= session.durable:
                log.discard(extent)
                volume.touched = True

    def _forget_kept(self) -> None:
        """What each member has on disk needs no resending."""
        assert self.record is not None
        members = [self.sessions.get(name) for name in self.record.in_sync if name != self.host.name]
        low = min((s.durable if s is not None else 0 for s in members), default=self.seq)
        kept = self.kept
        while kept and kept[0].seq <= low:
            kept.popleft()

    def _clean(self) -> tuple[int, ...]:
        logs = self.host.volume.logs.values()
        return tuple(extent for extent in range(EXTENTS) if not any(extent in log for log in logs))

    def end(self, session: Session, why: str) -> None:
        """One stream is over, as this side sees it; the other side hears of it when a wire carries it."""
        if not session.alive:
            return
        session.alive = False
        name = session.target.host.name
        if self.sessions.get(name) is session:
            del self.sessions[name]
            self.host.tell(StreamDown(self.host.module, name, why))
            if self.alive and self.open:
                self.redial(name)
                self.watch_members()
        self._to(session.target.host, session.target.source_ended, session)

    def member_lost(self, name: str, why: str) -> None:
        """The replicator gives a member up; its agent decides what follows."""
        if not self.alive:
            return
        session = self.sessions.get(name)
        if session is not None:
            self.end(session, why)
        if self.record is not None and self.open:
            self.host.tell(MemberLost(self.host.module, NodeName(name), why))

    # --- the stream, the member's side --------------------------------------------------------------------

    def follow(self, record: Record) -> None:
        """Follow."""
        assert not self.open
        self.host.before_use(record, "followed")
        source = self.incoming
        if source is not None and source.source.host.name != record.primary:
            self._leave_source("another primary is followed")
        for session in list(self.sessions.values()):
            self.end(session, "another primary is followed")
        # Where its own stream ended is where a gate that was drained stands.
        self.owns = False
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

    def offer(self, record: Record) -> None:
        self.offered = record
        self.host.tell(ReignOffered(self.host.module, record))

    def source_ended(self, session: Session) -> None:
        if self.incoming is session:
            self._leave_source("the primary closed the stream")

    def _leave_source(self, why: str) -> None:
        session = self.incoming
        if session is None:
            return
        self.incoming = None
        self.waiting.clear()
        self.offered = None
        self.host.tell(StreamDown(self.host.module, session.source.host.name, why))
        if session.alive:
            self._to(session.source.host, session.source.end, session, why)

    def fits(self, frame: Frame, epoch: int) -> bool:
        """R6: the epoch is not lower than the durable one, and the position follows exactly."""
        assert self.admitted is not None
        follows = frame.stream == self.stream and frame.seq == self.seq + len(self.waiting) + 1
        return follows and epoch >= self.admitted.epoch

    def receive(self, frame: Frame, epoch: int) -> None:
        """One frame, perhaps late, doubled or of an earlier connection."""
        if not self.alive or self.following is None or self.incoming is None or self.failed:
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
            self.seq = frame.seq
            self._apply(frame)

    def adopt(self, record: Record) -> None:
        """G1: durable in a member's lineage before it acknowledges anything under it.

        Only a member's: without this node the primary acknowledges alone under that reign, and a copy that
        claimed to contain it would hide the difference when it is promoted by force.
        """
        if self.incoming is not None and self.host.name in record.in_sync:
            for reign in self.incoming.source.host.volume.lineage:
                if reign.epoch < record.epoch:
                    self.host.volume.add_reign(reign)
            self.host.volume.add_reign(record.reign)

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
                self._sync_s(), self.host, self._member_synced, session, frame, list(volume.memory),
                list(volume.dirty),
            )  # fmt: skip
        else:
            self._confirm(session)

    def _member_synced(self, session: Session, frame: Frame, memory: list[int], dirty: list[int]) -> None:
        if not self.alive or self.incoming is not session or self.failed:
            return
        if self.host.disk_bad:
            self.fail("input/output error")
            return
        self.host.volume.persist(memory, dirty)
        volume = self.host.volume
        if frame.kind == "barrier":
            # G3: a copy's history becomes the source's only when the copy is complete.
            granted = session.source.record
            lineage = session.source.host.volume.lineage
            volume.lineage = [r for r in lineage if granted is None or r != granted.reign]
            volume.inconsistent = False
            volume.logs[session.source.host.name].clear()
        for extent in frame.clean:
            if volume.dirty[extent] == dirty[extent]:
                # Of the source alone: whether a third copy is equal is not the source's to say (S8).
                volume.logs[session.source.host.name].discard(extent)
                volume.touched = True
        self.synced_seq = max(self.synced_seq, frame.seq)
        self._confirm(session)

    def _confirm(self, session: Session) -> None:
        source = session.source
        self._to(source.host, source.confirmed, session, self.seq, self.synced_seq)

    def _sync_s(self) -> float:
        slow = self.host.disk_slow_s
        return SYNC_S * self.world.random.random() + slow if self.world.jitter else SYNC_S
