"""What a network card saw: which hardware address answered what."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from tests.support.netns import inside

SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
SYN, RST, ACK = 2, 4, 16


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of TCP."""

    mac: str
    """Who sent it last, on this link."""
    source: str
    target: str
    target_port: int
    flags: int


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


def _segment(frame: bytes) -> Segment | None:
    kind = frame[12:14]
    if kind == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
        source, target, at = frame[26:30], frame[30:34], 14 + 4 * (frame[14] & 15)
    elif kind == b"\x86\xdd" and frame[20] == socket.IPPROTO_TCP:
        source, target, at = frame[22:38], frame[38:54], 54
    else:
        return None
    port = int.from_bytes(frame[at + 2 : at + 4])
    return Segment(
        frame[6:12].hex(":"), str(ip_address(source)), str(ip_address(target)), port, frame[at + 13]
    )
