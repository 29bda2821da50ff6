"""What a copy asks the peer about its tree: much in each question, as each costs a way there and back.

Nothing in an answer is believed before it is seen to be one: who follows may be broken, or somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from orchestrator.host import disk
from orchestrator.mirror.differ import ENTRIES_MAX
from orchestrator.mirror.frames import believed
from orchestrator.replicator import ops, trees
from orchestrator.replicator.summaries import BUCKETS_MAX, Summary
from orchestrator.replicator.trees import Entry

LOOKS_MAX: Final = 1000  # entries in one answer, some 300 KiB; the peer looks at them in some 20 ms
DIRECTORIES_MAX: Final = 64  # summaries in one answer; of a thousand names each they are a third of a second
NAMES_MAX: Final = 16 << 20
"""Of one directory in all pages together: more than ext4 holds. A peer that has more has no end."""
_LISTED_MAX: Final = 4 << 20
"""The same, with all that is known of each: some 4 GiB of memory."""
_TEXT_MAX: Final = 256 << 10
"""Bytes of paths in one question: twice as many as text, half of what a question may have."""
_NUMBERS: Final = ("uid", "gid", "inode", "links", "mtime_ns", "size", "rdev")
_XATTRS_MAX: Final = 32_768  # their names share 64 KiB
_XATTR_NAME_MAX: Final = 255
_HANDLE_TEXT_MAX: Final = 512
_DIGEST_LETTERS: Final = 32
_WHATS: Final = frozenset({ops.DATA, ops.ATTRIBUTES, ops.NAMES, ops.FRESH, ops.ALL})
_NUMBER_MAX: Final = 1 << 62

Ask = Callable[[dict[str, Any]], dict[str, Any]]
T = TypeVar("T")
U = TypeVar("U")


class Questions:
    """Each is answered of the tree as it is once everything sent up to now is applied."""

    def __init__(self, ask: Ask, last: Callable[[], int]) -> None:
        self._ask = ask
        self._last = last

    def _question(self, do: str, **more: Any) -> dict[str, Any]:
        return self._ask({"do": do, "after": self._last(), **more})

    def _all(
        self, do: str, about: str, items: Sequence[Any], key: str, read: Callable[[Any], U], **more: Any
    ) -> list[U]:
        """The answers about all of these items, in as many questions as it takes; each has one at least."""
        found: list[U] = []
        while len(found) < len(items):
            rest = items[len(found) :]
            answer = self._question(do, **more, **{about: rest})
            with believed(f"its answer to {do!r}"):
                part = [read(one) for one in _list(answer[key])]
                if not 0 < len(part) <= len(rest):
                    raise ValueError(f"{len(part)} parts")
                found += part
        return found

    def changed(self) -> list[tuple[int, bytes, int, int]] | None:
        """The entries of the peer's own log, by path (S5); None when that log says too little."""
        found: list[tuple[int, bytes, int, int]] = []
        whole = False
        while not whole:
            answer = self._question("changed", first=len(found), folded=True)
            if answer.get("unreadable"):
                return None
            with believed("its answer to 'changed'"):
                page = [_changed(one) for one in _list(answer["changed"])]
                found += page
                whole = bool(answer["whole"]) or not page
                if len(found) > ENTRIES_MAX:
                    raise ValueError(f"more than {ENTRIES_MAX} entries")
        return found

    def passed_over(self) -> int:
        answer = self._question("passed_over")
        with believed("its answer to 'passed_over'"):
            return _number(answer["count"])

    def look(self, volume: int, paths: Sequence[bytes]) -> list[Entry | None]:
        """What is at each of these paths."""
        entries: list[Entry | None] = []
        for batch in batches(paths, len, LOOKS_MAX):
            told = [_told(path) for path in batch]
            entries += self._all("look", "paths", told, "entries", _entry, volume=volume)
        return entries

    def describe(self, volume: int, path: bytes) -> Entry | None:
        """What is at this path; OSError where that cannot be said."""
        answer = self._question("describe", volume=volume, path=_told(path))
        with believed("its answer to 'describe'"):
            return _entry(answer["entry"])

    def entries(self, volume: int, path: bytes) -> dict[bytes, Entry]:
        """Everything in a directory by name; OSError where there is none."""
        found: dict[bytes, Entry] = {}
        for answer in self._pages("list", _LISTED_MAX, volume=volume, path=_told(path)):
            with believed("its answer to 'list'"):
                page = {_name(name): _entry(entry) for name, entry in answer["entries"].items()}
                found.update((name, entry) for name, entry in page.items() if entry is not None)
                answer["names"] = list(page)
        return found

    def summaries(self, volume: int, wanted: Sequence[tuple[bytes, int]]) -> list[Summary | None]:
        """Of each (directory, number of buckets)."""
        items = [[_told(path), buckets] for path, buckets in wanted]
        return self._all("summaries", "items", items, "summaries", _summary, volume=volume)

    def names_in(self, volume: int, path: bytes, buckets: int, wanted: list[int]) -> Iterator[list[bytes]]:
        """The names of a directory that fall into these of its buckets, page by page."""
        told = _told(path)
        for answer in self._pages("names", NAMES_MAX, volume=volume, path=told, of=buckets, buckets=wanted):
            with believed("its answer to 'names'"):
                answer["names"] = [_name(name) for name in _list(answer["names"])]
            yield answer["names"]

    def _pages(self, do: str, most: int, **more: Any) -> Iterator[dict[str, Any]]:
        """Answers that follow each other by name; whoever takes one leaves its names in it."""
        last, count, whole = b"", 0, False
        while not whole:
            answer = self._question(do, **more, **{"from": last.hex()})
            yield answer
            with believed(f"its answer to {do!r}"):
                names: list[bytes] = answer["names"]
                whole = bool(answer["whole"]) or not names
                count += len(names)
                if names and (min(names) <= last or count > most):
                    raise ValueError("pages without an end")
                last = max(names, default=last)

    def hashes(self, volume: int, wanted: Sequence[tuple[bytes, int, int]]) -> list[list[str]]:
        """Of each (file, first block, number of blocks) its digests; fewer where the file ends before."""
        digests: list[list[str]] = []
        for batch in batches(wanted, lambda one: len(one[0]), LOOKS_MAX):
            items = [[_told(path), first, count] for path, first, count in batch]
            digests += self._all("hashes", "items", items, "digests", _digests, volume=volume)
        return digests

    def blocks(self, volume: int, path: bytes, first: int, count: int) -> list[str]:
        """The digests of one file's blocks; OSError where there is no file."""
        answer = self._question("hash", volume=volume, path=_told(path), first=first, count=count)
        with believed("its answer to 'hash'"):
            return _digests(answer["blocks"])


