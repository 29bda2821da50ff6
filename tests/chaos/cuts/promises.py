"""What a writer was told is durable, kept outside of the product, and what a tree lacks of it."""

from __future__ import annotations

import hashlib
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BLOCK: Final = 4096
"""What a file system writes as a whole: an unsynced one is there or not, never half."""
RECORD: Final = 128
_HEAD: Final = struct.Struct("<QQ")


def filled(owner: int, number: int, size: int = BLOCK) -> bytes:
    """What nobody else writes: whose it is, its number, and bytes that follow from both."""
    head = _HEAD.pack(owner, number)
    body = hashlib.blake2b(head).digest()
    return (head + body * (size // len(body) + 1))[:size]


def number_in(data: bytes, owner: int, size: int = BLOCK) -> int:
    """The number of what `filled` made; 0 for a hole, -1 for anything else."""
    if not data.strip(b"\0"):
        return 0
    if len(data) < size:
        return -1
    number: int = _HEAD.unpack_from(data)[1]
    return number if data == filled(owner, number, size) else -1


def contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""


@dataclass
class Blocks:
    """A file of blocks that are overwritten in place, each by a higher number."""

    name: str
    owner: int
    count: int
    tried: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    """What the file system took; a sync speaks of that, and not of what was tried in vain."""
    base: list[int] = field(default_factory=list)
    """What was there when it was looked at last, on a disk."""
    told: list[tuple[int, int, int]] = field(default_factory=list)
    """(when, which block, which number): acknowledged since then."""

    def __post_init__(self) -> None:
        self.tried = [0] * self.count
        self.written = [0] * self.count
        self.base = [0] * self.count

    def acknowledged(self, at: int) -> None:
        self.told.append((time.monotonic_ns(), at, self.written[at]))

    def missing(self, root: Path, before_ns: float) -> list[str]:
        """What was acknowledged before this moment and is not there; also what nobody wrote."""
        found, wrong = self._found(root), []
        floor = list(self.base)
        for when, at, number in self.told:
            if when < before_ns:
                floor[at] = max(floor[at], number)
        for at, (number, least, most) in enumerate(zip(found, floor, self.tried, strict=True)):
            if not least <= number <= most:
                wrong.append(f"{self.name} block {at}: {number}, told {least}, tried {most}")
        return wrong

    def rebase(self, root: Path) -> None:
        """It is on a disk now, told or not."""
        self.base, self.told = self._found(root), []
        self.written = list(self.base)
        self.tried = [max(pair) for pair in zip(self.base, self.tried, strict=True)]

    def _found(self, root: Path) -> list[int]:
        data = contents(root / self.name)
        blocks = (data[at * BLOCK : (at + 1) * BLOCK] for at in range(self.count))
        return [number_in(block, self.owner) for block in blocks]


@dataclass
class Journal:
    """A file to which records are appended."""

    name: str
    owner: int
    whole: bytearray = field(default_factory=bytearray)
    """All that was appended."""
    base: int = 0
    told: list[tuple[int, int]] = field(default_factory=list)

    def acknowledged(self) -> None:
        self.told.append((time.monotonic_ns(), len(self.whole)))

    def next(self) -> bytes:
        record = filled(self.owner, len(self.whole) // RECORD + 1, RECORD)
        self.whole += record
        return record

    def missing(self, root: Path, before_ns: float) -> list[str]:
        floor = max([self.base, *(size for when, size in self.told if when < before_ns)])
        intact = self._intact(root)
        return [f"{self.name}: {intact} bytes are intact, told {floor}"] if intact < floor else []

    def rebase(self, root: Path) -> None:
        self.base, self.told = self._intact(root), []
        del self.whole[self.base :]

    def _intact(self, root: Path) -> int:
        data = contents(root / self.name)
        end = 0
        while end + RECORD <= len(data) and data[end : end + RECORD] == self.whole[end : end + RECORD]:
            end += RECORD
        return end


@dataclass
class Named:
    """A file that is made once, under a name of its own, and taken away once."""

    name: str
    owner: int
    told: list[tuple[int, bool]] = field(default_factory=list)
    """(when, whether it is there)."""
    base: bool | None = None
    leaving: bool = False
    """Somebody began to take it away."""

    def acknowledged(self, there: bool) -> None:
        self.told.append((time.monotonic_ns(), there))

    def missing(self, root: Path, before_ns: float) -> list[str]:
        last = self.base
        for when, there in self.told:
            if when < before_ns:
                last = there
        found = contents(root / self.name)
        if last and not self.leaving and found != filled(self.owner, 1):
            return [f"{self.name}: told to be there, {len(found)} bytes are"]
        if last is False and found:
            return [f"{self.name}: told to be gone, {len(found)} bytes are there"]
        return []

    def rebase(self, root: Path) -> None:
        there = bool(contents(root / self.name))
        if there and self.leaving:
            self.leaving = False  # the removal did not come through; somebody may try again
        # A file without its data was never told to be there: nothing is claimed of it.
        self.base = (
            True if contents(root / self.name) == filled(self.owner, 1) else (None if there else False)
        )
        self.told = []
