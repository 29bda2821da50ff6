"""The agent's end of a provider's worker: started, asked with deadlines, killed when it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from orchestrator.model.names import Epoch, ModuleName
from orchestrator.providers.faults import ProviderUnreachable, WorkerSaid
from orchestrator.providers.mover import Place, place_as_dict
from orchestrator.providers.process import WorkerProcess

MARGIN_S: Final = 2.0
"""Beyond an order's own time; a worker that is silent for longer hangs, and is killed."""
WORKER: Final = "orchestrator.providers.worker"
May = Callable[[ModuleName, str, Epoch], Awaitable[tuple[float, str]]]
"""Until when (on this machine's clock) a request of this verb may leave under this epoch; 0.0 and why not."""


class WorkerClient:
    """One worker. Whoever asks is told of its end as of a request without an answer."""

    def __init__(self, name: str, place: Place, log: str, may: May, told: Callable[[str], None]) -> None:
        self.name = name
        self._place = place
        self._log = log
        self._may = may
        self._told = told
        """Of an end that nobody ordered."""
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._process = WorkerProcess(WORKER, (name,), log, self._take, self._gone)
        self._answers: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, order: str, time_s: float, /, **fields: Any) -> Mapping[str, Any]:
        """Its answer; WorkerSaid for a fault that it tells, ProviderUnreachable when there is none."""
        await self._begin()
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(time_s + MARGIN_S):
                await self._process.send({"id": number, "do": order, "time_s": time_s, **fields})
                return _understood(await answer)
        except TimeoutError as fault:
            await self._process.kill()
            raise ProviderUnreachable(self.name, order, f"no answer within {time_s:g} s") from fault
        except OSError as fault:
            raise ProviderUnreachable(self.name, order, "its process ended") from fault
        finally:
            self._waiting.pop(number, None)

    async def warm(self) -> None:
        """Start it now, so that nothing is loaded when a role is taken."""
        with contextlib.suppress(ProviderUnreachable, WorkerSaid):
            await self._begin()

    async def close(self) -> None:
        """End it; the agent ends too."""
        await self._process.kill()

    # --- its life ---------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        async with self._starting:
            if self._process.is_up:
                return
            try:
                said = await self._process.start({"place": place_as_dict(self._place)})
            except OSError as fault:
                raise ProviderUnreachable(self.name, "start", str(fault)) from fault
            if "error" in said:
                await self._process.kill()
                _understood(said)

    def _take(self, message: Mapping[str, Any]) -> None:
        if message.get("event") == "may":
            task = asyncio.create_task(self._give_leave(message))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
            return
        waiting = self._waiting.get(int(message.get("id") or 0))
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _gone(self, unordered: bool) -> None:
        if unordered:
            self._told(f"the process of provider {self.name} ended; see {os.path.basename(self._log)}")
        fault = ProviderUnreachable(self.name, "the order", "its process ended")
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(fault)

    async def _give_leave(self, message: Mapping[str, Any]) -> None:
        module, epoch = ModuleName(str(message["module"])), Epoch(int(message["epoch"]))
        until, why = await self._may(module, str(message["verb"]), epoch)
        answer = {"do": "leave", "number": message["number"], "yes": until > 0, "until": until, "why": why}
        with contextlib.suppress(OSError):  # it is gone, and has not sent anything
            await self._process.send(answer)


def _understood(message: Mapping[str, Any]) -> Mapping[str, Any]:
    error = message.get("error")
    if isinstance(error, Mapping):
        raise WorkerSaid(str(error["code"]), str(error["text"]), bool(error["again"]))
    ok = message.get("ok")
    return ok if isinstance(ok, Mapping) else {}
