"""The data of files: hashed on both sides at once, block by block; what differs is sent."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, TypeVar

from orchestrator.replicator import ops, trees
from orchestrator.replicator.places import About
from orchestrator.replicator.plan import Progress
from orchestrator.replicator.questions import LOOKS_MAX, Questions
from orchestrator.replicator.sender import Sender, Source
from orchestrator.replicator.trees import BLOCK_BYTES, BLOCKS_MAX, Entry

_EXTENT_BLOCKS: Final = ops.EXTENT_BYTES // BLOCK_BYTES
T = TypeVar("T")


@dataclass(slots=True)
class Pair:
    """One object here, and what the peer has in its place; nothing: it was made just now."""

    path: bytes
    own: Entry
    theirs: Entry | None
    whole: bool = False
    """All of its data may differ."""
    parts: tuple[tuple[int, int], ...] = ()
    """(first block, number of blocks) of what is known to differ, and nothing else."""


@dataclass(slots=True)
class _Range:
    """Blocks of one file to be compared."""

    pair: Pair
    reader: int
    first: int
    count: int


class Blocks:
    """Compares data of files in one volume, each file once, by whichever name comes first."""

    def __init__(
        self,
        source: Source,
        sender: Sender,
        questions: Questions,
        progress: Progress,
        volume: int,
        about: Mapping[int, About],
    ) -> None:
        self._root = source.tree.root(volume)
        self._sender = sender
        self._questions = questions
        self._progress = progress
        self._volume = volume
        self._about = about
        self._compared: dict[str, bool] = {}
        """Handles of files whose data were looked at, and whether all of it was."""

    def forget(self, own: Entry) -> None:
        """It was made anew: its data are to be sent, whatever was done before."""
        self._compared.pop(own["handle"], None)

    def compare(self, pairs: list[Pair]) -> set[bytes]:
        """Make data and sizes of files equal; the paths of those that were not."""
        written: set[bytes] = set()
        blocks = 0
        with ExitStack() as readers:
            ranges: list[_Range] = []
            for pair in pairs:
                reader = self._reader(pair, readers)
                if reader is None:
                    continue
                if pair.theirs is None:
                    self._sender.send_all(self._volume, pair.path, reader, pair.own)
                    self._progress.files += 1
                    written.add(pair.path)
                    continue
                if pair.own["size"] != pair.theirs["size"]:
                    self._sender.send_size(self._volume, pair.path, reader, pair.own)
                    written.add(pair.path)
                new = [_Range(pair, reader, first, count) for first, count in self._parts(pair)]
                ranges += new
                blocks += sum(one.count for one in new)
                if blocks >= BLOCKS_MAX:
                    written |= self._compare(ranges)
                    ranges, blocks = [], 0
                    readers.close()
            return written | self._compare(ranges)

    def _reader(self, pair: Pair, readers: ExitStack) -> int | None:
        """A descriptor to read it; None where nothing is to be read, or was read by another name."""
        known = self._compared.get(pair.own["handle"])
        if known is not None and (known or not pair.whole):
            return None
        self._compared[pair.own["handle"]] = pair.whole or pair.theirs is None
        fd = self._open(pair)
        if fd is not None:
            readers.callback(os.close, fd)
        return fd

    def _open(self, pair: Pair) -> int | None:
        """A descriptor to read it; None where there is nothing to read, or another object by now."""
        if pair.theirs is not None and pair.own["size"] == pair.theirs["size"] == 0:
            return None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = trees.open_path(self._root, pair.path, flags)
        except OSError:
            self._sender.missed = True
            return None
        if trees.identity(fd, os.fstat(fd).st_ino) == pair.own["handle"]:
            return fd
        os.close(fd)
        self._sender.missed = True
        return None

    def _parts(self, pair: Pair) -> Sequence[tuple[int, int]]:
        """(first block, number of blocks) of what may differ, none of them longer than one answer."""
        assert pair.theirs is not None
        if pair.parts:
            return pair.parts
        size = pair.own["size"]
        # A FRESH entry means the first extent, as its number says.
        about = self._about.get(pair.own["inode"], set())
        extents = sorted({extent for what, extent in about if what in (ops.DATA, ops.FRESH)})
        everything = pair.whole or (ops.ALL, 0) in about or ops.WHOLE in extents
        if everything or (size != pair.theirs["size"] and not extents):
            return _parts_of(size)
        end = -(-size // BLOCK_BYTES)
        starts = [extent * _EXTENT_BLOCKS for extent in extents]
        return [(first, min(_EXTENT_BLOCKS, end - first)) for first in starts if first < end]

    def compare_equal(self, files: Iterable[tuple[bytes, int]]) -> Iterator[Pair]:
        """Data of files (path, size) whose names and attributes are equal; those that were not, put right."""
        wanted = [(path, *part) for path, size in files for part in _parts_of(size)]
        for batch in _bounded(wanted):
            self._sender.wait_turn()
            theirs, here = trees.side_by_side(
                functools.partial(self._questions.hashes, self._volume, batch),
                functools.partial(_hash_all, self._root, batch),
            )
            differing: dict[bytes, list[tuple[int, int]]] = {}
            for (child, first, count), mine, other in zip(batch, here, theirs, strict=True):
                self._progress.compared += len(mine) * BLOCK_BYTES
                if mine != other:
                    differing.setdefault(child, []).append((first, count))
            yield from self._differing(differing)
            self._progress.at(batch[0][0])

    def _differing(self, parts: Mapping[bytes, list[tuple[int, int]]]) -> Iterator[Pair]:
        """Send what differs in files that seemed to be equal."""
        pairs = []
        for path, ranges in parts.items():
            entry = trees.look(self._root, path)
            if entry is None:
                self._sender.missed = True
            elif stat.S_ISREG(entry["mode"]):
                self._compared.pop(entry["handle"], None)
                pairs.append(Pair(path, entry, entry, True, tuple(ranges)))
        written = self.compare(pairs)
        yield from (pair for pair in pairs if pair.path in written)

    def _compare(self, ranges: list[_Range]) -> set[bytes]:
        """Hash both sides block by block; what differs is read again and queued under the object's lock.

        Equal at different moments is equal for good: every live write between the two readings is applied,
        or will be, on both sides, and a write done twice is a write done once.
        """
        written: set[bytes] = set()
        for part in _bounded([(one, one.first, one.count) for one in ranges]):
            self._sender.wait_turn()
            theirs, own = trees.side_by_side(
                functools.partial(
                    self._questions.hashes,
                    self._volume,
                    [(one.pair.path, first, count) for one, first, count in part],
                ),
                functools.partial(_hash_open, part),
            )
            for (one, *_), here, there in zip(part, own, theirs, strict=True):
                if self._send_differing(one, here, there):
                    written.add(one.pair.path)
        return written

    def _send_differing(self, one: _Range, own: list[str], theirs: list[str]) -> bool:
        sent = self._progress.sent
        for number, digest in enumerate(own):
            if number >= len(theirs) or theirs[number] != digest:
                offset = (one.first + number) * BLOCK_BYTES
                self._sender.send_block(self._volume, one.pair.path, one.reader, one.pair.own, offset)
        self._progress.compared += len(own) * BLOCK_BYTES
        self._progress.at(one.pair.path)
        return self._progress.sent > sent


def _parts_of(size: int) -> list[tuple[int, int]]:
    """A whole file, in parts of which each is one answer's work at most."""
    blocks = -(-size // BLOCK_BYTES)
    return [(first, min(BLOCKS_MAX, blocks - first)) for first in range(0, blocks, BLOCKS_MAX)]


def _hash_all(root: int, wanted: list[tuple[bytes, int, int]]) -> list[list[str]]:
    return [trees.hash_at(root, *one) for one in wanted]


def _hash_open(wanted: list[tuple[_Range, int, int]]) -> list[list[str]]:
    return [trees.hash_blocks(one.reader, first, count) for one, first, count in wanted]


def _bounded(wanted: Iterable[tuple[T, int, int]]) -> Iterator[list[tuple[T, int, int]]]:
    """Parts (of what, first block, number of blocks) in lists of one answer's work at most."""
    part: list[tuple[T, int, int]] = []
    blocks = 0
    for one in wanted:
        if part and (blocks + one[2] > BLOCKS_MAX or len(part) == LOOKS_MAX):
            yield part
            part, blocks = [], 0
        part.append(one)
        blocks += one[2]
    if part:
        yield part
