"""How many connections the kernel knows to an address, by port."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final

from orchestrator.host.nfnetlink import (
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    NLMSG_ERROR,
    Kind,
    RulesRefused,
    blob,
    message,
    nested,
)

NLMSG_DONE: Final = 3
ANSWER_TIMEOUT_S: Final = 5
"""Between two parts of the list, each of which the kernel makes while we read."""
PART_BYTES: Final = 1 << 16

# linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_tcp.h
CTA_TUPLE_ORIG: Final = 1
CTA_PROTOINFO: Final = 4
CTA_FILTER: Final = 25
CTA_TUPLE_IP: Final = 1
CTA_TUPLE_PROTO: Final = 2
CTA_IP_DST: Final = {4: 2, 6: 4}
CTA_PROTO_NUM: Final = 1
CTA_PROTO_DST_PORT: Final = 3
CTA_PROTOINFO_TCP: Final = 1
CTA_PROTOINFO_TCP_STATE: Final = 1
CTA_FILTER_ORIG_FLAGS: Final = 1
FILTER_IP_DST: Final = 1 << 1
FILTER_PROTO_NUM: Final = 1 << 3
TCP_CONNTRACK_ESTABLISHED: Final = 3

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_FAMILY_BYTES: Final = 4
_TYPE: Final = 0x3FFF


def connections(address: str, protocol: int) -> Counter[int]:
    """By port of the address. Of TCP those that are established, of UDP all that are remembered."""
    ip = ipaddress.ip_address(address)
    found: Counter[int] = Counter()
    for entry in _listed(ip, protocol):
        tuple_ = _attributes(entry[CTA_TUPLE_ORIG])
        target, ports = _attributes(tuple_[CTA_TUPLE_IP]), _attributes(tuple_[CTA_TUPLE_PROTO])
        # A kernel before 5.8 knows no filter and lists everything.
        if target.get(CTA_IP_DST[ip.version]) != ip.packed or ports[CTA_PROTO_NUM] != bytes([protocol]):
            continue
        if protocol == socket.IPPROTO_TCP and _tcp_state(entry) != TCP_CONNTRACK_ESTABLISHED:
            continue
        found[int.from_bytes(ports[CTA_PROTO_DST_PORT])] += 1
    return found


def _tcp_state(entry: dict[int, bytes]) -> int:
    tcp = _attributes(entry.get(CTA_PROTOINFO, b"")).get(CTA_PROTOINFO_TCP, b"")
    return int.from_bytes(_attributes(tcp).get(CTA_PROTOINFO_TCP_STATE, b"\0"))


def _listed(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, protocol: int) -> Iterator[dict[int, bytes]]:
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    question = message(
        Kind.IPCTNL_MSG_CT_GET,
        family,
        NLM_F_DUMP,
        nested(
            CTA_TUPLE_ORIG,
            nested(CTA_TUPLE_IP, blob(CTA_IP_DST[ip.version], ip.packed)),
            nested(CTA_TUPLE_PROTO, blob(CTA_PROTO_NUM, bytes([protocol]))),
        ),
        nested(CTA_FILTER, _flags(FILTER_IP_DST | FILTER_PROTO_NUM)),
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        kernel.settimeout(ANSWER_TIMEOUT_S)
        try:
            kernel.send(question)
            while True:
                part = kernel.recv(PART_BYTES)
                for kind, body in _messages(part):
                    if kind == NLMSG_DONE:
                        return
                    if kind == NLMSG_ERROR:
                        raise RulesRefused(os.strerror(-int.from_bytes(body[:4], "little", signed=True)))
                    yield _attributes(body[_FAMILY_BYTES:])
        except OSError as fault:
            raise RulesRefused(f"no list of connections: {fault}") from fault


def _flags(flags: int) -> bytes:
    return blob(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", flags))


def _messages(part: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(part):
        length, kind, _, _, _ = _HEADER.unpack_from(part, at)
        yield kind, part[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _attributes(body: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found
