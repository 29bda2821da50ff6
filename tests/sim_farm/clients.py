"""Clients of a simulated farm: long connections whose packets take the way that the kernels give them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim_farm.cluster import FarmCluster
    from tests.sim_farm.host import FarmHost

HOPS_MAX = 8
"""More nodes than a packet may be handed on through; a packet that goes on is in a circle."""

LOST_MAX_S = 1.0
"""How long each packet of a connection may be lost: a change of all kernels takes less."""


@dataclass
class Connection:
    """One client's, where it lives; `at` None: it was reset."""

    group: int
    bucket: int
    at: FarmHost | None
    since: float = 0.0
    lost_since: float | None = None
    through: FarmHost | None = None
    """Whose hardware address it has for the farm's: asked for again only where nobody forwards any more."""


class Clients:
    """They send all the time, and come again where they were reset."""

    def __init__(self, cluster: FarmCluster) -> None:
        self.cluster = cluster
        self.connections: list[Connection] = []
        self.calm = False
        """No connection that lives is reset now."""
        self.heard = True
        """And each packet comes to a node: so it is but for as long as a dead one is not missed yet."""

    def count(self, host: FarmHost) -> int:
        return sum(each.at is host for each in self.connections)

    def dies_with(self, host: FarmHost) -> None:
        for each in self.connections:
            if each.at is host:
                each.at = None

    def come(self, count: int) -> None:
        """New ones, each with its bucket."""
        chance = self.cluster.world.random
        groups = len(self.cluster.farm.groups)
        for _ in range(count):
            self.connections.append(Connection(chance.randrange(groups), chance.randrange(1024), None))
        self.send()

    def end_some(self, part: float) -> None:
        """What has come to its end."""
        chance = self.cluster.world.random
        self.connections = [each for each in self.connections if chance.random() > part]

    def send(self) -> None:
        """One packet of each, and whoever was reset tries again."""
        for each in self.connections:
            director = self._director(each)
            if director is None:
                self._is_lost(each, "nobody answers for the address")
            else:
                self._sends(each, director)

    def end_those_of(self, host: FarmHost) -> None:
        self.connections = [each for each in self.connections if each.at is not host]

    def part(self, sides: Collection[Collection[str]]) -> None:
        """The network is split: whoever is on one side and served on the other is cut from its node."""
        side_of = {name: place for place, side in enumerate(sides) for name in side}
        self.connections = [
            each
            for each in self.connections
            if each.at is None or each.through is None or side_of[each.at.name] == side_of[each.through.name]
        ]

    def _director(self, each: Connection) -> FarmHost | None:
        known = each.through
        if known is None or known.kernel is None or known.frozen:
            answering = self.cluster.directors(each.group)
            if each.at is not None:
                # Whoever asks is where it was when it was connected.
                answering = [host for host in answering if self._carries(each.at, host)]
            each.through = self.cluster.world.random.choice(answering) if answering else None
        return each.through

    def _carries(self, source: FarmHost, target: FarmHost) -> bool:
        """Whether packets come from the one to the other."""
        return (source.name, target.name) not in self.cluster.world.cuts

    def _sends(self, each: Connection, director: FarmHost) -> None:
        """Of a connection that was reset: the first packet of the next one."""
        assert director.kernel is not None
        name = director.kernel.groups[each.group].owners[each.bucket]
        source, host = director, self.cluster.hosts[name] if name is not None else director
        way = [host]
        for _ in range(HOPS_MAX):
            if host.kernel is None or host.frozen or not self._carries(source, host):
                # The address is not there any more, so nobody is told anything.
                self._is_lost(each, f"packets are sent to {host.name}, which lets nothing in")
                return
            if host is each.at or each.at is None:
                break
            before = host.kernel.groups[each.group].previous.get(each.bucket)
            if before is None:
                break
            source, host = host, self.cluster.hosts[before]
            way.append(host)
        else:
            self._is_lost(each, f"packets of bucket {each.bucket} go round in a circle")
            return
        if host is each.at and len(way) > 1:
            hops = min(len(way) - 1, 2)
            self.cluster.world.counts[f"connection found after {hops} hop{'s' * (hops > 1)}"] += 1
        each.lost_since = None
        if each.at is None:
            each.at = host if host.ready else None
            each.since = self.cluster.world.now
        elif host is not each.at:
            if self.calm and not self._is_forgotten(each, host) and not self._is_missed_late(each, host):
                names = "-".join(one.name for one in way)
                raise Violation(f"a connection of bucket {each.bucket} on {each.at.name} breaks at {names}")
            each.at = None

    def _is_forgotten(self, each: Connection, host: FarmHost) -> bool:
        """Its way ends at a node that is younger than it, and was told by nobody who had the bucket before.

        It says so when it joins (HF6033), and docs/farm.md does.
        """
        forgotten = each.since < host.knows_since
        self.cluster.world.counts["forgotten by one that joined"] += forgotten
        return forgotten

    def _is_missed_late(self, each: Connection, host: FarmHost) -> bool:
        """The owner died, and whoever was sent the packet as its heir has not missed it yet.

        Others had, up to a period before: docs/farm.md says so.
        """
        assert host.kernel is not None
        owner = host.kernel.groups[each.group].owners[each.bucket]
        late = owner not in (None, host.name) and not self.cluster.hosts[str(owner)].powered
        self.cluster.world.counts["a lost node is not missed by all at once"] += late
        return late

    def _is_lost(self, each: Connection, why: str) -> None:
        """It is sent again; but not for ever."""
        now = self.cluster.world.now
        self.cluster.world.counts["packet lost"] += 1
        if each.lost_since is None or not (self.calm and self.heard):
            each.lost_since = now
        elif now - each.lost_since > LOST_MAX_S:
            raise Violation(f"{why}, again and again")
