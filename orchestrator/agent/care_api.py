"""The pages of /api/v1 that speak of the copies themselves: divergences that are kept aside, resync."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import web

from orchestrator.agent.care import Care, code_of
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import ModuleName, NodeName

Failed = Callable[[int, str, str], web.Response]
Read = Callable[[web.Request], Awaitable[dict[str, Any]]]
Named = Callable[[web.Request], ModuleName]


class Cared(Protocol):
    """What these pages need of the agent."""

    care: Care


class CarePages:
    """The handlers. `named` finds the module of a request, `read` its body, `failed` makes an error."""

    def __init__(self, agent: Cared, named: Named, read: Read, failed: Failed) -> None:
        self._agent = agent
        self._named = named
        self._read = read
        self._failed = failed

    def add_local(self, app: web.Application) -> None:
        """For this machine's operator."""
        app.router.add_get("/api/v1/divergences", self.divergences)
        one = "/api/v1/modules/{module}/divergences/{node}/{id}"
        app.router.add_get(one, self.divergence)
        app.router.add_post(f"{one}/release", self.release)
        app.router.add_get("/api/v1/modules/{module}/resync", self.resync)
        app.router.add_post("/api/v1/modules/{module}/resync", self.pause)
        app.router.add_get("/api/v1/modules/{module}/resync/estimate", self.estimate)
        app.router.add_post("/api/v1/modules/{module}/names", self.names)

    def add_neighbourly(self, app: web.Application) -> None:
        """For the other nodes' agents: each word is checked where it is obeyed."""
        app.router.add_post("/api/v1/modules/{module}/care", self.care)

    async def divergences(self, request: web.Request) -> web.Response:
        asked = request.query.get("module", "")
        known = self._agent.care.modules
        if asked and asked not in known:
            return self._failed(404, "HF1232", f"no module here is named {asked}")
        found: dict[str, Any] = {"divergences": [], "unreachable": {}}
        for module in [ModuleName(asked)] if asked else known:
            kept = await self._agent.care.divergences(module)
            found["divergences"] += kept["divergences"]
            found["unreachable"] |= kept["unreachable"]
        return web.json_response(found)

    async def divergence(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        number = int(after) if after.isdecimal() and len(after) < 16 else -1
        body = {"do": "divergence", "id": request.match_info["id"], "after": number}
        return await self._ask(request, body)

    async def release(self, request: web.Request) -> web.Response:
        return await self._ask(request, {"do": "release", "id": request.match_info["id"]})

    async def _ask(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        module, node = self._named(request), NodeName(request.match_info["node"])
        try:
            return web.json_response(await self._agent.care.at(node, module, body))
        except HafarmError as fault:
            return self._failed(409, code_of(fault), str(fault))

    async def resync(self, request: web.Request) -> web.Response:
        """How far each copy is, as the primary knows it."""
        return await self._at_primary(request, {"do": "resync"})

    async def estimate(self, request: web.Request) -> web.Response:
        full = request.query.get("full", "") == "true"
        return await self._at_primary(request, {"do": "estimate", "full": full})

    async def _at_primary(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        module = self._named(request)
        try:
            return web.json_response(await self._agent.care.at_primary(module, body))
        except HafarmError as fault:
            return self._failed(409, code_of(fault), str(fault))

    async def pause(self, request: web.Request) -> web.Response:
        """On every node, so that it stays so whoever becomes primary."""
        module, body = self._named(request), await self._read(request)
        if set(body) != {"paused"} or not isinstance(body["paused"], bool):
            return self._failed(400, "HF1223", 'the body is {"paused": true} or {"paused": false}')
        asked = await self._agent.care.everywhere(module, {"do": "pause_resync", **body})
        if not asked["answers"]:
            return self._failed(409, "HF1226", "; ".join(asked["unreachable"].values()))
        return web.json_response({"module": module, **body, "unreachable": asked["unreachable"]})

    async def names(self, request: web.Request) -> web.Response:
        """Which users and groups have these numbers and names, on every node."""
        module, body = self._named(request), await self._read(request)
        return web.json_response(await self._agent.care.everywhere(module, {**body, "do": "names"}))

    async def care(self, request: web.Request) -> web.Response:
        module, body = self._named(request), await self._read(request)
        try:
            return web.json_response({"result": await self._agent.care.here(module, body)})
        except HafarmError as fault:
            return self._failed(409, code_of(fault), str(fault))
