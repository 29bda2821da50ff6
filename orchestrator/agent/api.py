"""/api/v1: what the command line and the other nodes' agents may ask; unknown routes are denied."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from orchestrator.agent.care import Care, code_of
from orchestrator.agent.care_api import CarePages
from orchestrator.agent.farm_shares import as_dict
from orchestrator.agent.journal import Journal
from orchestrator.agent.loop import Loop
from orchestrator.agent.operations import Operations
from orchestrator.agent.platform_api import Fences, PlatformPages
from orchestrator.cluster.orders import Wish, order_from_dict
from orchestrator.farm import learning
from orchestrator.host.tls import PeerRefused, check_peer
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import ModuleName, NodeName
from orchestrator.model.orders import Order

BODY_BYTES_MAX = 64 * 1024
WAIT_S_MAX = 60.0
SAFETY = ("HF1202", "HF1203", "HF1206", "HF1207", "HF1214", "HF1215", "HF7064", "HF7065", "HF7067")
"""Refusals that protect data: the command line ends with 6."""
Answered = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Served(Protocol):
    """What the API needs of the agent."""

    journal: Journal
    operations: Operations
    care: Care
    loop: Loop

    @property
    def fencing(self) -> Fences: ...
    async def status(self) -> dict[str, Any]: ...
    async def timings(self) -> dict[str, Any]: ...
    async def test_provider(self, name: str, repair: bool) -> list[dict[str, str]]: ...
    def nodes_of(self, module: ModuleName) -> tuple[NodeName, ...] | None: ...
    async def order_here(self, module: ModuleName, order: Order) -> tuple[str, str]: ...
    async def flows_here(self) -> Mapping[str, Mapping[str, float | None]]: ...
    async def verify(self, module: ModuleName, budget_s: float | None) -> Any: ...
    async def verify_here(self, module: ModuleName, budget_s: float | None) -> Any: ...


def local(agent: Served) -> web.Application:
    """For this machine's operator, over the Unix socket: its mode says who may."""
    api = _Api(agent)
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_get("/api/v1/status", api.status)
    app.router.add_get("/api/v1/timings", api.timings)
    app.router.add_get("/api/v1/events", api.events)
    app.router.add_post("/api/v1/modules/{module}/actions", api.act)
    app.router.add_get("/api/v1/operations/{id}", api.operation)
    api.care.add_local(app)
    api.platform.add_local(app)
    return app


def neighbourly(agent: Served, cluster: str) -> web.Application:
    """For the other nodes' agents, over mutual TLS."""

    @web.middleware
    async def nodes_only(request: web.Request, handler: Answered) -> web.StreamResponse:
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        try:
            if tls is None:
                raise web.HTTPForbidden(text="mutual TLS only")
            check_peer(tls, cluster)
        except PeerRefused as fault:
            raise web.HTTPForbidden(text=str(fault)) from fault
        return await handler(request)

    api = _Api(agent)
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[nodes_only])
    app.router.add_post("/api/v1/modules/{module}/orders", api.order)
    app.router.add_post("/api/v1/modules/{module}/verify", api.verify)
    app.router.add_get("/api/v1/flows", api.flows)
    app.router.add_get("/api/v1/modules/{module}/shares", api.shares)
    api.care.add_neighbourly(app)
    return app


