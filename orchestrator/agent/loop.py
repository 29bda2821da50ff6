"""The loop: an event, one step of the node, its effects to the hands; the only writer of the node."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Protocol

from orchestrator.host import clock
from orchestrator.model.effects import Effect
from orchestrator.model.events import Event, TimePassed
from orchestrator.model.names import Instant, ModuleName
from orchestrator.node import Node

INBOX_MAX = 10_000
"""Tens of events a second are much; at this length something posts in a circle, and ends loudly."""


class HandsOf(Protocol):
    """One module's."""

    def submit(self, effects: tuple[Effect, ...]) -> None: ...


class Loop:
    """Owns the node's state. `post` may be called from this event loop's thread only."""

    def __init__(self, node: Node, on_step: Callable[[], None]) -> None:
        self.node = node
        self.hands: Mapping[ModuleName, HandsOf] = {}
        self.lag_s = 0.0
        """How late the newest time event was: this loop's own health."""
        self._inbox: asyncio.Queue[Event] = asyncio.Queue(INBOX_MAX)
        self._on_step = on_step

    def post(self, event: Event) -> None:
        """Something was learned."""
        self._inbox.put_nowait(event)

    async def settled(self) -> None:
        """Return when everything that was posted before has been decided on."""
        await self._inbox.join()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            event = await self._next()
            self.step(event)
            if not isinstance(event, TimePassed):
                self._inbox.task_done()

    def step(self, event: Event) -> None:
        """Learn one event, and hand on what follows, module by module."""
        decision = self.node.step(clock.now(), event)
        self.node = decision.state
        batches: dict[ModuleName, list[Effect]] = defaultdict(list)
        for effect in decision.effects:
            batches[self._module_of(effect, event)].append(effect)
        for module, effects in batches.items():
            self.hands[module].submit(tuple(effects))
        self._on_step()

    def _module_of(self, effect: Effect, event: Event) -> ModuleName:
        module = getattr(effect, "module", None) or getattr(event, "module", None)
        assert module is not None, f"{effect} belongs to no module"
        return ModuleName(module)

    async def _next(self) -> Event:
        """The next event, or time when it is due."""
        due = self.node.deadline()
        if due is None:
            return await self._inbox.get()
        try:
            async with asyncio.timeout(max(0.0, due - clock.now())):
                return await self._inbox.get()
        except TimeoutError:
            self.lag_s = max(0.0, clock.now() - Instant(due))
            return TimePassed()
