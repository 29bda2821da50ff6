"""One machine's pulse: the real heart, its beats on the simulated wires, and the lease on the addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.cluster.heart import Heart
from orchestrator.model.events import PeerSaid
from orchestrator.model.names import Instant, NodeName, PathName

if TYPE_CHECKING:
    from tests.sim.host import Host

LAN = PathName("lan")


class Pulse:
    """The process that beats; `heart` is None while there is none."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.cluster = host.cluster
        self.module = host.module
        self.name = host.name
        self.heart: Heart | None = None
        self.life = 0
        self.due = 0.0
        self.lease_left = 0.0
        """What a pulse that died has left in the kernel, until its time is over."""

    def start(self) -> None:
        """A new process, to which every peer is unknown."""
        world = self.world
        self.life += 1
        peers = {name: (LAN,) for name in self.cluster.names if name != self.name}
        boot = f"{world.random.getrandbits(128):032x}"
        self.heart = Heart(self.name, peers, self.host.timings, boot, Instant(self.host.heart_now()))
        self.cluster.adjust(self.heart)
        if self.host.agent.node is not None:
            # The agent connects again and says again what it had said.
            self._tell()
        world.disturb()
        self.pump(advance=True)

    def kill(self) -> None:
        """It renews nothing any more; the kernel answers until what is left of the lease has run out."""
        if self.heart is not None:
            self.lease_left = self.heart.lease_deadlines().get(self.module, 0.0)
        self.heart = None
        self.life += 1
        self.world.disturb()

    def _tell(self) -> None:
        """What the agent that runs here had said to the former one."""
        assert self.heart is not None
        assert self.host.agent.node is not None
        self.heart.agent_present(Instant(self.host.heart_now()), True)
        mirror = self.host.agent.node.mirrors[self.module]
        if mirror.announced is not None:
            self.heart.announce(self.module, mirror.announced)
        if mirror.muted:
            self.heart.mute(self.module)
        if mirror.held is not None and mirror.leased is not None:
            self.heart.lease(self.module, mirror.held.epoch, mirror.leased)

    def pump(self, advance: bool = False) -> None:
        """Send what is to be sent, tell the agent what is new, and come back when something is due."""
        heart = self.heart
        if heart is None:
            return
        heart.advance(Instant(self.host.heart_now()))
        for peer, path, beat in heart.beats_to_send():
            other = self.cluster.hosts[peer]
            self.world.send(self.name, peer, other, other.pulse.hear, self.name, path, beat, beat=True)
        events = heart.events_received()
        for event in events:
            if not isinstance(event, PeerSaid):
                self.world.disturb()
            self.host.agent.tell(event)
        if self.heart is not heart:
            return  # What the agent did with the news ended in a power cut.
        if not events and not advance:
            return  # A beat that changes no verdict only puts deadlines off.
        due = heart.next_deadline()
        if due < self.due or advance:
            self.due = due
            delay_s = max(0.0, (due - self.host.heart_now()) / self.host.rate) + 1e-9
            self.world.after(delay_s, self.host, self._beat, self.life, due, beat=True)
        self.cluster.one_answers()

    def _beat(self, life: int, due: float) -> None:
        if life == self.life and due == self.due:
            self.pump(advance=True)

    def hear(self, peer: NodeName, path: PathName, beat: Any) -> None:
        """A heartbeat arrives."""
        if self.heart is not None:
            self.heart.receive(Instant(self.host.heart_now()), peer, path, beat)
            self.pump()

    def release(self) -> None:
        """End the lease, also what a former pulse has left of one."""
        self.lease_left = 0.0
        if self.heart is not None:
            self.heart.end_lease(self.module)

    def answers(self) -> bool:
        """This node answers for the address: it is here, and the lease runs."""
        if not self.host.service.claimed:
            return False
        until = self.lease_left
        if self.heart is not None:
            until = max(until, self.heart.lease_deadlines().get(self.module, 0.0))
        return until > self.host.heart_now()
