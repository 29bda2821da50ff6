"""Among which nodes a farm's traffic is shared out, and what moves from one such view to the next."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from orchestrator.farm import buckets
from orchestrator.farm.buckets import Owners
from orchestrator.model.config import FarmConfig, PortsConfig
from orchestrator.model.names import ModuleName, NodeName

FULL = 100
"""Per cent of the configured weight, where no operator asked for another."""


class Member(NamedTuple):
    """A node of a view."""

    name: NodeName
    percent: int = FULL
    live: bool = True
    """False: it was lost from this view; its weight still counts, so that only its buckets moved."""


@dataclass(frozen=True, slots=True)
class View:
    """The nodes that take traffic; equal views give equal maps."""

    members: tuple[Member, ...] = ()
    """By name."""

    @classmethod
    def of(cls, percents: Mapping[NodeName, int]) -> View:
        return cls(tuple(Member(name, percent) for name, percent in sorted(percents.items())))

    @property
    def names(self) -> frozenset[NodeName]:
        return frozenset(member.name for member in self.members if member.live)

    def without(self, lost: Collection[NodeName]) -> View:
        """The same after a loss. A node of usual weight weighs the same unseen, so nothing is kept of it."""
        marked = (member._replace(live=False) if member.name in lost else member for member in self.members)
        return View(tuple(member for member in marked if member.live or member.percent != FULL))

    def digest(self, config: str) -> str:
        """Eight digits for the heartbeat; other configurations give others."""
        words = ",".join(f"{name}:{percent}:{live:d}" for name, percent, live in self.members)
        return f"{zlib.crc32(f'{config}/{words}'.encode()):08x}"


NOBODY: Final = View()


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a farm's configuration says who owns what; the same words on every node."""

    module: ModuleName
    groups: tuple[tuple[tuple[tuple[NodeName, int], ...], tuple[tuple[NodeName, ...], ...], str], ...]
    """Of each group of ports the weights, the chain and the address."""
    addresses: tuple[str, ...]
    all_receive: bool
    """Every node gets every packet: where two own a bucket, a client is answered twice."""
    digest: str

    @classmethod
    def of(cls, config: FarmConfig) -> Rules:
        groups = tuple(_rules_of(group, vip.address) for vip in config.vip for group in vip.groups)
        ports = [(group.ports, group.protocols, group.affinity) for group in config.groups]
        addresses = tuple(vip.address for vip in config.vip)
        words = repr((config.name, config.mode, config.nodes, groups, ports, addresses))
        digest = f"{zlib.crc32(words.encode()):08x}"
        return cls(config.name, groups, addresses, config.mode == "invisible", digest)


def _rules_of(
    group: PortsConfig, address: str
) -> tuple[tuple[tuple[NodeName, int], ...], tuple[tuple[NodeName, ...], ...], str]:
    return tuple(sorted(group.weights.items())), group.chain, address


@lru_cache(64)
def maps(rules: Rules, view: View) -> tuple[Owners, ...]:
    """Who owns each bucket of each group. Groups with the same weights have the same map: a client's
    connections to several ports go to one node.

    Where all that are there have the weight 0, whoever answers for the address has the buckets: its kernel
    gets their packets and passes them to nobody, so connections may begin there.
    """
    percents = {member.name: member.percent for member in view.members}
    live = view.names
    found = []
    for weights, chain, address in rules.groups:
        scaled = {name: weight * percents.get(name, FULL) for name, weight in weights}
        owners = buckets.in_chain(rules.module, scaled, chain, live)
        if owners is buckets.NOBODY and live:
            owners = (directors(rules, view)[address],) * buckets.BUCKETS
        found.append(owners)
    return tuple(found)


@lru_cache(64)
def directors(rules: Rules, view: View) -> Mapping[str, NodeName]:
    """Who answers for each address. It holds nothing, so it is nobody's loss when it changes."""
    return buckets.spread(rules.module, rules.addresses, view.names)


class Move(NamedTuple):
    """One bucket of one group goes to another node."""

    group: int
    bucket: int
    source: NodeName | None
    target: NodeName | None


def moves(before: Iterable[Owners], after: Iterable[Owners]) -> Iterator[Move]:
    """All that differs."""
    for group, (old, new) in enumerate(zip(before, after, strict=True)):
        if old is new:
            continue
        for bucket, (source, target) in enumerate(zip(old, new, strict=True)):
            if source != target:
                yield Move(group, bucket, source, target)


@lru_cache(64)
def gaining(rules: Rules, before: View, after: View, alive: frozenset[NodeName]) -> frozenset[NodeName]:
    """Who must be prepared before this change: who gets a living node's bucket; all where somebody is new.

    What a lost node had is nobody's any more, and waits for nothing. Who is new may bring connections along,
    and any node may stand on the way of their packets.
    """
    if after.names - before.names:
        return after.names
    return frozenset(
        move.target
        for move in moves(maps(rules, before), maps(rules, after))
        if move.source in alive and move.target is not None
    )
