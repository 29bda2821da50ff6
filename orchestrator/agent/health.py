"""What load balancers are told: who takes traffic now, from memory, and 503 before anything ends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Final

from aiohttp import web

from orchestrator.mirror.state import Mirror, Stage
from orchestrator.model.config import ClusterConfig
from orchestrator.model.names import ModuleName, NodeName
from orchestrator.node import Node

FREEBIND: Final = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
"""IP_FREEBIND and IPV6_FREEBIND of Linux: an address may be listened on that is not here yet."""


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


def listeners(config: ClusterConfig, me: NodeName) -> Iterator[socket.socket]:
    """On this node's own addresses, and on those that a load balancer passes on unchanged: some ask there."""
    passed = [
        vip.address.partition("/")[0]
        for module in config.mirrors
        for vip in module.vip
        if me in module.nodes and "forwarding_rules" in vip.settings
    ]
    for address in dict.fromkeys((*config.node(me).addresses.values(), *passed)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(*FREEBIND[family], 1)
            listener.bind((address, config.health_port))
        except OSError:
            listener.close()
            raise
        yield listener


def serves(mirror: Mirror) -> bool:
    """The application runs and its addresses are here; a planned end says no before it begins."""
    return mirror.held is not None and mirror.claimed and mirror.stage is Stage.SERVING


def _answer(good: bool) -> web.Response:
    return web.Response(status=200 if good else 503, text="yes\n" if good else "no\n")
