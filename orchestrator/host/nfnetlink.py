"""Conversations with nf_tables in the kernel's own messages, on one netlink socket that stays open."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final

from orchestrator.model.errors import HafarmError

ANSWER_TIMEOUT_S: Final = 0.1
"""The kernel does what is asked while we send: an answer that is not there then was lost. Beats are due."""
SEND_BUFFER_BYTES: Final = 1 << 21
"""What nft takes too; the kernel refuses a longer transaction, and an address needs 1.5 KiB of it."""
ANSWER_BYTES_MAX: Final = 8192
"""An answer repeats at most one message, which is shorter than 1 KiB."""

# linux/netlink.h, linux/netfilter/nfnetlink.h, asm-generic/socket.h
NETLINK_NETFILTER: Final = 12
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10
SO_SNDBUFFORCE: Final = 32
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLA_F_NESTED: Final = 0x8000
NLM_F_DUMP: Final = 0x300
NFNL_SUBSYS_CTNETLINK: Final = 1
NFNL_SUBSYS_NFTABLES: Final = 10


class Kind(IntEnum):
    """What a message orders or asks; from linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h, nf_tables.h."""

    NFNL_MSG_BATCH_BEGIN = 0x10
    NFNL_MSG_BATCH_END = 0x11
    IPCTNL_MSG_CT_GET = NFNL_SUBSYS_CTNETLINK << 8 | 1
    NFT_MSG_GETTABLE = NFNL_SUBSYS_NFTABLES << 8 | 1
    NFT_MSG_DELTABLE = NFNL_SUBSYS_NFTABLES << 8 | 2
    NFT_MSG_GETCHAIN = NFNL_SUBSYS_NFTABLES << 8 | 4
    NFT_MSG_DELCHAIN = NFNL_SUBSYS_NFTABLES << 8 | 5
    NFT_MSG_NEWRULE = NFNL_SUBSYS_NFTABLES << 8 | 6
    NFT_MSG_GETRULE = NFNL_SUBSYS_NFTABLES << 8 | 7
    NFT_MSG_DELRULE = NFNL_SUBSYS_NFTABLES << 8 | 8
    NFT_MSG_GETSET = NFNL_SUBSYS_NFTABLES << 8 | 10
    NFT_MSG_NEWSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 12
    NFT_MSG_GETSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 13
    NFT_MSG_DELSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 14
    NFT_MSG_GETOBJ = NFNL_SUBSYS_NFTABLES << 8 | 19


_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, kind, flags, sequence, port
_FAMILY: Final = struct.Struct(">BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length, kind
_FLAGS: Final = struct.Struct("=H")
_WORD: Final = struct.Struct("=I")
_ERROR: Final = struct.Struct("=i")
_FLAGS_AT: Final = 6
_SEQUENCE_AT: Final = 8


@dataclass(eq=False)
class RulesRefused(HafarmError):
    """The kernel did not take our packet rules."""

    code: ClassVar[str] = "HF3010"
    why: str

    def __str__(self) -> str:
        return f"nftables refused: {self.why}; the kernel needs nf_tables with the inet and arp families"


class NotThere(RulesRefused):
    """The kernel has no such thing."""


class Nfnetlink:
    """One conversation at a time, with the network that the caller was in when it was opened."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        except OSError as fault:
            raise RulesRefused(fault.strerror or str(fault)) from fault
        self._socket.connect((0, 0))  # to the kernel, and from nobody else
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        # A time-out of Python's own would ask poll() before each call.
        timeout = struct.pack("@ll", 0, int(ANSWER_TIMEOUT_S * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
        except PermissionError:
            # In a user namespace: what the machine gives to everybody, by default enough for 250 addresses.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._sequence = 0

    def transact(self, messages: Iterable[bytes]) -> None:
        """All or nothing, and done when it returns."""
        batch = bytearray(b"".join((_BEGIN, *messages, _END)))
        # The last order is answered after everything is committed. Kernels differ in whether the end is.
        *_, last, _ = _starts(batch)
        (flags,) = _FLAGS.unpack_from(batch, last + _FLAGS_AT)
        _FLAGS.pack_into(batch, last + _FLAGS_AT, flags | NLM_F_ACK)
        self._converse(batch)

    def ask(self, question: bytes) -> None:
        """Returns when the kernel has what is asked for; what it has not, it refuses."""
        self._converse(bytearray(question))

    def close(self) -> None:
        self._socket.close()

    def _converse(self, batch: bytearray) -> None:
        # One number for all messages: then the first answer that bears it is a failure, or else the end.
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        for start in _starts(batch):
            _WORD.pack_into(batch, start + _SEQUENCE_AT, self._sequence)
        try:
            self._socket.send(batch)
            self._take_answer()
        except OSError as fault:
            self._forget_answers()
            raise RulesRefused(fault.strerror or str(fault)) from fault
        except RulesRefused:
            self._forget_answers()
            raise

    def _take_answer(self) -> None:
        answer = self._receive()
        while _HEADER.unpack_from(answer)[3] != self._sequence:
            answer = self._receive()  # That was for a conversation that a signal broke off.
        _, kind, _, _, _ = _HEADER.unpack_from(answer)
        if kind != NLMSG_ERROR:
            return
        (negative,) = _ERROR.unpack_from(answer, _HEADER.size)
        if negative:
            _, refused, _, _, _ = _HEADER.unpack_from(answer, _HEADER.size + _ERROR.size)
            kind_of = NotThere if -negative == errno.ENOENT else RulesRefused
            raise kind_of(f"{_name(refused)}: {os.strerror(-negative)}")

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(ANSWER_BYTES_MAX)
        except BlockingIOError as fault:
            raise RulesRefused(f"no answer within {ANSWER_TIMEOUT_S} s") from fault
        except OSError as fault:
            if fault.errno != errno.ENOBUFS:
                raise
        # Of very many refusals the latter found no room; what did comes next, and the first one says why.
        return self._receive()

    def _forget_answers(self) -> None:
        """Make room: a queue that once ran over takes nothing before it is empty."""
        while True:
            try:
                self._socket.recv(ANSWER_BYTES_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as fault:
                if fault.errno != errno.ENOBUFS:
                    return


def message(kind: Kind, family: int, flags: int, *attributes: bytes) -> bytes:
    """One message; its number is written when it is sent."""
    return _framed(kind, _FAMILY.pack(family, 0, 0), flags, *attributes)


def text(kind: int, value: str) -> bytes:
    return blob(kind, value.encode() + b"\0")


def word(kind: int, value: int) -> bytes:
    return blob(kind, value.to_bytes(4, "big"))


def nested(kind: int, *attributes: bytes) -> bytes:
    return blob(kind | NLA_F_NESTED, b"".join(attributes))


def blob(kind: int, value: bytes) -> bytes:
    """An attribute; the next one begins at a multiple of four."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _framed(kind: Kind, family: bytes, flags: int, *attributes: bytes) -> bytes:
    body = b"".join((family, *attributes))
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 0, 0) + body


def _starts(batch: bytearray) -> Iterator[int]:
    """Where each message begins."""
    at = 0
    while at < len(batch):
        yield at
        at += _WORD.unpack_from(batch, at)[0]


def _name(kind: int) -> str:
    return Kind(kind).name if kind in set(Kind) else f"message {kind:#x}"


_OURS: Final = _FAMILY.pack(socket.AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES)
_BEGIN: Final = _framed(Kind.NFNL_MSG_BATCH_BEGIN, _OURS, 0)
_END: Final = _framed(Kind.NFNL_MSG_BATCH_END, _OURS, 0)
