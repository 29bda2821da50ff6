"""One seed: a farm is changed by plan, struck by faults, split and healed, and must come together."""

from __future__ import annotations

import math
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.model.config import PortsConfig
from orchestrator.model.names import NODES_MAX, NodeName
from orchestrator.model.orders import Drain, Leave, Order, Restart, Start, Stop, Undrain, Weigh
from tests.sim.world import CutShort, Violation
from tests.sim_farm.cluster import FarmCluster
from tests.sim_farm.host import FarmHost

STRUCK_S = 120.0
"""Of one storm: some twenty-five faults, each of which meets the others' consequences."""
CLIENTS = 60
LARGE = "farm of 64 nodes"
CALM_S = 12.0
"""A planned change with its stop, its start and its checks takes some three seconds; unequal views ten."""


@dataclass
class Outcome:
    """What became of one seed."""

    seed: int
    events: int
    faults: int
    trace: int
    counts: dict[str, int]
    simulated_s: float
    violation: str = ""
    log: list[str] = field(default_factory=list)


def build(seed: int) -> FarmCluster:
    """The farm that this seed draws."""
    chance = random.Random(seed * 7919)
    names = tuple(NodeName(name) for name in "abcdef"[: chance.randint(2, 6)])
    groups = [PortsConfig(((80, 80),), dict.fromkeys(names, 1), (names,))]
    groups.append(PortsConfig(((81, 81),), {name: chance.randint(1, 4) for name in names}, (names,)))
    first = chance.randint(1, len(names) - 1)
    groups.append(PortsConfig(((82, 82),), dict.fromkeys(names, 2), (names[:first], names[first:])))
    return FarmCluster(seed, names, tuple(groups), mode="directed" if seed % 4 else "invisible")


def play(seed: int, log: bool = False, over_at: float = math.inf) -> Outcome:
    """Run one seed to its end, or to the first violation."""
    return _play(build(seed), whole, log, over_at)


def play_calm(seed: int) -> Outcome:
    """The same without the storm: a fifth of the time, and most of what can break a connection."""
    return _play(build(seed), calm, False, math.inf)


def play_large(seed: int, log: bool = False, over_at: float = math.inf) -> Outcome:
    """The same with as many nodes as there can be, and less of all: each change is told 4,032 times."""
    cluster = FarmCluster(seed, (f"n{number:02}" for number in range(NODES_MAX)), together=True)
    return _play(cluster, large, log, over_at)


def _play(cluster: FarmCluster, story: Callable[[FarmCluster], None], log: bool, over_at: float) -> Outcome:
    world = cluster.world
    world.over_at = over_at
    if log:
        world.log = []
    violation = ""
    try:
        cluster.begin()
        cluster.clients.come(CLIENTS)
        story(cluster)
    except CutShort:
        world.counts["cut short"] += 1
    except Violation as found:
        violation = str(found)
    except Exception as found:
        # Whatever a machine raises would have ended the agent.
        at = traceback.extract_tb(found.__traceback__)[-1]
        violation = f"{type(found).__name__} {found} in {at.name}: {at.line}"
    world.note(f"VIOLATION {violation}" if violation else "end")
    counts, faults = dict(world.counts), world.faults
    return Outcome(
        world.seed, world.events, faults, world.trace, counts, world.now, violation, world.log or []
    )


def whole(cluster: FarmCluster) -> None:
    """Everything that can be done to a farm."""
    by_plan(cluster)
    Storm(cluster).rage(STRUCK_S)
    heal(cluster)
    by_plan(cluster)
    split(cluster)
    lose_one(cluster)


def calm(cluster: FarmCluster) -> None:
    """What breaks no connection but a dead node's."""
    by_plan(cluster)
    split(cluster)
    lose_one(cluster)


def large(cluster: FarmCluster) -> None:
    """A change by plan, a loss, and a return."""
    cluster.world.counts[LARGE] += 1
    cluster.order(cluster.world.random.choice(list(cluster.hosts)), Drain(limit_s=1.0))
    cluster.calmly(CALM_S)
    lose_one(cluster)


def by_plan(cluster: FarmCluster) -> None:
    """Drains, weights, restarts, one after another: no connection is broken by a change of the shares."""
    chance, clients = cluster.world.random, cluster.clients
    clients.come(CLIENTS - len(clients.connections))
    for _ in range(3):
        name = chance.choice(list(cluster.hosts))
        deed: Callable[[], None] = chance.choice(
            [
                lambda name=name: _drains(cluster, name),
                lambda name=name: _weighs(cluster, name),
                lambda name=name: _restarts(cluster, name),
                lambda name=name: _joins(cluster, name),
                lambda: _agents_restart(cluster),
            ]
        )
        deed()
        cluster.converge()
        clients.come(CLIENTS - len(clients.connections))


