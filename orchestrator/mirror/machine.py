"""The mirror's machine: what one node does about one mirror when it learns one event.

The roles and the moves between them are in `state.MOVES`; the record's rules in `bids`; the way to serving
and back in `serving`; waiting, following and taking over in `following`; the operator's orders in `asked`.
`step` learns the event, then looks at the whole once more: whatever is due now follows from the facts, so
that a lost answer or a restart of the agent needs no path of its own.
"""

from __future__ import annotations

from types import MappingProxyType

from orchestrator.cluster.application import Budget
from orchestrator.mirror import asked, bids, following, serving
from orchestrator.mirror.frames import REASONS
from orchestrator.mirror.state import Mirror, Peer, Reach, Register, Stage
from orchestrator.mirror.turn import Turn
from orchestrator.model.config import ClusterConfig, MirrorConfig
from orchestrator.model.decision import Decision
from orchestrator.model.effects import Announce, CloseGate, ReadRegister, ReleaseAddresses, StopApplication
from orchestrator.model.events import (
    AddressesClaimed,
    AddressesRefused,
    ApplicationFailed,
    ApplicationStarted,
    ApplicationStopped,
    BidAnswered,
    CheckFailed,
    EffectFailed,
    Event,
    GateClosed,
    HandshakeRefused,
    LinkLost,
    LinkRestored,
    MemberLost,
    MemberReady,
    ModuleLoaded,
    ModuleStored,
    OperatorAsked,
    Paused,
    PeerAlive,
    PeerLeft,
    PeerLost,
    PeerSaid,
    PeerSuspected,
    RegisterAnswered,
    RegisterSilent,
    ReignOffered,
    ReignTaken,
    ReplicatorLost,
    ReplicatorStopped,
    ReplicatorUp,
    SetAside,
    StreamDown,
    StreamUp,
    TimePassed,
    VolumeFailed,
)
from orchestrator.model.names import NEVER, Instant, NodeName
from orchestrator.model.report import ModuleState, Role
from orchestrator.model.timings import Timings


def create(me: NodeName, config: ClusterConfig, module: MirrorConfig, timings: Timings) -> Mirror:
    """A mirror of which nothing is known yet; `ModuleLoaded` brings what the disk says."""
    others = [name for name in module.nodes if name != me]
    return Mirror(
        me=me,
        cluster=config.name,
        module=module.name,
        nodes=module.nodes,
        timings=timings,
        budget=Budget(module.restarts_max, module.restarts_window_s),
        revision=config.revision,
        on_register_loss=module.on_register_loss,
        on_link_loss=module.on_link_loss,
        overlap=module.overlap,
        ack=module.ack,
        peers=MappingProxyType({name: Peer() for name in others}),
    )


def step(mirror: Mirror, now: Instant, event: Event) -> Decision[Mirror]:
    """Learn one event; say what follows."""
    turn = Turn(mirror, now)
    _learn(turn, event)
    _consider(turn)
    said = turn.mirror.state()
    if said != turn.mirror.announced and turn.mirror.loaded:
        turn.set(announced=said)
        turn.do(Announce(mirror.module, said))
    return Decision(turn.mirror, tuple(turn.effects))


def _consider(turn: Turn) -> None:
    """What follows from the facts as they are now."""
    if not turn.mirror.loaded:
        return
    _forget_what_is_due(turn)
    asked.give_up_promotion(turn)
    _obey_the_record(turn)
    asked.departure_answered(turn)
    _hold_or_stop(turn)
    serving.due(turn)
    serving.leave_dead_link(turn)
    serving.keep_handing(turn)
    serving.open_what_was_shut(turn)
    bids.keep_set(turn)
    serving.watch_register(turn)
    following.leave_unwanted(turn)
    following.launch(turn)
    following.wait_or_take(turn)
    following.settle(turn)


def _forget_what_is_due(turn: Turn) -> None:
    mirror = turn.mirror
    if mirror.follow_at is not None and mirror.follow_at <= turn.now:
        turn.set(follow_at=None)
    if mirror.remains and (mirror.retry_at is None or mirror.retry_at <= turn.now):
        _end_what_remains(turn)
    if not mirror.stored and not mirror.storing and (mirror.retry_at is None or mirror.retry_at <= turn.now):
        bids.store(turn)
        turn.set(storing=True)
    elif mirror.retry_at is not None and mirror.retry_at <= turn.now:
        turn.set(retry_at=None)
        if (mirror.bids and not mirror.bidding) or (mirror.held is None and mirror.primary_gone):
            bids.read(turn)


