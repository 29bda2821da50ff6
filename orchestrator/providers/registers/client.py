"""The agent's end of the process that speaks to a cloud's store: started, asked, killed when it hangs."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.model.config import BucketConfig
from orchestrator.model.errors import RegisterRefused, RegisterUnreachable
from orchestrator.providers.process import WorkerProcess
from orchestrator.providers.registers.store import ExtraMissing, Held, StoreRefused
from orchestrator.providers.registers.worker import as_dict, held

WORKER: Final = "orchestrator.providers.registers.worker"
HANGS_S: Final = 10.0
"""The process's own time-outs are shorter; one that answers nothing for longer hangs, and is killed."""
WAITING_MAX: Final = 256
"""Questions without an answer; each mirror asks a few a second at the most."""
GCS_PAUSE_S: Final = 1.1
"""Google takes one write a second under one key, and puts off what comes earlier."""


class WorkerStore:
    """A bucket of S3, Google Cloud Storage or Azure Blob Storage, through a process that has the library."""

    def __init__(self, place: BucketConfig, timeout_s: float, log: str = "") -> None:
        """`log`: where the process complains; empty: at our own standard error."""
        self.where = place.where
        self.pause_s = GCS_PAUSE_S if place.kind == "gcs" else 0.0
        self._place = place
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Mapping[str, Any]], float]] = {}
        """Also those whom nobody waits for any more: an answer that never comes shows that it hangs."""
        self._process = WorkerProcess(WORKER, (), log, self._take, self._gone)
        self._starting: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Of the process; 0: none."""
        return self._process.pid

    async def get(self, key: str) -> Held | None:
        return await self._ask({"do": "get", "key": key})

    async def put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        coded = base64.b64encode(content).decode()
        return await self._ask({"do": "put", "key": key, "content": coded, "expected": as_dict(expected)})

    async def close(self) -> None:
        """End it; the agent ends too."""
        if self._starting is not None:
            self._starting.cancel()
        await self._process.kill()

    # --- asking ---------------------------------------------------------------------------------------------

    async def _ask(self, question: Mapping[str, Any]) -> Held | None:
        await self._begin()
        await self._end_what_hangs()
        if len(self._waiting) >= WAITING_MAX:
            raise RegisterUnreachable(self.where, f"{WAITING_MAX} questions wait for an answer")
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answer: asyncio.Future[Mapping[str, Any]] = loop.create_future()
        self._waiting[number] = answer, loop.time()
        try:
            await self._process.send({"id": number, **question})
        except OSError as fault:
            raise RegisterUnreachable(self.where, "its process ended") from fault
        # Shielded: who waits may give up, and the answer is taken all the same.
        return self._understood(await asyncio.shield(answer))

    async def _end_what_hangs(self) -> None:
        oldest = min((since for _, since in self._waiting.values()), default=None)
        if oldest is not None and asyncio.get_running_loop().time() - oldest > HANGS_S:
            await self._process.kill()
            raise RegisterUnreachable(self.where, f"its process hung for {HANGS_S:g} s, and was ended")

    def _understood(self, message: Mapping[str, Any]) -> Held | None:
        if "missing" in message:
            raise ExtraMissing(self.where, str(message["missing"]))
        if "refused" in message:
            raise StoreRefused(self.where, str(message["refused"]), str(message["fix"]))
        if "unreachable" in message:
            raise RegisterUnreachable(self.where, str(message["unreachable"]))
        return held(message["ok"])

    # --- its life -------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Started and ready. Who has no time to wait for that leaves it under way."""
        if self._process.is_up and self._starting is None:
            return
        await asyncio.shield(self._begin_start())

    def _begin_start(self) -> asyncio.Task[None]:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(self._begun)
        return self._starting

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # whoever waits is told; nobody need wait

    async def _start(self) -> None:
        place = {"place": dataclasses.asdict(self._place), "timeout_s": self._timeout_s}
        try:
            said = await self._process.start(place)
        except OSError as fault:
            raise RegisterUnreachable(self.where, str(fault)) from fault
        try:
            self._understood(said)
        except (RegisterRefused, RegisterUnreachable):
            await self._process.kill()
            raise

    def _take(self, message: Mapping[str, Any]) -> None:
        answer, _ = self._waiting.pop(int(message.get("id") or 0), (None, 0.0))
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _gone(self, unordered: bool) -> None:
        for answer, _ in self._waiting.values():
            if not answer.done():
                answer.set_result({"unreachable": "its process ended"})
        self._waiting.clear()
        if unordered:
            self._begin_start()  # anew at once: no bid should have to wait for it