def _told(path: bytes) -> str:
    """A path of ours, as it is asked; OSError of one that is too long for any question."""
    trees.check_path(path)
    return path.hex()


def _list(told: Any) -> list[Any]:
    if not isinstance(told, list):
        raise TypeError("not a list")
    return told


def _number(told: Any, least: int = 0, most: int = _NUMBER_MAX) -> int:
    if type(told) is not int or not least <= told <= most:
        raise ValueError(f"not a number: {told!r:.40}")
    return told


def _text(told: Any, most: int) -> str:
    if type(told) is not str or len(told) > most:
        raise ValueError(f"not a short text: {told!r:.40}")
    return told


def _name(told: Any) -> bytes:
    name = bytes.fromhex(told)
    _checked(disk.check_name, name)
    return name


def _checked(check: Callable[[bytes], None], told: bytes) -> None:
    try:
        check(told)
    except OSError as fault:
        raise ValueError(str(fault)) from fault


def _changed(told: Any) -> tuple[int, bytes, int, int]:
    volume, text, what, extent = told
    path = bytes.fromhex(text)
    _checked(trees.check_path, path)
    if what not in _WHATS:
        raise ValueError(f"no kind of entry: {what!r:.40}")
    return _number(volume, most=0xFFFF), path, what, _number(extent, least=ops.WHOLE)


def _entry(told: Any) -> Entry | None:
    """What the peer says of one object: every field of ours, each of its own kind."""
    if told is None:
        return None
    entry: Entry = {what: _number(told[what], -_NUMBER_MAX, 4 * _NUMBER_MAX) for what in _NUMBERS}
    entry["mode"] = _number(told["mode"], most=0xFFFFFFFF)
    entry["handle"] = _text(told["handle"], _HANDLE_TEXT_MAX)
    if "target" in told:
        entry["target"] = bytes.fromhex(told["target"]).hex()
    if "xattrs" in told:
        xattrs = told["xattrs"]
        if len(xattrs) > _XATTRS_MAX:
            raise ValueError(f"{len(xattrs)} extended attributes")
        entry["xattrs"] = {_xattr(name): _text(digest, _DIGEST_LETTERS) for name, digest in xattrs.items()}
    return entry


def _xattr(told: Any) -> str:
    name = bytes.fromhex(told)
    if not 0 < len(name) <= _XATTR_NAME_MAX or b"\0" in name:
        raise ValueError("not the name of an extended attribute")
    return name.hex()


def _summary(told: Any) -> Summary | None:
    if told is None:
        return None
    raw = bytes.fromhex(_text(told["digests"], 16 * BUCKETS_MAX))
    digests = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]
    if told["linked"] is None:
        return Summary(digests, tells_links=False)
    linked = {_name(name): _text(handle, _HANDLE_TEXT_MAX) for name, handle in told["linked"].items()}
    return Summary(digests, linked)


def _digests(told: Any) -> list[str]:
    if len(_list(told)) > trees.BLOCKS_MAX:
        raise ValueError(f"{len(told)} digests")
    return [_text(digest, _DIGEST_LETTERS) for digest in told]


def batches(items: Iterable[T], length: Callable[[T], int], count_max: int) -> Iterator[list[T]]:
    """In order, in lists of at most so many, and of no more text than one question may have."""
    batch: list[T] = []
    text = 0
    for item in items:
        if batch and (len(batch) == count_max or text + length(item) > _TEXT_MAX):
            yield batch
            batch, text = [], 0
        batch.append(item)
        text += length(item)
    if batch:
        yield batch