class _Api:
    """The handlers."""

    def __init__(self, agent: Served) -> None:
        self._agent = agent
        self.care = CarePages(agent, lambda request: self._module(request)[0], _body, _error)
        self.platform = PlatformPages(agent, _body, _error, _seconds)

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response(await self._agent.status())

    async def timings(self, request: web.Request) -> web.Response:
        return web.json_response(await self._agent.timings())

    async def events(self, request: web.Request) -> web.Response:
        since, module = _number(request.query.get("since", "0")), request.query.get("module", "")
        found = self._agent.journal.since(since, module)
        if not found:
            await self._agent.journal.wait(_seconds(request))
            found = self._agent.journal.since(since, module)
        return web.json_response({"events": found})

    async def act(self, request: web.Request) -> web.Response:
        """A wish for the whole cluster: 202 with its operation, or 4xx with the reason."""
        module, nodes = self._module(request)
        body = await _body(request)
        confirm = body.pop("confirm", None)
        try:
            wish = Wish(**body)
        except TypeError as fault:
            return _error(400, "HF1223", f"not an action: {fault}", "see hafarm --help")
        if wish.action == "promote" and wish.accept_data_loss and confirm != module:
            return _error(403, "HF1215", "data loss must be confirmed", "confirm with the module's name")
        operation = self._agent.operations.begin(
            module, nodes, wish, lambda: self._agent.verify(module, wish.budget_s)
        )
        if operation.state == "refused":
            assert operation.error is not None
            return _error(409, operation.error["code"], operation.error["message"])
        return web.json_response(
            {"op": operation.id, "href": f"/api/v1/operations/{operation.id}"}, status=202
        )

    async def operation(self, request: web.Request) -> web.Response:
        operation = self._agent.operations.get(request.match_info["id"])
        if operation is None:
            return _error(404, "HF1231", "no such operation on this node")
        import asyncio

        try:
            async with asyncio.timeout(_seconds(request)):
                await operation.over.wait()
        except TimeoutError:
            pass  # it is told as it stands
        answer = operation.as_dict()
        if operation.error is not None:
            answer["safety"] = operation.error["code"] in SAFETY
        return web.json_response(answer)

    async def order(self, request: web.Request) -> web.Response:
        """One order for this node alone, from another node's agent."""
        module, _ = self._module(request)
        try:
            order = order_from_dict(await _body(request))
        except ValueError as fault:
            return _error(400, "HF1223", str(fault))
        code, text = await self._agent.order_here(module, order)
        return web.json_response({"code": code, "text": text})

    async def verify(self, request: web.Request) -> web.Response:
        module, _ = self._module(request)
        budget_s = (await _body(request)).get("budget_s")
        try:
            return web.json_response({"result": await self._agent.verify_here(module, budget_s)})
        except HafarmError as fault:
            return _error(409, code_of(fault), str(fault))

    async def flows(self, request: web.Request) -> web.Response:
        """What this node serves of each farm, for another one's screen."""
        flows = await self._agent.flows_here()
        return web.json_response({"flows": {name: dict(flow) for name, flow in flows.items()}})

    async def shares(self, request: web.Request) -> web.Response:
        """Who had a farm's buckets before, for a node that joins; null: this one does not know either."""
        module, _ = self._module(request)
        farm = self._agent.loop.node.farms.get(module)
        known = learning.known(farm) if farm is not None else None
        return web.json_response({"shares": as_dict(known) if known is not None else None})

    def _module(self, request: web.Request) -> tuple[ModuleName, tuple[NodeName, ...]]:
        module = ModuleName(request.match_info["module"])
        nodes = self._agent.nodes_of(module)
        if nodes is None:
            text = json.dumps({"error": {"code": "HF1232", "message": f"no module here is named {module}"}})
            raise web.HTTPNotFound(text=text, content_type="application/json")
        return module, nodes


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError as fault:
        raise _bad(f"not JSON: {fault}") from fault
    if not isinstance(body, dict):
        raise _bad("an object is needed")
    return body


def _bad(why: str) -> web.HTTPBadRequest:
    text = json.dumps({"error": {"code": "HF1223", "message": why}})
    return web.HTTPBadRequest(text=text, content_type="application/json")


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:  # more digits than any log has events
        raise _bad(f"since={text:.40} is no event's number")
    return int(text)


def _seconds(request: web.Request) -> float:
    try:
        return min(WAIT_S_MAX, max(0.0, float(request.query.get("wait", 0))))
    except ValueError:
        return 0.0


def _error(status: int, code: str, message: str, fix: str = "") -> web.Response:
    error = {"code": code, "message": message, "fix": fix, "safety": code in SAFETY}
    return web.json_response({"error": error}, status=status)
