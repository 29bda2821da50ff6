"""The witness over HTTPS: a certificate of a cluster reads and bids for that cluster alone."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from orchestrator.host.tls import BundleRefused, Peer, peer_name, server_context
from orchestrator.model.errors import CorruptState, HafarmError, StoreFailed
from orchestrator.model.names import NodeName
from orchestrator.model.record import Record
from orchestrator.witness.ledger import BidRefused, Ledger

BODY_BYTES_MAX = 64 * 1024  # two records of seven nodes are below 4 KiB
WIRE_VERSION = 1


def application(ledger: Ledger, doors: Mapping[str, ssl.SSLContext]) -> web.Application:
    """Every route; anything else is 404."""
    served = Witness(ledger, doors)
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_tell_errors])
    app.router.add_get("/v1/health", served.health)
    app.router.add_get("/v1/{cluster}/{module}", served.read)
    app.router.add_put("/v1/{cluster}/{module}", served.swap)
    return app


def open_doors(bundles: Sequence[str]) -> dict[str, ssl.SSLContext]:
    """One door a cluster, opened by its own CA's certificates; BundleRefused when one cannot be used."""
    doors: dict[str, ssl.SSLContext] = {}
    for bundle in bundles:
        context = server_context(bundle, "witness")
        cluster = _cluster_of(bundle)
        if cluster in doors:
            raise BundleRefused(
                bundle, f"cluster {cluster} is given twice", "name each cluster's bundle once"
            )
        doors[cluster] = context
    return doors


def entrance(doors: Mapping[str, ssl.SSLContext]) -> ssl.SSLContext:
    """The context to listen with: a client asks for its cluster's door by name (SNI, `witness.CLUSTER`)."""
    first = next(iter(doors.values()))

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        chosen = doors.get((name or "").removeprefix("witness."))
        if chosen is not None:
            connection.context = chosen

    first.sni_callback = choose
    return first


def _cluster_of(bundle: str) -> str:
    """The organization of a witness bundle's certificate."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        with open(os.path.join(bundle, "witness.crt"), "rb") as file:
            certificate = x509.load_pem_x509_certificate(file.read())
        return str(certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)
    except (OSError, ValueError, IndexError) as fault:
        raise BundleRefused(
            bundle, f"witness.crt: {fault}", "copy the directory `witness` of `hafarm init`"
        ) from fault


class Witness:
    """The handlers. One event loop and synchronous writes: bids are judged one after another."""

    def __init__(self, ledger: Ledger, doors: Mapping[str, ssl.SSLContext]) -> None:
        self._ledger = ledger
        self._doors = doors

    async def health(self, request: web.Request) -> web.Response:
        """It answers, and who asks is known."""
        peer = self._peer(request)
        return web.json_response({"ok": True, "version": WIRE_VERSION, "you": [peer.cluster, peer.name]})

    async def read(self, request: web.Request) -> web.Response:
        """The record that stands, or null."""
        record = self._ledger.read(self._cluster(request), request.match_info["module"])
        return web.json_response({"record": record.as_dict() if record else None})

    async def swap(self, request: web.Request) -> web.Response:
        """`{expected, record}` to `{outcome, current}`."""
        peer = self._peer(request)
        cluster = self._cluster(request)
        body = await _body(request)
        record = Record.from_dict(body["record"])
        expected = Record.from_dict(body["expected"]) if body.get("expected") is not None else None
        if record.module != request.match_info["module"]:
            raise BidRefused("the record is of another module than the address")
        result = self._ledger.swap(cluster, expected, record, NodeName(peer.name))
        current = result.current.as_dict() if result.current else None
        return web.json_response({"outcome": result.outcome.value, "current": current})

    def _peer(self, request: web.Request) -> Peer:
        """Who asks. A CA speaks for the cluster whose door it opens, and for no other that it may name."""
        connection = request.transport.get_extra_info("ssl_object") if request.transport else None
        if connection is None:
            raise _forbidden("mutual TLS only")
        peer = peer_name(connection)
        if self._doors.get(peer.cluster) is not connection.context:
            raise _forbidden(f"another cluster's CA made your certificate of {peer.cluster}")
        return peer

    def _cluster(self, request: web.Request) -> str:
        """The cluster of the address, which must be the certificate's."""
        peer = self._peer(request)
        wanted = request.match_info["cluster"]
        if peer.witness or peer.cluster != wanted:
            raise _forbidden(f"your certificate is of cluster {peer.cluster}")
        return wanted


def _forbidden(why: str) -> web.HTTPForbidden:
    text = json.dumps({"error": {"code": "HF5001", "message": why}})
    return web.HTTPForbidden(text=text, content_type="application/json")


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError as fault:
        raise BidRefused(f"not JSON: {fault}") from fault
    if not isinstance(body, dict) or not isinstance(body.get("record"), dict):
        raise BidRefused("a bid is {expected, record}")
    return body


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
