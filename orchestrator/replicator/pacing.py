"""The clock beside one link: how long durable points take to be on the other node's disk, one at a time."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from orchestrator.mirror.pace import Finding, Pace
from orchestrator.model.config import SlowPeerConfig
from orchestrator.model.names import Instant

_LOOK_S: Final = 0.05
"""Between two looks, at a point that is not answered or at quick answers: a fifth of the shortest time that
is slow. What took longer is looked at in any case."""


class Pacing:
    """Follows one durable point after the other: of those between nothing is needed, and each costs nothing.

    `asked` and `synced` come from whatever thread serves a request, the rest from the link's reader.
    """

    def __init__(self, policy: SlowPeerConfig) -> None:
        self._lock = threading.Lock()
        self._pace = Pace(policy)
        self._point = 0
        """The number of the one that is followed; 0: none."""
        self._asked_at = 0.0
        self._own_s: float | None = None
        self._reached = 0
        """Up to here every point is on the other disk."""
        self._look_at = 0.0
        """When the next look is due."""

    def asked(self, sequence: int) -> None:
        """A durable point is on its way, and somebody waits for it."""
        if self._point:
            return
        with self._lock:
            if not self._point and sequence > self._reached:
                self._point, self._asked_at, self._own_s = sequence, time.monotonic(), None

    def synced(self, sequence: int) -> None:
        """This node's own disk has it."""
        if sequence == self._point:
            with self._lock:
                if sequence == self._point:
                    self._own_s = time.monotonic() - self._asked_at

    def forget(self) -> None:
        """The connection is another one: what was awaited on the former one says nothing of the disk."""
        with self._lock:
            self._point = 0

    def look(self, reached: int = 0) -> Finding | None:
        """What is new; `reached`: up to where its disk has every point, as it told."""
        with self._lock:
            now = Instant(time.monotonic())
            self._reached = max(self._reached, reached)
            answered = 0 < self._point <= self._reached
            took_s = now - self._asked_at
            if now < self._look_at and not (answered and took_s >= _LOOK_S):
                self._point = 0 if answered else self._point
                return None
            self._look_at = now + _LOOK_S
            if answered:
                self._pace = self._pace.answered(now, took_s, self._own_s)
                self._point = 0
            waited_s = now - self._asked_at if self._point else 0.0
            self._pace, finding = self._pace.looked_at(now, waited_s, self._own_s)
            return finding

    def may_join(self) -> bool:
        """Whether this node is fast enough to be waited for again."""
        return self._pace.may_join(Instant(time.monotonic()))

    def facts(self) -> dict[str, Any] | None:
        """For people, while it is slow; None while it is not."""
        pace = self._pace
        if pace.slow_since is None:
            return None
        return {"took_s": round(pace.worst_s, 3), "usual_s": round(pace.usual_s, 3)}
