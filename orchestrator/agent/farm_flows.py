"""What each node of a farm serves now, connections and rates: measured here, asked for elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.farm.plane import Traffic
from orchestrator.farm.rates import Meter
from orchestrator.host.farm_plane import FarmPlane
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName

SAMPLE_S: Final = 5.0
"""Between two looks at the counters while nobody asks; each costs a millisecond."""
FRESH_S: Final = 1.0
"""What was asked of the others is told for so long: a screen that is refreshed all the time asks once."""
COUNT_SHARE: Final = 0.1
"""Of our time at most goes into counting connections: with a million of them one count takes seconds."""
WAIT_S: Final = 0.3
"""Whoever looks waits no longer for those that do not answer."""
ASK_S: Final = 5.0
"""A node that is so busy is asked again by the next one who looks."""
OLD_S: Final = 15.0
"""Of a node that answered before, and does not now, so much longer is told what it said."""
KEYS: Final = ("connections", "connections_per_s", "packets_per_s", "bytes_per_s")
Flow = Mapping[str, float | None]
"""These four; None: not known."""
UNKNOWN: Final[Flow] = dict.fromkeys(KEYS)


@dataclass
class Flows:
    """Of one farm on this node."""

    plane: FarmPlane
    _meter: Meter = field(default_factory=Meter)
    _counted: Mapping[str, Traffic] = field(default_factory=dict)
    _count_again_at: float = 0.0

    async def run(self) -> None:
        """Until cancelled: so that there is something to compare with when somebody asks."""
        while True:
            self._sample()
            await asyncio.sleep(SAMPLE_S)

    def _sample(self) -> None:
        with suppress(HafarmError, OSError):  # somebody just took the rules away; they come back
            sample = self.plane.sample()
            if sample is not None:
                self._meter = self._meter.learn(sample)
            else:
                self._meter, self._counted, self._count_again_at = Meter(), {}, 0.0

    async def counted(self) -> Mapping[str, Traffic]:
        """By service, what this node had; nothing where no traffic is let in."""
        now = time.monotonic()
        if self._meter.samples and now >= self._count_again_at:
            with suppress(HafarmError, OSError):
                self._counted = await self.plane.counters()
            took_s = time.monotonic() - now
            self._count_again_at = now + max(FRESH_S, took_s / COUNT_SHARE)
        return self._counted

    def rates(self, services: Iterable[str]) -> Flow:
        """Of these services together, on this node; without its connections."""
        rates = self._meter.rates(services)
        if rates is None:
            return UNKNOWN
        found = (rates.connections, rates.packets, rates.bytes)
        return {"connections": None, **dict(zip(KEYS[1:], (round(each, 2) for each in found), strict=True))}

    async def here(self) -> Flow:
        """All of this node."""
        self._sample()  # as fresh as the connections
        counted = await self.counted()
        if not counted:
            return UNKNOWN
        return {**self.rates(counted), "connections": sum(each.connections for each in counted.values())}


@dataclass
class TheirFlows:
    """Of all farms on the other nodes, as they say when somebody looks."""

    ask: Callable[[NodeName], Awaitable[Any]]
    """One question to another node's agent: for each farm there its `here`."""
    _told: dict[NodeName, tuple[float, Mapping[str, Flow]]] = field(default_factory=dict)
    """When it was heard, and what."""
    _asked: dict[NodeName, tuple[float, asyncio.Task[None]]] = field(default_factory=dict)
    """When it was asked last."""

    async def of(self, others: Collection[NodeName]) -> Mapping[NodeName, Mapping[str, Flow]]:
        """By node, and by farm there; nothing of a node that gives no answer."""
        now = time.monotonic()
        for name in others:
            at, task = self._asked.get(name, (now - FRESH_S, None))
            if now - at >= FRESH_S and (task is None or task.done()):
                self._asked[name] = now, asyncio.get_running_loop().create_task(self._hear(name))
        if asking := [self._asked[name][1] for name in others if not self._asked[name][1].done()]:
            # Whoever looks waits no longer; the question goes on, for the next time that somebody looks.
            await asyncio.wait(asking, timeout=WAIT_S)
        now = time.monotonic()
        return {
            name: self._told[name][1]
            for name in others
            if name in self._told and now - self._told[name][0] < OLD_S
        }

    async def _hear(self, name: NodeName) -> None:
        with suppress(HafarmError, OSError, TimeoutError):
            async with asyncio.timeout(ASK_S):
                answer = await self.ask(name)
            flows = answer.get("flows") if isinstance(answer, dict) else None
            if isinstance(flows, dict):
                self._told[name] = time.monotonic(), {farm: _flow(said) for farm, said in flows.items()}

    def close(self) -> None:
        for _, task in self._asked.values():
            task.cancel()


def _flow(said: Any) -> Flow:
    """Another release may say it otherwise."""
    right = isinstance(said, dict) and all(isinstance(said.get(key), _NUMBER) for key in KEYS)
    return {key: said[key] for key in KEYS} if right else UNKNOWN


_NUMBER: Final = (int, float, type(None))
