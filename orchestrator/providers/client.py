"""The agent's end of a provider's worker: started, asked with deadlines, killed when it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from orchestrator.host.lines import LineBuffer, encode
from orchestrator.model.errors import CorruptState
from orchestrator.model.names import Epoch, ModuleName
from orchestrator.providers.faults import ProviderUnreachable, WorkerSaid
from orchestrator.providers.mover import Place, place_as_dict

READY_TIMEOUT_S: Final = 120.0
"""An overloaded machine takes half a minute to load a cloud's library, an idle one a second. Whoever gave up
sooner would begin again from nothing; what it asks of the cloud meanwhile has time-outs of its own."""
MARGIN_S: Final = 2.0
"""Beyond an order's own time; a worker that is silent for longer hangs, and is killed."""
REST_S: Final = 1.0
"""Between two starts of a worker that ends by itself."""
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
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Mapping[str, Any]] | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._started_at = -REST_S

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def ask(self, order: str, time_s: float, /, **fields: Any) -> Mapping[str, Any]:
        """Its answer; WorkerSaid for a fault that it tells, ProviderUnreachable when there is none."""
        await self._begin()
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(time_s + MARGIN_S):
                await self._send({"id": number, "do": order, "time_s": time_s, **fields})
                return _understood(await answer)
        except (TimeoutError, OSError) as fault:
            await self._kill()
            raise ProviderUnreachable(self.name, order, f"no answer within {time_s:g} s") from fault
        finally:
            self._waiting.pop(number, None)

    async def warm(self) -> None:
        """Start it now, so that nothing is loaded when a role is taken."""
        with contextlib.suppress(ProviderUnreachable, WorkerSaid):
            await self._begin()

    async def close(self) -> None:
        """End it; the agent ends too."""
        await self._kill()

    # --- its life ---------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        async with self._starting:
            if self._writer is not None:
                return
            loop = asyncio.get_running_loop()
            await asyncio.sleep(max(0.0, self._started_at + REST_S - loop.time()))
            self._started_at = loop.time()
            ours, theirs = socket.socketpair()
            try:
                self._process = await asyncio.to_thread(self._spawn, theirs)
            except OSError as fault:
                ours.close()
                raise ProviderUnreachable(self.name, "start", f"its process cannot start: {fault}") from fault
            finally:
                theirs.close()
            reader, self._writer = await asyncio.open_connection(sock=ours)
            self._ready = loop.create_future()
            self._reading = asyncio.create_task(self._read(reader))
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await self._send({"place": place_as_dict(self._place)})
                    said = await self._ready
            except (TimeoutError, OSError) as fault:
                await self._kill()
                raise ProviderUnreachable(self.name, "start", "its process does not get ready") from fault
            if "error" in said:
                await self._kill()
                _understood(said)

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "orchestrator.providers.worker", self.name, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                # No signal to the agent's group reaches it: it ends when the socket does.
                start_new_session=True,
            )

    async def _read(self, reader: asyncio.StreamReader) -> None:
        buffer = LineBuffer()
        try:
            while data := await reader.read(65536):
                for message in buffer.receive_data(data):
                    self._take(message)
        except (OSError, CorruptState):
            pass  # ended either way; what follows is the same
        self._told(f"the process of provider {self.name} ended; see {os.path.basename(self._log)}")
        self._let_go()

    def _take(self, message: Mapping[str, Any]) -> None:
        match message.get("event"):
            case "ready":
                if self._ready is not None and not self._ready.done():
                    self._ready.set_result(message)
            case "may":
                task = asyncio.create_task(self._give_leave(message))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)
            case _:
                waiting = self._waiting.get(int(message.get("id") or 0))
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)

    async def _give_leave(self, message: Mapping[str, Any]) -> None:
        module, epoch = ModuleName(str(message["module"])), Epoch(int(message["epoch"]))
        until, why = await self._may(module, str(message["verb"]), epoch)
        answer = {"do": "leave", "number": message["number"], "yes": until > 0, "until": until, "why": why}
        with contextlib.suppress(OSError, ProviderUnreachable):  # it is gone, and has not sent anything
            await self._send(answer)

    async def _send(self, message: Mapping[str, Any]) -> None:
        writer = self._writer
        if writer is None:
            raise ProviderUnreachable(self.name, str(message.get("do", "start")), "its process ended")
        writer.write(encode(message))
        await writer.drain()

    async def _kill(self) -> None:
        """Whatever it is doing; who waits for it is told."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        self._let_go()

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()  # killed, it is gone within the time of a system call
        fault = ProviderUnreachable(self.name, "the order", "its process ended")
        for waiting in (*self._waiting.values(), *([self._ready] if self._ready is not None else [])):
            if not waiting.done():
                waiting.set_exception(fault)
        if self._ready is not None and self._ready.done():
            self._ready.exception()  # nobody need be waiting for it


def _understood(message: Mapping[str, Any]) -> Mapping[str, Any]:
    error = message.get("error")
    if isinstance(error, Mapping):
        raise WorkerSaid(str(error["code"]), str(error["text"]), bool(error["again"]))
    ok = message.get("ok")
    return ok if isinstance(ok, Mapping) else {}
