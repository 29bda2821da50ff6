"""One UDP socket of one path: bound to its address and device, stamped by the kernel, never fragmented."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from typing import Final

from orchestrator.host import clock
from orchestrator.model.names import Instant

DATAGRAM_BYTES_MAX: Final = 9_216
"""The largest that is read: a jumbo frame."""
SO_TIMESTAMPNS: Final = 35
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PROBE, IP_MTU, IPV6_MTU = 10, 23, 3, 14, 24
_STAMP: Final = struct.Struct("@qq")


class PathSocket:
    """Sends to and hears from the peers of one path."""

    def __init__(self, listen: str, port: int, peer: str) -> None:
        six = ipaddress.ip_address(listen).version == 6
        self._six = six
        self._peer = (peer, port)
        self._sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        # Do not fragment, and do not believe a path MTU that anybody may have forged.
        level, option = (
            (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if six else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
        )
        self._sock.setsockopt(level, option, PROBE)
        self._sock.setblocking(False)
        self._sock.bind((listen, port))

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def payload_bytes(self) -> int:
        """What one unfragmented datagram carries on this path, as the routing table has it."""
        family = socket.AF_INET6 if self._six else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(self._peer)
                level, option = (socket.IPPROTO_IPV6, IPV6_MTU) if self._six else (socket.IPPROTO_IP, IP_MTU)
                mtu = probe.getsockopt(level, option)
            except OSError:
                mtu = 1280  # what every network carries
        return min(mtu, DATAGRAM_BYTES_MAX) - (48 if self._six else 28)

    def send(self, data: bytes, address: str, port: int) -> None:
        """Lost is lost: the next beat comes in a period, and silence is judged by the heart."""
        try:
            self._sock.sendto(data, (address, port))
        except OSError:
            pass

    def receive(self, not_before: Instant) -> tuple[Instant, str, bytes] | None:
        """What has come first, with the instant at which the kernel had it, never before the last look."""
        try:
            data, ancillary, _, source = self._sock.recvmsg(DATAGRAM_BYTES_MAX, 64)
        except OSError:
            return None  # nothing; or a refused port or an unreachable network, which anybody can forge
        return _arrival(ancillary, not_before), str(source[0]), data


def _arrival(ancillary: list[tuple[int, int, bytes]], not_before: Instant) -> Instant:
    now = clock.now()
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= _STAMP.size:
            seconds, nanoseconds = _STAMP.unpack_from(data)
            age = time.time() - seconds - nanoseconds / 1e9
            # The wall clock may have been set in between: it cannot be older than our last look.
            return Instant(min(now, max(not_before, now - age)))
    return now
