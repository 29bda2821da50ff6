"""Who is there: what the pulse says of the others, and what they say of themselves."""

from __future__ import annotations

from typing import Final

from orchestrator.farm.state import Peer, Reach
from orchestrator.farm.turn import Turn
from orchestrator.model.names import Instant, NodeName
from orchestrator.model.report import FarmState

FLAPS_WINDOW_S: Final = 120.0
"""Losses within it count together: twice the longest wait, so that a node which goes on flapping waits on."""
HOLD_MAX_S: Final = 60.0
"""The longest wait: a node that is well again is of use within a minute."""
LOSSES_KEPT: Final = 8
"""With detection times of 0.2 s and more the longest wait is reached by then."""


def reached(turn: Turn, name: NodeName, reach: Reach) -> None:
    """A verdict of the pulse."""
    peer = turn.farm.peers.get(name)
    if peer is None:
        return
    turn.peer(name, reach=reach, deaf_at=None, deaf=False)
    match reach:
        case Reach.ALIVE:
            turn.peer(name, silent_at=None)
            if peer.out and peer.held_until is None:
                _come_back(turn, name)
        case Reach.SUSPECT:
            # It may hear us no more while we hear it: then it has us for lost, and we must not count on it.
            times = turn.farm.timings
            turn.peer(name, silent_at=turn.later(times.detection_s - times.suspect_s))
        case Reach.LOST:
            _lose(turn, name)
        case Reach.LEFT:
            turn.peer(name, out=True, silent_at=None, held_until=None)
        case Reach.UNKNOWN:
            raise AssertionError("the pulse never unlearns a peer")


def said(turn: Turn, name: NodeName, state: FarmState | None) -> None:
    """What a node says of its farm; None: its agent has said nothing in this life."""
    peer = turn.farm.peers.get(name)
    if peer is None:
        return
    if state is None:
        if peer.out:
            turn.peer(name, said=None)
        elif peer.silent_at is None:
            # Its pulse was started anew and its agent tells it everything in a moment; a machine that was
            # started anew has nothing to tell.
            turn.peer(name, silent_at=turn.later(turn.farm.timings.detection_s))
        return
    turn.peer(name, said=state, silent_at=None if peer.reach is Reach.ALIVE else peer.silent_at)
    differs = state.config != turn.farm.rules.digest
    if differs and (peer.said is None or peer.said.config != state.config):
        turn.tell(
            "HF6026", f"{name} has another configuration of this farm: it shares the traffic out otherwise"
        )


def forget_what_is_due(turn: Turn) -> None:
    """Suspects that stayed silent are lost, and those that were left out come in again."""
    for name, peer in turn.farm.peers.items():
        if turn.is_due(peer.silent_at):
            if peer.reach is Reach.ALIVE:
                turn.peer(name, said=None, silent_at=None)
            else:
                _lose(turn, name)
                # A dead one is out of reach within a period; this one is heard, if nothing more comes.
                turn.peer(name, deaf_at=turn.later(turn.farm.timings.suspect_s))
        if turn.is_due(peer.held_until):
            turn.peer(name, held_until=None, out=peer.reach is not Reach.ALIVE)
        if turn.is_due(peer.deaf_at):
            _is_deaf(turn, name)
    _go_on_beside_who_serves_no_more(turn)
    farm = turn.farm
    known = all(_is_known(peer) for peer in farm.peers.values())
    if not farm.settled and farm.loaded and (known or turn.is_due(farm.settle_at)):
        turn.set(settled=True, settle_at=None)
        if not farm.recalled:
            turn.set(committed=farm.taking)


def _is_deaf(turn: Turn, name: NodeName) -> None:
    before = turn.farm.takes
    turn.peer(name, deaf_at=None, deaf=True)
    if before and turn.farm.stands_back:
        turn.tell("HF6032", f"{name} does not hear this node, and serves its part: no new connections here")


def _go_on_beside_who_serves_no_more(turn: Turn) -> None:
    """A node stands back once: three of which each does not hear the next would give way for ever."""
    farm = turn.farm
    for name, peer in farm.peers.items():
        if peer.deaf and name not in farm.deaf:
            turn.peer(name, deaf=False)


def _is_known(peer: Peer) -> bool:
    gone = peer.reach in (Reach.LOST, Reach.LEFT)
    return gone or (peer.reach is not Reach.UNKNOWN and peer.said is not None)


def _lose(turn: Turn, name: NodeName) -> None:
    peer = turn.farm.peers[name]
    if peer.out and peer.held_until is None:
        turn.peer(name, silent_at=None)
        return
    turn.peer(name, out=True, silent_at=None, held_until=None, lost_at=(*_recent(turn, peer), turn.now))


def _come_back(turn: Turn, name: NodeName) -> None:
    """At once after one loss; after several it has to stay longer each time before it counts.

    It does the same with us, so that for so long each side serves alone, as while they could not hear each
    other: a network that comes and goes moves no buckets to and fro.
    """
    recent = _recent(turn, turn.farm.peers[name])
    if len(recent) < 2:
        turn.peer(name, out=False, lost_at=recent)
        return
    hold_s = min(HOLD_MAX_S, turn.farm.timings.detection_s * 2 ** len(recent))
    turn.peer(name, held_until=turn.later(hold_s), lost_at=recent)
    turn.tell(
        "HF6023",
        f"{name} was lost {len(recent)} times in {FLAPS_WINDOW_S:g} s: it counts again in {hold_s:g} s",
    )


def _recent(turn: Turn, peer: Peer) -> tuple[Instant, ...]:
    return tuple(at for at in peer.lost_at if turn.now - at < FLAPS_WINDOW_S)[-LOSSES_KEPT + 1 :]
