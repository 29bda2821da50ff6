"""How fast a copy may send, and whether it may at all; live changes never ask here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

BURST_S: Final = 0.05
"""What an idle moment saves up: less than a tenth of any second, within which the rate has to hold."""


class Throttle:
    """One for all copies of a mirror, whoever they go to.

    What was sent is told afterwards, from under any lock; who is about to send more waits before taking one.
    """

    def __init__(self, rate: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """`rate` in bytes a second; 0: no bound."""
        self.rate = rate
        self._clock = clock
        self._changed = threading.Condition()
        self._paused = False
        self._free_at = 0.0
        """When what was sent up to now has had its time."""

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self, paused: bool) -> None:
        """Hold every copy where it is, or let all go on."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def wake(self) -> None:
        """Somebody who may wait here was cancelled."""
        with self._changed:
            self._changed.notify_all()

    def spent(self, count: int) -> None:
        """So many bytes were sent."""
        if not self.rate:
            return
        with self._changed:
            self._free_at = max(self._free_at, self._clock() - BURST_S) + count / self.rate

    def wait(self, cancelled: Callable[[], bool]) -> None:
        """Return when more may be sent, or when it is not wanted any more."""
        if not self._paused and not self.rate:
            return
        with self._changed:
            while not cancelled():
                left_s = self._free_at - self._clock()
                if not self._paused and left_s <= 0:
                    return
                self._changed.wait(None if self._paused else left_s)
