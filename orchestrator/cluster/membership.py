"""One peer as this node hears it: paths, lives, and the verdict that follows from silence."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from orchestrator.cluster.beat import Beat
from orchestrator.model.names import Instant, NodeName, PathName
from orchestrator.model.report import AnyState

SENT_KEPT: Final = 64
"""Own beats remembered per path: requests and answers of 16 periods both ways, more than T in any preset."""
RETIRED_KEPT: Final = 8
"""Earlier lives of a peer that are refused by name; older ones no longer have a session anyway."""
BLACK_HOLE_AFTER: Final = 3
"""Large beats unanswered in a row, small ones answered: three, because one may be lost by chance."""
LONG_AGO: Final = Instant(float("-inf"))


class Verdict(Enum):
    """What is believed of a peer."""

    NEW = "new"
    ALIVE = "alive"
    SUSPECTED = "suspected"
    LOST = "lost"
    LEFT = "left"


class Sent(NamedTuple):
    """One own beat: when it left, and what it told."""

    at: Instant
    request: bool
    padded: bool
    told: tuple[tuple[str, int], ...]


class Word(NamedTuple):
    """What beat after beat tells a peer, until something is announced, muted or confirmed."""

    states: Mapping[str, tuple[int, AnyState]]
    told: tuple[tuple[str, int], ...]
    """Their names and versions."""
    vouched: frozenset[str]


@dataclass(frozen=True, slots=True)
class PathReport:
    """One path to one peer, for `status` and `timings`."""

    rtt_s: float | None
    heard_at: Instant | None
    echoed_at: Instant | None
    """When the newest own beat that came back was sent."""
    worst_gap_s: float
    received: int
    missed: int
    black_hole: bool
    """Large datagrams vanish here while small ones pass: the path's MTU is not what its interface says."""


@dataclass(slots=True)
class Path:
    """What passed on one path."""

    counter: int = 0
    sent: OrderedDict[int, Sent] = field(default_factory=OrderedDict)
    due: Instant = LONG_AGO
    """When the next own turn comes at the latest."""
    turned_at: Instant = LONG_AGO
    """When the newest own turn was: a request, or an answer in place of one."""
    leads: bool = False
    """The peer asked nothing since the newest own turn, which was no answer either."""
    asked_at: Instant = LONG_AGO
    """When the newest own request left."""
    owed: list[int] = field(default_factory=list)
    """Requests of the peer that are to be answered: as many as are heard in one turn."""
    heard_at: Instant = LONG_AGO
    heard_counter: int = 0
    echoed_at: Instant = LONG_AGO
    rtt_s: float | None = None
    worst_gap_s: float = 0.0
    received: int = 0
    missed: int = 0
    large_unanswered: int = 0
    black_hole: bool = False

    def remember(self, sent: Sent) -> None:
        self.sent[self.counter] = sent
        self.large_unanswered += sent.padded
        while len(self.sent) > SENT_KEPT:
            self.sent.popitem(last=False)

    def hear(self, now: Instant, counter: int) -> None:
        """Count what came and what did not; a beat overtaken by a later one was counted as missed."""
        if self.heard_at != LONG_AGO:
            self.worst_gap_s = max(self.worst_gap_s, now - self.heard_at)
        if self.heard_counter and counter > self.heard_counter:
            self.missed += counter - self.heard_counter - 1
        self.received += 1
        self.heard_counter = max(self.heard_counter, counter)
        self.heard_at = max(self.heard_at, now)

    def echoed(self, now: Instant, counter: int, prompt: bool) -> Sent | None:
        """The own beat that came back. A round trip is measured on what left on receipt of it."""
        sent = self.sent.get(counter)
        if sent is None:
            return None
        if prompt and sent.request:
            self.rtt_s = max(0.0, now - sent.at)
        if sent.padded:
            self.large_unanswered = 0
        # Judged when a small one came back, so that a dead peer is not taken for a black hole.
        self.black_hole = self.large_unanswered >= BLACK_HOLE_AFTER
        self.echoed_at = max(self.echoed_at, sent.at)
        return sent

    def new_life(self) -> None:
        """The peer restarted: its counters begin again."""
        self.heard_counter = 0
        self.owed = []

    def report(self) -> PathReport:
        return PathReport(
            rtt_s=self.rtt_s,
            heard_at=None if self.heard_at == LONG_AGO else self.heard_at,
            echoed_at=None if self.echoed_at == LONG_AGO else self.echoed_at,
            worst_gap_s=self.worst_gap_s,
            received=self.received,
            missed=self.missed,
            black_hole=self.black_hole,
        )


