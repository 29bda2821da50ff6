"""Compare both trees while they are in use, without false alarms, and a part at a time."""

from __future__ import annotations

import functools
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from orchestrator.host.store import JsonFile
from orchestrator.model.errors import CorruptState
from orchestrator.replicator import trees
from orchestrator.replicator.divergence import readable
from orchestrator.replicator.ops import Tree
from orchestrator.replicator.outbox import Outbox
from orchestrator.replicator.questions import Questions
from orchestrator.replicator.trees import BLOCK_BYTES, BLOCKS_MAX, Entry, Excluded

NAMES_SHOWN_MAX: Final = 10_000  # an answer of bounded size; whoever differs more needs a full compare anyway
OWNERS_MAX: Final = 500  # of users and of groups, in an answer of bounded size
TELL_EVERY_S: Final = 1.0
COUNTING_SHARE: Final = 0.2  # of a budget: how much there is at all is worth less than having looked at it
_WHOLE_FILE: Final = -1
_COMPARED: Final = ("mode", "uid", "gid", "size", "rdev", "links", "target", "xattrs")
# Not the times: they follow a write by itself a moment later, and an access changes them.
HERE_ONLY, THERE_ONLY, DATA = "only here", "only there", "data"


class Compared(Protocol):
    """What a comparison needs of the primary."""

    outbox: Outbox
    tree: Tree
    volumes: int
    excluded: Excluded


@dataclass
class Round:
    """One comparison of everything, however many runs it takes; what goes on later is kept on disk."""

    at: tuple[int, bytes, int] | None = None
    """Volume, path and block up to which it is done, in the order of names; None: nothing is."""
    began: float = 0.0
    """Seconds since the epoch."""
    files: int = 0
    bytes_read: int = 0
    total: int | None = None
    """How many objects there are, as counted when it began or as the last whole one found; None: unknown."""
    differing: dict[tuple[int, bytes], str] = field(default_factory=dict)
    """What differs, by volume and path: the name of the first thing that does."""

    def as_dict(self) -> dict[str, Any]:
        at = None if self.at is None else [self.at[0], self.at[1].hex(), self.at[2]]
        differing = [[volume, path.hex(), what] for (volume, path), what in self.differing.items()]
        facts = {"began": self.began, "files": self.files, "bytes": self.bytes_read, "total": self.total}
        return {"at": at, "differing": differing, **facts}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Round:
        at = data["at"]
        return cls(
            at=None if at is None else (int(at[0]), bytes.fromhex(at[1]), int(at[2])),
            began=float(data["began"]),
            files=int(data["files"]),
            bytes_read=int(data["bytes"]),
            total=data["total"],
            differing={(int(v), bytes.fromhex(p)): str(what) for v, p, what in data["differing"]},
        )


class Memory:
    """Where a round that a budget ended goes on; one file for each peer."""

    def __init__(self, path: str) -> None:
        self._file = JsonFile(path)

    def recall(self) -> Round:
        """A round that nobody can read back is begun anew: nothing depends on it."""
        try:
            found = self._file.read()
            return Round() if found is None else Round.from_dict(found)
        except (CorruptState, KeyError, TypeError, ValueError, IndexError):
            return Round()

    def keep(self, round: Round) -> None:
        self._file.write(round.as_dict())


