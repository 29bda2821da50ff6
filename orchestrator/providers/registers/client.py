"""The agent's end of the process that speaks to a cloud's store: started, asked, killed when it hangs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import itertools
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.host.lines import LineBuffer, encode
from orchestrator.model.config import BucketConfig
from orchestrator.model.errors import CorruptState, RegisterRefused, RegisterUnreachable
from orchestrator.providers.registers.store import ExtraMissing, Held, StoreRefused
from orchestrator.providers.registers.worker import as_dict, held

READY_TIMEOUT_S: Final = 30.0
"""A loaded machine imports a cloud's library slowly: a second when it is idle."""
HANGS_S: Final = 10.0
"""The process's own time-outs are shorter; one that answers nothing for longer hangs, and is killed."""
WAITING_MAX: Final = 256
"""Questions without an answer; each mirror asks a few a second at the most."""
REST_S: Final = 1.0
"""Between two starts of a process that ends by itself."""
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
        self._log = log
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Mapping[str, Any]], float]] = {}
        """Also those whom nobody waits for any more: an answer that never comes shows that it hangs."""
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Mapping[str, Any]] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._started_at = -REST_S

    @property
    def pid(self) -> int:
        """Of the process; 0: none."""
        return self._process.pid if self._process is not None else 0

    async def get(self, key: str) -> Held | None:
        return await self._ask({"do": "get", "key": key})

    async def put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        coded = base64.b64encode(content).decode()
        return await self._ask({"do": "put", "key": key, "content": coded, "expected": as_dict(expected)})

    async def close(self) -> None:
        """End it; the agent ends too."""
        if self._starting is not None:
            self._starting.cancel()
        await self._end()

    # --- asking ---------------------------------------------------------------------------------------------

    async def _ask(self, question: Mapping[str, Any]) -> Held | None:
        await self._begin()
        await self._end_what_hangs()
        writer = self._writer
        if writer is None:
            raise RegisterUnreachable(self.where, "its process ended")
        if len(self._waiting) >= WAITING_MAX:
            raise RegisterUnreachable(self.where, f"{WAITING_MAX} questions wait for an answer")
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answer: asyncio.Future[Mapping[str, Any]] = loop.create_future()
        self._waiting[number] = answer, loop.time()
        try:
            writer.write(encode({"id": number, **question}))
            await writer.drain()
        except OSError as fault:
            raise RegisterUnreachable(self.where, "its process ended") from fault
        # Shielded: who waits may give up, and the answer is taken all the same.
        return self._understood(await asyncio.shield(answer))

    async def _end_what_hangs(self) -> None:
        oldest = min((since for _, since in self._waiting.values()), default=None)
        if oldest is not None and asyncio.get_running_loop().time() - oldest > HANGS_S:
            await self._end()
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
        if self._writer is not None and self._starting is None:
            return
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(self._begun)
        await asyncio.shield(self._starting)

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # whoever waits is told; nobody need wait

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._started_at + REST_S - loop.time()))
        self._started_at = loop.time()
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.to_thread(self._spawn, theirs)
        except OSError as fault:
            ours.close()
            raise RegisterUnreachable(self.where, f"its process cannot start: {fault}") from fault
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._ready = loop.create_future()
        self._reading = asyncio.create_task(self._read(reader))
        place = {"place": dataclasses.asdict(self._place), "timeout_s": self._timeout_s}
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                self._writer.write(encode(place))
                await self._writer.drain()
                said = await self._ready
            self._understood(said)
        except (TimeoutError, OSError) as fault:
            await self._end()
            raise RegisterUnreachable(self.where, "its process does not get ready") from fault
        except (RegisterRefused, RegisterUnreachable):
            await self._end()
            raise

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "orchestrator.providers.registers.worker", str(theirs.fileno())]
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(open(self._log, "ab")) if self._log else None
            # No signal to the agent's group reaches it: it ends when the socket does.
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
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
        self._let_go()
        # Started anew at once: no bid should have to wait for it.
        with contextlib.suppress(RegisterRefused, RegisterUnreachable):
            await self._begin()

    def _take(self, message: Mapping[str, Any]) -> None:
        if message.get("event") == "ready":
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(message)
            return
        answer, _ = self._waiting.pop(int(message.get("id") or 0), (None, 0.0))
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _end(self) -> None:
        """Kill it, whatever it is doing; who waits for it is told."""
        reading, self._reading = self._reading, None
        if reading is not None and reading is not asyncio.current_task():
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
        gone = {"unreachable": "its process ended"}
        for answer, _ in self._waiting.values():
            if not answer.done():
                answer.set_result(gone)
        self._waiting.clear()
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(gone)
