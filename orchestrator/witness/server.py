"""The witness over HTTPS: a certificate of a cluster reads and bids for that cluster alone."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from orchestrator.host.tls import Peer, peer_name, server_context
from orchestrator.model.errors import CorruptState, HafarmError, StoreFailed
from orchestrator.model.names import NodeName
from orchestrator.model.record import Record
from orchestrator.witness.ledger import BidRefused, Ledger

BODY_BYTES_MAX = 64 * 1024  # two records of seven nodes are below 4 KiB
WIRE_VERSION = 1


def application(ledger: Ledger) -> web.Application:
    """Every route; anything else is 404."""
    served = Witness(ledger)
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_tell_errors])
    app.router.add_get("/v1/health", served.health)
    app.router.add_get("/v1/{cluster}/{module}", served.read)
    app.router.add_put("/v1/{cluster}/{module}", served.swap)
    return app


def context_for(bundles: Sequence[str]) -> ssl.SSLContext:
    """Accept nodes of each cluster whose witness bundle is given.

    With several clusters each trusts the witness through its own bundle, so the certificate to show is chosen
    by the name that the client asks for (SNI): `witness.CLUSTER`.
    """
    contexts = {}
    for bundle in bundles:
        context = server_context(bundle, "witness")
        contexts[_cluster_of(bundle)] = context
    first = contexts[_cluster_of(bundles[0])]

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        chosen = contexts.get((name or "").removeprefix("witness."))
        if chosen is not None:
            connection.context = chosen

    first.sni_callback = choose
    return first


def _cluster_of(bundle: str) -> str:
    """The organization of a witness bundle's certificate."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    with open(f"{bundle}/witness.crt", "rb") as file:
        certificate = x509.load_pem_x509_certificate(file.read())
    return str(certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


class Witness:
    """The handlers. One event loop and synchronous writes: bids are judged one after another."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def health(self, request: web.Request) -> web.Response:
        """It answers, and who asks is known."""
        peer = _node(request)
        return web.json_response({"ok": True, "version": WIRE_VERSION, "you": [peer.cluster, peer.name]})

    async def read(self, request: web.Request) -> web.Response:
        """The record that stands, or null."""
        record = self._ledger.read(_cluster(request), request.match_info["module"])
        return web.json_response({"record": record.as_dict() if record else None})

    async def swap(self, request: web.Request) -> web.Response:
        """`{expected, record}` to `{outcome, current}`."""
        peer = _node(request)
        cluster = _cluster(request)
        body = await _body(request)
        record = Record.from_dict(body["record"])
        expected = Record.from_dict(body["expected"]) if body.get("expected") is not None else None
        if record.module != request.match_info["module"]:
            raise BidRefused("the record is of another module than the address")
        result = self._ledger.swap(cluster, expected, record, NodeName(peer.name))
        current = result.current.as_dict() if result.current else None
        return web.json_response({"outcome": result.outcome.value, "current": current})


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError as fault:
        raise BidRefused(f"not JSON: {fault}") from fault
    if not isinstance(body, dict) or not isinstance(body.get("record"), dict):
        raise BidRefused("a bid is {expected, record}")
    return body


def _node(request: web.Request) -> Peer:
    connection = request.transport.get_extra_info("ssl_object") if request.transport else None
    if connection is None:
        raise web.HTTPForbidden(text="mutual TLS only")
    return peer_name(connection)


def _cluster(request: web.Request) -> str:
    """The cluster of the address, which must be the certificate's."""
    peer = _node(request)
    wanted = request.match_info["cluster"]
    if peer.witness or peer.cluster != wanted:
        raise web.HTTPForbidden(text=f"your certificate is of cluster {peer.cluster}")
    return wanted


@web.middleware
async def _tell_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Refusals with their code; a damaged or unwritable state is 503: nothing was granted."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except (BidRefused, CorruptState, StoreFailed) as fault:
        status = 503 if isinstance(fault, StoreFailed) or _is_ours(fault) else 400
        return web.json_response({"error": {"code": fault.code, "message": str(fault)}}, status=status)


def _is_ours(fault: HafarmError) -> bool:
    """Damage in our own files, not in what was sent."""
    return isinstance(fault, CorruptState) and bool(fault.where)
