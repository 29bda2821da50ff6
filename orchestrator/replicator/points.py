"""Durable points of a follower: begun in order, done in any."""

from __future__ import annotations

import threading
from collections import OrderedDict


class Points:
    """Durable points begun in order and done in any: up to which one all are done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: OrderedDict[int, bool] = OrderedDict()
        self.done_to = 0

    def begin(self, sequence: int) -> None:
        with self._lock:
            self._begun[sequence] = False

    def done(self, sequence: int) -> int:
        """This one is on disk; all are, up to the returned one."""
        with self._lock:
            self._begun[sequence] = True
            while self._begun and self._begun[next(iter(self._begun))]:
                self.done_to = self._begun.popitem(last=False)[0]
            return self.done_to

    def all_done_before(self, sequence: int) -> bool:
        """No earlier point is still on its way."""
        with self._lock:
            return all(done for begun, done in self._begun.items() if begun < sequence)

    def reached(self, applied: int) -> int:
        """Up to here every durable point is done: between points there is nothing to wait for."""
        with self._lock:
            return min(self._begun, default=applied + 1) - 1
