"""The primary's side of the replication: one ordered stream to every other node."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from orchestrator.mirror.lineage import Joiner, Ruling, Verdict, judge, position_fits
from orchestrator.mirror.pace import Finding
from orchestrator.model.events import HandshakeRefused, MemberLost, MemberReady, StreamDown, StreamUp
from orchestrator.model.names import NodeName
from orchestrator.model.record import Reign
from tests.sim.pacing import Pacing
from tests.sim.session import Frame, Session, position_in
from tests.sim.volume import DIRECTORY, EVERYTHING
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.follower import Follower
    from tests.sim.keeper import Keeper

DIAL_S = 0.4
RESEND_S = 0.5
LOOK_S = 1.0
"""Between two looks at a member that owes an answer."""


class Streams:
    """Dials, judges, sends, copies, and learns how far each other node is."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.host = keeper.host
        self.world = keeper.world
        self.gate = keeper.gate
        self.kept: deque[Frame] = deque()
        """Own frames that some member does not have on disk yet."""
        self.base: tuple[Reign | None, int] = (None, 0)
        """Where the stream before this one stood when this gate opened: equal members stand there too."""
        self.told_at = 0
        """Who has applied this frame has heard of the record under which it was sent."""
        self.sessions: dict[str, Session] = {}
        self.dialling: set[str] = set()
        policy = self.host.cluster.module.slow_peer
        self.pacing = {name: Pacing(self.host, policy) for name in self.host.volume.logs}
        self.withheld: set[str] = set()
        """Who lacks nothing, and whose disk is too slow to be waited for."""

    def tell_ready(self) -> None:
        """Who lacks nothing and is not in the set: a joiner, or a member that was dropped and is here."""
        record = self.gate.record
        for name, session in list(self.sessions.items()):
            if session.ready and record is not None and name not in record.in_sync:
                self._tell_ready(session)

    def _tell_ready(self, session: Session) -> None:
        name = session.target.host.name
        if not self.pacing[name].may_join():
            self.withheld.add(name)
            return
        if name in self.withheld:
            self.withheld.remove(name)
            self.world.counts["slow member taken in again"] += 1
        self.host.agent.tell(MemberReady(self.host.module, name, session.target.keeper.life))

    def go_on(self) -> None:
        """The gate is open again: so are the copies that its closing interrupted."""
        for session in self.sessions.values():
            if session.copying is not None and not session.ready_at:
                self.world.after(0.01, self.host, self._copy, session)

    def begin_after(self, stream: Reign | None, seq: int) -> None:
        """A stream of its own begins where another one ended."""
        self.base = (stream, seq)
        self.kept.clear()

    # --- who is there -------------------------------------------------------------------------------------

    def dial_everybody(self) -> None:
        """To every other node, wanted or not."""
        for other in self.host.volume.logs:
            self.redial(other)

    def redial(self, other: str) -> None:
        """Dial until the gate closes; a dialling wire alone is no reason to keep a quiet stretch busy."""
        if other not in self.dialling:
            self.dialling.add(other)
            self.world.after(DIAL_S * self.world.random.random(), self.host, self._dial, other, beat=True)

    def watch_members(self) -> None:
        """A member without a stream for T is given up."""
        if self.gate.open and self.gate.record is not None:
            for name in sorted(self.gate.record.in_sync - {self.host.name}):
                if name not in self.sessions:
                    self.world.after(self.host.timings.detection_s, self.host, self._still_gone, name)

    def _still_gone(self, name: NodeName) -> None:
        if self.keeper.alive and self.gate.open and name not in self.sessions:
            self.member_lost(name, "silent on its stream")

    def _dial(self, other: str) -> None:
        if not self.keeper.alive or not self.gate.open or other in self.sessions:
            self.dialling.discard(other)
            return
        world, here = self.world, self.host.name
        target = self.host.cluster.hosts[other]
        world.after(DIAL_S, self.host, self._dial, other, beat=True)
        if (here, other) in world.cuts or (other, here) in world.cuts or target.frozen or not target.powered:
            return
        if target.keeper is not None and target.keeper.alive:
            self._handshake(target.keeper.follower)

    def _handshake(self, other: Follower) -> None:
        """Both sides as they are now: continue by sequence, copy, or refuse."""
        following, theirs = other.following, other.keeper
        name, record = other.host.name, self.gate.record
        assert record is not None
        if following is None or following.primary != self.host.name or theirs.failed or theirs.gate.open:
            return
        if following.epoch > record.epoch or self.host.disk_bad:
            return
        # It stands where this node stood when both were equal on disk, or still follows this very stream.
        equal = name in record.in_sync and (theirs.stream, theirs.seq) == self.base and self._keeps(1)
        follows = theirs.stream == self.keeper.stream and self._keeps(theirs.seq + 1)
        here, there = self.host.volume.standing(), other.host.volume.standing()
        joiner = Joiner(name, there, empty=not there.reigns, resumes=equal or follows)
        why = position_fits(self.host.volume.baselines[name], there)
        ruling = judge(record, here, joiner, log_fits=not why, log_why=why)
        self.world.counts["verdict " + ruling.verdict.value] += 1
        if ruling.refused:
            raise Violation(f"{name} meets {self.host.name}: {ruling.verdict.value}: {here} {there}")
        if ruling.verdict is Verdict.UNPROVEN:
            # It restarted: it is bid out first, and comes back by delta.
            self.host.agent.tell(MemberLost(self.host.module, name, "it restarted"))
        elif ruling.copy:
            self._begin_copy(other, ruling)
        else:
            start = 0 if equal else theirs.seq
            if equal:
                theirs.synced_seq = 0
            missing = [frame for frame in self.kept if frame.seq > start]
            self._begin(Session(self, other, start, None), missing)

    def _keeps(self, seq: int) -> bool:
        """The frames from this one on are still here."""
        return seq > self.keeper.seq or (bool(self.kept) and self.kept[0].seq <= seq)

    def _begin_copy(self, other: Follower, ruling: Ruling) -> None:
        mine = self.unite(other)
        if ruling.full:
            # The logs say too little: all is compared, and what differs is entered like any other change.
            mine |= set(EVERYTHING)
            self.world.counts["copy in full"] += 1
        session = Session(self, other, self.keeper.seq, sorted(mine))
        if ruling.verdict is Verdict.EDITED:
            # Only what was edited is anybody's loss: the rest is merely older than what is here.
            session.aside = mine & {extent for extent, _ in other.host.volume.listed}
            self.world.counts["edit set aside"] += len(session.aside)
        elif ruling.set_aside:
            self.host.agent.tell(HandshakeRefused(self.host.module, other.host.name, "diverged"))
            session.aside = set(mine)
        other.host.volume.inconsistent = True
        self.world.counts["copy begun"] += 1
        self._begin(session, [])

    def unite(self, other: Follower) -> set[int]:
        """Both sides' logs united (S5), durable here before the first block travels (S6)."""
        mine = self.host.volume.logs[other.host.name]
        mine |= other.host.volume.logs[self.host.name]
        return mine

    def _begin(self, session: Session, missing: list[Frame]) -> None:
        other = session.target
        old = other.incoming
        if old is not None:
            old.source.end(old, "replaced")
        if session.copying is None and other.host.volume.edited:
            raise Violation(
                f"{other.host.name} was changed by others, and is streamed to as if it were equal"
            )
        self.sessions[other.host.name] = session
        self.pacing[other.host.name].forget()
        other.begin(session, self.keeper.stream)
        self.world.note(f"stream {self.host.name}-{other.host.name} {session.copying}")
        self.host.agent.tell(StreamUp(self.host.module, other.host.name))
        other.host.agent.tell(StreamUp(self.host.module, self.host.name))
        self.world.disturb()
        record = self.gate.record
        assert record is not None
        assert other.following is not None
        if record.reign != other.following.reign:
            other.offer(record)
        elif session.copying is None:
            other.adopt(record)
        for frame in missing:
            if frame.kind in ("write", "copy"):
                session.last[frame.extent] = frame.seq
            self._push(session, frame)
        if session.copying is not None:
            self.world.after(0.01, self.host, self._copy, session)
        else:
            # A sync that broke off with the former connection is asked again.
            self.emit(Frame("sync"))
            if other.host.name not in record.in_sync and session.durable < self.keeper.seq:
                # Ready when its disk has what was acknowledged meanwhile.
                session.ready, session.ready_at = False, self.keeper.seq
        self.host.cluster.exclusive()

    def _copy(self, session: Session) -> None:
        """One block at a time, read and queued in the stream's order (S7)."""
        if not session.alive or not self.gate.open or self.gate.draining:
            return
        copying = session.copying
        assert copying is not None
        if copying:
            extent = copying.pop(0)
            self.world.counts["block copied"] += 1
            self.change(Frame("copy", extent, self.host.volume.memory[extent]))
            self.world.after(0.02 + 0.1 * self.world.random.random(), self.host, self._copy, session)
        else:
            frame = Frame("barrier")
            frame.at, frame.joiner = self.host.volume.position, session.target.host.name
            self.emit(frame)
            session.ready_at = self.keeper.seq

    # --- what is sent -------------------------------------------------------------------------------------

    def change(self, frame: Frame) -> None:
        """A frame that changes an extent."""
        self.emit(frame)
        for session in self.sessions.values():
            session.last[frame.extent] = self.keeper.seq

    def emit(self, frame: Frame) -> None:
        """Into the stream's order, and out to everybody connected."""
        assert self.keeper.stream is not None
        assert self.gate.record is not None
        self.keeper.seq += 1
        frame.seq = self.keeper.seq
        frame.stream = self.keeper.stream
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
        assert self.gate.record is not None
        world, target = self.world, session.target
        session.arrives = max(session.arrives, world.at + world.delay())
        world.send(
            self.host.name, target.host.name, target.host, target.receive, frame, self.gate.record.epoch,
            arrives=session.arrives,
        )  # fmt: skip

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

    # --- what is known of the others ----------------------------------------------------------------------

    def confirmed(self, session: Session, applied: int, durable: int, named: int) -> None:
        """A member says how far it has applied, and how far it has synced."""
        if not session.alive or not self.keeper.alive:
            return
        if applied > session.applied or durable > session.durable:
            session.asked_at = self.world.at
        if applied >= self.told_at:
            self.host.volume.unheard = None
        session.applied = max(session.applied, applied)
        session.durable = max(session.durable, durable)
        session.named = max(session.named, named)
        while session.frames and session.frames[0].seq <= session.durable:
            session.frames.popleft()
        if not session.frames or (session.frames[-1].kind != "sync" and session.applied >= self.keeper.seq):
            session.asked_at = None
        self._retire(session)
        self._forget_kept()
        if not session.ready and session.ready_at and session.durable >= session.ready_at:
            session.ready = True
            self.world.counts["member ready"] += 1
            self._tell_ready(session)
        self._look_at_pace(session)
        self.gate.settle()

    # --- how fast they are --------------------------------------------------------------------------------

    def asked(self, seq: int) -> None:
        """Somebody waits for this durable point."""
        for name, session in self.sessions.items():
            if session.ready and not self.pacing[name].point:
                self.pacing[name].asked(seq)
                self.world.after(LOOK_S, self.host, self._look_again, session, seq, beat=True)

    def synced(self, seq: int) -> None:
        """This disk has it."""
        for pacing in self.pacing.values():
            pacing.synced(seq)

    def _look_again(self, session: Session, point: int) -> None:
        """While this one is awaited."""
        if self.pacing[session.target.host.name].point == point:
            self._look_at_pace(session)
            self.world.after(LOOK_S, self.host, self._look_again, session, point, beat=True)

    def _look_at_pace(self, session: Session) -> None:
        """What is new of how fast its disk is; the policy may wait for it no longer."""
        name = session.target.host.name
        if not session.alive or not session.ready or not self.keeper.alive or not self.gate.open:
            return
        pacing = self.pacing[name]
        finding = pacing.look(session.durable)
        if finding is not None:
            self.world.counts[f"slow member: {finding.value}"] += 1
            self.world.note(f"{self.host.name} finds {name} {finding.value}")
        if finding is Finding.GIVE_UP and name in self.gate.required:
            self.member_lost(name, "slow")
        if name in self.withheld and session.alive and pacing.may_join():
            self.tell_ready()

    def _retire(self, session: Session) -> None:
        """An entry leaves when both copies are known durable and nothing is queued for it (S2)."""
        volume = self.host.volume
        log = volume.logs[session.target.host.name]
        pending = session.copying or ()
        done = [
            extent
            for extent in sorted(log)
            if extent not in pending
            and volume.memory[extent] == volume.disk[extent]
            and session.last.get(extent, session.start)
            <= (session.named if extent == DIRECTORY else session.durable)
        ]
        if done:
            stream = self.keeper.stream
            assert stream is not None
            volume.retire(session.target.host.name, done, position_in(stream, session.durable))

    def _forget_kept(self) -> None:
        """What each member has on disk needs no resending."""
        record = self.gate.record
        assert record is not None
        members = [self.sessions.get(name) for name in record.in_sync if name != self.host.name]
        low = min((s.durable if s is not None else 0 for s in members), default=self.keeper.seq)
        kept = self.kept
        while kept and kept[0].seq <= low:
            kept.popleft()

    def clean(self) -> tuple[int, ...]:
        """Extents in which no other copy may differ."""
        logs = self.host.volume.logs.values()
        return tuple(extent for extent in EVERYTHING if not any(extent in log for log in logs))

    # --- how it ends --------------------------------------------------------------------------------------

    def end(self, session: Session, why: str) -> None:
        """One stream is over, as this side sees it; the other side hears of it when a wire carries it."""
        if not session.alive:
            return
        session.alive = False
        name = session.target.host.name
        if self.sessions.get(name) is session:
            del self.sessions[name]
            self.host.agent.tell(StreamDown(self.host.module, name, why))
            if self.keeper.alive and self.gate.open:
                self.redial(name)
                self.watch_members()
        self.keeper.send(session.target.host, session.target.source_ended, session)

    def member_lost(self, name: str, why: str) -> None:
        """The replicator gives a member up; its agent decides what follows."""
        if not self.keeper.alive:
            return
        session = self.sessions.get(name)
        if session is not None:
            self.end(session, why)
        if self.gate.record is not None and self.gate.open:
            self.host.agent.tell(MemberLost(self.host.module, NodeName(name), why))
