"""What a node has to be told of who had the buckets: before it joins, and before two sides become one.

It may come to stand on the way of connections that are older than what it saw itself.
"""

from __future__ import annotations

from typing import Final

from orchestrator.farm import history
from orchestrator.farm.history import Former
from orchestrator.farm.state import Farm
from orchestrator.farm.turn import Turn
from orchestrator.farm.view import Member, View
from orchestrator.model.effects import AskShares
from orchestrator.model.names import NodeName
from orchestrator.model.report import Shares

ANSWER_S: Final = 2.0
"""An agent answers from memory, within milliseconds; a cluster that is full within a second."""
AGAIN_S: Final = 0.5
"""Two that go by other views for a moment do not an instant later."""
ASKS_MAX: Final = 5
"""Then it goes on with what it saw itself: some connections that are older may be reset, no others."""


def known(farm: Farm) -> Shares | None:
    """What another node may learn here; None: this one does not know either."""
    if not farm.settled or not farm.taught:
        return None
    members = tuple((member.name, member.percent, member.live) for member in farm.committed.members)
    return Shares(farm.rules.digest, members, farm.former)


def meet(turn: Turn, other: View) -> None:
    """Of the other side of a split that is over nothing was seen but who owns each bucket now."""
    turn.set(meeting=other, asks=0, ask_at=turn.now)


def ask(turn: Turn) -> None:
    """One after another of those who know it, until one answers."""
    farm = turn.farm
    if not farm.settled or (farm.taught and farm.meeting is None):
        if farm.ask_at is not None:
            turn.set(ask_at=None)  # who was to be met is gone again
        return
    if farm.ask_at is not None and not turn.is_due(farm.ask_at):
        return
    others = _who_knows(farm)
    if not others or farm.asks >= ASKS_MAX:
        if others:
            turn.tell("HF6033", f"{', '.join(others)} did not say who had the buckets before")
        if farm.taught:
            turn.set(told_of=farm.meeting, theirs=())
        turn.set(taught=True, meeting=None, ask_at=None)
        return
    turn.set(asks=farm.asks + 1, ask_at=turn.later(ANSWER_S))
    turn.do(AskShares(farm.module, others[farm.asks % len(others)]))


def _who_knows(farm: Farm) -> list[NodeName]:
    side = farm.meeting.names if farm.taught and farm.meeting is not None else frozenset(farm.nodes)
    return sorted(name for name, peer in farm.peers.items() if name in side and peer.serves)


def learned(turn: Turn, shares: Shares | None) -> None:
    """What another one said. It counts where that goes by the view that was asked for."""
    farm = turn.farm
    if not farm.settled or (farm.taught and farm.meeting is None):
        return
    wanted = farm.meeting if farm.taught else farm.committed
    if shares is None or not _fits(farm, shares, wanted):
        turn.set(ask_at=turn.later(AGAIN_S))
        return
    # What this node had in a former life is gone, and so is what others had that serve no more.
    gone = _names(shares.former) - (farm.serving - (frozenset() if farm.taught else {farm.me}))
    told = history.without(shares.former, gone)
    # A change that is being prepared is begun anew, with what is known now.
    if farm.taught:
        turn.set(told_of=farm.meeting, theirs=told, ask_at=None)
    else:
        turn.set(former=told, taught=True, ask_at=None)
    turn.set(coming=(), preparing=None, prepare_until=None, meeting=None)


def _fits(farm: Farm, shares: Shares, wanted: View | None) -> bool:
    view = View(tuple(Member(*member) for member in shares.members))
    whole = not shares.former or len(shares.former) == len(farm.rules.groups)
    return shares.config == farm.rules.digest and view == wanted and whole


def _names(former: Former) -> frozenset[NodeName]:
    return frozenset(name for group in former for names in group.values() for name in names)
