"""One machine of a simulated farm: its pulse, its agent, its application, and its kernel's rules."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.heart import Heart
from orchestrator.farm import learning, sharing
from orchestrator.farm.state import Farm
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.names import Instant, NodeName, PathName
from orchestrator.model.report import FarmRole, Shares
from orchestrator.node import Node

if TYPE_CHECKING:
    from tests.sim_farm.cluster import FarmCluster

LAN = PathName("lan")
KINDS: dict[str, Any] = {
    "alive": ev.PeerAlive,
    "suspected": ev.PeerSuspected,
    "lost": ev.PeerLost,
    "left": ev.PeerLeft,
}
TOLD = {
    "HF1002": "rule: store refused",
    "HF6022": "rule: not prepared in time",
    "HF6023": "rule: a node comes in again and is held out",
    "HF6025": "rule: the drain's limit is over",
    "HF6032": "rule: who is not heard stands back",
}
"""What a rule tells people is counted as the rule."""
CLOCK_MAX = 0.005
"""How much faster or slower than the others' a node's clock may go: ten times what a bad one does."""
HEARD_S = 0.003
"""Longer than the beats of one round are on their way."""


class FarmHost:
    """What survives of it: the disk through everything, kernel and application through the agent's death."""

    def __init__(self, cluster: FarmCluster, name: NodeName) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.module = cluster.farm.name
        self.name = name
        # For the world.
        self.boot = 0
        self.frozen = False
        self.backlog: deque[tuple[bool, Callable[..., None], tuple[Any, ...]]] = deque(maxlen=400)
        self.rate = 1.0 + cluster.clocks.uniform(-CLOCK_MAX, CLOCK_MAX)
        # The disk: wanted, per cent, draining.
        self.stored = (True, 100, False)
        self.kept: Shares | None = None
        """The run directory, which a boot clears."""
        self.store_bad = self.steer_bad = self.application_bad = 0.0
        # What runs.
        self.heart: Heart | None = None
        self.node: Node | None = None
        self.life = 0
        self.beat_life = 0
        self.due = 0.0
        self.has_heard = False
        self.wake_at: float | None = None
        self.running = self.ready = self.stopping = False
        self.turn = 0
        self.kernel: do.Steer | None = None
        self.steer_turn = 0
        self.knows_since = 0.0
        """Since when it remembers who had the buckets."""
        self.teacher_knows_since = 0.0
        self.powered = False

    def now(self) -> Instant:
        return Instant(1000.0 + self.world.now * self.rate)

    def heart_now(self) -> Instant:
        return Instant(1000.0 + self.world.at * self.rate)

    # --- power and processes -----------------------------------------------------------------------------

    def power_on(self) -> None:
        self.powered = True
        self.start_pulse()
        self.start_agent()

    def power_off(self) -> None:
        """Everything is gone but the disk; so are the connections that were here."""
        self.boot += 1
        self.has_heard = False
        self.powered = self.frozen = self.running = self.ready = self.stopping = False
        self.backlog.clear()
        self.kernel = None
        self.kept = None
        self.cluster.clients.dies_with(self)
        self.cluster.kernel_changed()
        self.kill_agent()
        self.kill_pulse()
        self.world.disturb()

    def start_pulse(self) -> None:
        self.beat_life += 1
        peers = {name: (LAN,) for name in self.cluster.farm.nodes if name != self.name}
        boot = f"{self.world.random.getrandbits(128):032x}"
        self.heart = Heart(self.name, peers, self.cluster.timings, boot, self.heart_now())
        if self.node is not None:
            self.heart.agent_present(self.heart_now(), True)
            announced = self.node.farms[self.module].announced
            if announced is not None:
                self.heart.announce(self.module, announced)
        self.world.disturb()
        self.pump(advance=True)

    def kill_pulse(self) -> None:
        self.heart = None
        self.beat_life += 1
        self.world.disturb()

    def start_agent(self) -> None:
        """From what the disk says, and from what runs still."""
        self.life += 1
        self.node = Node.create(self.name, self.cluster.config, self.cluster.timings)
        found = self.running and self.ready and self.kernel is not None
        if not found:
            self._end_application()
            self.kernel = None
            self.stopping = False
            self.cluster.kernel_changed()
        if self.kept is None:
            self.knows_since = self.world.now
        wanted, percent, draining = self.stored
        heart = self.heart
        if heart is not None:
            heart.agent_present(self.heart_now(), True)
        serial = int(self.world.now * 1e6)
        self.tell(ev.FarmLoaded(self.module, wanted, percent, draining, serial, found, self.kept))
        if heart is not None:
            for name, states in heart.peer_states().items():
                if states:
                    self.tell(ev.PeerSaid(name, states))
            for name, (verdict, _) in heart.verdicts().items():
                if verdict.value in KINDS:
                    self.tell(KINDS[verdict.value](name))
        self.world.disturb()

    def kill_agent(self) -> None:
        self.node = None
        self.life += 1
        self.wake_at = None
        if self.heart is not None:
            self.heart.agent_present(self.heart_now(), False)
        self.world.disturb()

    def thaw(self) -> None:
        self.frozen = False
        backlog, self.backlog = self.backlog, deque(maxlen=400)
        for _, deed, args in backlog:
            deed(*args)
        self.pump(advance=True)
        self.wake_at = None
        self.wake_later()
        self.world.disturb()

    # --- the pulse ---------------------------------------------------------------------------------------

    def pump(self, advance: bool = False) -> None:
        heart = self.heart
        if heart is None or self.frozen:
            return
        heart.advance(self.heart_now())
        for peer, path, beat in heart.beats_to_send():
            other = self.cluster.hosts[peer]
            self.world.send(self.name, peer, None, other.hear, self.name, path, beat, beat=True)
        events = heart.events_received()
        for event in events:
            if not isinstance(event, ev.PeerSaid):
                self.world.disturb()
            self.tell(event)
        if self.heart is not heart or not (events or advance):
            return
        due = heart.next_deadline()
        if due < self.due or advance:
            self.due = due
            delay_s = max(0.0, due - self.heart_now()) / self.rate + 1e-6
            self.world.after(delay_s, self, self._beat, self.beat_life, due, beat=True)  # type: ignore[arg-type]

    def _beat(self, life: int, due: float) -> None:
        if life == self.beat_life and due == self.due:
            self.pump(advance=True)

    def hear(self, peer: NodeName, path: PathName, beat: Any) -> None:
        if self.heart is not None and not self.frozen:
            self.heart.receive(self.heart_now(), peer, path, beat)
            if not self.cluster.together:
                self.pump()
            elif not self.has_heard:
                # A pulse empties its socket before it looks at what came: of many nodes much comes at once.
                self.has_heard = True
                self.world.after(HEARD_S, self, self._heard, beat=True)  # type: ignore[arg-type]

    def _heard(self) -> None:
        self.has_heard = False
        self.pump()

    # --- the agent ---------------------------------------------------------------------------------------

    def tell(self, event: ev.Event) -> None:
        if self.node is None:
            return
        decision = self.node.step(self.now(), event)
        if self.world.log is not None and not isinstance(event, ev.TimePassed):
            self.world.say(f"{self.name} learns {event}"[:300])
        before, self.node = self.node.farms[self.module], decision.state
        after = self.node.farms[self.module]
        self._met(before, after)
        if after.taught and not before.taught:
            self._is_taught(event, decision.effects)
        if isinstance(event, ev.TimePassed):
            self._met_silence(before, after)
        if isinstance(event, ev.ConnectionsCounted) and not event.count:
            self.world.counts["rule: drained to the last connection"] += after.role is not before.role
        for effect in decision.effects:
            self._carry_out(effect)
        self.wake_later()

    def _is_taught(self, event: ev.Event, effects: tuple[do.Effect, ...]) -> None:
        """By another node, by nobody because nobody serves, or by nobody although they do: that it says."""
        if any(isinstance(effect, do.Tell) and effect.code == "HF6033" for effect in effects):
            return
        taught = isinstance(event, ev.SharesLearned)
        self.knows_since = self.teacher_knows_since if taught else 0.0
        self.world.counts["rule: a node that joins is taught"] += taught

    def _met(self, before: Farm, after: Farm) -> None:
        """What a campaign counts."""
        world = self.world
        if before.role is not after.role:
            # A step may take two moves; what is in between is one of the table's.
            way = [before.role, FarmRole.WAIT, after.role]
            for one, two in itertools.pairwise(way):
                if one is not two:
                    world.counts[f"move {one.value}-{two.value}"] += 1
            world.note(f"{self.name} {before.role.value}->{after.role.value}")
        if before.committed != after.committed:
            world.counts["views"] += 1
            if before.settled:
                lost = before.committed.names - after.serving
                world.counts[f"rule: shares changed by {'a loss' if lost else 'plan'}"] += 1
            world.note(f"{self.name} {[tuple(each) for each in after.committed.members]}")
            if after.settled:
                self._met_weights(after)
        if after.preparing is not None and after.preparing is not before.preparing:
            world.counts["rule: two sides meet"] += sharing._other_side(after, after.preparing) is not None
        world.counts["rule: the old order is kept"] += bool(after.fading) and not before.fading
        world.counts["rule: the old order ends"] += bool(before.fading) and not after.fading
        world.counts["rule: history recalled"] += after.recalled and not before.recalled

    def _met_silence(self, before: Farm, after: Farm) -> None:
        for name, peer in after.peers.items():
            was = before.peers[name]
            silent = was.silent_at is not None and was.silent_at <= self.now() and peer.silent_at is None
            self.world.counts["rule: a suspect that stays silent is lost"] += (
                silent and peer.out and not was.out
            )

    def _met_weights(self, farm: Farm) -> None:
        names = farm.committed.names
        percents = {member.percent for member in farm.committed.members if member.live}
        counts = self.world.counts
        counts["rule: a node with weight 0 alone serves"] += percents == {0}
        first = [chain[0] for _, chain, _ in farm.rules.groups if len(chain) > 1]
        counts["rule: a chain's next group serves"] += bool(names) and any(
            not names & set(each) for each in first
        )

    def wake_later(self) -> None:
        due = self.node.deadline() if self.node is not None else None
        if due == self.wake_at:
            return
        self.wake_at = due
        if due is not None:
            delay_s = max(0.0, due - self.now()) / self.rate + 1e-6
            self.world.much_later(delay_s, self, self._wake, self.life, due)  # type: ignore[arg-type]

    def _wake(self, life: int, due: float) -> None:
        if life == self.life and self.wake_at == due:
            self.wake_at = None
            self.tell(ev.TimePassed())

    def _soon(self, deed: Callable[..., None], *args: Any, most_s: float = 0.02) -> None:
        part = 0.5 if self.cluster.together else self.world.random.random()
        delay_s = most_s * part + 0.0001
        self.world.after(delay_s, self, deed, *args)  # type: ignore[arg-type]

    def _carry_out(self, effect: do.Effect) -> None:
        drawn = self.world.random.random()
        match effect:
            case do.Announce(module, state):
                self.cluster.stir()
                if self.heart is not None:
                    self.heart.announce(module, state)
                    self.pump(advance=True)
            case do.StoreFarm(_, wanted, percent, draining):
                if drawn < self.store_bad:
                    self._soon(self._say, self.life, ev.EffectFailed(self.module, "StoreFarm", "EIO"))
                else:
                    self.stored = (wanted, percent, draining)
            case do.KeepShares(_, shares):
                self.kept = shares
            case do.AskShares(_, node):
                self._soon(self._ask, self.life, node)
            case do.StartApplication():
                self.turn += 1
                self._soon(self._started, self.turn, most_s=0.6)
            case do.StopApplication():
                self.turn += 1
                self.stopping = True
                self.cluster.stopping(self)
                self._soon(self._stopped, self.turn, most_s=0.6)
            case do.Steer():
                self.steer_turn += 1
                self._soon(self._steered, self.life, self.steer_turn, effect)
            case do.Unsteer():
                self.steer_turn += 1
                self.kernel = None
                self.cluster.clients.dies_with(self)
                self.cluster.kernel_changed()
            case do.CountConnections():
                self._soon(self._say_connections, self.life)
            case do.Answer(request, code, _):
                self.cluster.answers[request] = code
            case do.Tell(_, code, text):
                self.world.counts[TOLD.get(code, f"told {code}")] += 1
                self.world.say(f"{self.name} tells {code} {text}")
            case other:
                raise AssertionError(f"no hand for {other}")

    def _ask(self, life: int, name: NodeName) -> None:
        """Another agent answers from memory; the wire may be cut in either direction."""
        other = self.cluster.hosts[name]
        cut = {(self.name, name), (name, self.name)} & self.world.cuts
        if other.node is None or other.frozen or cut:
            return
        known = learning.known(other.node.farms[self.module])
        self._soon(self._learns, life, known, other.knows_since)

    def _learns(self, life: int, shares: Shares | None, since: float) -> None:
        if life != self.life:
            return
        self.teacher_knows_since = since
        self.tell(ev.SharesLearned(self.module, shares))

    def _say(self, life: int, event: ev.Event) -> None:
        if life == self.life:
            self.tell(event)

    # --- application and kernel --------------------------------------------------------------------------

    def _started(self, turn: int) -> None:
        if turn != self.turn:
            return
        if self.world.random.random() < self.application_bad:
            self.tell(ev.ApplicationFailed(self.module, "it ended at once"))
            return
        self.running = True
        self.stopping = False
        self.tell(ev.ApplicationStarted(self.module))
        self._soon(self._gets_ready, turn, most_s=1.0)

    def _gets_ready(self, turn: int) -> None:
        if turn == self.turn and self.running:
            self.ready = True
            self.tell(ev.ChecksPassed(self.module))

    def _stopped(self, turn: int) -> None:
        if turn == self.turn:
            self.stopping = False
            self._end_application()
            self.tell(ev.ApplicationStopped(self.module, True))

    def _end_application(self) -> None:
        self.running = self.ready = False
        self.cluster.clients.dies_with(self)

    def application_dies(self) -> None:
        if self.stopping:
            self._end_application()  # the end of the stop is told
        elif self.running:
            self.turn += 1
            self._end_application()
            self.tell(ev.ApplicationFailed(self.module, "it ended by itself"))

    def _steered(self, life: int, turn: int, order: do.Steer) -> None:
        if turn < self.steer_turn:
            return  # a newer order says more, or all was taken away
        if self.world.random.random() < self.steer_bad:
            self._say(life, ev.SteeringFailed(self.module, order.number, "another machine answers"))
            return
        self.cluster.steering(self, order)
        self.kernel = order
        self.cluster.kernel_changed()
        self._say(life, ev.Steered(self.module, order.number))

    def _say_connections(self, life: int) -> None:
        self._say(life, ev.ConnectionsCounted(self.module, self.cluster.clients.count(self)))
