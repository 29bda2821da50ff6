"""Hearts on a wire that the test cuts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.cluster.beat import Beat, decode, encode
from orchestrator.cluster.heart import Heart
from orchestrator.model.config import PRESETS
from orchestrator.model.events import Event
from orchestrator.model.names import Epoch, Instant, ModuleName, NodeName, PathName
from orchestrator.model.report import ModuleState
from orchestrator.model.timings import derive

A, B, C = NodeName("paris"), NodeName("lyon"), NodeName("nice")
LAN, BACKUP = PathName("lan"), PathName("backup")
SHOP = ModuleName("shop")
TIMES = derive(PRESETS["lan"])
ONLY_B = frozenset({B})


@dataclass
class Pair:
    """Two hearts, or more; frozen ones do nothing at all."""

    names: tuple[NodeName, ...] = (A, B)
    now: float = 100.0
    cuts: set[tuple[NodeName, PathName]] = field(default_factory=set)
    """Sender and path of the beats that are lost."""
    large_pass: bool = True
    way_s: float = 0.001
    """What a beat takes."""
    chance: random.Random | None = None
    """Loses every tenth beat, and keeps others for up to half a period."""
    frozen: set[NodeName] = field(default_factory=set)
    heard: dict[NodeName, list[tuple[float, Event]]] = field(default_factory=dict)
    said: list[tuple[float, NodeName, NodeName, PathName, Beat]] = field(default_factory=list)
    flight: list[tuple[float, NodeName, NodeName, PathName, bytes, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.heard = {name: [] for name in self.names}
        self.hearts = {name: self.heart(name, f"{name.encode().hex():a<32}") for name in self.names}

    def heart(self, me: NodeName, boot: str) -> Heart:
        peers = {name: (LAN, BACKUP) for name in self.names if name != me}
        heart = Heart(me, peers, TIMES, boot, Instant(self.now))
        heart.agent_present(Instant(self.now), True)
        heart.announce(SHOP, ModuleState())
        return heart

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1000)):
            self.now += 0.001
            due = [each for each in self.flight if each[0] <= self.now and each[2] not in self.frozen]
            self.flight = [each for each in self.flight if each not in due]
            for _, sender, target, path, body, boot in due:
                self.hearts[target].receive(Instant(self.now), sender, path, decode(boot, body))
            for name, heart in self.hearts.items():
                if name not in self.frozen:
                    self._turn(name, heart)

    def _turn(self, name: NodeName, heart: Heart) -> None:
        heart.advance(Instant(self.now))
        for peer, path, beat in heart.beats_to_send():
            self.said.append((self.now, name, peer, path, beat))
            lost = self.chance is not None and self.chance.random() < 0.1
            if not lost and (name, path) not in self.cuts and (self.large_pass or not beat.padded):
                late_s = self.chance.choice((0.0, 0.002, TIMES.period_s / 2)) if self.chance else 0.0
                self.flight.append(
                    (self.now + self.way_s + late_s, name, peer, path, encode(beat), beat.boot)
                )
        self.heard[name] += [(self.now, event) for event in heart.events_received()]

    def events(self, name: NodeName, kind: type[Event]) -> list[float]:
        return [at for at, event in self.heard[name] if isinstance(event, kind)]

    def beats_a_round(self, seconds: float) -> float:
        """How many beats pass between two nodes on a path, for each request of the one who asks first."""
        since = self.now
        self.run(seconds)
        said = [each for each in self.said if each[0] > since]
        lines = Counter(
            (min(source, target), max(source, target), path) for _, source, target, path, _ in said
        )
        rounds: Counter[tuple[NodeName, NodeName, PathName]] = Counter()
        for (source, target, path), count in Counter(
            (source, target, path) for _, source, target, path, beat in said if beat.request
        ).items():
            line = (min(source, target), max(source, target), path)
            rounds[line] = max(rounds[line], count)
        return max(count / rounds[line] for line, count in lines.items())

    def depend(self) -> None:
        """Each answers an address by the word of all others."""
        for name, heart in self.hearts.items():
            heart.lease(SHOP, Epoch(1), frozenset(self.names) - {name})

    def instants(self, of: Callable[[Beat], bool]) -> dict[tuple[NodeName, NodeName, PathName], list[float]]:
        """By sender, target and path: when beats of this kind left."""
        left: dict[tuple[NodeName, NodeName, PathName], list[float]] = {
            (source, target, path): [] for _, source, target, path, _ in self.said
        }
        for at, source, target, path, beat in self.said:
            if of(beat):
                left[source, target, path].append(at)
        return left

    def asked_by(self, name: NodeName, since: float) -> list[float]:
        """When this node asked after that."""
        return sorted(
            {at for at, source, *_, beat in self.said if source == name and beat.request and at > since}
        )

    def cut(self, *names: NodeName) -> float:
        self.cuts |= {(name, path) for name in names for path in (LAN, BACKUP)}
        return self.now

    def holds(self, name: NodeName) -> bool:
        return self.hearts[name].lease_deadlines().get(SHOP, Instant(0.0)) > self.now
