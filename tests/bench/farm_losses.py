"""`bench farm`: how long a client of a farm waits after its node was killed, and what moves then."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.agent.farm_place import seed_of
from orchestrator.config.load import load
from orchestrator.demo.cluster import Cluster
from orchestrator.farm import buckets
from orchestrator.farm.buckets import BUCKETS
from orchestrator.farm.view import Rules, View, maps
from orchestrator.model.names import NodeName
from tests.bench import failover
from tests.bench.mirror import FAST_ADVERT_S, Bench
from tests.bench.rig import PORT, Probed
from tests.bench.rounds import Void
from tests.bench.rows import Row, median_row, worst_row
from tests.support.jhash import bucket
from tests.support.waiting import eventually

FARM: Final = "web"
ADDRESS: Final = "198.18.0.101"
CLIENT: Final = "198.18.0.30"
NODES: Final = ("paris", "lyon", "nice")
UP_S: Final = 90.0
"""Whoever was lost some times within two minutes is left out for up to a minute."""
STEADY_S: Final = 0.5
"""Of good replies before a loss and after it: what a gap is compared with."""
SIXTEEN: Final = tuple(NodeName(f"n{number}") for number in range(1, 17))


class FarmCluster(Cluster):
    """Three nodes that serve UDP at one address."""

    def __init__(self, work: Path, preset: str, answer: Path) -> None:
        self._answer = answer
        super().__init__(work, NODES, preset=preset, images=False)

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        config = super()._make_config(preset, module)
        del config["cluster"]["witness"]
        vip = {"address": f"{ADDRESS}/24", "ports": [PORT], "protocols": ["udp"], "affinity": "source"}
        config["modules"] = [
            {
                "name": FARM,
                "kind": "farm",
                "nodes": list(NODES),
                "run": {"command": [str(self._answer), str(PORT)]},
                "vip": [vip],
            }
        ]
        return config

    def start_witness(self) -> None:
        """A farm needs none."""

    def begin(self) -> None:
        eventually(self.all_hear, UP_S)
        assert self.hafarm(NODES[0], "start", FARM).returncode == 0
        self.await_ready(NODES)

    def await_ready(self, names: Sequence[str]) -> None:
        eventually(lambda: all(self._is_ready(name, set(names)) for name in names), UP_S)

    def _is_ready(self, node: str, names: set[str]) -> bool:
        time.sleep(0.05)  # an answer costs the nodes some milliseconds each
        status = self.status(node)
        told = {each["node"]: each for each in status["modules"][0]["nodes"]} if status else {}
        sharing = {name for name, each in told.items() if each["serving"]}
        return sharing == names and told[node]["phase"] == "ready"


def gaps(bench: Bench, names: frozenset[str]) -> Iterator[Row]:
    """Blocks of each preset and of keepalived in turn, so that each had the machine at several times."""
    wanted = [
        (preset, advert)
        for preset, advert in (("lan", 1.0), ("fast", FAST_ADVERT_S))
        if f"farm_gap_{preset}_median_s" in names
    ]
    ours: dict[str, list[float]] = defaultdict(list)
    theirs: dict[str, list[float]] = defaultdict(list)
    for preset, advert in wanted:
        cluster = FarmCluster(bench.work / f"farm-{preset}", preset, bench.rig.answer)
        try:
            cluster.up()
            cluster.begin()
            for _ in range(bench.much(3, 1)):
                ours[preset] += bench.rounds(bench.much(4, 2), 120, lambda cluster=cluster: _lose(cluster))
                lose_theirs = lambda advert=advert: failover.keepalived_gap(advert, bench.rig.answer)  # noqa: E731
                theirs[preset] += bench.rounds(bench.much(2, 1), 60, lose_theirs)
        finally:
            cluster.remove()
        rival = f"keepalived, adverts each {advert:g} s: {_told(theirs[preset])}"
        yield median_row(
            f"farm_gap_{preset}_median_s", ours[preset], f"worst {max(ours[preset]):.3f}; {rival}"
        )


def _told(values: list[float]) -> str:
    return (
        f"{sorted(values)[len(values) // 2]:.2f} s (n={len(values)}, {min(values):.2f} to {max(values):.2f})"
    )


def _lose(cluster: FarmCluster) -> float:
    """SIGKILL to all processes of the node that serves the client, and its cable cut; then it returns."""
    gone = _server(cluster)
    probed = Probed(cluster.machines["client"], ADDRESS)
    try:
        time.sleep(STEADY_S)
        begin = time.monotonic()
        cluster.lose(gone)
        cluster.await_ready([name for name in NODES if name != gone])
        time.sleep(STEADY_S)
        probed.finish()
    finally:
        probed.kill()
        cluster.bring_back(gone)
        cluster.await_ready(NODES)
    answered = probed.report["last_of"]
    if answered.get(gone, 0.0) < begin - STEADY_S or max(answered.values()) <= answered[gone]:
        raise Void(f"{gone} was not the client's, or nobody came after it: {answered}")
    since, until = probed.gap(begin)
    return until - since


def _server(cluster: FarmCluster) -> str:
    """The node that serves the client's address."""
    (farm,) = load(str(cluster.work / "hafarm.yaml")).farms
    seed = seed_of(str(cluster.work / "keys" / NODES[0]), farm)
    ((*owners,),) = maps(Rules.of(farm), View.of({NodeName(name): 100 for name in NODES}))
    return str(owners[bucket(seed, CLIENT)])


def moved(_: Bench) -> Iterator[Row]:
    """Each node of each farm of up to sixteen is lost, with equal weights and with others."""
    needless: list[float] = []
    for count in range(2, len(SIXTEEN) + 1):
        for weights in (dict.fromkeys(SIXTEEN[:count], 1), _uneven(SIXTEEN[:count])):
            before = buckets.owners(FARM, weights, SIXTEEN[:count])
            for gone in SIXTEEN[:count]:
                after = buckets.owners(FARM, weights, [name for name in SIXTEEN[:count] if name != gone])
                changed = sum(old != new for old, new in zip(before, after, strict=True))
                needless.append(changed - before.count(gone))
    yield worst_row(
        "farm_moved_needless", needless, f"of {BUCKETS} buckets; 2 to 16 nodes, each of them lost"
    )


def _uneven(names: Sequence[NodeName]) -> dict[NodeName, int]:
    return {name: 1 + number % 4 for number, name in enumerate(names)}


def recompute(bench: Bench) -> Iterator[Row]:
    """What a node of sixteen does before its kernel gets anything: the map of those that are left."""
    weights = dict.fromkeys(SIXTEEN, 1)
    buckets.owners(FARM, weights, SIXTEEN)  # as on a node that serves
    times = []
    for number in range(bench.much(100, 20)):
        lost = {SIXTEEN[number % 16], SIXTEEN[(number // 16 + number + 1) % 16]}
        begin = time.perf_counter()
        buckets.owners(FARM, weights, [name for name in SIXTEEN if name not in lost])
        times.append(1000 * (time.perf_counter() - begin))
    yield median_row("farm_recompute_ms", times, f"one group of ports; worst {max(times):.1f}")
