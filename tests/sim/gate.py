"""The gate of one replica: who is required, what is written, and which fsyncs may be answered (R1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.model.events import GateClosed, ReignTaken, VolumeFailed
from orchestrator.model.names import NodeName
from orchestrator.model.record import Record
from tests.sim.session import Frame, Session
from tests.sim.volume import DIRECTORY, FILES
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.keeper import Keeper

DRAIN_S = 5.0


class Point:
    """One fsync that is held until everybody required has it on disk."""

    __slots__ = ("local", "safe", "seq")

    def __init__(self, seq: int, safe: dict[int, int]) -> None:
        self.seq = seq
        self.safe = safe
        """What clients are told by it: values by extent."""
        self.local = False


class Gate:
    """Open, it takes the application's writes; closed, none."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.host = keeper.host
        self.world = keeper.world
        self.record: Record | None = None
        self.required: frozenset[NodeName] = frozenset()
        self.open = False
        self.draining = False
        self.points: list[Point] = []
        self.named: dict[int, int] = {}
        """Files that the directory names since their last durable point, and its value that did (O7)."""
        self.acked_seq = 0
        self.bids: list[Record] = []
        """What this life of the gate has bid: any of them may land as long as its tag stands."""
        self.turn = 0
        """Counts openings and closings: what was begun before is void after."""
        self.drained = -1
        """The turn in which a planned end was done."""

    def take(self, record: Record) -> None:
        """TakeReign."""
        if self.keeper.failed:
            self.host.agent.tell(VolumeFailed(self.host.module, self.keeper.failed))
            return
        if not self.draining:  # a planned end goes on beside, and says when it is done
            self.turn += 1
        self.host.on_disk(self.keeper.sync_s(), self._taken, record, self.turn)

    def _taken(self, record: Record, turn: int) -> None:
        if not self.keeper.alive or turn != self.turn:
            return
        if self.host.disk_bad:
            self.keeper.fail("input/output error")
            return
        volume, streams, follower = self.host.volume, self.keeper.streams, self.keeper.follower
        opening = not self.open
        self.host.before_use(record, "opened a gate")
        if record.nonce != self.keeper.life or record.primary != self.host.name:
            raise Violation(f"{self.host.name} opens under a record that does not name this life of its gate")
        if opening:
            follower.leave_source("a reign is taken here")
            self.keeper.flush()
            self.named.clear()  # each is on this disk now, and whoever follows gets a whole copy
            if not self.keeper.owns:
                self._begin_stream(record)
            follower.following = follower.admitted = None
        if volume.inconsistent and not record.forced:
            raise Violation(f"{self.host.name} opens with half a copy")
        volume.inconsistent = volume.edited = False
        volume.add_reign(record, unheard=len(record.in_sync) > 1 and not record.forced)
        self.record = record
        self.required = record.in_sync
        if self.drained == turn:
            # A planned end was under way when this was ordered, and is done: nothing is served any more.
            self.host.agent.tell(ReignTaken(self.host.module, record))
            return
        for bid in self.bids:
            if bid.epoch > record.epoch and not bid.in_sync <= self.required:
                raise Violation(f"{self.host.name} forgets whom its bid for epoch {bid.epoch} names")
        self.open = True
        if opening:
            self.draining = False
            listed = volume.listed & volume.foreign
            if not volume.torn:
                self.host.ghost.is_a_moment(self.host.name, record, volume.memory)
            self.host.ghost.opens(self.host.name, record, volume.memory, volume.disk, listed)
            volume.torn = False
            self.world.note(f"{self.host.name} gate open {record.epoch}")
            streams.go_on()
        streams.told_at = self.keeper.seq + 1
        if streams.sessions:
            streams.emit(Frame("reign", record=record))
        self.settle()
        self.host.cluster.exclusive()
        streams.tell_ready()
        if opening:
            streams.dial_everybody()
            streams.watch_members()
        self.host.agent.tell(ReignTaken(self.host.module, record))

    def _begin_stream(self, record: Record) -> None:
        """A stream of its own; a member that stood where this node stood may go on from there."""
        keeper = self.keeper
        keeper.streams.begin_after(keeper.stream, keeper.seq)
        keeper.stream = record.reign
        keeper.owns = True
        keeper.seq = keeper.synced_seq = self.acked_seq = 0

    def widen(self, members: frozenset[NodeName]) -> bool:
        """WidenRequired; refused for a newcomer that lacks something acknowledged."""
        for name in sorted(members - self.required - {self.host.name}):
            session = self.keeper.streams.sessions.get(name)
            if session is None or not session.ready or self._reached(session) < self.acked_seq:
                self.world.counts["widening refused"] += 1
                if session is not None:
                    self.keeper.streams.end(session, "it was not ready any more")
                return False
        self.required |= members
        return True

    def may_land(self, bid: Record) -> None:
        """R1: whoever a bid names is required before it leaves; but where its tag has gone."""
        self.bids.append(bid)
        gone = self.record is not None and bid.epoch <= self.record.epoch
        if self.open and not gone and not bid.in_sync <= self.required:
            me = self.host.name
            raise Violation(f"{me} bids {sorted(bid.in_sync)} and requires {sorted(self.required)}")

    def close(self, drain: bool) -> None:
        """CloseGate."""
        if not drain:
            self.shut()
            self.host.agent.tell(GateClosed(self.host.module, frozenset()))
            return
        self.draining = True
        self.turn += 1
        if self.open:
            self.point(None, {})
        self.world.after(0.005, self.host, self._drain, self.turn, self.world.at + DRAIN_S)

    def shut(self) -> None:
        """At once: what is held fails, and every stream ends."""
        self.turn += 1
        self.open = False
        self.draining = False
        self.points.clear()
        self.host.cluster.held_failed(self.host)
        for session in list(self.keeper.streams.sessions.values()):
            self.keeper.streams.end(session, "the gate is closed")

    def _drain(self, turn: int, until: float) -> None:
        if not self.keeper.alive or turn != self.turn:
            return
        keeper = self.keeper
        sessions = keeper.streams.sessions.values()
        waited = any(s.alive and s.ready and s.durable < keeper.seq for s in sessions)
        if (waited or keeper.synced_seq < keeper.seq) and self.world.at < until:
            self.world.after(0.01, self.host, self._drain, turn, until)
            return
        volume = self.host.volume
        equal = {s.target.host.name for s in sessions if s.ready and s.durable >= keeper.seq}
        if volume.memory != volume.disk:
            equal = set()
        self.open = self.draining = False
        self.drained = turn
        self.points.clear()
        self.host.cluster.held_failed(self.host)
        self.world.note(f"{self.host.name} gate drained {sorted(equal)}")
        self.host.agent.tell(GateClosed(self.host.module, frozenset(equal | {self.host.name})))

    # --- writes -------------------------------------------------------------------------------------------

    def takes_writes(self) -> bool:
        return self.open and not self.draining and not self.keeper.failed

    def write(self, extent: int, durable: bool) -> bool:
        """One write of the application, and its fsync. False: refused."""
        if not self.takes_writes():
            return False
        value = self._new_value(extent)
        self.host.volume.put(extent, value)
        self.keeper.streams.change(Frame("write", extent, value))
        if durable:
            self.fsync(extent)
        return True

    def replace(self, file: int, durable: bool) -> bool:
        """The application writes a new file and renames it over this one, and its fsync. False: refused."""
        if not self.takes_writes():
            return False
        # The file is closed first: what it holds is in the stream before its name is (O6).
        self.write(file, durable=False)
        value = self._new_value(DIRECTORY)
        self.host.ghost.brought[value] = (file, self.host.volume.memory[file])
        self.host.volume.rename(file, value)
        self.named[file] = value
        self.keeper.streams.change(Frame("write", DIRECTORY, value, of=file))
        if durable:
            self.fsync(file)
        return True

    def _new_value(self, extent: int) -> int:
        return self.host.ghost.write(self.host.name, extent, self.host.volume.memory[extent])

    def fsync(self, extent: int) -> None:
        """Clients are told of it, and of the name that a new file has."""
        safe = {extent: self.host.volume.memory[extent]}
        if extent in self.named:
            safe[DIRECTORY] = self.named[extent]
        self.point(extent, safe)

    def point(self, of: int | None, safe: dict[int, int]) -> None:
        """A durable point: local disk and members side by side."""
        volume, frame = self.host.volume, Frame("sync", of=of)
        frame.clean, frame.at = self.keeper.streams.clean(), volume.position
        self.keeper.streams.emit(frame)
        if safe:
            self.points.append(Point(self.keeper.seq, safe))
            self.keeper.streams.asked(self.keeper.seq)
        places = covered(of, self.named)
        self.host.on_disk(
            self.keeper.sync_s(), self._synced, frame, list(volume.memory), list(volume.dirty), places
        )

    def _synced(self, frame: Frame, memory: list[int], dirty: list[int], places: frozenset[int]) -> None:
        if not self.keeper.alive:
            return
        if self.host.disk_bad:
            self.keeper.fail("input/output error")
            return
        self.host.volume.persist(memory, dirty, places)
        if frame.stream != self.keeper.stream:
            return  # another one has begun since
        self.keeper.is_synced(frame.seq)
        self.keeper.streams.synced(frame.seq)
        for point in self.points:
            if point.seq == frame.seq:
                point.local = True
        self.settle()

    def settle(self) -> None:
        """Answer the fsyncs that each of `required` has on disk (R1)."""
        if not self.open:
            return
        streams = self.keeper.streams.sessions
        sessions = [streams.get(name) for name in self.required if name != self.host.name]
        # Somebody required who is being copied to lacks what was written before its stream began.
        bound = min(
            (self._reached(s) if s is not None and s.ready else -1 for s in sessions), default=self.keeper.seq
        )
        for point in [point for point in self.points if point.local and point.seq <= bound]:
            self.points.remove(point)
            self.acked_seq = max(self.acked_seq, point.seq)
            for extent, value in point.safe.items():
                self.host.ghost.acknowledge(self.host.name, extent, value)
            self.host.cluster.told(self.host)

    def has_heir(self) -> bool:
        """A member has on its disk what anybody waits for: only this disk is awaited."""
        streams = self.keeper.streams.sessions
        members = [streams.get(name) for name in self.required - {self.host.name}]
        last = max((point.seq for point in self.points), default=0)
        return (
            self.open
            and bool(members)
            and all(s is not None and s.ready and self._reached(s) >= last for s in members)
        )

    def _reached(self, session: Session) -> int:
        """How far a member must be: on its disk, or with `ack: memory` in its memory."""
        return session.applied if self.host.cluster.module.ack == "memory" else session.durable

    def can_acknowledge(self) -> bool:
        """Nothing that this node does not command keeps a write from being acknowledged here."""
        if not self.keeper.alive or not self.open:
            return False
        for name in self.required:
            if name == self.host.name:
                continue
            session = self.keeper.streams.sessions.get(name)
            if session is None or session.target.incoming is not session or not session.target.keeper.alive:
                return False
        return True


def covered(of: int | None, named: dict[int, int]) -> frozenset[int]:
    """What a sync of this brings to the disk: every file, and where it must the directory (O7).

    `named`: the files that got a name since their last one; they are not in it any more.
    """
    files = frozenset(range(FILES))
    if of is None:
        named.clear()
        return files | {DIRECTORY}
    if of not in named and of != DIRECTORY:
        return files
    named.pop(of, None)
    return files | {DIRECTORY}
