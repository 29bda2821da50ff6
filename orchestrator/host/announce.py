"""Tell a network where an address is, and hear who else says so: ARP and neighbour advertisements."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from itertools import chain, repeat
from typing import Final

Address = IPv4Address | IPv6Address

BURST_S: Final = (0.02, 0.08, 0.4, 0.5, 0.5)
"""Pauses after the first announcement: at 20, 100, 500, 1000, 1500 ms. A lost frame, a switch that still
learns; and Linux believes no announcement within a second of the last that it believed."""
AGAIN_S: Final = 60.0
"""Then each minute: heals a neighbour that was away; two frames a minute cost nothing."""
PROBE_S: Final = 0.3
"""How long an answer to a probe is waited for: a neighbour answers within milliseconds."""

ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
BROADCAST = b"\xff" * 6
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
ICMPV6 = 58
SOLICITATION, ADVERTISEMENT = 135, 136
OVERRIDE = 0x20000000
SO_ATTACH_FILTER = 26
OUTGOING = 4  # PACKET_OUTGOING: what we sent ourselves.
ONLY_ADVERTISEMENTS = (
    # ldh [12]; jeq IPv6; ldb [20]; jeq ICMPv6; ldb [54]; jeq advertisement; accept | drop
    (0x28, 0, 0, 12),
    (0x15, 0, 5, ETH_P_IPV6),
    (0x30, 0, 0, 20),
    (0x15, 0, 3, ICMPV6),
    (0x30, 0, 0, 54),
    (0x15, 0, 1, ADVERTISEMENT),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
"""Classic BPF, run by the kernel: without it each IPv6 packet of the node would wake the agent."""


def frames(address: Address, mac: bytes) -> tuple[bytes, ...]:
    """The frames that move an address to `mac` in every neighbour's cache."""
    if isinstance(address, IPv6Address):
        return (_advertisement(address, mac),)
    # Both forms: some listen to the request only, some to the reply only.
    return (_arp(1, mac, address, bytes(6), address), _arp(2, mac, address, BROADCAST, address))


def probe(address: Address, mac: bytes) -> bytes:
    """The frame that asks who has an address without saying that we do."""
    if isinstance(address, IPv6Address):
        return _solicitation(address, mac)
    return _arp(1, mac, IPv4Address(0), bytes(6), address)


def heard(frame: bytes) -> tuple[Address, bytes] | None:
    """The address that a frame claims, and for which MAC; None where it claims none."""
    if len(frame) < 42:
        return None
    kind = int.from_bytes(frame[12:14])
    if kind == ETH_P_ARP and frame[14:20] == bytes.fromhex("000108000604"):
        sender = IPv4Address(frame[28:32])
        return (sender, frame[22:28]) if int(sender) else None
    if kind == ETH_P_IPV6 and len(frame) >= 78 and frame[20] == ICMPV6 and frame[54] == ADVERTISEMENT:
        return IPv6Address(frame[62:78]), frame[80:86] if frame[78:80] == b"\x02\x01" else frame[6:12]
    return None


def _arp(operation: int, mac: bytes, sender: IPv4Address, target_mac: bytes, target: IPv4Address) -> bytes:
    body = (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + sender.packed + target_mac + target.packed
    )
    return BROADCAST + mac + ETH_P_ARP.to_bytes(2) + body


def _advertisement(address: IPv6Address, mac: bytes) -> bytes:
    body = struct.pack("!BBHI", ADVERTISEMENT, 0, 0, OVERRIDE) + address.packed + b"\x02\x01" + mac
    return ALL_NODES_MAC + mac + _icmpv6(address, ALL_NODES, body)


def _solicitation(address: IPv6Address, mac: bytes) -> bytes:
    # From the unspecified address, as duplicate detection does: the answer goes to all nodes.
    group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | (int(address) & 0xFFFFFF))
    body = struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + address.packed
    return b"\x33\x33" + group.packed[12:] + mac + _icmpv6(IPv6Address(0), group, body)


def _icmpv6(source: IPv6Address, target: IPv6Address, body: bytes) -> bytes:
    """Hop limit 255: receivers drop neighbour discovery that a router could have passed on."""
    pseudo = source.packed + target.packed + struct.pack("!II", len(body), ICMPV6)
    body = body[:2] + _checksum(pseudo + body).to_bytes(2) + body[4:]
    header = struct.pack("!IHBB", 0x60000000, len(body), ICMPV6, 255) + source.packed + target.packed
    return ETH_P_IPV6.to_bytes(2) + header + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


async def say_again(say: Callable[[], None], burst_s: Iterable[float]) -> None:
    """The rest of an announcement, for as long as it is true."""
    for pause_s in chain(burst_s, repeat(AGAIN_S)):
        await asyncio.sleep(pause_s)
        say()


async def who_has(
    interface: str, index: int, mac: bytes, addresses: Iterable[Address]
) -> dict[Address, bytes]:
    """The hardware addresses that answer for each, `mac` being ours; OSError without the interface."""
    wanted = frozenset(addresses)
    found: dict[Address, bytes] = {}

    def hear(_: str, address: Address, owner: bytes) -> None:
        if address in wanted and owner != mac:
            found[address] = owner

    wire = Wire(interface, index, hear)
    try:
        # Twice: a frame may be lost.
        for _ in range(2):
            for address in wanted - found.keys():
                wire.send(probe(address, mac))
            if wanted - found.keys():
                await asyncio.sleep(PROBE_S / 2)
    finally:
        wire.close()
    return found


class Wire:
    """One interface's link layer: send frames, hear claims of others."""

    def __init__(self, interface: str, index: int, on_claim: Callable[[str, Address, bytes], None]) -> None:
        """OSError when the interface is not there."""
        self.interface = interface
        self.index = index
        self._on_claim = on_claim
        self._sockets: list[socket.socket] = []
        try:
            for protocol in (ETH_P_ARP, ETH_P_IPV6):
                self._listen(protocol)
        except OSError:
            self.close()
            raise

    def _listen(self, protocol: int) -> None:
        # Protocol 0 hears nothing until it is bound, so no frame passes before the filter stands.
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._sockets.append(listener)
        if protocol == ETH_P_IPV6:
            _attach(listener)
        listener.bind((self.interface, protocol))
        asyncio.get_running_loop().add_reader(listener, self._read, listener)

    def send(self, frame: bytes) -> None:
        """Best effort, as the network is: a frame that is lost is sent again by the next in the burst."""
        try:
            self._sockets[0].send(frame)
        except OSError:
            return

    def _read(self, listener: socket.socket) -> None:
        try:
            frame, sender = listener.recvfrom(2048)
        except OSError:
            return  # The interface went down or away; the next change of links tells.
        if sender[2] != OUTGOING and (claim := heard(frame)) is not None:
            self._on_claim(self.interface, *claim)

    def close(self) -> None:
        for listener in self._sockets:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._sockets = []


def _attach(listener: socket.socket) -> None:
    program = ctypes.create_string_buffer(
        b"".join(struct.pack("HBBI", *line) for line in ONLY_ADVERTISEMENTS)
    )
    header = struct.pack("HL", len(ONLY_ADVERTISEMENTS), ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)
