"""The words of nftables for a farm's packets: which they are, and whose client sent them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.farm.buckets import BUCKETS
from orchestrator.farm.plane import Affinity, Plane, Protocol, Service

SYN: Final = "tcp flags & (fin | syn | rst | ack) == syn"
UNKNOWN: Final = "tcp flags & syn == 0x0 ct state invalid,new"
"""A packet of a connection that this node has not seen begin."""


@dataclass(frozen=True, slots=True)
class Ip:
    """One version of IP. What an ICMP error quotes is a packet of ours, from our port to a client."""

    version: int
    family: str
    address: str
    """The type of its addresses."""
    hops: str
    """How many more machines may pass a packet on."""
    fragment: str
    """Matches every fragment, also the first."""
    error: str
    """Matches an error whose quotation has the places below."""
    quoted_protocol: str
    quoted_client: str
    quoted_port: str
    quoted_client_port: str


IP: Final[Mapping[int, Ip]] = {
    4: Ip(
        version=4,
        family="ip",
        address="ipv4_addr",
        hops="ip ttl",
        fragment="ip frag-off & 0x3fff != 0",
        # 8 bytes of ICMP, then a header of 20 bytes: 0x45 says that it has no options.
        error="icmp type { destination-unreachable, time-exceeded, parameter-problem } @th,64,8 0x45",
        quoted_protocol="@th,136,8",
        quoted_client="@th,192,32",
        quoted_port="@th,224,16",
        quoted_client_port="@th,240,16",
    ),
    6: Ip(
        version=6,
        family="ip6",
        address="ipv6_addr",
        hops="ip6 hoplimit",
        fragment="exthdr frag exists",
        # 8 bytes of ICMPv6, then a header of 40 bytes: the quoted protocol says that no other follows it.
        error="icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
        quoted_protocol="@th,112,8",
        quoted_client="@th,256,128",
        quoted_port="@th,384,16",
        quoted_client_port="@th,400,16",
    ),
}
_NUMBERS: Final = {Protocol.TCP: 6, Protocol.UDP: 17}


def to(service: Service) -> str:
    """Packets to the service's ports."""
    return f"{service.protocol} dport {_ports(service)}"


def quoting(service: Service) -> str:
    """Errors about packets that came from the service's ports."""
    ip = IP[service.version]
    return f"{ip.error} {ip.quoted_protocol} {_NUMBERS[service.protocol]} {ip.quoted_port} {_ports(service)}"


def client_hash(plane: Plane, service: Service) -> str:
    """The bucket of whoever sent this packet."""
    port = f" . {service.protocol} sport" if service.affinity is Affinity.SOURCE_PORT else ""
    return address_hash(plane, f"{IP[service.version].family} saddr{port}")


def quoted_hash(plane: Plane, service: Service) -> str:
    """The bucket of whoever the quoted packet was for: the same as of the packets that it sends."""
    ip = IP[service.version]
    port = f" . {ip.quoted_client_port}" if service.affinity is Affinity.SOURCE_PORT else ""
    return address_hash(plane, f"{ip.quoted_client}{port}")


def address_hash(plane: Plane, of: str) -> str:
    return f"jhash {of} mod {BUCKETS} seed {plane.seed:#010x}"


def _ports(service: Service) -> str:
    ranges = [f"{first}-{last}" if first < last else f"{first}" for first, last in service.ports]
    return f"{{ {', '.join(ranges)} }}"
