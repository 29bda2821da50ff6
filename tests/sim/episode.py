"""One seed: a cluster begins, is struck for some simulated hours, is healed, and must come together."""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass, field

from orchestrator.model.config import HANG_TOLD_ONLY, TOLD_ONLY, HungDiskConfig, SlowPeerConfig
from tests.sim.cluster import Cluster
from tests.sim.faults import Storm
from tests.sim.world import CutShort, TwoHistories, Violation

HUNG_S = 12.0
"""How long a disk that hangs is borne before the role goes: shorter than most of them hang here."""
BORNE_S = 2.0
"""How long a slow member is borne before it is dropped: shorter than a disk is slow here."""
STRUCK_S = 6 * 3600.0
"""Of one episode: some six bursts, then everything must heal."""

LAST_S = 90.0
"""What the last burst has begun is over by then."""


@dataclass
class Outcome:
    """What became of one seed."""

    seed: int
    simulated_s: float
    events: int
    faults: int
    role_changes: int
    trace: int
    acknowledged: int
    counts: dict[str, int]
    violation: str = ""
    log: list[str] = field(default_factory=list)


def build(seed: int, **how: bool) -> Cluster:
    """The cluster that this seed draws."""
    chance = random.Random(seed * 7919)
    nodes = 2 if chance.random() < 0.7 else 3
    module = {
        "overlap": "none" if chance.random() < 0.2 else "brief",
        "on_register_loss": "stop" if chance.random() < 0.2 else "hold",
        "on_link_loss": "stay" if chance.random() < 0.2 else "move",
        "ack": "memory" if chance.random() < 0.1 else "disk",
    }
    slow = SlowPeerConfig(BORNE_S, "drop") if chance.random() < 0.4 else TOLD_ONLY
    hung = HungDiskConfig(HUNG_S, "move") if chance.random() < 0.5 else HANG_TOLD_ONLY
    cluster = Cluster(seed, nodes, **how, **module, slow_peer=slow, hung_disk=hung)
    for name, value in (*module.items(), ("slow_peer", slow.do), ("hung_disk", hung.do)):
        cluster.world.counts[f"{name}: {value}"] += 1
    for host in cluster.hosts.values():
        host.set_rate(1 + 0.01 * (2 * chance.random() - 1))
    return cluster


def play(
    seed: int, log: bool = False, cluster: Cluster | None = None, over_at: float = float("inf")
) -> Outcome:
    """Run one seed to its end, to the first violation, or until this instant of `time.monotonic`."""
    cluster = cluster or build(seed)
    world = cluster.world
    world.over_at = over_at
    if log:
        world.log = []
    violation = ""
    try:
        cluster.begin()
        until = world.now + STRUCK_S
        Storm(cluster).burst(until)
        world.run(until + LAST_S)
        cluster.heal()
        cluster.converge()
    except CutShort:
        world.counts["cut short"] += 1
    except TwoHistories:
        world.counts["ended by an operator's force"] += 1
    except Violation as found:
        violation = str(found)
        world.note(f"VIOLATION {found}")
    except Exception as found:
        # Whatever a machine raises would have ended the agent.
        at = traceback.extract_tb(found.__traceback__)[-1]
        violation = f"{type(found).__name__} {found} in {at.name}: {at.line}"
        world.note(f"VIOLATION {violation}")
    return Outcome(
        seed,
        world.now,
        world.events,
        world.faults,
        world.counts["role changes"],
        world.trace,
        cluster.acknowledged,
        dict(world.counts),
        violation,
        world.log or [],
    )
