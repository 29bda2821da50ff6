"""A relay in front of a store, with knobs: answers lost, late, refused; conditions that vanish."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal

import aiohttp
from aiohttp import web

WRITES = ("PUT", "POST")
CONDITIONS = ("If-Match", "If-None-Match")
Deed = Literal["lose the answer", "hold"]


class Relay:
    """Everything goes to `target`; what is queued happens to the next writes, or to all requests."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.writes = 0
        """How many came."""
        self.next: deque[Deed | tuple[int, str]] = deque()
        """Of the next writes: a deed, or an answer's status and text."""
        self.all: tuple[int, str] | None = None
        """Of every request."""
        self.blind = False
        """Conditions are taken away, as by an imitation that does not know them."""
        self.released = asyncio.Event()
        """Set: what is held goes on."""
        self._session: aiohttp.ClientSession | None = None

    def clear(self) -> None:
        """Nothing is in the way."""
        self.next.clear()
        self.all, self.blind, self.writes = None, False, 0
        self.released = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", self._pass)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, app: web.Application) -> None:
        self.released.set()
        if self._session is not None:
            await self._session.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        if self.all is not None:
            return _answer(*self.all)
        deed: Deed | tuple[int, str] | None = None
        if request.method in WRITES and not request.path.startswith("/token"):
            self.writes += 1
            deed = self.next.popleft() if self.next else None
        if isinstance(deed, tuple):
            return _answer(*deed)
        # Here and now, whatever becomes of the connection that it came by.
        passing = asyncio.ensure_future(self._forward(request, await request.read(), deed == "hold"))
        answer = await asyncio.shield(passing)
        if deed == "lose the answer":
            assert request.transport is not None
            request.transport.abort()
        return answer

    async def _forward(self, request: web.Request, body: bytes, held: bool) -> web.Response:
        if held:
            await self.released.wait()
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        query = dict(request.query)
        if self.blind:
            headers = {name: value for name, value in headers.items() if name not in CONDITIONS}
            query.pop("ifGenerationMatch", None)
        url = aiohttp.client.URL(self.target + request.raw_path.partition("?")[0], encoded=True)
        url = url.with_query(query) if query else url
        async with self._session.request(request.method, url, data=body, headers=headers) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)


HOP = frozenset(
    {"host", "connection", "transfer-encoding", "expect", "content-length", "date", "server", "keep-alive"}
)


def _answer(status: int, text: str) -> web.Response:
    kind = "application/xml" if text.startswith("<") else "application/json"
    # Amazon says with each refusal where the bucket is, Azure what the matter is.
    code = text.partition("<Code>")[2].partition("<")[0]
    headers = {"x-amz-bucket-region": "eu-west-1", "x-ms-error-code": code} if code else {}
    return web.Response(status=status, text=text, content_type=kind, headers=headers)
