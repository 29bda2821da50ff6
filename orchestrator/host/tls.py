"""Mutual TLS within one cluster: who is at the other end is what the certificate says, never the address."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
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


@dataclass(eq=False)
class BundleRefused(HafarmError):
    """A bundle that cannot be used, or must not be made."""

    code: ClassVar[str] = "HF5002"
    where: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"bundle {self.where}: {self.why}; {self.fix}"


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


def client_context(bundle: str, judge: Callable[[Peer], None] | None = None) -> ssl.SSLContext:
    """Dial by address: who answers is what the certificate says.

    `judge` raises PeerRefused for whoever must not be talked to, before a byte is sent to it; without one the
    caller asks `peer_name` after the handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if judge is not None:
        context.sslobject_class = _judged_by(judge)
    return _equipped(context, bundle, "node")


def _judged_by(judge: Callable[[Peer], None]) -> type[ssl.SSLObject]:
    """Asked at the end of the handshake: a check of the answer may find the connection closed already."""

    class Judged(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            try:
                judge(peer_name(self))
            except PeerRefused as fault:
                # The one kind of error that asyncio takes here for a failed handshake.
                raise ssl.SSLCertVerificationError(1, str(fault)) from fault

    return Judged


def _equipped(context: ssl.SSLContext, bundle: str, name: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(os.path.join(bundle, "ca.crt"))
        context.load_cert_chain(os.path.join(bundle, f"{name}.crt"), os.path.join(bundle, f"{name}.key"))
    except (OSError, ValueError) as fault:
        why = f"ca.crt, {name}.crt or {name}.key cannot be used ({fault})"
        raise BundleRefused(bundle, why, "copy the whole directory again from `hafarm init`") from fault
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
    check_node(peer, cluster, node)
    return peer


def check_node(peer: Peer, cluster: str, node: str | None = None) -> None:
    """PeerRefused unless it speaks for this node (None: any node) of this cluster."""
    if peer.cluster != cluster or peer.witness or (node is not None and peer.name != node):
        raise PeerRefused(f"node {node or '(any)'} of cluster {cluster}", _described(peer))


def check_witness(peer: Peer, cluster: str) -> None:
    """PeerRefused unless it is a witness of this cluster: a node must not pass for one."""
    if peer.cluster != cluster or not peer.witness:
        raise PeerRefused(f"the witness of cluster {cluster}", _described(peer))


def _described(peer: Peer) -> str:
    kind = "witness" if peer.witness else "node"
    return f"{kind} {peer.name or '(unnamed)'} of cluster {peer.cluster or '(none)'}"
