"""What load balancers are told: who takes traffic now, from memory, and 503 before anything ends."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from orchestrator.mirror.state import Mirror, Stage
from orchestrator.model.names import ModuleName
from orchestrator.node import Node


def health(node: Callable[[], Node], ending: Callable[[], bool]) -> web.Application:
    """GET /live, /ready, /m/MODULE/primary, /m/MODULE/up. Nothing is waited for, nothing else is there."""

    async def live(request: web.Request) -> web.Response:
        return _answer(True)

    async def ready(request: web.Request) -> web.Response:
        return _answer(not ending())

    async def primary(request: web.Request) -> web.Response:
        mirror = node().mirrors.get(ModuleName(request.match_info["module"]))
        return _answer(mirror is not None and not ending() and serves(mirror))

    async def up(request: web.Request) -> web.Response:
        farm = node().farms.get(ModuleName(request.match_info["module"]))
        return _answer(farm is not None and not ending() and farm.takes)

    app = web.Application(client_max_size=0)
    app.router.add_get("/live", live)
    app.router.add_get("/ready", ready)
    app.router.add_get("/m/{module}/primary", primary)
    app.router.add_get("/m/{module}/up", up)
    return app


def serves(mirror: Mirror) -> bool:
    """The application runs and its addresses are here; a planned end says no before it begins."""
    return mirror.held is not None and mirror.claimed and mirror.stage is Stage.SERVING


def _answer(good: bool) -> web.Response:
    return web.Response(status=200 if good else 503, text="yes\n" if good else "no\n")