def _obey_the_record(turn: Turn) -> None:
    """A proved record of a higher epoch that is not ours ends our role, whatever we are doing."""
    mirror = turn.mirror
    held, record = mirror.held, mirror.record
    if held is not None and (replaced_by := _replaced_by(mirror)):
        serving.demote(turn, f"{replaced_by} tells that another node is primary under a higher epoch")
        following.hear(turn, replaced_by)
        return
    if held is None or record is None or not mirror.proved or record.epoch <= held.epoch:
        return
    if mirror.stage is Stage.HANDING and record.primary == mirror.heir:
        turn.tell("HF1107", f"{record.primary} is primary under epoch {record.epoch}")
        turn.set(abandoned=held.epoch)
        serving.close(turn)
    else:
        serving.demote(turn, f"{record.primary} is primary under epoch {record.epoch}")


def _replaced_by(mirror: Mirror) -> NodeName | None:
    """The register is silent, but a node knows a higher epoch with another primary; none else grants it."""
    assert mirror.held is not None
    if mirror.register is not Register.SILENT:
        return None
    for name, peer in mirror.peers.items():
        said = peer.said
        if (
            said is not None
            and not said.forced
            and said.epoch > mirror.held.epoch
            and said.primary not in (None, mirror.me)
        ):
            return name
    return None


def _hold_or_stop(turn: Turn) -> None:
    """Writes are held while a set cannot be changed: for ever by default, or until the application stops."""
    mirror = turn.mirror
    if mirror.held is None or mirror.bid_since is None or mirror.taking:
        return
    waited_s = turn.now - mirror.bid_since
    isolated = mirror.overlap == "none" and waited_s >= mirror.timings.detection_s
    tired = mirror.on_register_loss == "stop" and waited_s >= mirror.timings.ack_timeout_s
    if isolated or tired:
        serving.demote(turn, "no member answers and the register grants nothing")


def _learn(turn: Turn, event: Event) -> None:
    """One event, to the rule that knows it."""
    match event:
        case TimePassed():
            pass
        case PeerSaid(peer, states):
            state = states.get(turn.mirror.module)
            if peer in turn.mirror.peers and isinstance(state, ModuleState):
                following.peer_said(turn, peer, state)
        case PeerAlive(peer):
            _reached(turn, peer, Reach.ALIVE)
        case PeerSuspected(peer):
            _reached(turn, peer, Reach.SUSPECT)
        case PeerLost(peer):
            _reached(turn, peer, Reach.LOST)
        case PeerLeft(peer):
            _reached(turn, peer, Reach.LEFT)
        case Paused():
            if turn.mirror.held is not None:
                bids.read(turn)
        case ModuleLoaded(_, epoch, wanted):
            _loaded(turn, epoch, wanted)
        case ModuleStored():
            turn.set(stored=True, storing=False, retry_at=None)
        case RegisterAnswered(_, record):
            bids.register_answered(turn, record)
        case RegisterSilent():
            bids.register_silent(turn)
        case BidAnswered(_, bid, outcome, current):
            bids.bid_answered(turn, bid, outcome, current)
        case OperatorAsked(request, _, order):
            asked.asked(turn, request, order)
        case EffectFailed(_, effect, why):
            _effect_failed(turn, effect, why)
        case _:
            _learn_from_the_replicator(turn, event)


def _learn_from_the_replicator(turn: Turn, event: Event) -> None:
    match event:
        case ReplicatorUp():
            following.replicator_up(turn, event)
        case ReplicatorLost(_, why):
            following.replicator_lost(turn, why)
        case ReplicatorStopped():
            following.replicator_stopped(turn)
        case ReignTaken(_, record):
            serving.reign_taken(turn, record)
        case GateClosed(_, equal):
            serving.gate_closed(turn, equal)
        case ReignOffered(_, record):
            following.reign_offered(turn, record)
        case StreamUp(_, peer):
            turn.peer(peer, stream=True, broken=False)
        case StreamDown(_, peer, _):
            turn.peer(peer, stream=False, ready=None)
        case MemberLost(_, peer, why):
            turn.peer(peer, broken=True, ready=None)
            turn.tell("HF4003", f"{peer} is given up as a member: {why}")
        case MemberReady(_, peer, life):
            turn.peer(peer, ready=life, broken=False)
        case HandshakeRefused(_, peer, verdict, why):
            _tell_of_refusal(turn, peer, verdict, why)
        case SetAside(_, count):
            turn.set(aside=count)
        case VolumeFailed(_, why):
            serving.volume_failed(turn, why)
        case _:
            _learn_from_the_application(turn, event)


def _tell_of_refusal(turn: Turn, peer: NodeName, verdict: str, why: str) -> None:
    """Who may not talk to whom is another trouble than copies that do not fit."""
    if verdict in REASONS:
        turn.tell("HF4012", f"no replication with {peer or 'whoever dialled'} ({verdict}): {why}")
    else:
        turn.tell("HF4004", f"the copies here and on {peer} do not fit: {verdict}")


