"""What a copy looks at, what changed while it ran, and how far it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.mirror.differ import Key
from orchestrator.model.names import NodeName

PROGRESS_EVERY_S: Final = 1.0


class Changes:
    """What the application changed while a copy ran."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: set[Key] = set()
        self.moves = 0
        """Renames and links so far: what they moved may have slipped past the copy."""

    def note(self, keys: Iterable[Key]) -> None:
        with self._lock:
            self._keys.update(keys)

    def moved(self) -> None:
        with self._lock:
            self.moves += 1

    def keys(self) -> set[Key]:
        with self._lock:
            return self._keys.copy()


@dataclass
class CopyPlan:
    """What to look at: everything, or what these entries name in this node's tree."""

    full: bool
    why: str = ""
    keys: set[Key] = field(default_factory=set)


class Progress:
    """How far a copy is, for people; told at most once a second."""

    def __init__(self, peer: NodeName, plan: CopyPlan, tell: Callable[[dict[str, Any]], None]) -> None:
        self._peer = peer
        self._plan = plan
        self._tell = tell
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
        self._tell({"event": "progress", "peer": self._peer, **self.as_dict()})

    def as_dict(self) -> dict[str, Any]:
        rate = self.compared / max(self.elapsed_s, 1e-3)
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
        }
