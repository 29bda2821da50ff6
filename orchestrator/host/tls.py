"""Mutual TLS within one cluster: who is at the other end is what the certificate says, never the address."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import ClassVar, Final

from orchestrator.model.errors import HafarmError

WITNESS_UNIT: Final = "witness"
"""The organizational unit of a witness's certificate: it never speaks as a node."""


@dataclass(eq=False)
class PeerRefused(HafarmError):
    """The other end is not who it must be."""

    code: ClassVar[str] = "HF5001"
    wanted: str
    found: str

    def __str__(self) -> str:
        return (
            f"the other end is {self.found}, not {self.wanted}: its certificate is of another node or "
            "cluster; check which bundle was copied to it"
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """Who a certificate speaks for."""

    cluster: str
    name: str
    witness: bool


def server_context(bundle: str, name: str = "node") -> ssl.SSLContext:
    """Accept only certificates of this bundle's cluster CA. `name`: `node` or `witness`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return _equipped(context, bundle, name)


def client_context(bundle: str, name: str = "node") -> ssl.SSLContext:
    """Dial nodes by address: the name is checked by `check_peer`, against the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _equipped(context, bundle, name)


def _equipped(context: ssl.SSLContext, bundle: str, name: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(os.path.join(bundle, "ca.crt"))
    context.load_cert_chain(os.path.join(bundle, f"{name}.crt"), os.path.join(bundle, f"{name}.key"))
    return context


def peer_name(connection: ssl.SSLObject | ssl.SSLSocket) -> Peer:
    """Who is at the other end of an established connection."""
    certificate = connection.getpeercert() or {}
    subject: dict[str, str] = {}
    for relative in certificate.get("subject", ()):
        for pair in relative:
            subject[str(pair[0])] = str(pair[1])
    return Peer(
        cluster=subject.get("organizationName", ""),
        name=subject.get("commonName", ""),
        witness=subject.get("organizationalUnitName", "") == WITNESS_UNIT,
    )


def check_peer(connection: ssl.SSLObject | ssl.SSLSocket, cluster: str, node: str | None = None) -> Peer:
    """The other end, which must be this node (None: any node) of this cluster; PeerRefused otherwise."""
    peer = peer_name(connection)
    if peer.cluster != cluster or peer.witness or (node is not None and peer.name != node):
        wanted = f"node {node or '(any)'} of cluster {cluster}"
        kind = "witness" if peer.witness else "node"
        raise PeerRefused(wanted, f"{kind} {peer.name or '(unnamed)'} of cluster {peer.cluster or '(none)'}")
    return peer
