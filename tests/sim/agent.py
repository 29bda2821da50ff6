"""One machine's agent: it learns events one by one, and hands on what its node decides."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.heart import Heart
from orchestrator.model.effects import Announce, Answer, CloseGate, Effect, StoreModule, Tell, WidenRequired
from orchestrator.model.events import (
    EffectFailed,
    Event,
    LinkLost,
    ModuleLoaded,
    PeerAlive,
    PeerLeft,
    PeerLost,
    PeerSaid,
    PeerSuspected,
    TimePassed,
)
from orchestrator.model.names import Instant
from orchestrator.node import Node
from tests.sim.hands import Hands
from tests.support.brief import brief

if TYPE_CHECKING:
    from tests.sim.host import Host

INTERFACE = "clients"


class Agent:
    """The process that carries the node; `node` is None while there is none."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.cluster = host.cluster
        self.module = host.module
        self.name = host.name
        self.hands = Hands(host)
        self.node: Node | None = None
        self.life = 0
        self.frozen = False
        self.inbox: list[Event] = []
        self.unsound_until = 0.0
        """Until when this machine or its agent was dead or frozen: it could not end what runs here."""
        self.decisions: deque[deque[Effect]] = deque()
        self.working = False
        self.crash_in: int | None = None
        """After so many more effects the agent is killed, or the power fails."""
        self.crash_power = False
        self.wake_at: float | None = None
        self.role = "STOP"

    def start(self) -> None:
        """From what the disk says, and from what the processes that live on say."""
        if self.node is not None:
            return
        self.world.disturb()
        self.unsound_until = self.world.at
        host, heart = self.host, self.host.pulse.heart
        self.life += 1
        self.node = Node.create(self.name, self.cluster.config, host.timings)
        if host.keeper is None:
            # What stood on a gate that died while nobody looked ends with it.
            host.service.end()
            if heart is not None:
                heart.end_lease(self.module)
        self.tell(ModuleLoaded(self.module, *host.stored))
        if host.pulse.heart is not None:
            host.pulse.heart.agent_present(Instant(host.heart_now()), True)
            self._pulse_status(host.pulse.heart)
        if host.keeper is not None and host.keeper.checked:
            host.launcher.say_status(host.keeper)
        if host.link_down:
            self.tell(LinkLost(self.module, INTERFACE))

    def _pulse_status(self, heart: Heart) -> None:
        kinds: dict[str, Any] = {
            "alive": PeerAlive, "suspected": PeerSuspected, "lost": PeerLost, "left": PeerLeft,
        }  # fmt: skip
        for name, (verdict, _) in heart.verdicts().items():
            if verdict.value in kinds:
                self.tell(kinds[verdict.value](name))
        for name, states in heart.peer_states().items():
            if states:
                self.tell(PeerSaid(name, states))

    def kill(self) -> None:
        """Every intention is forgotten; what was begun beside it goes on."""
        self.node = None
        self.life += 1
        self.decisions.clear()
        self.inbox.clear()
        self.working = False
        self.crash_in = None
        self.wake_at = None
        self.host.launcher.launching = False
        self.frozen = False
        if self.host.pulse.heart is not None:
            self.host.pulse.heart.agent_present(Instant(self.host.heart_now()), False)
        self.world.disturb()

    def tell(self, event: Event) -> None:
        """The agent learns an event; what follows is done in order."""
        if self.node is None:
            return
        if self.frozen or self.host.frozen:
            self.inbox.append(event)
            return
        decision = self.node.step(self.host.now(), event)
        if self.world.log is not None and not isinstance(event, PeerSaid):
            self.world.say(f"{self.name} learns {brief(event)}")
        self.node = decision.state
        role = decision.state.mirrors[self.module].role.value
        if role != self.role:
            self.world.counts[f"move {self.role}-{role}"] += 1
            self.world.counts["role changes"] += 1
            self.world.note(f"{self.name} {self.role}->{role}")
            self.role = role
        self.world.counts[type(event).__name__] += 1
        if decision.effects:
            self.decisions.append(deque(decision.effects))
        self.wake_later()
        if not self.working:
            self._work(self.life)

    def resume(self) -> None:
        """What it would have learned meanwhile is learned now."""
        self.frozen = False
        self.unsound_until = self.world.at
        if self.host.frozen:
            return
        inbox, self.inbox = self.inbox, []
        for event in inbox:
            self.tell(event)
        self._work(self.life)
        self.wake_later()

    def wake_later(self) -> None:
        """Time passes for this node when something is due, by its own clock."""
        node = self.node
        if node is None:
            return
        due = node.deadline()
        if due == self.wake_at:
            return
        self.wake_at = due
        if due is None:
            return
        delay_s = max(0.0, (due - self.host.now()) / self.host.rate) + 1e-9
        self.world.much_later(delay_s, self.host, self._wake, self.life, due)

    def _wake(self, life: int, due: float) -> None:
        if life != self.life or self.wake_at != due or self.node is None:
            return
        if self.host.now() < due:
            self.wake_at = None
            self.wake_later()
            return
        self.wake_at = None
        self.tell(TimePassed())

    def _work(self, life: int) -> None:
        """Effects one after another; killed between any two, now and then slow."""
        if life != self.life or self.frozen:
            self.working = False
            return
        self.working = True
        while self.decisions and life == self.life:
            effects = self.decisions[0]
            if not effects:
                self.decisions.popleft()
                continue
            effect = effects.popleft()
            if self.crash_in is not None and not isinstance(effect, Tell | Announce):
                self.crash_in -= 1
                if self.crash_in <= 0:
                    self.cluster.crashed_between_effects(self.host)
                    return
            if not self.hands.carry_out(effect):
                words = [effect for effect in effects if isinstance(effect, Announce | Answer | Tell)]
                effects.clear()
                effects.extend(words)
                self.tell(EffectFailed(self.module, type(effect).__name__, "refused by the simulated world"))
            elif self.world.jitter and isinstance(effect, StoreModule | WidenRequired | CloseGate):
                # Files and sockets take their time; other events are learned meanwhile.
                self.world.after(0.02 * self.world.random.random(), self.host, self._work, life)
                return
        if life == self.life:
            self.working = False
