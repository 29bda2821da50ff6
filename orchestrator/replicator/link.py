"""One encrypted connection between two replicators: frames in, frames out, a bound on every wait."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from orchestrator.host.tls import peer_name
from orchestrator.host.tls_socket import TlsSocket
from orchestrator.mirror.frames import (
    REASONS,
    Decoder,
    Frame,
    HandshakeRejected,
    Kind,
    WireFault,
    encode_json,
)
from orchestrator.model.config import TOLD_ONLY, SlowPeerConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import ClusterName, ModuleName, NodeName
from orchestrator.replicator.outbox import WINDOW_BYTES

FORWARD, BACK, BULK = "forward", "back", "bulk"

Look = tuple[float, Callable[[], None]]
"""Every so many seconds; raises ConnectionLost when it is over."""
_TOLD_MAX: Final = 500  # letters: the longest of our own reasons is half as long


Tell = Callable[[dict[str, Any]], None]

ADMISSION_S: Final = 5.0  # an agent that restarts is back within its grace

LIFE_SIGN: Final = 0.4
"""Of T: between two signs of life while an answer is awaited. The peer answers each, and TCP loses none: the
time that is left is for whoever is late."""

REST_SIGN: Final = 4.0
"""Of T: between two signs of life on a stream that owes nothing. Nobody waits for it, heartbeats say that the
node lives, and the first change after a silent cut is held for T all the same."""

ANSWER_S: Final = 60.0
"""For a whole answer: 64 directories of a thousand names each, on a cold disk that seeks for every one."""

_ERRNO_MAX: Final = 4096  # of the kernel


@dataclass(frozen=True)
class LinkSettings:
    """Who this replicator is and where the others are."""

    cluster: ClusterName
    module: ModuleName
    node: NodeName
    port: int
    listen: Sequence[str]
    """This node's addresses on the replication paths."""
    peers: Mapping[NodeName, Sequence[tuple[str, str]]]
    """For each other node: (own address, its address) in order of preference."""
    server: ssl.SSLContext
    client: ssl.SSLContext
    silence_s: float = 0.5
    """T: a stream without a life sign for so long is dead."""
    ack_timeout_s: float = 5.0
    copy_bytes_per_s: int = 0
    """The most that all copies together may send; 0: no bound. Live changes do not count."""
    ack: str = "disk"
    """`memory`: a member's acknowledgement means that it has applied, not that its disk has it."""
    slow_peer: SlowPeerConfig = TOLD_ONLY
    patterns: str = ""
    """Which names of the directories are replicated: the same on all nodes."""
    ports: Mapping[NodeName, int] = field(default_factory=dict)
    """Where a peer listens on another port than this node; empty: the same."""
    window_bytes: int = WINDOW_BYTES
    """What may be on its way to the peers; then whoever writes waits."""


@dataclass(eq=False)
class ConnectionLost(HafarmError):
    """The connection ended, or its other side was silent for too long."""

    code: ClassVar[str] = "HF4014"
    why: str

    def __str__(self) -> str:
        return f"the replication connection ended: {self.why}; it is dialled again"