def _learn_from_the_application(turn: Turn, event: Event) -> None:
    match event:
        case AddressesClaimed():
            serving.addresses_claimed(turn)
        case AddressesRefused(_, why):
            serving.addresses_refused(turn, why)
        case ApplicationStarted():
            serving.application_started(turn)
        case ApplicationStopped(_, clean):
            serving.application_stopped(turn, clean)
        case ApplicationFailed(_, why):
            serving.application_failed(turn, why)
        case CheckFailed(_, check, action):
            serving.check_failed(turn, check, action)
        case LinkLost(_, interface):
            serving.link_lost(turn, interface)
        case LinkRestored(_, interface):
            turn.set(links_down=turn.mirror.links_down - {interface})
        case _:
            raise AssertionError(f"no rule knows {event}")


def _loaded(turn: Turn, epoch: int, wanted: bool) -> None:
    turn.set(loaded=True, epoch=epoch, wanted=wanted)
    if wanted:
        turn.become(Role.WAIT)


def _reached(turn: Turn, peer: NodeName, reach: Reach) -> None:
    if peer not in turn.mirror.peers:
        return
    turn.peer(peer, reach=reach)
    mirror = turn.mirror
    if reach is Reach.LOST and mirror.record is not None and mirror.register is Register.UNKNOWN:
        bids.read(turn)
    elif mirror.held is None and not mirror.member and mirror.primary_gone:
        # What it did last, to take this node in perhaps, may never have been heard here.
        bids.read(turn)


def _effect_failed(turn: Turn, effect: str, why: str) -> None:
    """What could not be done, and what depended on it was not tried."""
    mirror = turn.mirror
    soon = turn.at_the_latest(mirror.timings.retry_s)
    turn.tell("HF1002" if effect == "StoreModule" else "HF1114", f"{effect} failed: {why}")
    turn.set(storing=False)  # perhaps dropped behind it
    match effect:
        case "CloseGate":
            _stop_without_the_gate(turn)
        case "StoreModule":
            turn.set(stored=False, retry_at=soon)
            _what_was_dropped(turn)
        case "WidenRequired" | "Lease" | "Mute" | "Unmute":
            turn.set(retry_at=soon, leased=None)
            if effect in ("Mute", "Unmute"):
                turn.set(muted=None)
            if effect == "WidenRequired":
                _not_widened(turn)
            _what_was_dropped(turn)
        case "Follow" | "AdmitReign":
            turn.set(following=None, follow_at=soon, retry_at=soon)
        case "StopApplication" | "ReleaseAddresses":
            turn.set(remains=True, retry_at=soon)
            _what_was_dropped(turn)
        case _:
            turn.set(retry_at=soon)


def _end_what_remains(turn: Turn) -> None:
    """What a former role left here ends, however often it has to be asked."""
    mirror = turn.mirror
    turn.set(remains=False)
    if mirror.held is None:
        turn.do(StopApplication(mirror.module, force=True), ReleaseAddresses(mirror.module))
    elif mirror.stage is Stage.ENDING:
        turn.do(ReleaseAddresses(mirror.module), StopApplication(mirror.module, force=False))


def _stop_without_the_gate(turn: Turn) -> None:
    """A gate that does not answer acknowledges nothing; what stands on it ends all the same."""
    module = turn.mirror.module
    if turn.mirror.held is None:
        turn.do(StopApplication(module, force=True), ReleaseAddresses(module))


def _not_widened(turn: Turn) -> None:
    """The gate refused the newcomers: the bid that names them, the only one under way, was never sent."""
    mirror = turn.mirror
    if not mirror.bidding or not mirror.widening or not mirror.bids:
        return
    unsent = mirror.bids[-1]
    turn.set(bids=mirror.bids[:-1], required=mirror.required - mirror.widening, widening=frozenset())
    for name in unsent.in_sync & mirror.widening:
        turn.peer(name, ready=None)
    if not turn.mirror.bids:
        turn.set(bid_since=None)


def _what_was_dropped(turn: Turn) -> None:
    """A bid or a reign behind the failed effect never left: it is decided anew."""
    mirror = turn.mirror
    if mirror.held is None and mirror.abandoned > NEVER and mirror.life is not None and not mirror.remains:
        # A role may have been given up behind what failed: it ends all the same.
        turn.do(
            CloseGate(mirror.module, drain=False),
            StopApplication(mirror.module, force=True),
            ReleaseAddresses(mirror.module),
        )
    if mirror.reading:
        # The question may be among what was dropped, and nobody else would ask; asked twice it costs nothing.
        turn.do(ReadRegister(mirror.module))
    # A bid may be out, or not: it stays among the unresolved ones, which is right for both.
    # What the pulse was to be told of the bid may be among what was dropped: it is said again.
    turn.set(bidding=False, halting=False, muted=None)
    if mirror.held is None:
        turn.set(following=None, follow_at=turn.at_the_latest(mirror.timings.retry_s))
    if mirror.life is None:
        turn.set(launched=False, again_at=turn.at_the_latest(mirror.timings.retry_s))
    if mirror.held is not None and mirror.taking:
        # Nothing was acknowledged under the new reign; the gate goes on holding until it is taken.
        serving.demote(turn, "this node's state cannot be made durable")
