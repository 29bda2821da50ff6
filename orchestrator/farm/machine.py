"""The farm's machine: what one node does about one farm when it learns one event.

The roles and the moves between them are in `state.MOVES`; who is there in `members`; how the traffic is
shared out among them, and how that changes, in `sharing`; what a node that joins has to know of it in
`learning`; the application and its traffic in `serving`; the operator's orders in `asked`. No node decides
for others: those who see the same nodes do the same.
"""

from __future__ import annotations

from types import MappingProxyType

from orchestrator.cluster.application import Budget
from orchestrator.farm import asked, learning, members, serving, sharing
from orchestrator.farm.state import Farm, Peer, Reach, Stage
from orchestrator.farm.turn import Turn
from orchestrator.farm.view import Rules
from orchestrator.model.config import ClusterConfig, FarmConfig
from orchestrator.model.decision import Decision
from orchestrator.model.effects import Announce
from orchestrator.model.events import (
    ApplicationFailed,
    ApplicationStarted,
    ApplicationStopped,
    CheckFailed,
    ChecksPassed,
    ConnectionsCounted,
    EffectFailed,
    Event,
    FarmLoaded,
    LinkLost,
    LinkRestored,
    OperatorAsked,
    Paused,
    PeerAlive,
    PeerLeft,
    PeerLost,
    PeerSaid,
    PeerSuspected,
    SharesLearned,
    Steered,
    SteeringFailed,
    TimePassed,
)
from orchestrator.model.names import Instant, NodeName
from orchestrator.model.report import FarmRole, FarmState
from orchestrator.model.timings import Timings


def create(me: NodeName, config: ClusterConfig, module: FarmConfig, timings: Timings) -> Farm:
    """A farm of which nothing is known yet; `FarmLoaded` brings what the disk says."""
    return Farm(
        me=me,
        module=module.name,
        nodes=module.nodes,
        timings=timings,
        budget=Budget(module.restarts_max, module.restarts_window_s),
        rules=Rules.of(module),
        checked=bool(module.checks),
        drain_s=module.drain_s,
        peers=MappingProxyType({name: Peer() for name in module.nodes if name != me}),
    )


def step(farm: Farm, now: Instant, event: Event) -> Decision[Farm]:
    """Learn one event; say what follows."""
    turn = Turn(farm, now)
    before = _word(farm)
    _learn(turn, event)
    if turn.farm.loaded:
        members.forget_what_is_due(turn)
        learning.ask(turn)
        serving.go_on(turn)
        if _word(turn.farm) != before:
            turn.set(serial=turn.farm.serial + 1)
        sharing.advance(turn)
    said = turn.farm.state()
    # What runs on as a former agent left it is told by the pulse, until it is known how it goes on.
    if turn.farm.loaded and (turn.farm.settled or not turn.farm.open) and said != turn.farm.announced:
        turn.set(announced=said)
        # First: the others take over what is closed here while the rules here are still being taken away.
        turn.effects.insert(0, Announce(farm.module, said))
    return Decision(turn.farm, tuple(turn.effects))


def _word(farm: Farm) -> tuple[object, ...]:
    """What the others go by: each change of it has a serial of its own."""
    return farm.open, farm.takes, farm.percent


def _learn(turn: Turn, event: Event) -> None:
    """One event, to the rule that knows it."""
    match event:
        case TimePassed() | Paused():
            pass
        case PeerSaid(peer, states):
            state = states.get(turn.farm.module)
            members.said(turn, peer, state if isinstance(state, FarmState) else None)
        case PeerAlive(peer):
            members.reached(turn, peer, Reach.ALIVE)
        case PeerSuspected(peer):
            members.reached(turn, peer, Reach.SUSPECT)
        case PeerLost(peer):
            members.reached(turn, peer, Reach.LOST)
        case PeerLeft(peer):
            members.reached(turn, peer, Reach.LEFT)
        case FarmLoaded():
            _loaded(turn, event)
        case OperatorAsked(request, _, order):
            asked.asked(turn, request, order)
        case EffectFailed(_, effect, why):
            serving.failed(turn, effect, why)
        case _:
            _learn_from_the_hands(turn, event)


def _learn_from_the_hands(turn: Turn, event: Event) -> None:
    match event:
        case ApplicationStarted():
            serving.application_started(turn)
        case ChecksPassed():
            serving.checks_passed(turn)
        case ApplicationFailed(_, why):
            serving.application_failed(turn, why)
        case ApplicationStopped(_, clean):
            serving.application_stopped(turn, clean)
        case CheckFailed(_, check, action):
            serving.check_failed(turn, check, action)
        case Steered(_, number):
            serving.steered(turn, number)
        case SteeringFailed(_, _, why):
            serving.steering_failed(turn, why)
        case ConnectionsCounted(_, count):
            serving.connections_counted(turn, count)
        case SharesLearned(_, shares):
            learning.learned(turn, shares)
        case LinkLost(_, interface):
            serving.link_lost(turn, interface)
        case LinkRestored(_, interface):
            turn.set(links_down=turn.farm.links_down - {interface})
        case _:
            raise AssertionError(f"no rule knows {event}")


def _loaded(turn: Turn, event: FarmLoaded) -> None:
    farm = turn.farm
    # Three T and more: two nodes that start together find each other first.
    turn.set(
        loaded=True,
        wanted=event.wanted,
        percent=event.percent,
        serial=event.serial,
        settle_at=turn.later(farm.timings.start_grace_s),
    )
    if event.shares is not None and event.shares.config == farm.rules.digest:
        sharing.recall(turn, event.shares)
    if event.running:
        turn.become(FarmRole.WAIT)
        turn.become(FarmRole.UP)
        turn.set(stage=Stage.READY)
        if not event.wanted:
            serving.end(turn, "stop")
        elif event.draining:
            serving.drain(turn, "stop", farm.drain_s)
    elif event.draining:
        turn.set(wanted=False)
