"""Which of a session's threads read requests: one, as long as none of them waits for a disk.

The kernel gives requests to waiting threads in turn. Where each takes some ten microseconds, the change of
threads costs more than the service: every one begins with cold caches, and waits for the interpreter lock,
which another one is about to let go of. Where requests wait for disks, one thread is not enough.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Final

_WIDE_S: Final = 0.05
"""After one that took long, all threads read for so long: where there is one, more follow."""
_LOOK_S: Final = 0.002
"""Between two looks at one that is being served: what needs no disk takes a hundredth of it, and to look so
often takes a two hundredth of a processor, while requests come."""


class Turns:
    """Each thread calls `wait` before it reads a request, and `begun` when it has one."""

    def __init__(self) -> None:
        self._leader = 0
        """The thread that reads alone."""
        self._serving = False
        """It has a request; else it waits for one."""
        self._begun = 0
        """How many it began to serve."""
        self._wide_until = 0.0
        self._looking = threading.Lock()
        """Held by the one of the waiting threads that looks after the leader; the others wait for it."""
        self._bell = threading.Lock()
        self._bell.acquire()
        self._resting = False
        """Whoever looks after the leader waits for the bell, as no request came between two looks."""

    def wait(self) -> None:
        """Return when this thread is to read the next request."""
        me = threading.get_ident()
        if self._leader == me:
            self._serving = False
        elif time.monotonic() >= self._wide_until:
            self._become_leader(me)

    def begun(self) -> None:
        """A request was read, and is served now."""
        if self._leader == threading.get_ident():
            self._begun += 1
            self._serving = True
            if self._resting:
                self._ring()

    def widen(self) -> None:
        """What is served now waits for a disk, or takes long for another reason: others read meanwhile."""
        now = time.monotonic()
        if now < self._wide_until - _WIDE_S / 2:
            return  # they do already
        self._wide_until = now + _WIDE_S
        self._leader = 0
        self._ring()

    def end(self) -> None:
        """There is nothing more to read: whoever waits finds out."""
        self._wide_until = math.inf
        self._leader = 0
        self._ring()

    def _become_leader(self, me: int) -> None:
        with self._looking:
            seen = -1
            while self._leader and time.monotonic() >= self._wide_until:
                if self._begun != seen:
                    seen = self._begun
                    self._bell.acquire(timeout=_LOOK_S)
                elif self._serving:
                    self._leader = 0  # since the last look it serves one and the same
                else:
                    self._rest(seen)
            if not self._leader and time.monotonic() >= self._wide_until:
                self._leader, self._serving = me, False

    def _rest(self, seen: int) -> None:
        self._resting = True
        if self._begun == seen:  # else one came before it could see that it has to ring
            self._bell.acquire()
        self._resting = False

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it was rung already
