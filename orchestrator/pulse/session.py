"""Heartbeats under lock: one key per pair of lives, so that no other life, path or cluster is heard."""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from orchestrator.cluster.beat import Beat, decode, encode
from orchestrator.model.errors import CorruptState
from orchestrator.model.names import NodeName, PathName

VERSION: Final = 1
HELLO, BEAT = 1, 2
NOBODY: Final = bytes(16)
WINDOW: Final = 64
"""Beats that may overtake one another on a path; more than in a second of the fastest preset."""
LIVES_KEPT: Final = 64
"""Pairs of lives with keys: ten times the paths of a node to all its peers."""
HEADER: Final = struct.Struct("!2sBB16s16sQ")
"""Magic, version, kind, the sender's life, the receiver's life, counter. All of it is authenticated."""
MAGIC: Final = b"hf"
COUNTER_BYTES: Final = 8
TAG_BYTES: Final = 16


@dataclass(slots=True)
class Window:
    """Which counters were heard (RFC 4303's sliding window)."""

    top: int = 0
    seen: int = 0

    def take(self, counter: int) -> bool:
        """True once for each counter that is not too old."""
        if counter > self.top:
            self.seen = (self.seen << min(counter - self.top, WINDOW) | 1) & (1 << WINDOW) - 1
            self.top = counter
            return True
        bit = 1 << (self.top - counter) if self.top - counter < WINDOW else 0
        if not bit or self.seen & bit:
            return False
        self.seen |= bit
        return True


class _Line(NamedTuple):
    """Beats of one life to another: what is the same in all of them."""

    sender: bytes
    target: bytes
    sender_text: str
    prefix: bytes
    """The header without the counter."""
    cipher: ChaCha20Poly1305


class Session:
    """This node and one peer on one path.

    A frame is taken only under a key that names both lives. Ours is drawn at random when the process
    starts, so no frame that was recorded before can carry it: whoever sends one has heard us now.
    """

    def __init__(
        self, key: bytes, cluster: str, me: NodeName, peer: NodeName, path: PathName, boot: str
    ) -> None:
        assert len(key) >= 32, "the heartbeat key has 256 bits"
        self._key, self._cluster, self._me, self._peer, self._path = key, cluster, me, peer, path
        self._boot = bytes.fromhex(boot)
        assert len(self._boot) == len(NOBODY)
        self._ciphers: OrderedDict[tuple[str, bytes, bytes, int], ChaCha20Poly1305] = OrderedDict()
        self._windows: OrderedDict[bytes, Window] = OrderedDict()
        self._spoken: _Line | None = None
        """The line of the newest beat of ours."""
        self._heard: _Line | None = None
        """The line of the newest beat that was heard: mostly that of the next one too."""
        self.peer_boot = NOBODY
        self.refused = 0
        """Frames that are not authentic, or were heard before."""
        self.other_version = 0
        """Frames of another release's wire format."""

    def seal(self, beat: Beat, room: int) -> bytes:
        """The frame of a beat; a greeting while the peer's life is not known."""
        if self.peer_boot == NOBODY:
            return self.hello(NOBODY)
        body = encode(beat)
        if beat.padded:
            body = body.ljust(room - HEADER.size - TAG_BYTES)
        line = self._spoken
        if line is None or line.target != self.peer_boot:
            line = self._spoken = self._line(self._me, self._boot, self.peer_boot)
        header = line.prefix + beat.counter.to_bytes(COUNTER_BYTES, "big")
        return header + line.cipher.encrypt(_nonce(beat.counter), body, header)

    def hello(self, target: bytes) -> bytes:
        """`This is my life`; with a target it also proves that we heard that life."""
        header = HEADER.pack(MAGIC, VERSION, HELLO, self._boot, target, int.from_bytes(os.urandom(8), "big"))
        counter = HEADER.unpack(header)[-1]
        return header + self._cipher(self._me, self._boot, target, HELLO).encrypt(
            _nonce(counter), b"", header
        )

    def open(self, frame: bytes) -> tuple[Beat | None, bytes | None]:
        """The beat of a frame, or what must be answered to a greeting; neither when it is not for us."""
        if len(frame) < HEADER.size + TAG_BYTES:
            return self._refuse()
        if self._heard is not None and frame.startswith(self._heard.prefix):
            return self._open_beat(self._heard, frame)
        magic, version, kind, sender, target, counter = HEADER.unpack_from(frame)
        if magic == MAGIC and version != VERSION:
            self.other_version += 1
            return None, None
        addressed = target == self._boot or (kind == HELLO and target == NOBODY)
        if magic != MAGIC or kind not in (HELLO, BEAT) or not addressed or sender == self._boot:
            return self._refuse()
        if kind == BEAT:
            return self._open_beat(self._line(self._peer, sender, target), frame)
        try:
            cipher = self._cipher(self._peer, sender, target, kind)
            cipher.decrypt(_nonce(counter), frame[HEADER.size :], frame[: HEADER.size])
        except InvalidTag:
            return self._refuse()
        if target == NOBODY:
            return None, self.hello(sender)
        self._know(sender)
        return None, None

    def _open_beat(self, line: _Line, frame: bytes) -> tuple[Beat | None, None]:
        """Who sealed it has heard this very life of ours."""
        counter = int.from_bytes(frame[HEADER.size - COUNTER_BYTES : HEADER.size], "big")
        try:
            body = line.cipher.decrypt(_nonce(counter), frame[HEADER.size :], frame[: HEADER.size])
        except InvalidTag:
            return self._refuse()
        sender = line.sender
        self._know(sender)
        if not self._windows[sender].take(counter):
            return self._refuse()
        # Spoken to is whoever spoke last: of two machines with one name the one that is left.
        self.peer_boot, self._heard = sender, line
        try:
            return decode(line.sender_text, body.rstrip()), None
        except CorruptState:
            return self._refuse()

    def _know(self, sender: bytes) -> None:
        if sender not in self._windows:
            self._windows[sender] = Window()
            self.peer_boot = sender
        while len(self._windows) > LIVES_KEPT:
            self._windows.popitem(last=False)

    def _refuse(self) -> tuple[None, None]:
        self.refused += 1
        return None, None

    def _line(self, name: NodeName, sender: bytes, target: bytes) -> _Line:
        prefix = HEADER.pack(MAGIC, VERSION, BEAT, sender, target, 0)[:-COUNTER_BYTES]
        return _Line(sender, target, sender.hex(), prefix, self._cipher(name, sender, target, BEAT))

    def _cipher(self, sender: NodeName, source: bytes, target: bytes, kind: int) -> ChaCha20Poly1305:
        """The key of one direction of one pair of lives."""
        label = (sender, source, target, kind)
        if label not in self._ciphers:
            names = "\0".join(
                (self._cluster, self._me, self._peer)
                if sender == self._me
                else (self._cluster, self._peer, self._me)
            )
            info = b"\0".join(
                (b"hafarm beat", names.encode(), self._path.encode(), bytes([kind]), source + target)
            )
            derived = HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(self._key)
            self._ciphers[label] = ChaCha20Poly1305(derived)
            while len(self._ciphers) > LIVES_KEPT:
                self._ciphers.popitem(last=False)
        return self._ciphers[label]


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
