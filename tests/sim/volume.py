"""What one disk and its page cache hold: the bytes, the may-differ logs, the lineage, what was set aside."""

from __future__ import annotations

import random
from collections.abc import Iterable

from orchestrator.mirror.lineage import Standing
from orchestrator.model.record import Reign
from tests.sim.ghost import EMPTY

EXTENTS = 4
"""Few, so that writes meet copies and each other."""


class Volume:
    """What one disk and its page cache hold; survives every process, the disk part also power cuts."""

    __slots__ = (
        "aside",
        "dirty",
        "disk",
        "flushed",
        "inconsistent",
        "lineage",
        "logs",
        "memory",
        "touched",
        "version",
    )

    def __init__(self, others: list[str]) -> None:
        self.memory = [EMPTY] * EXTENTS
        self.disk = [EMPTY] * EXTENTS
        self.version = 0
        self.dirty = [0] * EXTENTS
        """The version at which an extent was last changed in memory."""
        self.flushed = [0] * EXTENTS
        self.lineage: list[Reign] = []
        self.logs: dict[str, set[int]] = {name: set() for name in others}
        self.aside: set[tuple[int, int]] = set()
        """What a diverged copy held before it was overwritten: kept until an operator releases it."""
        self.inconsistent = False
        """A copy into it began and did not end: durable."""
        self.touched = True
        """Something changed that the invariants look at."""

    def put(self, extent: int, value: int) -> None:
        """Change the page cache, after the logs name the extent durably (S1, S8)."""
        for log in self.logs.values():
            log.add(extent)
        self.memory[extent] = value
        self.touched = True
        self.version += 1
        self.dirty[extent] = self.version

    def persist(self, memory: list[int], dirty: list[int]) -> None:
        """What memory held when a sync began is on disk, unless something newer is already."""
        self.touched = True
        for extent in range(EXTENTS):
            if dirty[extent] > self.flushed[extent]:
                self.disk[extent] = memory[extent]
                self.flushed[extent] = dirty[extent]

    def lose_power(self, chance: random.Random) -> None:
        """Any subset of what was not synced is kept."""
        for extent in range(EXTENTS):
            if self.dirty[extent] > self.flushed[extent] and chance.random() < 0.5:
                self.disk[extent] = self.memory[extent]
        self.forget()

    def add_reign(self, reign: Reign) -> None:
        """Durable before anything is acknowledged under it (G1)."""
        if reign not in self.lineage:
            self.lineage = list(Standing(tuple(self.lineage)).with_reign(reign).reigns)

    def standing(self) -> Standing:
        """What this copy shows at a handshake."""
        return Standing(tuple(self.lineage), self.inconsistent)

    def keep_aside(self, extents: Iterable[int]) -> None:
        """G4: durably, before the first of them is overwritten."""
        for extent in extents:
            self.aside |= {(extent, self.memory[extent]), (extent, self.disk[extent])}

    def forget(self) -> None:
        """What the page cache held is gone; the disk is what there is."""
        self.touched = True
        self.memory = list(self.disk)
        self.version += 1
        self.dirty = [self.version] * EXTENTS
        self.flushed = [self.version] * EXTENTS
