"""What a copy asks the peer about its tree: much in each question, as each costs a way there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from orchestrator.replicator.summaries import Summary
from orchestrator.replicator.trees import Entry

LOOKS_MAX: Final = 1000  # entries in one answer, some 300 KiB; the peer looks at them in some 20 ms
_TEXT_MAX: Final = 256 << 10
"""Bytes of paths in one question: twice as many as text, half of what a question may have."""

Ask = Callable[[dict[str, Any]], dict[str, Any]]
T = TypeVar("T")


class Questions:
    """Each is answered of the tree as it is once everything sent up to now is applied."""

    def __init__(self, ask: Ask, last: Callable[[], int]) -> None:
        self._ask = ask
        self._last = last

    def _question(self, do: str, **more: Any) -> dict[str, Any]:
        return self._ask({"do": do, "after": self._last(), **more})

    def changed(self) -> list[tuple[int, bytes, int, int]] | None:
        """The entries of the peer's own log, by path (S5); None when that log is unreadable."""
        found: list[tuple[int, bytes, int, int]] = []
        whole = False
        while not whole:
            answer = self._question("changed", first=len(found))
            if answer.get("unreadable"):
                return None
            page = [(int(v), bytes.fromhex(p), int(w), int(e)) for v, p, w, e in answer["changed"]]
            found += page
            whole = bool(answer["whole"]) or not page
        return found

    def passed_over(self) -> int:
        return int(self._question("passed_over")["count"])

    def look(self, volume: int, paths: Sequence[bytes]) -> list[Entry | None]:
        """What is at each of these paths."""
        entries: list[Entry | None] = []
        for batch in batches(paths, len, LOOKS_MAX):
            answer = self._question("look", volume=volume, paths=[path.hex() for path in batch])
            entries += answer["entries"]
        return entries

    def summaries(self, volume: int, wanted: Sequence[tuple[bytes, int]]) -> list[Summary | None]:
        """Of each (directory, number of buckets)."""
        items = [[path.hex(), buckets] for path, buckets in wanted]
        return [
            _summary(found) for found in self._question("summaries", volume=volume, items=items)["summaries"]
        ]

    def names_in(self, volume: int, path: bytes, buckets: int, wanted: list[int]) -> list[bytes]:
        """The names of a directory that fall into these of its buckets."""
        answer = self._question("names", volume=volume, path=path.hex(), of=buckets, buckets=wanted)
        return [bytes.fromhex(name) for name in answer["names"]]

    def hashes(self, volume: int, wanted: Sequence[tuple[bytes, int, int]]) -> list[list[str]]:
        """Of each (file, first block, number of blocks) its digests; fewer where the file ends before."""
        digests: list[list[str]] = []
        for batch in batches(wanted, lambda one: len(one[0]), LOOKS_MAX):
            items = [[path.hex(), first, count] for path, first, count in batch]
            digests += self._question("hashes", volume=volume, items=items)["digests"]
        return digests


def _summary(found: dict[str, Any] | None) -> Summary | None:
    if found is None:
        return None
    raw = bytes.fromhex(found["digests"])
    digests = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]
    return Summary(digests, {bytes.fromhex(name): handle for name, handle in found["linked"].items()})


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
