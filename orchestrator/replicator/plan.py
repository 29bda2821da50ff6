"""What a copy looks at, what changed while it ran, and how far it is."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.mirror.differ import Key
from orchestrator.model.names import NodeName
from orchestrator.replicator.throttle import Throttle

PROGRESS_EVERY_S: Final = 1.0
RATE_OVER: Final = 10  # tellings, seconds mostly: short enough to follow, long enough to read

CHANGES_MAX: Final = 1 << 20
"""Changes that are remembered one by one while a copy runs, some 200 MiB: beyond, everything is compared."""


class Changes:
    """What the application changed while a copy ran."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: set[Key] | None = set()
        self.moves = 0
        """Renames and links so far: what they moved may have slipped past the copy."""

    def note(self, keys: Iterable[Key]) -> None:
        with self._lock:
            if self._keys is not None:
                self._keys.update(keys)
                if len(self._keys) > CHANGES_MAX:
                    self._keys = None

    def moved(self) -> None:
        with self._lock:
            self.moves += 1

    def keys(self) -> set[Key] | None:
        """None: more than is remembered."""
        with self._lock:
            return None if self._keys is None else self._keys.copy()


@dataclass
class CopyPlan:
    """What to look at: everything, or what these entries name in this node's tree."""

    full: bool
    why: str = ""
    keys: set[Key] = field(default_factory=set)


class Progress:
    """How far a copy is, for people; told at most once a second."""

    def __init__(
        self,
        peer: NodeName,
        plan: CopyPlan,
        tell: Callable[[dict[str, Any]], None],
        throttle: Throttle,
    ) -> None:
        self._peer = peer
        self._plan = plan
        self._tell = tell
        self._throttle = throttle
        self._marks: deque[tuple[float, int]] = deque(maxlen=RATE_OVER)
        """When it was told, and how much had been looked at."""
        self._told = 0.0
        self._began = time.monotonic()
        self._current = ""
        self.files = 0
        self.files_total = 0
        self.bytes_total = 0
        self.is_counted = False
        """The totals are known; until then nobody can say when it ends."""
        self.compared = 0
        """Bytes looked at."""
        self.sent = 0
        """Bytes that differed, and one for each size or hole that did."""

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def expect(self, files: int, bytes: int) -> None:
        """So much more is to be looked at."""
        self.files_total += files
        self.bytes_total += bytes
        self.is_counted = True

    def at(self, path: bytes) -> None:
        """This is being looked at."""
        self._current = os.fsdecode(path).encode("utf-8", "replace").decode()
        if time.monotonic() - self._told >= PROGRESS_EVERY_S:
            self.tell()

    def tell(self) -> None:
        """Say it now."""
        self._told = time.monotonic()
        self._marks.append((self._told, self.compared))
        self._tell({"event": "progress", "peer": self._peer, **self.as_dict()})

    def as_dict(self) -> dict[str, Any]:
        rate = 0.0 if self._throttle.paused else self._rate()
        left = max(self.bytes_total - self.compared, 0)
        return {
            "files": self.files,
            "files_total": self.files_total,
            "bytes": self.compared,
            "bytes_total": self.bytes_total,
            "sent": self.sent,
            "rate": int(rate),
            "eta_s": round(left / rate, 1) if rate and self.is_counted else None,
            "current": self._current,
            "full": self._plan.full,
            "why": self._plan.why,
            "paused": self._throttle.paused,
        }

    def _rate(self) -> float:
        """Bytes looked at in a second, over the last moments: what was before a pause says nothing of now."""
        since, had = self._marks[0] if self._marks else (self._began, 0)
        now = time.monotonic()
        if now - since < PROGRESS_EVERY_S:
            since, had = self._began, 0
        return (self.compared - had) / max(now - since, 1e-3)
