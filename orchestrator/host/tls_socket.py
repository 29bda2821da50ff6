"""TLS over a connected socket in large pieces: the kernel is asked once for many records."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Final, cast

_READ_BYTES: Final = 1 << 18
"""Asked of the kernel at a time: sixteen records. More gained nothing."""
_RECORD_BYTES: Final = 1 << 14
"""The largest record of TLS, unpacked."""
_WRITE_BYTES: Final = 1 << 18
"""Encrypted before it is sent: one piece is on its way while the next one is made."""
_SO_RCVTIMEO, _SO_SNDTIMEO = 20, 21
_TIMEVAL: Final = struct.Struct("@ll")
_SHORTEST_S: Final = 0.001
"""What rounds to nothing would be no bound at all."""


class TlsSocket:
    """One session over one socket. One thread at a time: OpenSSL shares none.

    `ssl.SSLSocket` asks the kernel twice for each record of 16 KiB that it reads, and once for each that it
    writes, and a large read of it takes memory that is mapped and unmapped each time.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, dials: bool = False) -> None:
        """`dials`: this side began. It names nobody in the clear: who answers is what the certificate says,
        and Python takes half a megabyte to encode a name.
        """
        self._plain = plain
        timeout_s = plain.gettimeout()
        plain.settimeout(None)
        self.settimeout(timeout_s)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self._arrived, self._leaving, server_side=not dials)
        # Neither takes memory before something so large has come.
        self._raw = memoryview(bytearray(_READ_BYTES))
        self._room = memoryview(bytearray(_READ_BYTES + _RECORD_BYTES))
        self._is_over = False

    def fileno(self) -> int:
        return self._plain.fileno()

    def settimeout(self, timeout_s: float | None) -> None:
        """The most that one wait for the other side lasts; TimeoutError then. None: as long as it takes."""
        # The kernel's own time-outs: with Python's each call is two, and the interpreter is let go twice.
        seconds = 0.0 if timeout_s is None else max(timeout_s, _SHORTEST_S)
        self._timeout_s = seconds
        value = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
        for option in (_SO_RCVTIMEO, _SO_SNDTIMEO):
            self._plain.setsockopt(socket.SOL_SOCKET, option, value)

    def handshake(self, ends: float | None = None) -> None:
        """OSError when the other side is not one to talk to, or is gone, or is not done at this moment."""
        while True:
            try:
                self.session.do_handshake()
            except ssl.SSLWantReadError:
                self._send_leaving()
                if not self._hear(ends):
                    raise ConnectionResetError("closed during the handshake") from None
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._send_leaving()  # why it was refused
                raise
            else:
                self._send_leaving()
                return

    def send(self, data: bytes, go_on: Callable[[float], None] | None = None) -> None:
        """All of it is given to the kernel.

        `go_on`: asked each time that the time-out has passed without the other side taking a byte, with the
        seconds since it took one; raises to give up. None: the first time is the last.
        """
        with memoryview(data) as view:
            for at in range(0, len(data), _WRITE_BYTES):
                self.session.write(view[at : at + _WRITE_BYTES])
                self._send_leaving(go_on)

    def receive(self, ends: float | None = None) -> memoryview:
        """What has come, at least a byte; nothing at the end. Only good until the next call.

        TimeoutError when that is not there at the moment `ends`, though it comes in drops.
        """
        room, size = self._room, 0
        while True:
            while self._arrived.pending and size <= len(room) - _RECORD_BYTES and not self._is_over:
                size += self._unpack(room[size:])
            if size or self._is_over:
                return room[:size]
            if not self._hear(ends):
                return room[:0]

    def has_unread(self) -> bool:
        """Something has come from the kernel and was not returned; perhaps not a whole record."""
        return bool(self._arrived.pending or self.session.pending())

    def _unpack(self, room: memoryview) -> int:
        try:
            count = cast(int, self.session.read(_RECORD_BYTES, cast(bytearray, room)))
        except ssl.SSLWantReadError:
            return 0  # half a record
        except ssl.SSLZeroReturnError:
            count = 0
        self._is_over = count == 0
        return count

    def _hear(self, ends: float | None) -> bool:
        if ends is not None and time.monotonic() >= ends:
            raise TimeoutError("it comes in drops")
        try:
            count = self._plain.recv_into(self._raw)
        except BlockingIOError as fault:
            raise TimeoutError("timed out") from fault
        self._arrived.write(self._raw[:count])
        return count > 0

    def _send_leaving(self, go_on: Callable[[float], None] | None = None) -> None:
        left = memoryview(self._leaving.read())
        taken_at = 0.0
        while left:
            try:
                left = left[self._plain.send(left) :]
                taken_at = 0.0
            except BlockingIOError as fault:
                if go_on is None:
                    raise TimeoutError("timed out") from fault
                taken_at = taken_at or time.monotonic() - self._timeout_s
                go_on(time.monotonic() - taken_at)

    def shut(self) -> None:
        """End it at once, whatever another thread does with it: that one's call fails or finds the end."""
        with contextlib.suppress(OSError):
            self._plain.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the descriptor; nobody may be inside any more."""
        self._plain.close()
