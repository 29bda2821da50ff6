"""One life of a gate, with the replicator beneath it: where its copy stands, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.mirror.hang import Finding, OwnDisk
from orchestrator.model.events import VolumeFailed
from orchestrator.model.names import Nonce
from orchestrator.model.record import Reign
from tests.sim.follower import Follower
from tests.sim.gate import Gate
from tests.sim.session import position_in
from tests.sim.streams import Streams

if TYPE_CHECKING:
    from tests.sim.host import Host

SYNC_S = 0.012
LOOK_S = 1.0
"""Between two looks at a disk that owes an answer."""


class Keeper:
    """Its gate, and both sides of the replication; its agent uses one of them at a time."""

    def __init__(self, host: Host, life: Nonce) -> None:
        self.host = host
        self.world = host.world
        self.life = life
        self.alive = True
        self.failed = ""
        self.checked = False
        """It was looked whether the copy is as it was left; nothing is followed or served before."""
        self.disk = OwnDisk(host.cluster.module.hung_disk)
        self._watching = False
        # Where this copy stands.
        self.stream: Reign | None = None
        self.owns = False
        """The stream is this gate's own; False: it is the one that is followed."""
        self.seq = self.synced_seq = 0
        self.gate = Gate(self)
        self.streams = Streams(self)
        self.follower = Follower(self)

    def flush(self) -> None:
        """Everything in memory is on disk."""
        volume = self.host.volume
        self.host.volume.persist(list(volume.memory), list(volume.dirty))

    def is_synced(self, seq: int) -> None:
        """So far of its stream the disk is; durable with what was synced (S11)."""
        assert self.stream is not None
        self.synced_seq = max(self.synced_seq, seq)
        self.host.volume.is_at(position_in(self.stream, self.synced_seq))

    def watch_disk(self) -> None:
        """While it owes an answer, and until it is told that it answers again."""
        if not self._watching:
            self._watching = True
            self.world.after(LOOK_S, self.host, self._look_at_disk)

    def _look_at_disk(self) -> None:
        self._watching = False
        if not self.alive:
            return
        self.disk, finding = self.disk.looked_at(self.host.waited_s(), self.gate.has_heir())
        if finding is not None:
            self.world.counts[f"own disk: {finding.value}"] += 1
            self.world.note(f"{self.host.name} finds its disk: {finding.value}")
        if finding is Finding.GIVE_UP:
            self.fail("its disk does not answer")
        if self.host.awaited or self.disk.hangs:
            self.watch_disk()

    def fail(self, why: str) -> None:
        """The disk failed: the gate closes by itself, and stays failed."""
        self.failed = why
        self.world.note(f"{self.host.name} volume failed")
        session = self.follower.incoming
        if session is not None and session.alive:
            self.follower.leave_source(why)
            self.send(session.source.host, session.source.member_lost, self.host.name, why)
        self.gate.shut()
        self.host.agent.tell(VolumeFailed(self.host.module, why))

    def die(self) -> None:
        """The keeper's process is gone, and its replicator with it."""
        self.host.volume.trust.end()
        self.alive = False
        self.gate.open = False
        self.gate.points.clear()
        self.reset("the process ended")

    def reset(self, why: str) -> None:
        """All streams end: the process died, or its replicator was replaced and knows no position."""
        self.streams.kept.clear()
        if not self.owns:
            self.stream = None
        for session in list(self.streams.sessions.values()):
            self.streams.end(session, why)
        self.follower.leave_source(why)

    def send(self, other: Host, do: Callable[..., None], *args: object) -> None:
        """One message to something on another machine."""
        self.world.send(self.host.name, other.name, other, do, *args)

    def sync_s(self) -> float:
        """How long the disk takes this time."""
        drawn = self.world.random.random() if self.world.jitter else 1.0
        return SYNC_S * drawn + self.host.disk_slow_s
