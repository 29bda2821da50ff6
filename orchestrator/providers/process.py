"""A process beside the agent that has a cloud's library: born with one end of a socket, and gone with it.

JSON lines. The agent's first message says what it is for, and it answers that it is ready; then either end
sends what it likes. It can be killed at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, Final

from orchestrator.host.lines import LineBuffer, encode
from orchestrator.model.errors import CorruptState

READY: Final = "ready"
READY_TIMEOUT_S: Final = 120.0
"""An overloaded machine takes half a minute to load a cloud's library, an idle one a second. Whoever gave up
sooner would begin again from nothing; what it asks of the cloud meanwhile has time-outs of its own."""
REST_S: Final = 1.0
"""Between two starts of a process that ends by itself."""

Message = Mapping[str, Any]


class WorkerProcess:
    """The agent's end. Raises OSError where the process cannot start or is gone."""

    def __init__(
        self,
        module: str,
        words: tuple[str, ...],
        log: str,
        take: Callable[[Message], None],
        gone: Callable[[bool], None],
    ) -> None:
        """`log`: where it complains; empty: at our own standard error.

        `take`: called with each message but that it is ready. `gone`: called when it is, so that no answer is
        waited for any more; with True when nobody ordered that.
        """
        self._module, self._words, self._log = module, words, log
        self._take, self._gone = take, gone
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Message] | None = None
        self._started_at = -REST_S

    @property
    def pid(self) -> int:
        """0: there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_up(self) -> bool:
        return self._writer is not None

    async def start(self, first: Message) -> Message:
        """What it says when it is ready. On any fault, a time-out too, it is gone again."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._started_at + REST_S - loop.time()))
        self._started_at = loop.time()
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.to_thread(self._spawn, theirs)
        except OSError as fault:
            ours.close()
            raise OSError(fault.errno, f"its process cannot start: {fault.strerror}") from fault
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._ready = loop.create_future()
        self._reading = asyncio.create_task(self._read(reader))
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self.send(first)
                return await self._ready
        except OSError as fault:
            await self.kill()
            raise OSError("its process does not get ready") from fault

    async def send(self, message: Message) -> None:
        if self._writer is None:
            raise ConnectionResetError("its process ended")
        self._writer.write(encode(message))
        await self._writer.drain()

    async def kill(self) -> None:
        """Whatever it is doing."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        self._let_go(unordered=False)

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(open(self._log, "ab")) if self._log else None
            return subprocess.Popen(
                [sys.executable, "-m", self._module, *self._words, str(theirs.fileno())],
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
                    if message.get("event") != READY:
                        self._take(message)
                    elif self._ready is not None and not self._ready.done():
                        self._ready.set_result(message)
        except (OSError, CorruptState):
            pass  # ended either way; what follows is the same
        self._reading = None
        self._let_go(unordered=True)

    def _let_go(self, unordered: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()  # killed, it is gone within the time of a system call
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(ConnectionResetError("its process ended"))
            self._ready.exception()  # whoever waits is told; nobody need wait
        self._gone(unordered)


def inbox(connection: socket.socket) -> SimpleQueue[Message]:
    """The process's own end: what the agent says. The process ends when the agent is gone.

    A thread of its own reads, so that this is known at once, also while a library is being loaded. Whatever
    is under way then: what has left cannot be called back, the next request must not leave.
    """
    messages: SimpleQueue[Message] = SimpleQueue()

    def read() -> None:
        buffer = LineBuffer()
        try:
            while data := connection.recv(65536):
                for message in buffer.receive_data(data):
                    messages.put(message)
        finally:
            os._exit(0)

    threading.Thread(target=read, name="agent", daemon=True).start()
    return messages