class Verifier:
    """Two looks at everything that seems to differ; the second one holds the live changes of it still."""

    def __init__(
        self,
        source: Compared,
        ask: Callable[[dict[str, Any]], dict[str, Any]],
        tell: Callable[[dict[str, Any]], None] = lambda report: None,
    ) -> None:
        self._source = source
        self._tree = source.tree
        self._questions = Questions(ask, lambda: source.outbox.last)
        self._tell = tell
        self._told = 0.0
        self._began = time.monotonic()
        self._ends = float("inf")
        self._round = Round()
        self._before = (0, 0)
        self._owners: tuple[set[int], set[int]] = (set(), set())
        """Users and groups that own something of what this run compared."""

    def differing(self) -> list[str]:
        """The paths that differ, as `VOLUME:PATH`, sorted: everything is compared, and nothing remembered."""
        return [each["path"] for each in self.run(Round())["differing"]]

    def run(self, round: Round, budget_s: float | None = None) -> dict[str, Any]:
        """Go on with this round, until it is whole or the budget is spent; the report, for people and JSON.

        Of a step that has begun the budget is exceeded by at most the comparison of 64 MiB.
        """
        self._began = time.monotonic()
        self._ends = float("inf") if budget_s is None else self._began + budget_s
        self._round = round
        if round.at is None:
            round.began, round.files, round.bytes_read = time.time(), 0, 0
            round.differing.clear()
            round.total = self._count(round.total)
        self._before = (round.files, round.bytes_read)
        self._look_again_at_what_differed()
        whole = self._go_on()
        report = self._report(whole)
        if whole:
            round.at, round.total = None, round.files
        return report

    def _report(self, whole: bool) -> dict[str, Any]:
        round = self._round
        total = round.files if whole else round.total
        percent = None if not total else min(100.0, round.files * 100 / total)
        return {
            "complete": whole,
            "differing": [
                {"path": f"{volume}:{readable(path)}", "what": what}
                for (volume, path), what in sorted(round.differing.items())
            ],
            "began": round.began,
            "files": round.files - self._before[0],
            "bytes": round.bytes_read - self._before[1],
            "covered_files": round.files,
            "covered_bytes": round.bytes_read,
            "files_total": total,
            "percent": percent if whole or percent is None else _round_down(percent),
            "position": "" if whole or round.at is None else f"{round.at[0]}:{readable(round.at[1])}",
            "seconds": time.monotonic() - self._began,
            "owners": {
                "users": sorted(self._owners[0])[:OWNERS_MAX],
                "groups": sorted(self._owners[1])[:OWNERS_MAX],
            },
        }

    def _count(self, known: int | None) -> int | None:
        """How many objects there are; what the last round found is near enough, and costs nothing."""
        if known is not None:
            return known
        now = time.monotonic()
        until = now + COUNTING_SHARE * (self._ends - now)
        count = 0
        for volume in range(self._source.volumes):
            for _ in trees.walk(self._tree.root(volume), volume, self._source.excluded):
                count += 1
                if time.monotonic() > until:
                    return None
        return count

    def _spent(self) -> bool:
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_S:
            self._told = now
            self._tell(self._report(False) | {"differing": []})  # the names come with the end
        return now >= self._ends

    def _look_again_at_what_differed(self) -> None:
        """What was found in an earlier run may have been mended since."""
        for volume, path in list(self._round.differing):
            if self._spent():
                return
            what = self._first_difference(volume, path)
            if what:
                self._round.differing[volume, path] = what
            else:
                del self._round.differing[volume, path]

    # --- the walk ------------------------------------------------------------------------------------------

    def _go_on(self) -> bool:
        """False: the budget is spent, and `at` says where to go on."""
        first = self._round.at[0] if self._round.at else 0
        for volume in range(first, self._source.volumes):
            for path, own, theirs in self._entries(volume):
                if self._round.at is None or self._round.at[:2] != (volume, path):
                    self._round.files += 1  # not of a large file that is gone on with
                if own is not None:
                    self._owners[0].add(own["uid"])
                    self._owners[1].add(own["gid"])
                if not self._compare(volume, path, own, theirs):
                    return False
                self._round.at = (volume, path, _WHOLE_FILE)
                if self._spent():
                    return False
        return True

    def _entries(self, volume: int) -> Iterator[tuple[bytes, Entry | None, Entry | None]]:
        """What either side has, each directory before what is below it, names in order, from `at` on."""
        done = self._round.at if self._round.at and self._round.at[0] == volume else None
        last, block = (done[1].split(b"/"), done[2]) if done else ([], _WHOLE_FILE)
        pending = [self._names(volume, b"")]
        while pending:
            for path, own, theirs in pending[-1]:
                parts = path.split(b"/")
                if parts > last or (parts == last and block != _WHOLE_FILE):
                    yield path, own, theirs
                elif last[: len(parts)] != parts:
                    continue  # all of it was compared before
                if own is not None and theirs is not None and _both_directories(own, theirs):
                    pending.append(self._names(volume, path))
                    break
            else:
                pending.pop()

    def _names(self, volume: int, path: bytes) -> Iterator[tuple[bytes, Entry | None, Entry | None]]:
        """What is in this directory on either side, in order."""
        own, theirs = self._own(volume, path), self._theirs(volume, path)
        for name in sorted(set(own) | set(theirs)):
            yield trees.join(path, name), own.get(name), theirs.get(name)

    def _own(self, volume: int, path: bytes) -> dict[bytes, Entry]:
        try:
            entries: dict[bytes, Entry] = {}
            whole, last = False, b""
            while not whole:
                page, whole = trees.list_entries(self._tree.root(volume), path, last)
                entries |= page
                last = max(page, default=last)
        except OSError:
            return {}  # moved or taken away meanwhile; what is there alone is looked at twice
        return self._visible(volume, path, entries)

    def _theirs(self, volume: int, path: bytes) -> dict[bytes, Entry]:
        try:
            entries = self._questions.entries(volume, path)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return self._visible(volume, path, entries)

    def _visible(self, volume: int, path: bytes, entries: dict[bytes, Entry]) -> dict[bytes, Entry]:
        return {
            name: entry
            for name, entry in entries.items()
            if not self._source.excluded(volume, trees.join(path, name), stat.S_ISDIR(entry["mode"]))
        }

    # --- one object ----------------------------------------------------------------------------------------

    def _compare(self, volume: int, path: bytes, own: Entry | None, theirs: Entry | None) -> bool:
        """Compare one name; False: the budget ended inside a large file."""
        known = self._round.differing
        first = self._round.at[2] if self._round.at and self._round.at[:2] == (volume, path) else 0
        if first == 0 and _differs(own, theirs):
            what = self._still_differs(volume, path)
            if what:
                if len(known) < NAMES_SHOWN_MAX:
                    known[volume, path] = what
                return True
        if own is None or not stat.S_ISREG(own["mode"]):
            return True
        for block in self._blocks(volume, path, first):
            if block is None:
                return False
            if self._block_differs(volume, path, own, block):
                if len(known) < NAMES_SHOWN_MAX:
                    known[volume, path] = DATA
                return True
        return True

    def _first_difference(self, volume: int, path: bytes) -> str:
        """Compare one name alone, whatever it costs."""
        what = self._still_differs(volume, path)
        own = self._look(volume, path)
        if what or own is None or not stat.S_ISREG(own["mode"]):
            return what
        blocks = self._blocks(volume, path, 0, patient=True)
        found = (block for block in blocks if block is not None)
        return DATA if any(self._block_differs(volume, path, own, block) for block in found) else ""

    def _blocks(self, volume: int, path: bytes, first: int, patient: bool = False) -> Iterator[int | None]:
        """The blocks of a file that seem to differ; None: the budget is spent, `at` says how far it came."""
        try:
            fd = trees.open_path(self._tree.root(volume), path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return  # taken away meanwhile
        try:
            size = os.fstat(fd).st_size
            ends = -(-size // BLOCK_BYTES)
            for start in range(first, ends, BLOCKS_MAX):
                count = min(BLOCKS_MAX, ends - start)
                theirs, own = trees.side_by_side(
                    functools.partial(self._hashes, volume, path, start, count),
                    functools.partial(trees.hash_blocks, fd, start, count),
                )
                for number in range(max(len(theirs), len(own))):
                    if theirs[number : number + 1] != own[number : number + 1]:
                        yield start + number
                if patient:
                    continue
                self._round.bytes_read += min(size - start * BLOCK_BYTES, count * BLOCK_BYTES)
                if start + count < ends:
                    self._round.at = (volume, path, start + count)
                    if self._spent():
                        yield None
                        return
        finally:
            os.close(fd)

    def _hashes(self, volume: int, path: bytes, first: int, count: int) -> list[str]:
        try:
            return self._questions.blocks(volume, path, first, count)
        except OSError:
            return []

    # --- the second look -----------------------------------------------------------------------------------

    def _still_differs(self, volume: int, path: bytes) -> str:
        """All but the data of a name, while nothing of it changes here and the peer has applied all of it."""
        with self._tree.namespace(volume):
            own = self._look(volume, path)
            if own is None:
                return THERE_ONLY if self._look_there(volume, path) is not None else ""
            with self._tree.object(volume, own["inode"]):
                return _differs(self._look(volume, path), self._look_there(volume, path))

    def _block_differs(self, volume: int, path: bytes, seen: Entry, block: int) -> bool:
        """One block, likewise: nobody waits for longer than its two hashes and one way to the peer."""
        with self._tree.namespace(volume):
            own = self._look(volume, path)
            if own is None or own["handle"] != seen["handle"]:
                return False  # another object has the name by now
            with self._tree.object(volume, own["inode"]):
                fd = trees.open_path(self._tree.root(volume), path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    mine = trees.hash_blocks(fd, block, 1)
                finally:
                    os.close(fd)
                return mine != self._hashes(volume, path, block, 1)

    def _look(self, volume: int, path: bytes) -> Entry | None:
        try:
            return trees.describe(self._tree.root(volume), path)
        except OSError:
            return None

    def _look_there(self, volume: int, path: bytes) -> Entry | None:
        try:
            return self._questions.describe(volume, path)
        except OSError:
            return None


def _round_down(percent: float) -> float:
    """Not 100 before everything is compared."""
    return min(int(percent * 10) / 10, 99.9)


def _both_directories(own: Entry, theirs: Entry) -> bool:
    return stat.S_ISDIR(own["mode"]) and stat.S_ISDIR(theirs["mode"])


def _differs(own: Entry | None, theirs: Entry | None) -> str:
    """The first thing beside the data that is not the same; empty: nothing is."""
    if own is None or theirs is None:
        return "" if own is theirs else THERE_ONLY if own is None else HERE_ONLY
    for what in _COMPARED:
        if own.get(what) != theirs.get(what) and not _counts_children(own, what):
            return what
    return ""


def _counts_children(entry: Entry, what: str) -> bool:
    """A directory's link count and size are the file system's own affair."""
    return what in ("links", "size") and stat.S_ISDIR(entry["mode"])