@dataclass(slots=True)
class Peer:
    """Another node of the cluster."""

    name: NodeName
    paths: dict[PathName, Path]
    verdict: Verdict = Verdict.NEW
    turns: int = 0
    boot: str = ""
    retired: dict[str, dict[str, tuple[int, AnyState]]] = field(default_factory=dict)
    """Lives that were replaced or said goodbye, with what they had told of their modules."""
    strangers: int = 0
    """Beats of a life that another life replaced: two machines carry one name."""
    heard_at: Instant = LONG_AGO
    """Last sign of a peer whose agent is not gone."""
    echoed_at: Instant = LONG_AGO
    """When the newest own beat was sent that came back from such a peer."""
    doubted_until: Instant = LONG_AGO
    pledge: frozenset[str] = frozenset()
    """The tags of the peer's newest word: the same for hours, so that one instant stands for all of them."""
    pledged_at: Instant = LONG_AGO
    """When the newest own beat was sent that came back with it."""
    vouched: dict[str, Instant] = field(default_factory=dict)
    """By module tag: the same of other words of this life."""
    states: dict[str, tuple[int, AnyState]] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    """By module: the version of our state that the peer is known to have."""
    word: Word | None = None
    """What is told to the peer; None: to be made up anew."""

    def admit(self, boot: str) -> bool:
        """Take the beat of this life, or refuse one that was replaced.

        Where the life that replaced it has fallen silent for T it was a clone's, and is gone: a beat is never
        heard twice, so the one that speaks now lives.
        """
        if boot in self.retired and self.verdict is not Verdict.LOST:
            self.strangers += 1
            return False
        if boot != self.boot:
            self._begin_life(boot)
        return True

    def _begin_life(self, boot: str) -> None:
        if self.boot:
            self.retired[self.boot] = self.states
        self.boot = boot
        # A life that comes back tells only what changed: the rest it knows to be known here.
        self.states = self.retired.pop(boot, {})
        while len(self.retired) > RETIRED_KEPT:
            del self.retired[next(iter(self.retired))]
        self.told = {}
        self.word = None
        # What the old life vouched for, the new one knows nothing of.
        self.pledge, self.vouched = frozenset(), {}
        for path in self.paths.values():
            path.new_life()

    def learn(self, beat: Beat) -> bool:
        """Take in what the peer says of its modules; True when something is new."""
        if not beat.states:
            return False
        newer = {
            name: told
            for name, told in beat.states.items()
            if name not in self.states or told[0] > self.states[name][0]
        }
        self.states.update(newer)
        return bool(newer)

    def confirm(self, sent: Sent, vouched: frozenset[str]) -> None:
        """The peer had this beat of ours: it knows what it told, and it stands by these modules."""
        for name, version in sent.told:
            if version > self.told.get(name, 0):
                self.told[name] = version
                self.word = None
        if vouched != self.pledge:
            for tag in self.pledge:
                self.vouched[tag] = self.vouched_at(tag)
            self.pledge, self.pledged_at = vouched, LONG_AGO
        self.pledged_at = max(self.pledged_at, sent.at)

    def vouched_at(self, tag: str) -> Instant:
        """When the newest own beat was sent that came back with the peer's word for this module."""
        before = self.vouched.get(tag, LONG_AGO)
        return max(before, self.pledged_at) if tag in self.pledge else before
