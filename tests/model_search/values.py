"""What the searched world consists of: small immutable values, equal when nothing that matters differs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from orchestrator.mirror import machine
from orchestrator.mirror.lineage import Standing
from orchestrator.mirror.state import Mirror, Peer
from orchestrator.model.effects import Effect
from orchestrator.model.events import Event, PeerSaid, TimePassed
from orchestrator.model.names import Epoch, Instant, NodeName, Nonce
from orchestrator.model.record import Record, Reign
from orchestrator.model.report import ModuleState, Phase

NOW = Instant(0.0)
"""Every event but the passing of time is learned at this instant: a clock would make each state a new one."""
SOON = Instant(1.0)
"""Whatever is due at all is due then."""
LATER = Instant(1e6)
"""`TimePassed` is learned here, so everything put off is due; it may come at any moment, or never."""

Stream = tuple[str, Reign]
"""A stream is one opening of one gate."""


class Keeper(NamedTuple):
    """One life of a gate, with the replicator beneath it."""

    life: Nonce
    record: Record | None = None
    required: frozenset[NodeName] = frozenset()
    is_open: bool = False
    draining: bool = False
    taking: Record | None = None
    """`TakeReign` was ordered and is not done."""
    following: Record | None = None
    """The record whose primary is followed; its epoch is the admitted one."""
    stream: Stream | None = None
    owns: bool = False
    seq: int = 0
    base: tuple[Stream | None, int] = (None, 0)
    """Where the stream before this one stood when this gate opened: equal members stand there too."""
    source: NodeName | None = None
    copied: Standing | None = None
    """A copy came in and no sync has followed: the lineage that is adopted then (G3)."""
    synced: int = -1
    """As a member: up to where this connection was told that this disk holds the stream."""
    sessions: tuple[tuple[NodeName, bool], ...] = ()
    """The primary's side of each stream, and whether that node lacks nothing."""
    durable: tuple[tuple[NodeName, int], ...] = ()
    points: tuple[tuple[int, int, bool, bool], ...] = ()
    """Fsyncs that wait: sequence, value, settled by the members, synced here."""
    acknowledged: int = 0
    kept: tuple[tuple[int, Epoch, int], ...] = ()
    """Sequence, epoch and value of every write of the own stream: what a member that continues is sent."""


class Call(NamedTuple):
    """A bid whose answer this node waits for."""

    expected: Record | None
    record: Record
    landed: bool = False


class Node(NamedTuple):
    """One machine: what its disk holds, its agent (the number of a mirror), its gate."""

    mirror: int
    epoch: Epoch
    wanted: bool
    memory: int
    disk: int
    lives: int = 0
    standing: Standing = Standing()
    """The lineage on this disk."""
    keeper: Keeper | None = None
    call: Call | None = None
    seen: tuple[Record | None] | None = None
    """What the register said to a read, while the answer is on its way."""


class Frame(NamedTuple):
    """One write on its way to one node, under the epoch in which it was made."""

    target: NodeName
    stream: Stream
    seq: int
    epoch: Epoch
    value: int


class Confirmed(NamedTuple):
    """A member's word, on its way, that its disk holds the stream up to here."""

    member: NodeName
    stream: Stream
    seq: int


class Request(NamedTuple):
    """A bid that may land now, later, or never."""

    bidder: NodeName
    expected: Record | None
    record: Record


class Ghost(NamedTuple):
    """What clients know, computed outside the product.

    `line` is the serving history of the one extent: from the value last acknowledged to the newest that the
    gate opened last has written, each over the one before.
    """

    line: tuple[int, ...] = (0,)
    known: frozenset[int] = frozenset({0})
    owner: NodeName | None = None
    owner_epoch: int = 0
    forced: int = 0
    given_up: frozenset[int] = frozenset()
    """What clients were told and an operator's order gave up: it may go into quarantine, and nowhere else.

    Of two histories either may be given up later: what clients were told since on both sides.
    """
    two: bool = False
    """An operator had a node serve without the register: there are two histories."""


class Spent(NamedTuple):
    """How much of each bound is used up."""

    writes: int = 0
    crashes: int = 0
    losses: int = 0
    hints: int = 0
    orders: int = 0
    outages: int = 0
    wipes: int = 0


class World(NamedTuple):
    """One state of the search, as numbers of interned values: cheap to compare and to keep by the million."""

    register: int
    nodes: tuple[int, ...]
    requests: int
    frames: int
    confirmed: int
    ghost: int
    spent: int


@dataclass(frozen=True, slots=True)
class Hint:
    """What one node hears of another; kept beside the real event because a mapping has no hash."""

    peer: NodeName
    state: ModuleState


FIELDS: Final = tuple(field.name for field in fields(Mirror))
_VALUES: Final = attrgetter(*FIELDS)
_PEERS: Final = FIELDS.index("peers")
_INSTANTS: Final = tuple(FIELDS.index(name) for name in ("retry_at", "again_at", "bid_since"))
_NOTHING: Final = tuple(FIELDS.index(name) for name in ("check_at", "announced", "leased"))


class Mirrors:
    """Every mirror met so far, each under a number, and what each one decides on each event.

    A step is a function of mirror and event alone, so it is taken once and remembered.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}
        self.values: list[Mirror] = []
        self._decided: dict[tuple[int, Event | Hint], tuple[int, tuple[Effect, ...]]] = {}

    def number(self, mirror: Mirror) -> int:
        """Of this mirror, without what no rule compares: instants, and what was said to pulse and peers."""
        known = list(_VALUES(mirror))
        for place in _INSTANTS:
            known[place] = None if known[place] is None else SOON
        for place in _NOTHING:
            known[place] = None
        known[_PEERS] = tuple((name, _peer(peer)) for name, peer in mirror.peers.items())
        key = tuple(known)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.values)
            known[_PEERS] = MappingProxyType(dict(known[_PEERS]))
            self.values.append(Mirror(**dict(zip(FIELDS, known, strict=True))))
        return number

    def forget_decisions(self) -> None:
        self._decided.clear()

    def step(self, number: int, event: Event | Hint) -> tuple[int, tuple[Effect, ...]]:
        """What this mirror decides: the number of the one that it becomes, and the effects."""
        key = number, event
        decided = self._decided.get(key)
        if decided is None:
            mirror = self.values[number]
            learned = PeerSaid(event.peer, {mirror.module: event.state}) if isinstance(event, Hint) else event
            now = LATER if isinstance(event, TimePassed) else NOW
            decision = machine.step(mirror, now, learned)
            decided = self._decided[key] = (self.number(decision.state), decision.effects)
        return decided


def _peer(peer: Peer) -> Peer:
    said = None if peer.said is None else plain(peer.said)
    since = None if peer.stopped_since is None else NOW
    if said == peer.said and since == peer.stopped_since:
        return peer
    return replace(peer, said=said, stopped_since=since)


def plain(state: ModuleState) -> ModuleState:
    """What another node's rules read of a state: how far a role is taken is for people only."""
    if state.serving:
        return replace(state, phase=Phase.READY)
    return replace(state, phase=Phase.NOT_READY, in_sync=frozenset(), nonce=None)