def quoted(told: object) -> str:
    """What another node says of itself, for our logs and screens: one short line, whatever it is."""
    text = told[:_TOLD_MAX] if isinstance(told, str) else f"({type(told).__name__})"
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Connection:
    """Frames over one TLS session, which one thread at a time reads or writes: OpenSSL shares none."""

    def __init__(self, tls: TlsSocket, allowed: frozenset[Kind]) -> None:
        self._tls = tls
        self._decoder = Decoder(allowed)
        self._ready: list[Frame] = []
        self._in_use = threading.Lock()
        self._closing = threading.Lock()
        self._closed = False
        self._timeout_s: float | None = -1.0
        """What the socket was told last; -1: nothing."""
        self._arrivals = select.poll()
        self._arrivals.register(tls, select.POLLIN)

    def send(self, data: bytes, timeout_s: float | None = None, look: Look | None = None) -> None:
        """`look`: how often to look whether the other side lives while it takes nothing, and at what."""
        with self._in_use:
            try:
                self._check_open()
                if look is None:
                    self._set_timeout(timeout_s)
                    self._tls.send(data)
                else:
                    self._send_and_look(data, timeout_s, *look)
            except OSError as fault:
                raise ConnectionLost(str(fault) or type(fault).__name__) from fault

    def _send_and_look(
        self, data: bytes, timeout_s: float | None, every_s: float, look: Callable[[], None]
    ) -> None:
        self._set_timeout(every_s)

        def go_on(waited_s: float) -> None:
            if timeout_s is not None and waited_s >= timeout_s:
                raise TimeoutError(f"it took nothing for {waited_s:.1f} s")
            look()

        self._tls.send(data, go_on)

    def receive(self, timeout_s: float | None, within_s: float | None = None) -> list[Frame]:
        """At least one frame; ConnectionLost when nothing came for so long, or nothing whole within that."""
        if self._ready:
            frames, self._ready = self._ready, []
            return frames
        ends = None if within_s is None else time.monotonic() + within_s
        while True:
            frames = self._read(timeout_s, ends)
            if frames:
                return frames

    def has_more(self) -> bool:
        """Something more has come than was returned. Only for the thread that reads."""
        if self._ready or self._decoder.has_half:
            return True
        with self._in_use:
            return self._closed or self._tls.has_unread() or bool(self._arrivals.poll(0))

    def has_arrived(self) -> bool:
        """Something has come that the thread that reads has not taken. For any other thread."""
        try:
            arrivals = select.poll()
            arrivals.register(self._tls, select.POLLIN)
            return bool(arrivals.poll(0))
        except (OSError, ValueError):
            return False  # closed meanwhile

    def _read(self, timeout_s: float | None, ends: float | None) -> list[Frame]:
        with self._in_use:
            try:
                self._check_open()
                self._set_timeout(timeout_s)
                data = self._tls.receive(ends)
                if not data:
                    raise ConnectionLost("closed by the other side")
                return self._decoder.receive_data(data)
            except TimeoutError as fault:
                raise ConnectionLost(f"silent for {timeout_s} s") from fault
            except OSError as fault:
                raise ConnectionLost(str(fault) or type(fault).__name__) from fault

    def _set_timeout(self, timeout_s: float | None) -> None:
        if timeout_s != self._timeout_s:
            self._tls.settimeout(timeout_s)
            self._timeout_s = timeout_s

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionLost("closed on this side")

    def receive_one(self, kind: Kind, timeout_s: float) -> dict[str, Any]:
        """The next frame, whole within this time, of this kind; a refusal is raised as what it is."""
        first, *self._ready = self.receive(timeout_s, timeout_s)
        if first.kind is Kind.REFUSED:
            refusal = first.json()
            reason = refusal.get("reason")
            raise HandshakeRejected(reason if reason in REASONS else "broken", quoted(refusal.get("why")))
        if first.kind is not kind:
            raise WireFault(f"{first.kind.name} instead of {kind.name}")
        return first.json()

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One question to the other side's tree, and its answer; OSError as that says."""
        self.send(encode_json(Kind.ASK, request), timeout_s)
        answer = self.receive_one(Kind.ANSWER, timeout_s)
        if "error" in answer:
            number = answer.get("number")
            number = number if type(number) is int and 0 < number < _ERRNO_MAX else errno.EIO
            raise OSError(number, quoted(answer["error"]))
        return answer

    def close(self) -> None:
        """End it at once, whatever another thread does with it; that thread gets ConnectionLost."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._tls.shut()
        # The descriptor's number is free only when nobody is inside OpenSSL with it any more: a file of the
        # tree might get it otherwise, and the frame would be written there.
        with self._in_use:
            self._tls.close()


def dial(settings: LinkSettings, peer: NodeName, allowed: frozenset[Kind], timeout_s: float) -> Connection:
    """Connect to a peer over the first path that answers; its certificate must be that node's."""
    last: OSError | None = None
    port = settings.ports.get(peer, settings.port)
    for own, address in settings.peers[peer]:
        try:
            plain = socket.create_connection((address, port), timeout_s, (own, 0))
        except OSError as fault:
            last = fault
            continue
        return _secured(settings, peer, plain, allowed, timeout_s)
    raise ConnectionLost(f"no path to {peer}: {last}")


def _secured(
    settings: LinkSettings,
    peer: NodeName,
    plain: socket.socket,
    allowed: frozenset[Kind],
    timeout_s: float,
) -> Connection:
    try:
        tune(plain)
        tls = TlsSocket(plain, settings.client, dials=True)
        tls.handshake(time.monotonic() + timeout_s)
    except ssl.SSLCertVerificationError as fault:
        plain.close()
        why = f"its certificate is not of this cluster ({fault.verify_message})"
        raise HandshakeRejected("foreign", why) from fault
    except OSError as fault:
        plain.close()
        raise ConnectionLost(f"TLS with {peer}: {fault}") from fault
    shown = certified(tls)
    if shown != (settings.cluster, peer):
        tls.close()
        raise HandshakeRejected("foreign", f"{peer} shows the certificate of {shown}")
    return Connection(tls, allowed)


def certified(tls: TlsSocket) -> tuple[str, str]:
    """(cluster, node) as the other side's certificate says; a witness is no node."""
    peer = peer_name(tls.session)
    return ("", "a witness") if peer.witness else (peer.cluster, peer.name)


def tune(plain: socket.socket) -> None:
    """Small frames leave at once; a dead peer's socket does not linger."""
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
    # 10 s: far above any T; our own life signs decide, this only frees the socket.
