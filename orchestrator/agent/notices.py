"""What the cloud announces of this machine, asked for every few seconds; `cluster.departure` decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.agent.journal import Telling
from orchestrator.agent.operations import Operation
from orchestrator.cluster.departure import Answer, Decided, Departure, Here, Keep, Move, Say
from orchestrator.cluster.orders import Wish
from orchestrator.host import clock
from orchestrator.host.store import JsonFile
from orchestrator.model.errors import CorruptState, StoreFailed
from orchestrator.model.names import ModuleName, NodeName
from orchestrator.model.notice import Notice
from orchestrator.model.report import FarmRole, Role
from orchestrator.node import Node
from orchestrator.providers.faults import MetadataSilent
from orchestrator.providers.notices.here import source_here
from orchestrator.providers.notices.service import Source

POLL_S: Final = 5.0
"""AWS' own advice for spot; a preemption at Google leaves thirty seconds."""
SILENT_S: Final = 180.0
"""Before a silent service is told of: Azure takes two minutes to answer the first question of all."""
Looks = Callable[[], Mapping[ModuleName, Here]]
Begin = Callable[[ModuleName, Wish], Operation]


def here(node: Node) -> dict[ModuleName, Here]:
    """What this node does for each module, as far as leaving it is concerned."""
    found = {}
    for name, mirror in node.mirrors.items():
        serves = mirror.role in (Role.PRIM, Role.ALONE)
        found[name] = Here("mirror", serves, not serves)
    for name, farm in node.farms.items():
        up = farm.role is FarmRole.UP
        found[name] = Here("farm", up and not farm.draining, not up)
    return found


class Notices:
    """Nothing runs where hafarm.yaml does not ask for it."""

    def __init__(
        self,
        choice: str,
        me: NodeName,
        path: str,
        looks: Looks,
        begin: Begin,
        journal: Telling,
        source: Callable[[], Source | None] = source_here,
        poll_s: float = POLL_S,
    ) -> None:
        self._choice = choice
        self._me = me
        self._file = JsonFile(path)
        self._looks = looks
        self._begin = begin
        self._journal = journal
        self._find = source
        self._poll_s = poll_s
        self._departure = Departure(leaves=choice == "swap")
        self._cloud = ""
        self._silent_since: float | None = None
        self._keeping = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to ask, where it is wished and there is somebody to ask."""
        if not self._choice:
            return
        source = self._find()
        if source is None:
            self._journal.tell("", "HF7074", "this machine's hardware is of no cloud that announces anything")
            return
        self._cloud = source.cloud
        self._departure = Departure(self._choice == "swap", drained=self._recalled())
        self._run(self._keep_asking(source))

    def told(self) -> list[dict[str, Any]]:
        """For `hafarm status`."""
        return [
            {"cloud": self._cloud, "kind": each.kind, "at": each.at}
            for each in self._departure.notices.values()
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- asking -------------------------------------------------------------------------------------------

    async def _keep_asking(self, source: Source) -> None:
        while True:
            await self._ask(source)
            await asyncio.sleep(self._poll_s)

    async def _ask(self, source: Source) -> None:
        try:
            found = await source.read()
        except MetadataSilent as fault:
            # What was announced still stands: a service that is silent calls nothing off.
            self._silent(fault)
            return
        self._silent_since = None
        await self._act(source, self._departure.looked(clock.now(), time.time(), found, self._looks()))

    def _silent(self, fault: MetadataSilent) -> None:
        now = clock.now()
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since >= SILENT_S:
            self._journal.tell("", fault.code, str(fault))

    # --- acting -------------------------------------------------------------------------------------------

    async def _act(self, source: Source, decided: Decided) -> None:
        """One after the other, in the order given."""
        self._departure = decided.state
        for effect in decided.effects:
            match effect:
                case Say(code, text, module):
                    self._journal.tell(module, code, text)
                case Keep():
                    await self._keep()
                case Move():
                    self._run(self._move(source, effect))
                case Answer(notice):
                    await self._answer(source, notice)

    async def _move(self, source: Source, order: Move) -> None:
        node = None if order.action == "swap" else self._me
        operation = self._begin(order.module, Wish(order.action, node=node))
        await operation.over.wait()
        error = operation.error or {"code": "", "message": ""}
        code, text = error["code"], error["message"]
        await self._act(source, self._departure.ended(clock.now(), order, code, text))

    async def _answer(self, source: Source, notice: Notice) -> None:
        try:
            await source.ready(notice)
        except MetadataSilent as fault:
            self._departure = self._departure.not_answered(notice)
            self._journal.tell("", fault.code, str(fault))
        else:
            self._journal.tell("", "HF7075", f"nothing is served here any more: {notice.kind}")

    def _run(self, deed: Any) -> None:
        task = asyncio.get_running_loop().create_task(deed)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- disk ---------------------------------------------------------------------------------------------

    def _recalled(self) -> frozenset[ModuleName]:
        """Farms that this node left before its agent ended, or its machine."""
        try:
            content = self._file.read() or {}
            return frozenset(ModuleName(str(name)) for name in content.get("drained", ()))
        except (CorruptState, TypeError) as fault:
            self._journal.tell("", CorruptState.code, str(fault))
            return frozenset()

    async def _keep(self) -> None:
        """The newest, whoever comes first."""
        try:
            async with self._keeping:
                await asyncio.to_thread(self._file.write, {"drained": sorted(self._departure.drained)})
        except StoreFailed as fault:
            self._journal.tell("", fault.code, str(fault))
