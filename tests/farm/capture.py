"""What a network card saw: which hardware address answered what, and whom."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from tests.support.netns import inside

SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
SYN, RST, ACK = 2, 4, 16


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of TCP, or one datagram of UDP."""

    mac: str
    """Who sent it last, on this link."""
    source: str
    target: str
    target_port: int
    flags: int
    """Of TCP; 0 of UDP."""
    source_port: int = 0


@contextlib.contextmanager
def captured(namespace: str) -> Iterator[list[Segment]]:
    """Every segment that came in meanwhile, there at the end."""
    found: list[Segment] = []
    with inside(namespace):
        card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with card:
        card.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        card.bind(("eth0", ETH_P_ALL))
        card.setblocking(False)
        yield found
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, sender = card.recvfrom(65536)
                if sender[2] != socket.PACKET_OUTGOING and (segment := _segment(frame)) is not None:
                    found.append(segment)


def answers(
    segments: Iterable[Segment], address: str, port: int, kind: str, macs: Mapping[str, str]
) -> dict[tuple[str, int], set[str]]:
    """By client who answered it from this address and port: names, or hardware addresses of strangers.

    Of TCP who accepts or refuses; whoever has accepted and is done refuses an end that is said once more.
    """
    found: dict[tuple[str, int], set[str]] = {}
    for segment in segments:
        if (segment.source, segment.source_port) != (address, port):
            continue
        nodes = found.setdefault((segment.target, segment.target_port), set())
        if kind == "udp" or segment.flags & (SYN | RST):
            nodes.add(macs.get(segment.mac, segment.mac))
    return found


def _segment(frame: bytes) -> Segment | None:
    kind = frame[12:14]
    if kind == b"\x08\x00":
        protocol, source, target, at = frame[23], frame[26:30], frame[30:34], 14 + 4 * (frame[14] & 15)
    elif kind == b"\x86\xdd":
        protocol, source, target, at = frame[20], frame[22:38], frame[38:54], 54
    else:
        return None
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return None
    return Segment(
        frame[6:12].hex(":"),
        str(ip_address(source)),
        str(ip_address(target)),
        int.from_bytes(frame[at + 2 : at + 4]),
        frame[at + 13] if protocol == socket.IPPROTO_TCP else 0,
        int.from_bytes(frame[at : at + 2]),
    )
