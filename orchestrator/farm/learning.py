"""A node that joins learns from the others who had the buckets before it came: it may stand on the way."""

from __future__ import annotations

from typing import Final

from orchestrator.farm import history
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
"""Then it joins with what it saw itself: some connections that are older may be reset, no others."""


def known(farm: Farm) -> Shares | None:
    """What a node that joins may learn here; None: this one does not know either."""
    if not farm.settled or not farm.taught:
        return None
    members = tuple((member.name, member.percent, member.live) for member in farm.committed.members)
    return Shares(farm.rules.digest, members, farm.former)


def ask(turn: Turn) -> None:
    """One after another of those whose connections go on, until one answers."""
    farm = turn.farm
    if farm.taught or not farm.settled:
        return
    others = sorted(name for name, peer in farm.peers.items() if peer.serves)
    if farm.ask_at is not None and not turn.is_due(farm.ask_at):
        return
    if not others or farm.asks >= ASKS_MAX:
        if others:
            turn.tell("HF6033", f"{', '.join(others)} did not say who had the buckets before")
        turn.set(taught=True, ask_at=None)
        return
    turn.set(asks=farm.asks + 1, ask_at=turn.later(ANSWER_S))
    turn.do(AskShares(farm.module, others[farm.asks % len(others)]))


def learned(turn: Turn, shares: Shares | None) -> None:
    """What another one said. It counts where both go by the same view: then the history is the same."""
    farm = turn.farm
    if farm.taught or not farm.settled:
        return
    if shares is None or not _fits(farm, shares):
        turn.set(ask_at=turn.later(AGAIN_S))
        return
    # What this node had in a former life is gone too.
    gone = _names(shares) - (farm.serving - {farm.me})
    # A change that is being prepared is begun anew, with what is known now.
    turn.set(former=history.without(shares.former, gone), taught=True, ask_at=None)
    turn.set(preparing=None, prepare_until=None, coming=())


def _fits(farm: Farm, shares: Shares) -> bool:
    view = View(tuple(Member(*member) for member in shares.members))
    whole = not shares.former or len(shares.former) == len(farm.rules.groups)
    return shares.config == farm.rules.digest and view == farm.committed and whole


def _names(shares: Shares) -> frozenset[NodeName]:
    return frozenset(name for group in shares.former for names in group.values() for name in names)
