"""What one disk and its page cache hold: the bytes, the may-differ logs, the lineage, what was set aside."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from dataclasses import replace
from typing import Any

from orchestrator.mirror.lineage import Position, Standing
from orchestrator.model.record import Record, Reign
from tests.sim.edits import MOUNTED, Trust

EMPTY = 0
"""What every extent holds at the beginning."""
FILES = 4
"""Few, so that writes meet copies and each other. Each is one extent."""
DIRECTORY = FILES
"""The place where their names are: an entry, a block and a sync of its own, as of any other extent (S12)."""
EXTENTS = FILES + 1
EVERYTHING = range(EXTENTS)
ON_DISK = (
    "aside", "baselines", "disk", "disk_times", "edited", "forced", "former", "inconsistent", "lineage",
    "listed", "logs", "position", "trust", "unheard",
)  # fmt: skip
"""What an image of the disk holds."""


class Volume:
    """What one disk and its page cache hold; survives every process, the disk part also power cuts."""

    __slots__ = (
        "aside",
        "baselines",
        "dirty",
        "disk",
        "disk_times",
        "edited",
        "flushed",
        "forced",
        "foreign",
        "former",
        "inconsistent",
        "lineage",
        "listed",
        "logs",
        "memory",
        "position",
        "renamed",
        "rolled_back",
        "stamps",
        "times",
        "torn",
        "touched",
        "trust",
        "unheard",
        "unseen",
        "version",
    )

    def __init__(self, others: list[str], clock: Callable[[], float]) -> None:
        self.memory = [EMPTY] * EXTENTS
        self.disk = [EMPTY] * EXTENTS
        self.version = 0
        self.dirty = [0] * EXTENTS
        """The version at which an extent was last changed in memory."""
        self.flushed = [0] * EXTENTS
        self.times = [0.0] * EXTENTS
        """When an extent was last changed in memory, by the file system's own clock."""
        self.disk_times = [0.0] * EXTENTS
        self.stamps: list[dict[int, float]] = [{} for _ in range(EXTENTS)]
        """The times of the versions that no disk has yet."""
        self.lineage: list[Reign] = []
        self.position: Position | None = None
        """Up to where this disk is known to hold which stream: durable with what was synced."""
        self.former: Position | None = None
        """The same of the stream before that."""
        self.forced: Reign | None = None
        """The last of them that an operator's order began: durable."""
        self.unheard: Reign | None = None
        """The last of them, if no other node is known to have heard of it: durable."""
        self.logs: dict[str, set[int]] = {name: set() for name in others}
        self.baselines: dict[str, Position | None] = dict.fromkeys(others)
        """Where each other disk was at least when an entry went from its log (S11)."""
        self.renamed: set[int] = set()
        """Files that got their place by a rename which the directory's disk block does not have yet."""
        self.aside: set[tuple[int, int]] = set()
        """What a copy that lost held before it was overwritten: kept until an operator releases it."""
        self.inconsistent = False
        """A copy into it began and did not end: durable."""
        self.trust = Trust(clock)
        """What is known to be ours in it."""
        self.edited = False
        """It was found to be changed by others, and neither served nor was overwritten since: durable."""
        self.listed: set[tuple[int, int]] = set()
        """What was found so: durable, for people to see."""
        self.foreign: set[tuple[int, int]] = set()
        """What others made of it, whether that was found or not; no node knows this."""
        self.unseen: set[int] = set()
        """Changed by others, and nobody has looked since; no node knows this either."""
        self.touched = True
        """Something changed that the invariants look at."""
        self.rolled_back: set[str] = set()
        """Somebody put an old disk in place of this one: no log knows how it differs from these nodes'."""
        self.torn = False
        """A power cut kept any subset of what was not synced, so this is no moment of the history (O2)."""

    def put(self, extent: int, value: int) -> None:
        """Change the page cache, after the logs name the extent durably (S1, S8)."""
        for log in self.logs.values():
            log.add(extent)
        self._set(extent, value)
        self.trust.note()

    def _set(self, extent: int, value: int) -> None:
        self.memory[extent] = value
        self.touched = True
        self.version += 1
        self.dirty[extent] = self.version
        self.times[extent] = self.stamps[extent][self.version] = self.trust.clock()

    def rename(self, file: int, value: int) -> None:
        """The directory names what this file holds now in place of another one."""
        self.put(DIRECTORY, value)
        self.renamed.add(file)

    def persist(self, memory: list[int], dirty: list[int], places: Collection[int] = EVERYTHING) -> None:
        """What memory held of these when a sync began is on disk, unless something newer is already."""
        self.touched = True
        if DIRECTORY in places and dirty[DIRECTORY] == self.dirty[DIRECTORY]:
            self.renamed.clear()
        for extent in places:
            if dirty[extent] > self.flushed[extent]:
                self.disk[extent] = memory[extent]
                self.flushed[extent] = dirty[extent]
                stamps = self.stamps[extent]
                self.disk_times[extent] = stamps.get(dirty[extent], self.disk_times[extent])
                self.stamps[extent] = {
                    version: at for version, at in stamps.items() if version > dirty[extent]
                }

    def lose_power(self, chance: random.Random) -> None:
        """Any subset of what was not synced is kept; but of a rename not the name without the file (O6)."""
        self.torn = self.torn or self.memory != self.disk
        unsynced = [extent for extent in EVERYTHING if self.dirty[extent] > self.flushed[extent]]
        kept = {extent for extent in unsynced if chance.random() < 0.5}
        if DIRECTORY in kept:
            kept |= self.renamed & set(unsynced)
        for extent in kept:
            self.disk[extent] = self.memory[extent]
            self.disk_times[extent] = self.times[extent]
        if not self.hides():
            self.trust.lose_power(chance)
        self.forget()

    def image(self) -> dict[str, Any]:
        """What somebody may take as a copy of this disk."""
        return {name: deepcopy(getattr(self, name)) for name in ON_DISK}

    def roll_back(self, image: dict[str, Any], chance: random.Random) -> None:
        """Somebody puts an old image of this very disk in its place, while the machine is off."""
        for name, value in image.items():
            setattr(self, name, value)
        self.trust.lose_power(chance)
        self.forget()
        self.torn = True
        self.rolled_back = set(self.logs)

    def add_reign(self, record: Record, unheard: bool = False) -> None:
        """Durable before anything is acknowledged under it (G1)."""
        self._know(self.standing().with_reign(record.reign, record.forced, unheard))

    def adopt(self, source: Standing) -> None:
        """G3: a copy of that one is whole, and on this disk."""
        self._know(replace(source, unheard=None))

    def _know(self, standing: Standing) -> None:
        self.lineage = list(standing.reigns)
        self.forced, self.unheard = standing.forced, standing.unheard

    def standing(self) -> Standing:
        """What this copy shows at a handshake."""
        return Standing(
            tuple(self.lineage),
            self.inconsistent,
            self.position,
            edited=self.edited,
            forced=self.forced,
            unheard=self.unheard,
            former=self.former,
        )

    def is_at(self, position: Position) -> None:
        """Everything up to here is on this disk."""
        standing = self.standing().at(position)
        self.position, self.former = standing.position, standing.former

    def retire(self, peer: str, extents: Iterable[int], at: Position | None) -> None:
        """These do not differ any more; what they speak of was changed before this moment (F1).

        `at`: where the peer's disk is at least; one that is not so far is another disk (S11).
        """
        self.trust.mark(durably=True)
        self.logs[peer].difference_update(extents)
        self.baselines[peer] = at
        self.touched = True

    def keep_aside(self, extents: Iterable[int]) -> None:
        """G4: durably, before the first of them is overwritten."""
        for extent in extents:
            self.aside |= {(extent, self.memory[extent]), (extent, self.disk[extent])}

    def forget(self) -> None:
        """What the page cache held is gone; the disk is what there is."""
        self.torn = self.torn or self.memory != self.disk
        self.touched = True
        self.renamed.clear()
        self.memory = list(self.disk)
        self.times = list(self.disk_times)
        self.stamps = [{} for _ in range(EXTENTS)]
        self.version += 1
        self.dirty = [self.version] * EXTENTS
        self.flushed = [self.version] * EXTENTS

    # --- changed by others (F1-F4) -------------------------------------------------------------------------

    def edit(self, extent: int, value: int) -> None:
        """Somebody else changes it while nothing of ours covers it, and syncs; no log hears of that."""
        self._set(extent, value)
        self.persist(list(self.memory), [self.version if at == extent else 0 for at in range(EXTENTS)])
        self.foreign.add((extent, value))
        self.unseen.add(extent)

    def hides(self) -> bool:
        """A boot would hide an edit: it follows a crash, nobody has looked, and a log names what was edited.

        So it is where hafarm was not started between (docs/guarantees.md), and so it is not played here.
        """
        return self.trust.kind == MOUNTED and any(self.unseen & log for log in self.logs.values())

    def boots(self) -> None:
        """The machine is switched on: what is older was written before."""
        if not self.hides():
            self.trust.booted_at = self.trust.clock()

    def findings(self) -> frozenset[int]:
        """F2: what is not as it was left; of a copy that nothing is known of, all."""
        if not self.trust.kind and not self.lineage:
            return frozenset()
        logged = frozenset().union(*self.logs.values())
        return self.trust.differing(self.times, logged)

    def keep(self, found: frozenset[int]) -> None:
        """F3: durably listed, in the logs towards all others, and this copy is not as it was."""
        if found:
            self.list_them(found)
            self.pin(found)
            self.edited = True
            self.touched = True

    def list_them(self, found: frozenset[int]) -> None:
        self.listed |= {(extent, self.memory[extent]) for extent in found}

    def pin(self, found: frozenset[int]) -> None:
        for log in self.logs.values():
            log |= found

    def is_exempt(self, extent: int, value: int) -> bool:
        """Clients were told otherwise, and the editor's word stands against theirs until one of them goes."""
        return (extent, value) in self.foreign and (self.edited or extent in self.unseen)
