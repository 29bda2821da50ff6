"""The record of what is ours in a copy: the marks of a running keeper, and what a clean stop writes down."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from orchestrator.replicator.outside import BUSY_MARK_S, SLACK_S

SEALED, MOUNTED = "sealed", "mounted"


class Trust:
    """As the replicator keeps it, for extents in place of files; all of it durable but the last mark.

    A thread marks the time a moment after a change. Here nothing runs between: the mark is worked out when it
    is asked for, or when the keeper ends.
    """

    __slots__ = ("_due", "booted_at", "clock", "disk_mark", "kind", "life", "marked", "noted", "record")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        """The file system's."""
        self.kind = ""
        self.life: Any = None
        self.record: list[float] = []
        """Of a clean stop: when each extent was last changed."""
        self.marked = self.disk_mark = -1.0
        """Whatever is older is ours."""
        self.noted: float | None = None
        """The last mark as the run directory has it, which a boot empties."""
        self.booted_at = 0.0
        self._due: float | None = None

    # --- while a keeper lives ------------------------------------------------------------------------------

    def note(self) -> None:
        """Something of ours changes now; the mark follows."""
        now = self.clock()
        self._come_to(now)
        if self._due is None:
            self._due = now + BUSY_MARK_S

    def mark(self, durably: bool = False) -> None:
        """Everything up to now is ours."""
        self.marked = self.noted = self.clock()
        self._due = None
        if durably:
            self.disk_mark = self.marked

    def end(self) -> None:
        """Nobody marks any more."""
        self._come_to(self.clock())
        self._due = None

    def _come_to(self, now: float) -> None:
        if self._due is not None and now >= self._due:
            self.marked = self.noted = self._due
            self._due = None

    # --- between two lives ---------------------------------------------------------------------------------

    def believe(self, life: object) -> None:
        """All is ours, or listed: whoever finds another life here knows that it crashed."""
        self.mark(durably=True)
        self.kind, self.life = MOUNTED, life

    def seal(self, times: list[float]) -> None:
        """A clean stop: what is there now is what the next start compares with."""
        self.kind, self.record = SEALED, list(times)

    def lose_power(self, chance: random.Random) -> None:
        """The mark may have reached the disk, or an older one is there; the run directory is empty."""
        if chance.random() < 0.5:
            self.disk_mark = self.marked
        self.marked = self.disk_mark
        self.noted = self._due = None

    def differing(self, times: list[float], logged: frozenset[int]) -> frozenset[int]:
        """Which extents others have changed, as far as can be told."""
        if self.kind == SEALED:
            return frozenset(at for at, time in enumerate(times) if time != self.record[at])
        if self.kind != MOUNTED:
            return frozenset(range(len(times)))
        end = self.booted_at if self.noted is None else self.noted + SLACK_S
        return frozenset(
            at for at, time in enumerate(times) if time > self.marked and not (time <= end and at in logged)
        )