def _drains(cluster: FarmCluster, name: str) -> None:
    cluster.order(name, Drain(limit_s=600.0))
    cluster.calmly(CALM_S)
    cluster.clients.end_those_of(cluster.hosts[name])
    cluster.calmly(CALM_S / 2)
    if cluster.hosts[name].kernel is not None and len(cluster.hosts) > 1:
        raise Violation(f"{name} has drained, and has not stopped")
    cluster.order(name, Undrain())
    cluster.calmly(CALM_S)


def _weighs(cluster: FarmCluster, name: str) -> None:
    cluster.order(name, Weigh(cluster.world.random.choice([0, 25, 50, 100, 300])))
    cluster.calmly(CALM_S)
    if cluster.world.random.random() < 0.5:
        cluster.order(name, Weigh(100))
        cluster.calmly(CALM_S)


def _restarts(cluster: FarmCluster, name: str) -> None:
    cluster.order(name, Restart())
    cluster.calmly(CALM_S / 2)
    cluster.clients.end_those_of(cluster.hosts[name])
    cluster.calmly(CALM_S)


def _joins(cluster: FarmCluster, name: str) -> None:
    """A machine is stopped by plan, started anew, and remembers nothing of who had the buckets."""
    host = cluster.hosts[name]
    _empty(cluster, name)
    host.power_off()
    cluster.calmly(cluster.timings.detection_s, heard=False)
    host.power_on()
    cluster.order(name, Undrain())
    cluster.calmly(CALM_S)


def _empty(cluster: FarmCluster, name: str) -> None:
    """The last connection ends, and the node stops."""
    cluster.order(name, Drain(limit_s=600.0))
    cluster.calmly(CALM_S / 2)
    cluster.clients.end_those_of(cluster.hosts[name])
    cluster.calmly(CALM_S / 2)


def _agents_restart(cluster: FarmCluster) -> None:
    """As in an upgrade: one agent after the other, or several at once, in the middle of a change or not."""
    chance = cluster.world.random
    names = chance.sample(list(cluster.hosts), chance.randint(1, len(cluster.hosts)))
    if chance.random() < 0.5:
        cluster.order(chance.choice(list(cluster.hosts)), Weigh(chance.choice([50, 100, 200])))
        cluster.calmly(chance.random() * 0.6)
    for name in names:
        cluster.hosts[name].kill_agent()
        cluster.world.fault("agent restart", name)
        cluster.calmly(chance.choice([0.0, 0.2, 1.0]) * chance.random())
    for name in names:
        cluster.hosts[name].start_agent()
        cluster.calmly(chance.random() * 0.3)
    cluster.calmly(CALM_S)


def split(cluster: FarmCluster) -> None:
    """Each side serves everything; when it is over, nothing that lives on either is broken."""
    names = list(cluster.hosts)
    cluster.world.random.shuffle(names)
    place = cluster.world.random.randint(1, len(names) - 1)
    sides = (names[:place], names[place:])
    for one in sides[0]:
        for two in sides[1]:
            cluster.cut(one, two)
    cluster.world.fault("split")
    cluster.clients.part(sides)
    cluster.converge(sides)
    cluster.clients.come(CLIENTS)
    cluster.calmly(CALM_S / 4)
    cluster.world.cuts.clear()
    cluster.world.fault("heal")
    cluster.calmly(CALM_S)
    cluster.converge()


def lose_one(cluster: FarmCluster) -> None:
    """A node dies: its buckets move, and no other; it comes back, and so do they."""
    for name in cluster.hosts:
        cluster.order(name, Weigh(100))
    cluster.converge()
    cluster.clients.come(CLIENTS)
    before = _owners(cluster)
    name = cluster.world.random.choice(list(cluster.hosts))
    cluster.hosts[name].power_off()
    cluster.world.fault("power cut", name)
    cluster.calmly(2 * cluster.timings.detection_s, heard=False)
    cluster.calmly(CALM_S / 4)
    cluster.converge()
    for old, new in zip(before, _owners(cluster), strict=True):
        moved = {owner for owner, other in zip(old, new, strict=True) if owner != other}
        # A chain's next group serves nothing while one of the first lives: all that moves was the lost one's.
        if moved - {name}:
            raise Violation(f"{name} was lost, and buckets of {moved} moved")
    cluster.hosts[name].power_on()
    cluster.calmly(CALM_S)
    cluster.converge()
    if _owners(cluster) != before:
        raise Violation(f"{name} is back, and not all its buckets are")


def _owners(cluster: FarmCluster) -> list[tuple[NodeName | None, ...]]:
    kernel = next(host.kernel for host in cluster.hosts.values() if host.kernel is not None)
    return [group.owners for group in kernel.groups]


def heal(cluster: FarmCluster) -> None:
    """No more faults, and the operator wants everything."""
    world = cluster.world
    world.cuts.clear()
    world.loss = world.late = 0.0
    for name, host in cluster.hosts.items():
        host.store_bad = host.steer_bad = host.application_bad = 0.0
        if not host.powered:
            host.power_on()
        if host.frozen:
            host.thaw()
        if host.heart is None:
            host.start_pulse()
        if host.node is None:
            host.start_agent()
        cluster.order(name, Undrain())
    world.disturb()
    world.run(world.now + 6.0)  # what could not be stored is tried again
    cluster.converge()
    # Nodes that were lost to one another have forgotten where old connections were: new ones are judged.
    cluster.clients.connections.clear()


