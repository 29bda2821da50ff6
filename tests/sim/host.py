"""One node: what survives on its disk, its processes, and hands that carry out exactly what effects say."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.heart import Heart
from orchestrator.mirror.serving import PROMOTED_OFFLINE
from orchestrator.model.effects import (
    AdmitReign,
    AdoptCopy,
    Announce,
    Answer,
    Bid,
    ClaimAddresses,
    CloseGate,
    CompareInFull,
    Effect,
    Follow,
    Lease,
    Mute,
    ReadRegister,
    ReleaseAddresses,
    StartApplication,
    StartReplicator,
    StopApplication,
    StopReplicator,
    StoreModule,
    TakeReign,
    Tell,
    Unmute,
    WidenRequired,
)
from orchestrator.model.events import (
    AddressesClaimed,
    AddressesRefused,
    ApplicationFailed,
    ApplicationStarted,
    ApplicationStopped,
    BidAnswered,
    EffectFailed,
    Event,
    LinkLost,
    LinkRestored,
    ModuleLoaded,
    PeerAlive,
    PeerLeft,
    PeerLost,
    PeerSaid,
    PeerSuspected,
    RegisterAnswered,
    RegisterSilent,
    ReplicatorLost,
    ReplicatorStopped,
    ReplicatorUp,
    StreamUp,
    TimePassed,
    VolumeFailed,
)
from orchestrator.model.names import Epoch, Instant, ModuleName, NodeName, Nonce, PathName
from orchestrator.model.record import Outcome, Record
from orchestrator.node import Node
from tests.sim.replica import Keeper, Volume
from tests.sim.world import TwoHistories, Violation

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

LAN = PathName("lan")
INTERFACE = "clients"
BACKLOG_MAX = 400
"""Messages that wait for a frozen node, as its socket buffers would hold; what is more is lost."""


class Host:
    """One machine of the simulated cluster."""

    def __init__(self, cluster: Cluster, name: NodeName, module: ModuleName) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.ghost = cluster.ghost
        self.timings = cluster.timings
        self.name = name
        self.module = module
        self.rate = 1.0
        self.rated_at = 0.0
        self.rated = 1000.0
        # On disk.
        self.stored: tuple[Epoch, bool] = (Epoch(0), False)
        self.volume = Volume([other for other in cluster.names if other != name])
        # The machine.
        self.boot = 0
        self.powered = False
        self.frozen = False
        self.backlog: deque[tuple[bool, Callable[..., None], tuple[Any, ...]]] = deque()
        self.disk_bad = False
        self.disk_slow_s = 0.0
        self.store_bad = False
        self.link_down = False
        # Its processes.
        self.node: Node | None = None
        self.agent_life = 0
        self.agent_frozen = False
        self.inbox: list[Event] = []
        self.unsound_until = 0.0
        """Until when this machine or its agent was dead or frozen: it could not end what runs here."""
        self.bids: list[Record] = []
        """What this life of the gate has bid: any of them may land as long as its tag stands."""
        self.decisions: deque[deque[Effect]] = deque()
        self.working = False
        self.crash_in: int | None = None
        """After so many more effects the agent is killed, or the power fails."""
        self.crash_power = False
        self.wake_at: float | None = None
        self.heart: Heart | None = None
        self.heart_life = 0
        self.heart_due = 0.0
        self.keeper: Keeper | None = None
        self.launching = False
        self.application = False
        self.mount: Nonce | None = None
        """The life of the gate on whose mount the application runs."""
        self.application_turn = 0
        self.application_bad = 0.0
        self.address_bad = 0.0
        self.claimed = False
        self.claim_turn = 0
        self.lease_left = 0.0
        """What a pulse that died has left in the kernel, until its time is over."""
        self.role = "STOP"

    # --- clocks -------------------------------------------------------------------------------------------

    def heart_now(self) -> float:
        """The clock without the stretches that were jumped over."""
        return self.rated + (self.world.at - self.rated_at) * self.rate

    def now(self) -> Instant:
        """This node's boot-time clock."""
        return Instant(self.heart_now() + self.world.skipped)

    def set_rate(self, rate: float) -> None:
        self.rated, self.rated_at, self.rate = self.heart_now(), self.world.at, rate
        self._wake_later()

    # --- power --------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        assert not self.powered
        self.powered = True
        self.start_pulse()
        self.world.after(0.2 + self.world.random.random(), self, self.start_agent)

    def power_off(self) -> None:
        """A power cut: every process, every unsynced byte; any subset of it may have reached the disk."""
        self.boot += 1
        self.kill_agent()
        self.heart = None
        self.heart_life += 1
        if self.keeper is not None:
            self.keeper.alive = False
            self.keeper.open = False
            self.keeper = None
        self.powered = self.frozen = self.agent_frozen = self.launching = False
        self.backlog.clear()
        self.volume.lose_power(self.world.random)
        self.application = self.claimed = False
        self.application_turn += 1
        self.claim_turn += 1
        self.cluster.unplugged(self)

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        """Everything that was due meanwhile happens now, late."""
        self.frozen = False
        self.unsound_until = self.world.at
        backlog, self.backlog = self.backlog, deque()
        while len(backlog) > BACKLOG_MAX:
            backlog.popleft()
        if self.heart is not None:
            self._pump(advance=True)
        for beat, do, args in backlog:
            self.world.after(0.0, self, do, *args, beat=beat)
        self.resume_agent()

    # --- the pulse ----------------------------------------------------------------------------------------

    def start_pulse(self) -> None:
        world = self.world
        self.heart_life += 1
        peers = {name: (LAN,) for name in self.cluster.names if name != self.name}
        boot = f"{world.random.getrandbits(128):032x}"
        self.heart = Heart(self.name, peers, self.timings, boot, Instant(self.heart_now()))
        self.cluster.adjust(self.heart)
        if self.node is not None:
            # The agent connects again and says again what it had said.
            self._tell_pulse()
        world.disturb()
        self._pump(advance=True)

    def kill_pulse(self) -> None:
        if self.heart is not None:
            self.lease_left = self.heart.lease_deadlines().get(self.module, 0.0)
        self.heart = None
        self.heart_life += 1
        self.world.disturb()

    def _tell_pulse(self) -> None:
        assert self.heart is not None
        assert self.node is not None
        self.heart.agent_present(Instant(self.heart_now()), True)
        mirror = self.node.mirrors[self.module]
        if mirror.announced is not None:
            self.heart.announce(self.module, mirror.announced)
        if mirror.muted:
            self.heart.mute(self.module)
        if mirror.held is not None and mirror.leased is not None:
            self.heart.lease(self.module, mirror.held.epoch, mirror.leased)

    def _pump(self, advance: bool = False) -> None:
        heart = self.heart
        if heart is None:
            return
        if advance:
            heart.advance(Instant(self.heart_now()))
        for peer, path, beat in heart.beats_to_send():
            other = self.cluster.hosts[peer]
            self.world.send(self.name, peer, other, other.hear, self.name, path, beat, beat=True)
        events = heart.events_received()
        for event in events:
            if not isinstance(event, PeerSaid):
                self.world.disturb()
            self.tell(event)
        if self.heart is not heart:
            return  # What the agent did with the news ended in a power cut.
        if not events and not advance:
            return  # A beat that changes no verdict only puts deadlines off.
        due = heart.next_deadline()
        if due < self.heart_due or advance:
            self.heart_due = due
            delay_s = max(0.0, (due - self.heart_now()) / self.rate) + 1e-9
            self.world.after(delay_s, self, self._beat, self.heart_life, due, beat=True)
        self.cluster.one_answers()

    def _beat(self, life: int, due: float) -> None:
        if life == self.heart_life and due == self.heart_due:
            self._pump(advance=True)

    def hear(self, peer: NodeName, path: PathName, beat: Any) -> None:
        if self.heart is not None:
            self.heart.receive(Instant(self.heart_now()), peer, path, beat)
            self._pump()

    def answers(self) -> bool:
        """This node answers for the address: it is here, and the lease runs."""
        if not self.claimed:
            return False
        until = self.lease_left
        if self.heart is not None:
            until = max(until, self.heart.lease_deadlines().get(self.module, 0.0))
        return until > self.heart_now()

    # --- the agent ----------------------------------------------------------------------------------------

    def start_agent(self) -> None:
        """From what the disk says, and from what the processes that live on say."""
        if self.node is not None:
            return
        self.world.disturb()
        self.unsound_until = self.world.at
        self.agent_life += 1
        self.node = Node.create(self.name, self.cluster.config, self.timings)
        if self.keeper is None:
            # What stood on a gate that died while nobody looked ends with it.
            self.application = self.claimed = False
            self.application_turn += 1
            if self.heart is not None:
                self.heart.end_lease(self.module)
        self.tell(ModuleLoaded(self.module, *self.stored))
        if self.heart is not None:
            self.heart.agent_present(Instant(self.heart_now()), True)
            self._pulse_status(self.heart)
        if self.keeper is not None:
            self._replicator_status(self.keeper)
        if self.link_down:
            self.tell(LinkLost(self.module, INTERFACE))

    def carrier(self, present: bool) -> None:
        """The cable of the clients' network is pulled out, or put back."""
        self.link_down = not present
        kind = LinkRestored if present else LinkLost
        self.tell(kind(self.module, INTERFACE))

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

    def _replicator_status(self, keeper: Keeper) -> None:
        self.tell(
            ReplicatorUp(
                self.module,
                keeper.life,
                keeper.record,
                keeper.required,
                keeper.open,
                keeper.following,
                self.application,
                self.claimed,
            )
        )
        if keeper.failed:
            self.tell(VolumeFailed(self.module, keeper.failed))
        for name in keeper.sessions:
            self.tell(StreamUp(self.module, NodeName(name)))
        if keeper.incoming is not None:
            self.tell(StreamUp(self.module, keeper.incoming.source.host.name))
            if keeper.offered is not None:
                keeper.offer(keeper.offered)
        keeper.tell_ready()
        keeper.watch_members()

    def kill_agent(self) -> None:
        """Every intention is forgotten; what was begun beside it goes on."""
        self.node = None
        self.agent_life += 1
        self.decisions.clear()
        self.inbox.clear()
        self.working = False
        self.crash_in = None
        self.wake_at = None
        self.launching = False
        self.agent_frozen = False
        if self.heart is not None:
            self.heart.agent_present(Instant(self.heart_now()), False)
        self.world.disturb()

    def tell(self, event: Event) -> None:
        """The agent learns an event; what follows is done in order."""
        if self.node is None:
            return
        if self.agent_frozen or self.frozen:
            self.inbox.append(event)
            return
        decision = self.node.step(self.now(), event)
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
        self._wake_later()
        if not self.working:
            self._work(self.agent_life)

    def resume_agent(self) -> None:
        self.agent_frozen = False
        self.unsound_until = self.world.at
        if self.frozen:
            return
        inbox, self.inbox = self.inbox, []
        for event in inbox:
            self.tell(event)
        self._work(self.agent_life)
        self._wake_later()

    def _wake_later(self) -> None:
        node = self.node
        if node is None:
            return
        due = node.deadline()
        if due == self.wake_at:
            return
        self.wake_at = due
        if due is None:
            return
        delay_s = max(0.0, (due - self.now()) / self.rate) + 1e-9
        self.world.much_later(delay_s, self, self._wake, self.agent_life, due)

    def _wake(self, life: int, due: float) -> None:
        if life != self.agent_life or self.wake_at != due or self.node is None:
            return
        if self.now() < due:
            self.wake_at = None
            self._wake_later()
            return
        self.wake_at = None
        self.tell(TimePassed())

    # --- the hands ----------------------------------------------------------------------------------------

    def _work(self, life: int) -> None:
        """Effects one after another; killed between any two, now and then slow."""
        if life != self.agent_life or self.agent_frozen:
            self.working = False
            return
        self.working = True
        while self.decisions and life == self.agent_life:
            effects = self.decisions[0]
            if not effects:
                self.decisions.popleft()
                continue
            effect = effects.popleft()
            if self.crash_in is not None and not isinstance(effect, Tell | Announce):
                self.crash_in -= 1
                if self.crash_in <= 0:
                    self.cluster.crashed_between_effects(self)
                    return
            if not self._do(effect):
                words = [effect for effect in effects if isinstance(effect, Announce | Answer | Tell)]
                effects.clear()
                effects.extend(words)
                self.tell(EffectFailed(self.module, type(effect).__name__, "refused by the simulated world"))
            elif self.world.jitter and isinstance(effect, StoreModule | WidenRequired | CloseGate):
                # Files and sockets take their time; other events are learned meanwhile.
                self.world.after(0.02 * self.world.random.random(), self, self._work, life)
                return
        if life == self.agent_life:
            self.working = False

    def _do(self, effect: Effect) -> bool:
        """Carry out one effect; False: it failed."""
        keeper = self.keeper
        if self.world.log is not None and not isinstance(effect, Announce):
            self.world.say(f"{self.name} does {brief(effect)}")
        match effect:
            case Tell(_, code):
                self.world.counts["told " + code] += 1
            case Announce(_, state):
                if self.heart is not None:
                    self.heart.announce(self.module, state)
            case Answer(request, code):
                self.cluster.answered(request, code)
            case StoreModule(_, epoch, wanted):
                return self._store(epoch, wanted)
            case ReadRegister():
                self._ask(None, self._read_answered, self._read_timed_out)
            case Bid(_, expected, record):
                self.world.counts["bid " + record.reason] += 1
                self._may_land(record)
                self._ask((expected, record), self._bid_answered, self._bid_timed_out, record)
            case StartReplicator():
                self._start_replicator()
            case StopReplicator():
                self.world.after(0.05, self, self._replicator_stopped, keeper)
            case WidenRequired(_, members):
                return keeper is not None and keeper.widen(members)
            case TakeReign() | CloseGate() | Follow() | AdmitReign() | AdoptCopy() | CompareInFull():
                return self._do_with_gate(effect)
            case _:
                self._do_with_pulse_or_application(effect)
        return True

    def _may_land(self, bid: Record) -> None:
        """R1: whoever a bid names is required before it leaves."""
        self.bids.append(bid)
        keeper = self.keeper
        if keeper is not None and keeper.open and not bid.in_sync <= keeper.required:
            raise Violation(f"{self.name} bids {sorted(bid.in_sync)} and requires {sorted(keeper.required)}")

    def _do_with_gate(self, effect: Effect) -> bool:
        keeper = self.keeper
        if keeper is None:
            # A gate that is gone is closed.
            return isinstance(effect, CloseGate)
        match effect:
            case TakeReign(_, record):
                if record.reason == PROMOTED_OFFLINE:
                    raise TwoHistories
                keeper.take(record)
            case CloseGate(_, drain):
                keeper.close(drain)
            case Follow(_, record):
                keeper.follow(record)
            case AdmitReign(_, record):
                keeper.admit(record)
            case _:
                pass  # Copies of unknown history are not modelled: every baseline fits.
        return True

    def _do_with_pulse_or_application(self, effect: Effect) -> None:
        heart = self.heart
        match effect:
            case Lease(_, epoch, members):
                if heart is not None:
                    heart.lease(self.module, epoch, members)
            case Mute():
                if heart is not None:
                    heart.mute(self.module)
            case Unmute():
                if heart is not None:
                    heart.unmute(self.module)
            case ClaimAddresses():
                self.claim_turn += 1
                self.world.after(0.02, self, self._claimed, self.claim_turn)
            case ReleaseAddresses():
                self.claim_turn += 1
                self.claimed = False
                self.lease_left = 0.0
                if heart is not None:
                    heart.end_lease(self.module)
            case StartApplication():
                self.application_turn += 1
                self.world.after(0.3, self, self._started, self.application_turn)
            case StopApplication(_, force):
                self._stop_application(force)
            case _:
                raise AssertionError(f"no hand knows {effect}")

    def _store(self, epoch: Epoch, wanted: bool) -> bool:
        if self.store_bad:
            self.world.counts["store refused"] += 1
            return False
        if epoch < self.stored[0]:
            raise Violation(f"{self.name} stores epoch {epoch} after {self.stored[0]}")
        self.stored = (epoch, wanted)
        return True

    def before_use(self, record: Record, did: str) -> None:
        """R4: an epoch is durable before it is used."""
        if self.stored[0] < record.epoch:
            raise Violation(f"{self.name} {did} under epoch {record.epoch} with {self.stored[0]} on disk")

    # --- the register, as seen from here ------------------------------------------------------------------

    def _ask(
        self, bid: tuple[Record | None, Record] | None, answered: Any, timed_out: Any, *context: Any
    ) -> None:
        """One question; either its answer or the time-out counts, whichever comes first."""
        open_ = [True]
        life = self.agent_life

        def answer(*said: Any) -> None:
            if open_[0] and self.agent_life == life and self.powered:
                open_[0] = False
                if self.frozen:
                    self.backlog.append((False, answered, (*context, *said)))
                else:
                    answered(*context, *said)

        def silent() -> None:
            if open_[0] and self.agent_life == life:
                open_[0] = False
                timed_out(*context)

        self.cluster.register.ask(self.name, answer, *(bid or ()))
        self.world.much_later(self.timings.register_timeout_s / self.rate, self, silent)

    def _read_answered(self, record: Record | None) -> None:
        self.tell(RegisterAnswered(self.module, record))

    def _read_timed_out(self) -> None:
        self.tell(RegisterSilent(self.module))

    def _bid_answered(self, bid: Record, outcome: Outcome, current: Record | None) -> None:
        self.tell(BidAnswered(self.module, bid, outcome, current))

    def _bid_timed_out(self, bid: Record) -> None:
        self.world.counts["bid without an answer"] += 1
        self.tell(BidAnswered(self.module, bid, Outcome.UNKNOWN))

    # --- replicator, addresses, application ---------------------------------------------------------------

    def _start_replicator(self) -> None:
        if not self.launching:
            self.launching = True
            self.world.after(0.1 + 0.2 * self.world.random.random(), self, self._launched, self.agent_life)

    def _launched(self, life: int) -> None:
        if life != self.agent_life:
            return
        self.launching = False
        if self.keeper is None:
            if self.disk_bad:
                self.tell(ReplicatorLost(self.module, "the volume cannot be mounted"))
                return
            self.keeper = Keeper(self, self.new_life())
            self.bids = []
        self._replicator_status(self.keeper)

    def new_life(self) -> Nonce:
        """R5: each life of a gate has a nonce of its own."""
        return Nonce(f"{self.world.random.getrandbits(128):032x}")

    def _replicator_stopped(self, keeper: Keeper | None) -> None:
        if keeper is not None and self.keeper is keeper:
            failed = keeper.failed
            self.kill_keeper(tell=False)
            if failed:
                self.volume.forget()
        self.tell(ReplicatorStopped(self.module))

    def kill_keeper(self, tell: bool = True) -> None:
        """The gate's life ends."""
        if self.keeper is not None:
            keeper, self.keeper = self.keeper, None
            keeper.die()
            self.world.disturb()
            if tell:
                self.tell(ReplicatorLost(self.module, "killed"))

    def replicator_back(self, keeper: Keeper) -> None:
        """A new replicator beneath the same gate: it is found as it stands."""
        if self.keeper is keeper:
            self._replicator_status(keeper)
            for other in self.volume.logs:
                keeper.redial(other)

    def _claimed(self, turn: int) -> None:
        if turn != self.claim_turn:
            return
        if self.world.random.random() < self.address_bad:
            self.tell(AddressesRefused(self.module, "another machine has it"))
            return
        self.claimed = True
        self.cluster.one_answers()
        self.tell(AddressesClaimed(self.module))

    def _started(self, turn: int) -> None:
        if turn != self.application_turn:
            return
        if self.keeper is None or self.world.random.random() < self.application_bad:
            self.tell(ApplicationFailed(self.module, "it ended at once"))
            return
        self.application = True
        self.mount = self.keeper.life
        self.cluster.started(self)
        self.tell(ApplicationStarted(self.module))

    def _stop_application(self, force: bool) -> None:
        self.application_turn += 1
        if force or not self.application:
            was, self.application = self.application, False
            self.tell(ApplicationStopped(self.module, clean=not was))
            return
        self.world.after(0.3 * self.world.random.random(), self, self._stopped, self.application_turn)

    def _stopped(self, turn: int) -> None:
        if turn == self.application_turn and self.application:
            self.application = False
            self.tell(ApplicationStopped(self.module, clean=True))

    def application_dies(self) -> None:
        if self.application:
            self.application = False
            self.application_turn += 1
            self.tell(ApplicationFailed(self.module, "it ended by itself"))


def brief(what: object) -> str:
    """An event or effect in a line that a person can read."""
    return re.sub(
        r"Record\(.*?epoch=(\d+), primary='(\w+)', in_sync=frozenset\((.*?)\),.*?nonce='(....)"
        r".*?reason='(.*?)'\)",
        r"[\1 \2 \3 \4 \5]",
        repr(what),
    )
