"""Lists of what netfilter has, read in the kernel's own messages."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from orchestrator.host.nfnetlink import NETLINK_NETFILTER, NLMSG_ERROR, RulesRefused

NLMSG_DONE: Final = 3
NLM_F_DUMP_INTR: Final = 0x10
"""Something changed while the list was made: it may have some entries twice, and others not at all."""
ATTEMPTS_MAX: Final = 20
"""A list takes less than a millisecond; leases are renewed some ten times a second."""
ANSWER_TIMEOUT_S: Final = 5
"""Between two parts of the list, each of which the kernel makes while we read."""
PART_BYTES: Final = 1 << 16
FAMILIES: Final = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
"""From linux/netfilter.h."""
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_FAMILY_BYTES: Final = 4
_TYPE: Final = 0x3FFF


def listed(question: bytes) -> list[dict[int, bytes]]:
    """The attributes of each entry, all of one moment; RulesRefused where the kernel gives no list."""
    return [attributes(body[_FAMILY_BYTES:]) for body in bodies(question)]


def bodies(question: bytes) -> list[bytes]:
    """Each entry: four bytes of which the first is the family, then its attributes."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        kernel.settimeout(ANSWER_TIMEOUT_S)
        try:
            for _ in range(ATTEMPTS_MAX):
                kernel.send(question)
                found, whole = _received(kernel)
                if whole:
                    return found
        except OSError as fault:
            raise RulesRefused(f"no list: {fault}") from fault
    raise RulesRefused("no list: it changed while it was made, each time")


def _received(kernel: socket.socket) -> tuple[list[bytes], bool]:
    """A list, and whether it is of one moment."""
    found: list[bytes] = []
    whole = True
    while True:
        for kind, flags, body in _messages(kernel.recv(PART_BYTES)):
            whole = whole and not flags & NLM_F_DUMP_INTR
            if kind == NLMSG_DONE:
                return found, whole
            if kind == NLMSG_ERROR:
                raise RulesRefused(os.strerror(-int.from_bytes(body[:4], "little", signed=True)))
            found.append(body)


def attributes(body: bytes) -> dict[int, bytes]:
    """By kind; a nested one as it is."""
    return dict(each_attribute(body))


def each_attribute(body: bytes) -> Iterator[tuple[int, bytes]]:
    """In their order; a list has many of one kind."""
    at = 0
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        yield kind & _TYPE, body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _messages(part: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(part):
        length, kind, flags, _, _ = _HEADER.unpack_from(part, at)
        yield kind, flags, part[at + _HEADER.size : at + length]
        at += (length + 3) & ~3
