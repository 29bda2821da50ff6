"""Where the connections of moved buckets may still be: for each bucket the nodes that had it, newest first.

A packet of a connection that the owner does not know goes to the node that had the bucket before, from there
to the one before that, and so on. All nodes keep the same history, whoever owns the bucket: so when one of
the former owners leaves, its successor goes on with the one before; and as a packet only ever goes further
back, it goes in no circle; but for a moment while a bucket returns to one that had it, and there it is lost,
and sent again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from orchestrator.farm.buckets import Owners
from orchestrator.farm.view import moves
from orchestrator.model.names import NodeName

FORMER_MAX: Final = 6
"""Former owners of a bucket that are kept: few connections outlive six planned changes of their bucket."""

Former = tuple[Mapping[int, tuple[NodeName, ...]], ...]
"""Of each group: bucket to its former owners."""
Chances = Mapping[int, NodeName]
"""Bucket to the node that has the connections which this one does not know."""


def moved(former: Former, before: Sequence[Owners], after: Sequence[Owners]) -> Former:
    """The history after one more change."""
    found = [dict(group) for group in former or ({},) * len(after)]
    for group, bucket, source, target in moves(before, after):
        old = found[group].pop(bucket, ())
        new = (source, *old) if source is not None else old
        kept = tuple(dict.fromkeys(name for name in new if name != target))[:FORMER_MAX]
        if kept:
            found[group][bucket] = kept
    return tuple(found)


def joined(
    former: tuple[Former, Former],
    here: Sequence[Owners],
    there: Sequence[Owners],
    after: Sequence[Owners],
    first: bool,
) -> Former:
    """Two sides, each with all buckets, become one: the history of the first, behind it that of the other.

    `former`: this side's memory, and what the other side told of its own. Where it told nothing, a packet
    finds its way by who owns each bucket there, until that one is lost.
    """
    ours, theirs = (side or ({},) * len(after) for side in former)
    return tuple(_joined(*group, first) for group in zip(ours, theirs, here, there, after, strict=True))


def _joined(
    ours: Mapping[int, tuple[NodeName, ...]],
    theirs: Mapping[int, tuple[NodeName, ...]],
    here: Owners,
    there: Owners,
    now: Owners,
    first: bool,
) -> dict[int, tuple[NodeName, ...]]:
    found: dict[int, tuple[NodeName, ...]] = {}
    for bucket, (mine, its) in enumerate(zip(here, there, strict=True)):
        own, other = (mine, *ours.get(bucket, ())), (its, *theirs.get(bucket, ()))
        # Where a bucket stays, its owner's way goes on as it was, and at its end to the other side.
        stays = now[bucket] in (mine, its) and mine != its
        names = own + other if (now[bucket] == mine if stays else first) else other + own
        kept = tuple(dict.fromkeys(name for name in names if name is not None and name != now[bucket]))
        if kept:
            found[bucket] = kept[:FORMER_MAX]
    return found


def without(former: Former, lost: Collection[NodeName]) -> Former:
    """A lost node has no connections any more."""
    found: list[dict[int, tuple[NodeName, ...]]] = []
    for group in former:
        kept = {bucket: tuple(name for name in names if name not in lost) for bucket, names in group.items()}
        found.append({bucket: names for bucket, names in kept.items() if names})
    return tuple(found)


def asked_without(asked: tuple[Chances, ...], lost: Collection[NodeName]) -> tuple[Chances, ...]:
    """Nor does it know any."""
    return tuple({bucket: name for bucket, name in group.items() if name not in lost} for group in asked)


def chances(former: Former, owners: Sequence[Owners], me: NodeName) -> tuple[Chances, ...]:
    """Whom this node asks: as the owner the last, as a former one the one before; where others remember that
    it was one and it does not, the oldest."""
    found: list[dict[int, NodeName]] = []
    for group, now in zip(former, owners, strict=True):
        mine: dict[int, NodeName] = {}
        for bucket, names in group.items():
            if now[bucket] == me:
                mine[bucket] = names[0]
            elif me not in names:
                mine[bucket] = names[-1]
            elif names[-1] != me:
                mine[bucket] = names[names.index(me) + 1]
        found.append(mine)
    return tuple(found)


def lost(former: Former, groups: int, me: NodeName) -> tuple[frozenset[int], ...]:
    """Of each group the buckets that went from here while their connections stayed."""
    return tuple(
        frozenset(bucket for bucket, names in group.items() if me in names)
        for group in former or ({},) * groups
    )
