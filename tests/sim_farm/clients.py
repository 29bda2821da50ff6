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
                if self.calm:
                    raise Violation("nobody answers for the address")
                each.at = None
                continue
            if each.at is not None:
                self._sends(each, director)
            if each.at is None:
                self._connects(each, director)

    def _director(self, each: Connection) -> FarmHost | None:
        known = each.through
        if known is None or known.kernel is None or known.frozen:
            answering = self.cluster.directors(each.group)
            each.through = self.cluster.world.random.choice(answering) if answering else None
        return each.through

    def _sends(self, each: Connection, director: FarmHost) -> None:
        host: FarmHost | None = self._owner(each, director)
        for _ in range(HOPS_MAX):
            if host is each.at or host is None or host.kernel is None:
                break
            name = host.kernel.groups[each.group].previous.get(each.bucket)
            host = self.cluster.hosts[name] if name is not None else None
        else:
            self._is_lost(each)
            return
        each.lost = 0
        if host is not each.at:
            if self.calm:
                raise Violation(f"a connection of bucket {each.bucket} on {each.at and each.at.name} breaks")
            each.at = None

    def _is_lost(self, each: Connection) -> None:
        """A packet that goes round until its time to live is over is sent again, as any that is lost."""
        self.cluster.world.counts["packet in a circle"] += 1
        each.lost += 1
        if self.calm and each.lost > LOST_MAX:
            raise Violation(f"packets of bucket {each.bucket} go round in a circle, again and again")

    def _connects(self, each: Connection, director: FarmHost) -> None:
        host = self._owner(each, director)
        if host.kernel is not None and host.ready:
            each.at = host
        elif self.calm and not self._nobody(each):
            raise Violation(f"a new connection is sent to {host.name}, where nothing is ready")

    def _nobody(self, each: Connection) -> bool:
        """No node has a weight for it."""
        return self.cluster.nobody(each.group)

    def _owner(self, each: Connection, director: FarmHost) -> FarmHost:
        assert director.kernel is not None
        name = director.kernel.groups[each.group].owners[each.bucket]
        return self.cluster.hosts[name] if name is not None else director
