"""Are the files somebody else's on a node that comes? Asked when its stream begins, told once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.agent.care import Care
from orchestrator.agent.journal import Journal
from orchestrator.agent.lines import Refused
from orchestrator.model.errors import ProcessUnreachable
from orchestrator.model.names import ModuleName, NodeName

TOLD_MAX: Final = 10
"""Of one node at once: whoever has more others has another directory of users, and these say so."""
TRIES: Final = 3
AGAIN_S: Final = 5.0
"""A node that joins starts its agent and its replicator together; one of them may be the slower."""


class Owners:
    """Compares, beside all else, and tells what is new in this agent's life."""

    def __init__(self, care: Care, journal: Journal) -> None:
        self._care = care
        self._journal = journal
        self._told: set[tuple[ModuleName, str]] = set()
        self._tasks: dict[tuple[ModuleName, NodeName], asyncio.Task[None]] = {}

    def heard(self, module: ModuleName, message: Mapping[str, Any]) -> None:
        """An event of a module's replicator: a node that follows from now on is compared with."""
        if message.get("event") != "stream_up":
            return
        about = (module, NodeName(str(message["peer"])))
        if about not in self._tasks:
            task = self._tasks[about] = asyncio.get_running_loop().create_task(self._compare(*about))
            task.add_done_callback(lambda _: self._tasks.pop(about, None))

    async def _compare(self, module: ModuleName, peer: NodeName) -> None:
        for left in reversed(range(TRIES)):
            try:
                found = await self._care.owners_differ(module, peer)
            except (Refused, ProcessUnreachable):
                # `hafarm verify` and `hafarm config check` say so where it cannot be asked.
                await asyncio.sleep(AGAIN_S if left else 0.0)
                continue
            for text in [each for each in found if (module, each) not in self._told][:TOLD_MAX]:
                self._told.add((module, text))
                self._journal.tell(module, "HF4022", text)
            return

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
