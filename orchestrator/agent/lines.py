"""The agent's end of a Unix socket to one of our processes: requests with a deadline, and events."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.host.lines import LineBuffer, encode
from orchestrator.model.errors import CorruptState, HafarmError, ProcessUnreachable

REQUEST_TIMEOUT_S = 5.0
"""A process that does not answer for so long is taken for hung; nothing that is asked takes that long."""


@dataclass(eq=False)
class Refused(HafarmError):
    """The process understood and said no, with a code of its own."""

    refusal: str
    text: str

    def __str__(self) -> str:
        return self.text


class Lines:
    """One connection. Whoever holds it learns of its end through `on_end`, once."""

    def __init__(
        self, path: str, on_event: Callable[[Mapping[str, Any]], None], on_end: Callable[[], None]
    ) -> None:
        self._path = path
        self._on_event = on_event
        self._on_end = on_end
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """ProcessUnreachable when nobody listens."""
        try:
            reader, self._writer = await asyncio.open_unix_connection(self._path)
        except OSError as fault:
            raise ProcessUnreachable(self._path, fault.strerror or str(fault)) from fault
        self._reading = asyncio.create_task(self._read(reader))

    async def ask(self, what: str, timeout_s: float = REQUEST_TIMEOUT_S, **fields: Any) -> Mapping[str, Any]:
        """One request; its answer. Raises Refused or ProcessUnreachable."""
        if self._writer is None or self._writer.is_closing():
            raise ProcessUnreachable(self._path, "the connection ended")
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(encode({"id": number, "do": what, **fields}))
            async with asyncio.timeout(timeout_s):
                await self._writer.drain()
                said = await answer
        except (TimeoutError, OSError) as fault:
            raise ProcessUnreachable(self._path, f"{what}: no answer within {timeout_s:g} s") from fault
        finally:
            self._waiting.pop(number, None)
        if "error" in said:
            raise Refused(str(said["error"].get("code", "HF1000")), str(said["error"].get("text", "")))
        ok = said.get("ok")
        return ok if isinstance(ok, dict) else {}

    async def _read(self, reader: asyncio.StreamReader) -> None:
        buffer = LineBuffer()
        try:
            while data := await reader.read(65536):
                for message in buffer.receive_data(data):
                    self._take(message)
        except (OSError, CorruptState):
            pass  # ended either way; what follows is the same
        finally:
            self._drop()
        self._on_end()

    def _take(self, message: Mapping[str, Any]) -> None:
        if "event" in message:
            self._on_event(message)
            return
        waiting = self._waiting.get(int(message.get("id") or 0))
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _drop(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ProcessUnreachable(self._path, "the connection ended"))
        if self._writer is not None:
            self._writer.close()

    async def close(self) -> None:
        """Let go without a word; `on_end` is not called."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        self._drop()
