"""Lists of what netfilter has, read in the kernel's own messages."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from orchestrator.host.nfnetlink import NETLINK_NETFILTER, NLMSG_ERROR, RulesRefused

NLMSG_DONE: Final = 3
ANSWER_TIMEOUT_S: Final = 5
"""Between two parts of the list, each of which the kernel makes while we read."""
PART_BYTES: Final = 1 << 16
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_FAMILY_BYTES: Final = 4
_TYPE: Final = 0x3FFF


def listed(question: bytes) -> Iterator[dict[int, bytes]]:
    """The attributes of each entry; RulesRefused where the kernel gives no list."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        kernel.settimeout(ANSWER_TIMEOUT_S)
        try:
            kernel.send(question)
            while True:
                for kind, body in _messages(kernel.recv(PART_BYTES)):
                    if kind == NLMSG_DONE:
                        return
                    if kind == NLMSG_ERROR:
                        raise RulesRefused(os.strerror(-int.from_bytes(body[:4], "little", signed=True)))
                    yield attributes(body[_FAMILY_BYTES:])
        except OSError as fault:
            raise RulesRefused(f"no list: {fault}") from fault


def attributes(body: bytes) -> dict[int, bytes]:
    """By kind; a nested one as it is."""
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _messages(part: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(part):
        length, kind, _, _, _ = _HEADER.unpack_from(part, at)
        yield kind, part[at + _HEADER.size : at + length]
        at += (length + 3) & ~3
