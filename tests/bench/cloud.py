"""`bench cloud`: our own share of a move, what a worker costs, and that its start holds up no agent.

The clouds are simulators on loopback, spoken to by the real libraries. What a request takes inside of them is
the provider's time and is taken off, where several are under way once; everything else is ours: deciding,
the worker, the library, connections, and what our own pauses between two looks add.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from orchestrator.model.names import ClusterName, NodeName
from orchestrator.providers.client import WORKER
from orchestrator.providers.mover import Place, place_as_dict
from orchestrator.providers.process import WorkerProcess
from orchestrator.providers.sending import AT_ONCE
from orchestrator.providers.worker import BUILT_IN
from tests.bench.idle import rss_mib
from tests.bench.mirror import Bench, Measurement
from tests.bench.rows import Row, median_row, worst_row
from tests.providers.aws_scenes import Overlay
from tests.providers.azure_scenes import Udr
from tests.providers.gcp_scenes import Route
from tests.providers.scenes import Scene
from tests.providers.stage import Stage, staged
from tests.support.clouds.aws import Vpc

ROUTES: Final[dict[str, type[Scene]]] = {
    "aws overlay-route, 3 tables": Overlay,
    "azure udr, 3 tables": Udr,
    "gcp route": Route,
}
MOVES: Final = 20
TABLES: Final = 50
ANSWER_S: Final = 0.1
"""What a cloud usually takes for a request that changes a route."""
TICK_S: Final = 0.001
Span = tuple[float, float]


class ManyTables(Overlay):
    """As in a large VPC."""

    def build(self) -> Vpc:
        return Vpc(self.aws, "10.0.0.0/16", {"a": "10.0.1.0/24", "b": "10.0.2.0/24"}, tables=TABLES)


def own_share(bench: Bench) -> Iterator[Row]:
    """The address goes to and fro between two nodes with warm workers."""
    found: dict[str, list[float]] = {}
    for name, scene in ROUTES.items():
        with staged(scene, bench.work) as stage:
            found[name] = bench.rounds(bench.much(MOVES, 4), 90, lambda stage=stage: 1000 * moved(stage))
    slowest = max(found, key=lambda name: statistics.median(found[name]))
    told = "; ".join(f"{name} {statistics.median(times):.0f} ms" for name, times in found.items())
    yield median_row("cloud_own_share_ms", found[slowest], f"{slowest}, the slowest of: {told}")


def many_tables(bench: Bench) -> Iterator[Row]:
    """Fifty route tables of AWS, four requests at once, each as slow as in the cloud."""
    with staged(ManyTables, bench.work) as stage:
        whole(stage)  # the first makes the routes, and each later one replaces them
        stage.knobs.turn("delay", action="ReplaceRoute", seconds=ANSWER_S)
        times = bench.rounds(bench.much(5, 2), 60, lambda: whole(stage))
    least = TABLES / AT_ONCE * ANSWER_S
    yield median_row("cloud_50_tables_s", times, f"each request {ANSWER_S:g} s: at least {least:.2f} s")


def workers(bench: Bench) -> Iterator[Row]:
    """From nothing to ready, and what the process then holds; the agent's loop goes on meanwhile."""
    starts: dict[str, list[float]] = {name: [] for name in BUILT_IN}
    sizes: dict[str, float] = {}
    stalls: list[float] = []
    for name in BUILT_IN:
        for started in bench.rounds(bench.much(5, 2), 60, lambda name=name: asyncio.run(start(name))):
            starts[name].append(started.took_s)
            sizes[name] = started.mib
            stalls.append(1000 * started.stall_s)
    slowest = max(starts, key=lambda name: max(starts[name]))
    told = "; ".join(f"{name} {min(times):.2f} to {max(times):.2f} s" for name, times in starts.items())
    yield median_row("cloud_worker_start_s", starts[slowest], f"{slowest}, the slowest of: {told}")
    told = "; ".join(f"{name} {mib:.0f}" for name, mib in sizes.items())
    yield worst_row("cloud_worker_rss_mib", list(sizes.values()), told)
    yield worst_row("cloud_loop_stall_ms", stalls, "a loop that ticks each ms, while a worker starts")


# --- one round ----------------------------------------------------------------------------------------------


def whole(stage: Stage) -> float:
    """Seconds of one claim by whoever does not have the address."""
    return _claimed(stage)[0]


def moved(stage: Stage) -> float:
    """Seconds of one claim that are our own."""
    took_s, spans = _claimed(stage)
    return took_s - covered(spans)


def _claimed(stage: Stage) -> tuple[float, list[Span]]:
    giver, taker = stage.paris, stage.lyon
    if giver.held is None:
        giver, taker = taker, giver
    epoch, giver.held = (giver.held or 1) + 1, None
    stage.knobs.spans.clear()
    begin = time.monotonic()
    stage.run(taker.claim(epoch))
    end = time.monotonic()
    spans = [(max(since, begin), min(until, end)) for since, until in stage.knobs.spans if since < end]
    assert stage.scene.owners() == {taker.name}
    return end - begin, spans


def covered(spans: Iterable[Span]) -> float:
    """How long at least one was under way."""
    total, reached = 0.0, 0.0
    for since, until in sorted(spans):
        total += max(0.0, until - max(since, reached))
        reached = max(reached, until)
    return total


@dataclass(frozen=True, slots=True)
class Started:
    took_s: float
    mib: float
    stall_s: float


async def start(name: str) -> Started:
    """A worker of this provider for no address at all: what it costs before the first request."""
    place = place_as_dict(Place(ClusterName("bench"), NodeName("paris"), {NodeName("paris"): ()}, ()))
    worker = WorkerProcess(WORKER, (name,), os.devnull, lambda _: None, lambda _: None)
    late: list[float] = [0.0]
    ticking = asyncio.create_task(_tick(late))
    begin = time.monotonic()
    try:
        await worker.start({"place": place})
        took_s = time.monotonic() - begin
        return Started(took_s, rss_mib(worker.pid), max(late))
    finally:
        ticking.cancel()
        await worker.kill()


async def _tick(late: list[float]) -> None:
    while True:
        due = time.monotonic() + TICK_S
        await asyncio.sleep(TICK_S)
        late.append(time.monotonic() - due)


def _all(run: Callable[[Bench], Iterator[Row]]) -> Callable[[Bench, frozenset[str]], Iterator[Row]]:
    return lambda bench, names: run(bench)


ALL: Final = (
    Measurement(("cloud_own_share_ms",), _all(own_share)),
    Measurement(("cloud_50_tables_s",), _all(many_tables)),
    Measurement(("cloud_worker_start_s", "cloud_worker_rss_mib", "cloud_loop_stall_ms"), _all(workers)),
)
