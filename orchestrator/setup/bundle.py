"""Bundles: what one machine needs to take part, in one directory that an operator copies to it."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from orchestrator.host.store import sync_directory, write_durable
from orchestrator.host.tls import BundleRefused
from orchestrator.model.errors import StoreFailed
from orchestrator.model.names import RESERVED_NODES
from orchestrator.setup.ca import Issued, issue, make_authority

HEARTBEAT_KEY_BYTES: Final = 32  # one ChaCha20-Poly1305 or AES-256 key


def init(cluster: str, nodes: Sequence[str], out: str) -> None:
    """Make a CA, a heartbeat key, a bundle per node and one for the witness below `out`, all or nothing.

    `out/ca` (`ca.crt`, `ca.key`) stays with the operator; `out/NODE` goes to that node and `out/witness` to
    the witness. Raises BundleRefused when `out` exists: keys are never overwritten.
    """
    if os.path.lexists(out):
        raise BundleRefused(out, "it exists", "name a directory that does not; keys are never overwritten")
    if taken := sorted(RESERVED_NODES & set(nodes)):
        raise BundleRefused(out, f"a node is named {taken[0]}, as one of these folders is", "rename the node")
    draft = f"{out}.{secrets.token_hex(4)}"
    old_mask = os.umask(0o077)
    try:
        os.makedirs(draft)
        authority = make_authority(cluster)
        heartbeat = secrets.token_bytes(HEARTBEAT_KEY_BYTES).hex().encode() + b"\n"
        _write(draft, "ca", {"ca.crt": authority.certificate, "ca.key": authority.key})
        for node in nodes:
            made = issue(authority, cluster, node)
            _write(draft, node, {**_pair("node", authority, made), "heartbeat.key": heartbeat})
        _write(
            draft, "witness", _pair("witness", authority, issue(authority, cluster, "witness", witness=True))
        )
        os.rename(draft, out)
        sync_directory(os.path.dirname(os.path.abspath(out)))
    except (OSError, StoreFailed) as fault:
        why = fault.why if isinstance(fault, StoreFailed) else fault.strerror or str(fault)
        raise BundleRefused(out, why, "choose a place that can be written") from fault
    finally:
        os.umask(old_mask)
        shutil.rmtree(draft, ignore_errors=True)


def _pair(name: str, authority: Issued, made: Issued) -> dict[str, bytes]:
    return {"ca.crt": authority.certificate, f"{name}.crt": made.certificate, f"{name}.key": made.key}


def _write(root: str, name: str, files: dict[str, bytes]) -> None:
    folder = os.path.join(root, name)
    os.mkdir(folder)
    for file, content in files.items():
        write_durable(os.path.join(folder, file), content)


def check_bundle(folder: str, cluster: str, node: str) -> None:
    """BundleRefused, with what to do, unless this is the bundle of this node of this cluster."""
    for file in ("ca.crt", "node.crt", "node.key", "heartbeat.key"):
        if not os.path.isfile(os.path.join(folder, file)):
            raise BundleRefused(
                folder, f"{file} is missing", "copy the node's whole directory from `hafarm init`"
            )
    _check_private(folder)
    try:
        with open(os.path.join(folder, "node.crt"), "rb") as file_:
            certificate = x509.load_pem_x509_certificate(file_.read())
        with open(os.path.join(folder, "node.key"), "rb") as file_:
            key = serialization.load_pem_private_key(file_.read(), None)
        with open(os.path.join(folder, "ca.crt"), "rb") as file_:
            authority = x509.load_pem_x509_certificate(file_.read())
        certificate.verify_directly_issued_by(authority)
    except Exception as fault:  # many kinds of damage, one remedy
        raise BundleRefused(
            folder, f"it cannot be read: {fault}", "copy it again from `hafarm init`"
        ) from fault
    if key.public_key() != certificate.public_key():
        raise BundleRefused(
            folder, "the key does not belong to the certificate", "copy the whole directory again"
        )
    found = (_attribute(certificate, NameOID.ORGANIZATION_NAME), _attribute(certificate, NameOID.COMMON_NAME))
    if found != (cluster, node):
        raise BundleRefused(
            folder,
            f"it speaks for {found[1]} of cluster {found[0]}, this is {node} of {cluster}",
            f"copy the directory {node} that `hafarm init` made for cluster {cluster}",
        )
    heartbeat_key(folder)


def _check_private(folder: str) -> None:
    for file in ("node.key", "heartbeat.key"):
        mode = stat.S_IMODE(os.stat(os.path.join(folder, file)).st_mode)
        if mode & 0o077:
            raise BundleRefused(
                folder, f"{file} can be read by others (mode {mode:o})", f"chmod 600 {folder}/{file}"
            )


def heartbeat_key(folder: str) -> bytes:
    """The 32 bytes that authenticate the cluster's heartbeats; BundleRefused when damaged."""
    try:
        with open(os.path.join(folder, "heartbeat.key"), encoding="ascii") as file:
            key = bytes.fromhex(file.read().strip())
    except (OSError, ValueError) as fault:
        raise BundleRefused(folder, f"heartbeat.key: {fault}", "copy it again from `hafarm init`") from fault
    if len(key) != HEARTBEAT_KEY_BYTES:
        raise BundleRefused(folder, "heartbeat.key has the wrong length", "copy it again from `hafarm init`")
    return key


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    return str(found[0].value) if found else ""
