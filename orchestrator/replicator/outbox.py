"""The primary's stream: numbered frames kept until every attached receiver has applied them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.mirror import frames
from orchestrator.mirror.frames import Kind
from orchestrator.model.names import NodeName

WINDOW_BYTES: Final = 64 << 20  # half a second of a 1 Gbit/s link, or a burst of a busy database
WINDOWS_BYTES: Final = 256 << 20
"""Of all mirrors of a node together: with more than four the window of each is smaller."""
WINDOW_BYTES_MIN: Final = 8 << 20  # some of the largest operations fit, however many mirrors there are
WINDOW_FRAMES: Final = 10_000  # small operations: what a receiver applies in about a second
_BATCH_BYTES: Final = 1 << 20  # one system call's worth of frames
_FULL_BYTES: Final = 64 << 10  # so much is sent at once: a larger batch spares nothing more
_LINGER_S: Final = 0.004
"""What nobody waits for is sent together with what follows so soon: one way through the wire for many, and
nobody who emits has to wake the sender up."""
_LOOKS_IN_VAIN: Final = 5
"""So often a sender looks without being told; then it rests. A busy application asks within these 20 ms."""


def window_for(mirrors: int) -> int:
    """The window of one mirror on a node that has so many."""
    return min(WINDOW_BYTES, max(WINDOWS_BYTES // mirrors, WINDOW_BYTES_MIN))


@dataclass(slots=True)
class _Receiver:
    sent: int
    """The last sequence number handed to its connection."""
    applied: int
    news: threading.Condition
    """Its sender waits here: while things come it looks now and then, else it rests until one does."""
    connected: bool = True
    resting: bool = False
    looked_in_vain: int = 0
    unsent: int = 0
    """Bytes that were queued since the last batch."""
    hurried: bool = False
    moved_at: float = 0.0
    """When it applied something last."""


class Outbox:
    """Numbers what is emitted and hands it to each receiver in order; a full window holds the emitter."""

    def __init__(self, binding: int = 1, window_bytes: int = WINDOW_BYTES) -> None:
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        """Of the same lock, which is entered by itself: without a call of Python's."""
        self.last = 0
        self.binding = binding
        self._frames: deque[tuple[int, bytes, NodeName | None]] = deque()
        self._bytes = 0
        self._receivers: dict[NodeName, _Receiver] = {}
        self._stopped = False
        self._window_bytes = window_bytes
        self._waiting = 0
        """How many emitters wait for room."""
        self._full_at = 0.0
        """When the first of them began to."""

    def put(
        self,
        kind: Kind,
        payload: bytes,
        only: NodeName | None = None,
        wait: bool = True,
        hurried: bool = False,
    ) -> int:
        """Append one frame (`only`: the others skip its number); its sequence number.

        `hurried`: whoever puts it sends it too, or says `hurry`.
        """
        with self._lock:
            if wait and self._is_full():
                self._wait_for_room()
            self.last += 1
            if self._receivers:
                self._keep(kind, payload, only, hurried)
            return self.last

    def hurry(self, node: NodeName) -> None:
        """The sender of this receiver looks now, if it rests."""
        with self._lock:
            receiver = self._receivers.get(node)
            if receiver is not None and receiver.resting:
                receiver.resting = False
                receiver.news.notify()

    def _wait_for_room(self) -> None:
        self._full_at = self._full_at if self._waiting else time.monotonic()
        self._waiting += 1
        try:
            while self._is_full() and not self._stopped:
                self.changed.wait(1.0)
        finally:
            self._waiting -= 1

    def holds_up_s(self, node: NodeName) -> float:
        """For how long emitters have waited for this receiver, which applied nothing meanwhile."""
        with self._lock:
            receiver = self._receivers.get(node)
            if not self._waiting or receiver is None or not self._frames:
                return 0.0
            if receiver.applied >= self._frames[0][0]:
                return 0.0  # another one is behind it
            return time.monotonic() - max(self._full_at, receiver.moved_at)

    def _keep(self, kind: Kind, payload: bytes, only: NodeName | None, hurried: bool = False) -> None:
        self._frames.append((self.last, frames.encode(kind, payload, self.last), only))
        self._bytes += len(payload)
        for receiver in self._receivers.values():
            receiver.unsent += len(payload)
            if (receiver.resting and not hurried) or receiver.unsent >= _FULL_BYTES:
                receiver.resting = False
                receiver.news.notify()

    def _is_full(self) -> bool:
        if self._bytes < self._window_bytes and len(self._frames) < WINDOW_FRAMES:
            return False
        # A receiver without a connection is kept only as long as there is room for what it missed.
        for node in [node for node, receiver in self._receivers.items() if not receiver.connected]:
            del self._receivers[node]
        self._trim()
        return self._bytes >= self._window_bytes or len(self._frames) >= WINDOW_FRAMES

    def attach(self, node: NodeName, kind: Kind, payload: bytes) -> int:
        """A receiver that knows nothing begins after the returned number, and with this frame.

        Every id is bound anew for it.
        """
        with self._lock:
            self.binding += 1
            start = self.last
            self._wake(node)
            self._receivers[node] = _Receiver(start, start, threading.Condition(self._lock))
            self._trim()
            self.last += 1
            self._keep(kind, payload, node)
            self.changed.notify_all()
            return start

    def _wake(self, node: NodeName) -> None:
        """Its sender looks again, whatever it waits for."""
        receiver = self._receivers.get(node)
        if receiver is not None:
            receiver.hurried = True
            receiver.news.notify_all()

    def can_resume(self, node: NodeName, applied: int) -> bool:
        with self._lock:
            receiver = self._receivers.get(node)
            return receiver is not None and receiver.applied <= applied <= self.last

    def resume(self, node: NodeName, applied: int) -> bool:
        """The same receiver goes on after this number; False when what it missed is no longer kept."""
        with self._lock:
            receiver = self._receivers.get(node)
            if receiver is None or not receiver.applied <= applied <= self.last:
                return False
            receiver.applied = receiver.sent = applied
            receiver.connected = True
            receiver.hurried = True
            self._trim()
            return True

    def disconnect(self, node: NodeName) -> None:
        """Its connection broke: what it did not apply is kept while there is room."""
        with self._lock:
            if node in self._receivers:
                self._receivers[node].connected = False
                self._wake(node)
                self.changed.notify_all()

    def detach(self, node: NodeName) -> None:
        """Nothing is kept for this receiver any more."""
        with self._lock:
            self._wake(node)
            self._receivers.pop(node, None)
            self._trim()
            self.changed.notify_all()

    def wait_for_news(self, node: NodeName, asking_s: float, resting_s: float) -> float:
        """Return when there is something to take for this receiver, or its sender must look why not.

        Nothing came for `asking_s` where the receiver has not applied all that it was sent, else for
        `resting_s`; the one that counted is returned.
        """
        with self._lock:
            receiver = self._receivers.get(node)
            if receiver is None or self._stopped:
                return asking_s
            timeout_s = asking_s if receiver.applied < receiver.sent else resting_s
            receiver.looked_in_vain = receiver.looked_in_vain + 1 if receiver.sent >= self.last else 0
            news = True
            if not receiver.hurried and receiver.looked_in_vain > _LOOKS_IN_VAIN:
                receiver.resting = True
                news = receiver.news.wait(timeout_s)
                receiver.resting = False
            if news and not receiver.hurried and receiver.unsent < _FULL_BYTES:
                receiver.news.wait(_LINGER_S)
            receiver.hurried = False
            return timeout_s

    def is_behind(self, node: NodeName) -> bool:
        """Something is queued for this receiver that its connection was not given."""
        receiver = self._receivers.get(node)
        return receiver is not None and receiver.sent < self.last

    def take(self, node: NodeName) -> bytes | None:
        """The next frames for this receiver, perhaps none; None when it is detached."""
        with self._lock:
            receiver = self._receivers.get(node)
            if receiver is None or self._stopped:
                return None
            return self._collect(node, receiver)

    def _collect(self, node: NodeName, receiver: _Receiver) -> bytes | None:
        if not receiver.connected:
            return None
        parts: list[bytes] = []
        size = 0
        if self._frames:
            start = receiver.sent + 1 - self._frames[0][0]
            assert start >= 0, "frames that a receiver needs were dropped"
            while start < len(self._frames) and size < _BATCH_BYTES:
                sequence, frame, only = self._frames[start]
                if only is not None and only != node:
                    frame = frames.encode(Kind.SKIP, b"", sequence)
                parts.append(frame)
                size += len(frame)
                receiver.sent = sequence
                start += 1
            receiver.unsent = 0 if start == len(self._frames) else _FULL_BYTES
        return b"".join(parts)

    def applied(self, node: NodeName, sequence: int) -> None:
        """This receiver has applied all up to here: nobody needs to keep it for that one."""
        with self._lock:
            receiver = self._receivers.get(node)
            if receiver is not None and receiver.applied < sequence <= receiver.sent:
                receiver.applied, receiver.moved_at = sequence, time.monotonic()
                self._trim()
                self.changed.notify_all()

    def wait_applied(self, node: NodeName, behind_max: int, alive: Callable[[], bool]) -> bool:
        """Wait until this receiver is at most so many numbers behind; False when it is gone."""
        with self._lock:
            while alive() and node in self._receivers and not self._stopped:
                if self.last - self._receivers[node].applied <= behind_max:
                    return True
                self.changed.wait(0.5)
            return False

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for node in self._receivers:
                self._wake(node)
            self.changed.notify_all()

    def _trim(self) -> None:
        needed = min((receiver.applied for receiver in self._receivers.values()), default=self.last)
        while self._frames and self._frames[0][0] <= needed:
            self._bytes -= len(self._frames.popleft()[1]) - frames.HEADER_BYTES
