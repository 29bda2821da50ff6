"""A simulator that listens: a loop in a thread of its own, and knobs that other processes can turn."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from aiohttp import web

from tests.clouds.knobs import Knob, Knobs

T = TypeVar("T")


class Face(Protocol):
    """What a simulator shows to who serves it."""

    knobs: Knobs
    faults: list[str]
    """Answers that broke the interface data, and calls that only the cloud knows: a test must have none."""

    async def answer(self, request: web.Request) -> web.StreamResponse: ...


F = TypeVar("F", bound=Face)


class Served(Generic[F]):
    """A simulator on a port of its own, from `with` to its end."""

    def __init__(self, face: F, tls: ssl.SSLContext | None = None, listener: socket.socket | None = None):
        self.face = face
        self._tls = tls
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=type(face).__name__, daemon=True)
        self._ready: Future[web.AppRunner] = Future()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}"

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"{host}:{port}"

    def do(self, change: Callable[[], T]) -> T:
        """Run this where the simulator's own requests run, so that it sees and leaves a whole state."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(change())
            except BaseException as fault:
                done.set_exception(fault)

        self._loop.call_soon_threadsafe(run)
        return done.result(timeout=10)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(timeout=10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        runner = self._ready.result()
        asyncio.run_coroutine_threadsafe(runner.cleanup(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        if kind is None:
            assert self.face.faults == [], "\n".join(self.face.faults)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._ready.set_result(self._loop.run_until_complete(self._start()))
            self._loop.run_forever()
        finally:
            pending = asyncio.all_tasks(self._loop)
            for task in pending:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self._loop.close()

    async def _start(self) -> web.AppRunner:
        application = web.Application(client_max_size=1 << 20)
        Control(self.face).add_to(application)
        application.router.add_route("*", "/{path:.*}", self._answer)
        # A call that hangs on purpose must not hold up the end of the test.
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, self._listener, ssl_context=self._tls).start()
        return runner

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        begin = time.monotonic()
        try:
            return await self.face.answer(request)
        except ConnectionResetError:
            raise  # whoever asked was killed before it had said everything
        except Exception:
            self.face.faults.append(f"{request.method} {request.path}: {traceback.format_exc()}")
            raise
        finally:
            self.face.knobs.spans.append((begin, time.monotonic()))


class Control:
    """The knobs over HTTP, for tests whose simulator is another process."""

    def __init__(self, face: Face) -> None:
        self._face = face

    def add_to(self, application: web.Application) -> None:
        application.router.add_post("/simulator/knobs", self._turn)
        application.router.add_delete("/simulator/knobs", self._clear)
        application.router.add_post("/simulator/allowed", self._allow)
        application.router.add_get("/simulator/done", self._done)
        application.router.add_delete("/simulator/done", self._forget)

    async def _turn(self, request: web.Request) -> web.Response:
        try:
            knob = Knob.of(await request.json())
        except (ValueError, KeyError, TypeError) as fault:
            return web.json_response({"error": str(fault)}, status=400)
        self._face.knobs.add(knob)
        return web.json_response({})

    async def _clear(self, request: web.Request) -> web.Response:
        self._face.knobs.clear()
        return web.json_response({})

    async def _allow(self, request: web.Request) -> web.Response:
        told = await request.json()
        self._face.knobs.allow_only(told["actions"], told.get("principal", "*"))
        return web.json_response({})

    async def _done(self, request: web.Request) -> web.Response:
        knobs = self._face.knobs
        calls = [
            {"action": each.call.action, "target": each.call.target, "status": each.status}
            for each in knobs.done
        ]
        return web.json_response({"used": knobs.used, "done": calls, "faults": self._face.faults})

    async def _forget(self, request: web.Request) -> web.Response:
        self._face.knobs.forget()
        return web.json_response({})


async def lose(request: web.Request, knob: Knob) -> None:
    """Say nothing for the knob's time, and cut the connection."""
    await asyncio.sleep(knob.seconds)
    if request.transport is not None:
        request.transport.abort()
