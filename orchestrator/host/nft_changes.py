"""Tells when somebody else took away packet rules of ours."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

from orchestrator.host.nfnetlink import NETLINK_NETFILTER, Kind, RulesRefused

NFNLGRP_NFTABLES: Final = 7
SO_ATTACH_FILTER: Final = 26
NAME: Final = 1
"""The attribute that names the table, in all of these messages."""
GONE: Final = frozenset(
    {Kind.NFT_MSG_DELTABLE, Kind.NFT_MSG_DELCHAIN, Kind.NFT_MSG_DELRULE, Kind.NFT_MSG_DELSETELEM}
)
RECEIVE_BYTES: Final = 1 << 16
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_FAMILY_BYTES: Final = 4
_TYPE: Final = 0x3FFF
# As a load of two bytes, most significant first, finds it.
_RENEWAL: Final = int.from_bytes(struct.pack("=H", Kind.NFT_MSG_NEWSETELEM))
WITHOUT_RENEWALS: Final = (
    # ldh [4] (nlmsg_type); jeq a new element | accept | drop
    (0x28, 0, 0, 4),
    (0x15, 1, 0, _RENEWAL),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)
"""Classic BPF, run by the kernel: the leases' renewals, many a second, begin with a new element."""


class RuleChanges:
    """What was taken away from tables whose names begin so."""

    def __init__(self, prefix: str, on_change: Callable[[], None]) -> None:
        self._prefix = prefix.encode()
        self._on_change = on_change
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
            )
            program = ctypes.create_string_buffer(
                b"".join(struct.pack("HBBI", *line) for line in WITHOUT_RENEWALS)
            )
            header = struct.pack("HL", len(WITHOUT_RENEWALS), ctypes.addressof(program))
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)
            self._socket.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))
        except OSError as fault:
            raise RulesRefused(fault.strerror or str(fault)) from fault
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    def forget(self) -> None:
        """What happened until now was our own doing."""
        self._take()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _hear(self) -> None:
        if self._take():
            self._on_change()

    def _take(self) -> bool:
        """Everything that waits; whether any of it concerns us."""
        ours = False
        while True:
            try:
                part = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return ours
            except OSError:
                ours = True  # ENOBUFS: some were lost, and anything may have been among them.
            else:
                ours = ours or any(name.startswith(self._prefix) for name in _tables(part))


def _tables(part: bytes) -> Iterator[bytes]:
    """The tables from which these messages say that something is gone."""
    at = 0
    while at + _HEADER.size <= len(part):
        length, kind, _, _, _ = _HEADER.unpack_from(part, at)
        first = at + _HEADER.size + _FAMILY_BYTES
        if kind in GONE and first + _ATTRIBUTE.size <= at + length:
            size, attribute = _ATTRIBUTE.unpack_from(part, first)
            if attribute & _TYPE == NAME:
                yield part[first + _ATTRIBUTE.size : first + size]
        at += max((length + 3) & ~3, _HEADER.size)
