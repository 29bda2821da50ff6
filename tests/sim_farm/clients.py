"""Clients of a simulated farm: long connections whose packets take the way that the kernels give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim_farm.cluster import FarmCluster
    from tests.sim_farm.host import FarmHost

HOPS_MAX = 8
"""More nodes than a packet may be handed on through; a packet that goes on is in a circle."""

LOST_MAX = 20
"""Packets of a connection lost in a row, one each 50 ms: a change of all kernels takes less."""


@dataclass
class Connection:
    """One client's, where it lives; `at` None: it was reset."""

    group: int
    bucket: int
    at: FarmHost | None
    since: float = 0.0
    lost: int = 0
    through: FarmHost | None = None
    """Whose hardware address it has for the farm's: asked for again only where nobody forwards any more."""


class Clients:
    """They send all the time, and come again where they were reset."""

    def __init__(self, cluster: FarmCluster) -> None:
        self.cluster = cluster
        self.connections: list[Connection] = []
        self.calm = False
        """Nothing is broken now: each new connection finds a node, and none that lives is reset."""

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

    def _director(self, each: Connection) -> FarmHost | None:
        known = each.through
        if known is None or known.kernel is None or known.frozen:
            answering = self.cluster.directors(each.group)
            each.through = self.cluster.world.random.choice(answering) if answering else None
        return each.through

    def _sends(self, each: Connection, director: FarmHost) -> None:
        """Of a connection that was reset: the first packet of the next one."""
        assert director.kernel is not None
        name = director.kernel.groups[each.group].owners[each.bucket]
        host = self.cluster.hosts[name] if name is not None else director
        for _ in range(HOPS_MAX):
            if host.kernel is None:
                # The address is not there any more, so nobody is told anything.
                self._is_lost(each, f"packets are sent to {host.name}, which lets nothing in")
                return
            if host is each.at or each.at is None:
                break
            before = host.kernel.groups[each.group].previous.get(each.bucket)
            if before is None:
                break
            host = self.cluster.hosts[before]
        else:
            self._is_lost(each, f"packets of bucket {each.bucket} go round in a circle")
            return
        each.lost = 0
        if each.at is None:
            each.at = host if host.ready and name is not None else None
            each.since = self.cluster.world.now
        elif host is not each.at:
            if self.calm and not self._is_forgotten(each, name):
                raise Violation(f"a connection of bucket {each.bucket} on {each.at.name} breaks")
            each.at = None

    def _is_forgotten(self, each: Connection, owner: str | None) -> bool:
        """Its bucket came to a node that is younger than it, and one that had the bucket between has left.

        A node that joins learns who has a bucket, and not who had it before: docs/farm.md says so.
        """
        opened_at = self.cluster.hosts[owner].opened_at if owner is not None else 0.0
        self.cluster.world.counts["forgotten by one that joined"] += 1
        return each.since < opened_at < self.cluster.closed_at

    def _is_lost(self, each: Connection, why: str) -> None:
        """It is sent again; but not for ever."""
        each.lost += 1
        self.cluster.world.counts["packet lost"] += 1
        if self.calm and each.lost > LOST_MAX:
            raise Violation(f"{why}, again and again")
