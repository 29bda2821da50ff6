"""The pages of /api/v1 that speak of the place a node runs in: fences, and tests of providers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from orchestrator.agent.care import code_of
from orchestrator.agent.fencing import Fence
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName
from orchestrator.providers.faults import WorkerSaid

Failed = Callable[[int, str, str], web.Response]
Read = Callable[[web.Request], Awaitable[dict[str, Any]]]


class Fences(Protocol):
    """What a node knows of fences."""

    def order(self, node: NodeName) -> Fence: ...
    def get(self, node: str) -> Fence | None: ...


class Placed(Protocol):
    """What these pages need of the agent."""

    @property
    def fencing(self) -> Fences: ...
    async def test_provider(self, name: str, repair: bool) -> list[dict[str, str]]: ...


class PlatformPages:
    """The handlers. `read` gives a request's body, `failed` an error, `wait` how long somebody waits."""

    def __init__(
        self, agent: Placed, read: Read, failed: Failed, wait: Callable[[web.Request], float]
    ) -> None:
        self._agent = agent
        self._read = read
        self._failed = failed
        self._wait = wait

    def add_local(self, app: web.Application) -> None:
        """For this machine's operator."""
        app.router.add_post("/api/v1/providers/{name}/test", self.test_provider)
        app.router.add_post("/api/v1/nodes/{node}/fence", self.fence)
        app.router.add_get("/api/v1/nodes/{node}/fence", self.fenced)

    async def test_provider(self, request: web.Request) -> web.Response:
        """What of a provider would refuse or disturb a move; with `repair` some of it is mended."""
        repair = (await self._read(request)).get("repair") is True
        try:
            found = await self._agent.test_provider(request.match_info["name"], repair)
        except WorkerSaid as fault:
            return self._failed(409, fault.told, str(fault))
        except HafarmError as fault:
            return self._failed(409, code_of(fault), str(fault))
        return web.json_response({"findings": found})

    async def fence(self, request: web.Request) -> web.Response:
        """Have another node switched off: 202 with how it stands, or 4xx with the reason."""
        node = request.match_info["node"]
        if (await self._read(request)).get("confirm") != node:
            return self._failed(403, "HF7067", f"{node} is not switched off: confirm with its name")
        try:
            fence = self._agent.fencing.order(NodeName(node))
        except HafarmError as fault:
            return self._failed(409, code_of(fault), str(fault))
        return web.json_response(fence.as_dict(), status=202)

    async def fenced(self, request: web.Request) -> web.Response:
        """How the newest fence of a node stands, once it is over or the time is."""
        fence = self._agent.fencing.get(request.match_info["node"])
        if fence is None:
            node = request.match_info["node"]
            return self._failed(404, "HF7068", f"nobody ordered {node} to be switched off on this node")
        try:
            async with asyncio.timeout(self._wait(request)):
                await fence.over.wait()
        except TimeoutError:
            pass  # it is told as it stands
        answer: Mapping[str, Any] = fence.as_dict()
        return web.json_response(answer)
