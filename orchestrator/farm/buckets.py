"""Who owns each of the 1,024 buckets: the same answer on every node that sees the same nodes.

Each bucket has an order of all the configured nodes in which it would go to them, and belongs to the first
that is live. So a lost node's buckets move, and no other; they return exactly; and in which order nodes came
and went means nothing. The orders are dealt so that whoever is lost leaves equal parts to all the others.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Final

from orchestrator.model.names import NODES_MAX, NodeName

BUCKETS: Final = 1024
"""With 256 a share is a matter of 0.4 %; four times as many make it 0.1 %, and reach the kernel in 3 ms."""

Weights = Mapping[NodeName, int]
Owners = tuple[NodeName | None, ...]
"""Of each bucket; None: nobody is there."""

NOBODY: Final[Owners] = (None,) * BUCKETS


def owners(salt: str, weights: Weights, live: Collection[NodeName]) -> Owners:
    """The map: `weights` of all configured nodes (0: none), `live` those that take traffic.

    `salt` is the same on all nodes; another one spreads another service otherwise.
    """
    chosen = tuple(sorted((name, weight) for name, weight in weights.items() if weight > 0))
    assert len(chosen) <= NODES_MAX
    here = frozenset(name for name, _ in chosen if name in live)
    if not here:
        return NOBODY
    return _owners(salt, chosen, here)


def in_chain(
    salt: str, weights: Weights, chain: Iterable[Collection[NodeName]], live: Collection[NodeName]
) -> Owners:
    """The same where groups follow one another: the next serves only while nobody of the earlier is live."""
    for group in chain:
        found = owners(salt, {name: weights[name] for name in group}, live)
        if found is not NOBODY:
            return found
    return NOBODY


@lru_cache(256)
def _owners(salt: str, chosen: tuple[tuple[NodeName, int], ...], live: frozenset[NodeName]) -> Owners:
    """Kept: a farm has few services, and asks for the map of now and that of soon, again and again."""
    if len(live) == 1:
        return tuple(live) * BUCKETS
    found: list[NodeName | None] = [None] * BUCKETS
    dealt = _base(salt, chosen)
    weights = dict(chosen)
    keys = {name: _keys(salt, name, weight) for name, weight in chosen}
    for name, buckets in dealt:
        _give(found, name, buckets, weights, keys, live)
    return tuple(found)


def _give(
    found: list[NodeName | None],
    name: NodeName,
    buckets: tuple[int, ...],
    weights: dict[NodeName, int],
    keys: Mapping[NodeName, tuple[float, ...]],
    live: frozenset[NodeName],
) -> None:
    """The buckets go to this node, or, where it is not live, each to the next in its order."""
    if name in live:
        for bucket in buckets:
            found[bucket] = name
        return
    if len(buckets) == 1:
        # A deal of one bucket is by lot alone, and so is the next: it ends at the first in its order.
        (bucket,) = buckets
        found[bucket] = min((keys[other][bucket], other) for other in weights.keys() & live)[1]
        return
    others = {other: weight for other, weight in weights.items() if other != name}
    for other, part in _deal(buckets, others, keys, exact=False):
        _give(found, other, part, others, keys, live)


@lru_cache(64)
def _base(
    salt: str, chosen: tuple[tuple[NodeName, int], ...]
) -> tuple[tuple[NodeName, tuple[int, ...]], ...]:
    keys = {name: _keys(salt, name, weight) for name, weight in chosen}
    return tuple(_deal(range(BUCKETS), dict(chosen), keys, exact=True))


def _deal(
    buckets: Collection[int], weights: Weights, keys: Mapping[NodeName, tuple[float, ...]], exact: bool
) -> Iterable[tuple[NodeName, tuple[int, ...]]]:
    """Each node gets its quota, and of all buckets those that it wants most (weighted rendezvous)."""
    left = dict(_quotas(buckets, weights, keys, exact))
    wishes = sorted((keys[name][bucket], name, bucket) for name in left for bucket in buckets)
    dealt: dict[NodeName, list[int]] = {name: [] for name in left}
    open_buckets = set(buckets)
    for _, name, bucket in wishes:
        if left[name] and bucket in open_buckets:
            left[name] -= 1
            open_buckets.remove(bucket)
            dealt[name].append(bucket)
    assert not open_buckets
    return [(name, tuple(sorted(part))) for name, part in sorted(dealt.items())]


def _quotas(
    buckets: Collection[int], weights: Weights, keys: Mapping[NodeName, tuple[float, ...]], exact: bool
) -> Iterable[tuple[NodeName, int]]:
    """How many each gets. What is left over when all have their whole parts goes to those with the most left
    of a part (`exact`), or by lot with that chance: among few buckets the heaviest would always win."""
    total, count = sum(weights.values()), len(buckets)
    whole = {name: count * weight // total for name, weight in weights.items()}
    rest = {name: count * weight % total for name, weight in weights.items()}
    first = min(buckets, default=0)

    def turn(name: NodeName) -> tuple[float, str]:
        # A key divides by its node's weight; the lot here is drawn by what is left of a part.
        return (-rest[name] if exact else keys[name][first] * weights[name] / rest[name], name)

    lucky = sorted((name for name in weights if rest[name]), key=turn)
    for name in lucky[: count - sum(whole.values())]:
        whole[name] += 1
    return ((name, quota) for name, quota in whole.items() if quota)


@lru_cache(256)
def _keys(salt: str, name: NodeName, weight: int) -> tuple[float, ...]:
    """How much the node wants each bucket: the smaller, the more. A node of twice the weight wins twice."""
    stream = hashlib.shake_256(f"{salt}/{name}".encode()).digest(BUCKETS * 8)
    return tuple(-math.log((number + 1) / 2**64) / weight for number in struct.unpack(f"!{BUCKETS}Q", stream))


def spread(salt: str, things: Iterable[str], nodes: Collection[NodeName]) -> dict[str, NodeName]:
    """One node for each thing, as many for each as can be; the same on all that see the same nodes.

    For what is few and costs nothing to move, as who answers for an address.
    """
    ordered = sorted(nodes, key=lambda name: hashlib.sha256(f"{salt}/{name}".encode()).digest())
    return (
        {thing: ordered[place % len(ordered)] for place, thing in enumerate(sorted(things))}
        if ordered
        else {}
    )