class Storm:
    """Draws faults for one farm."""

    def __init__(self, cluster: FarmCluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.over = False
        self.kinds: tuple[Callable[[FarmHost], None], ...] = (
            self._power_cut,
            self._power_cut,
            self._agent_crash,
            self._agent_crash,
            self._pulse_crash,
            self._pause,
            self._cut_peer,
            self._cut_one_way,
            self._isolate,
            self._flap,
            self._application_dies,
            self._application_bad,
            self._refused,
            self._disk,
            self._order,
            self._order,
            self._lossy,
        )

    def rage(self, seconds: float) -> None:
        until = self.world.now + seconds
        while self.world.now < until:
            kind = self.world.random.choice(self.kinds)
            kind(self.world.random.choice(list(self.cluster.hosts.values())))
            self.world.run(self.world.now + self.world.random.expovariate(1 / 5))
            self.cluster.clients.send()
        self.over = True

    def _later(self, most_s: float, do: Callable[[], None]) -> None:
        self.world.after(0.05 + most_s * self.world.random.random(), None, do)

    def _power_cut(self, host: FarmHost) -> None:
        if host.powered:
            self.world.fault("power cut", host.name)
            host.power_off()
            self._later(20.0, lambda: None if host.powered else host.power_on())

    def _agent_crash(self, host: FarmHost) -> None:
        if host.node is not None and not host.frozen:
            self.world.fault("agent crash", host.name)
            host.kill_agent()
            self._later(8.0, lambda: host.start_agent() if host.powered and host.node is None else None)

    def _pulse_crash(self, host: FarmHost) -> None:
        if host.heart is not None:
            self.world.fault("pulse crash", host.name)
            host.kill_pulse()
            self._later(1.0, lambda: host.start_pulse() if host.powered and host.heart is None else None)

    def _pause(self, host: FarmHost) -> None:
        if host.powered and not host.frozen:
            self.world.fault("pause", host.name)
            host.frozen = True
            self._later(6.0, lambda: host.thaw() if host.frozen else None)

    def _cut_peer(self, host: FarmHost) -> None:
        other = self._other(host)
        self._cut("cut", {(host.name, other.name), (other.name, host.name)})

    def _cut_one_way(self, host: FarmHost) -> None:
        self._cut("one-way cut", {(host.name, self._other(host).name)})

    def _isolate(self, host: FarmHost) -> None:
        wires = {(host.name, name) for name in self.cluster.hosts} | {
            (name, host.name) for name in self.cluster.hosts
        }
        self._cut("isolation", wires)

    def _cut(self, kind: str, wires: set[tuple[str, str]], most_s: float = 20.0) -> None:
        self.world.fault(kind)
        self.world.cuts |= wires
        self._later(most_s, lambda: self._mend(wires))

    def _mend(self, wires: set[tuple[str, str]]) -> None:
        self.world.cuts -= wires
        self.world.disturb()

    def _flap(self, host: FarmHost, times: int = 6) -> None:
        if self.over:
            return
        wires = {(host.name, name) for name in self.cluster.hosts if name != host.name}
        self._cut("flap", wires, 4.0)
        if times:
            self._later(8.0, lambda: self._flap(host, times - 1))

    def _other(self, host: FarmHost) -> FarmHost:
        return self.world.random.choice([each for each in self.cluster.hosts.values() if each is not host])

    def _application_dies(self, host: FarmHost) -> None:
        self.world.fault("application death", host.name)
        host.application_dies()

    def _application_bad(self, host: FarmHost) -> None:
        self.world.fault("application does not start", host.name)
        host.application_bad = 0.7
        host.application_dies()
        self._later(10.0, lambda: setattr(host, "application_bad", 0.0))

    def _refused(self, host: FarmHost) -> None:
        self.world.fault("traffic refused", host.name)
        host.steer_bad = 0.6
        self._later(10.0, lambda: setattr(host, "steer_bad", 0.0))

    def _disk(self, host: FarmHost) -> None:
        self.world.fault("state disk error", host.name)
        host.store_bad = 0.7
        self._later(10.0, lambda: setattr(host, "store_bad", 0.0))

    def _lossy(self, host: FarmHost) -> None:
        self.world.fault("loss and delay")
        self.world.loss, self.world.late = 0.2, 0.05
        self._later(10.0, self._clear)

    def _clear(self) -> None:
        self.world.loss = self.world.late = 0.0

    def _order(self, host: FarmHost) -> None:
        chance = self.world.random
        orders: list[Order] = [
            Start(), Stop(), Leave(), Leave(force=True), Restart(), Drain(5.0), Drain(20.0, force=True),
            Undrain(), Weigh(chance.choice([0, 50, 100, 200])),
        ]  # fmt: skip
        if host.node is not None and not host.frozen:
            self.cluster.order(host.name, chance.choice(orders))
