"""How many connections the kernel knows to an address, by port."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import Counter
from typing import Final

from orchestrator.host.nfdump import attributes, listed
from orchestrator.host.nfnetlink import NLM_F_DUMP, Kind, blob, message, nested

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


def connections(address: str, protocol: int) -> Counter[int]:
    """By port of the address. Of TCP those that are established, of UDP all that are remembered."""
    ip = ipaddress.ip_address(address)
    found: Counter[int] = Counter()
    for entry in _listed(ip, protocol):
        tuple_ = attributes(entry[CTA_TUPLE_ORIG])
        target, ports = attributes(tuple_[CTA_TUPLE_IP]), attributes(tuple_[CTA_TUPLE_PROTO])
        # A kernel before 5.8 knows no filter and lists everything.
        if target.get(CTA_IP_DST[ip.version]) != ip.packed or ports[CTA_PROTO_NUM] != bytes([protocol]):
            continue
        if protocol == socket.IPPROTO_TCP and _tcp_state(entry) != TCP_CONNTRACK_ESTABLISHED:
            continue
        found[int.from_bytes(ports[CTA_PROTO_DST_PORT])] += 1
    return found


def _tcp_state(entry: dict[int, bytes]) -> int:
    tcp = attributes(entry.get(CTA_PROTOINFO, b"")).get(CTA_PROTOINFO_TCP, b"")
    return int.from_bytes(attributes(tcp).get(CTA_PROTOINFO_TCP_STATE, b"\0"))


def _listed(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, protocol: int) -> list[dict[int, bytes]]:
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
    return listed(question)


def _flags(flags: int) -> bytes:
    return blob(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", flags))
