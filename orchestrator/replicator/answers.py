"""The follower's answers to a primary that compares the two trees: nothing is believed, all is bounded."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from orchestrator.model.names import NodeName
from orchestrator.replicator import ops, trees
from orchestrator.replicator.apply import Applier
from orchestrator.replicator.change_log import ChangeLog
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.places import Finder, by_inode
from orchestrator.replicator.questions import DIRECTORIES_MAX, LOOKS_MAX
from orchestrator.replicator.summaries import BUCKETS_MAX, Summary, names_in, summarize
from orchestrator.replicator.trees import BLOCKS_MAX, PAGE_TEXT_BYTES, Excluded, nothing_excluded

LINKED_TEXT_MAX: Final = 4 << 20
"""Of the names in one directory that have several: beyond, which they are is asked name by name."""
_NUMBER_MAX: Final = 1 << 44  # of a block: beyond any file; of an entry: beyond any log
_ENTRY_BYTES: Final = 64  # numbers and punctuation of one entry
T = TypeVar("T")


class Answers:
    """Questions about this node's tree; nothing here changes it.

    What is asked at once and does not fit one answer is left off its end: at least one part is answered, and
    the rest is asked again.
    """

    def __init__(
        self,
        applier: Applier,
        logs: ChangeLogs,
        primary: NodeName,
        excluded: Excluded,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        """`ended`: nobody waits for an answer any more."""
        self._applier = applier
        self._log = logs.of.get(primary)
        self._excluded = excluded
        self._ended = ended
        self._located: list[tuple[int, bytes, int, int]] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer, or why there is none."""
        try:
            return self._answer(request)
        except OSError as fault:
            return {"error": str(fault), "number": fault.errno or 5}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as fault:
            return {
                "error": f"not a question of ours: {type(fault).__name__}: {str(fault)[:200]}",
                "number": 22,
            }

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("do"):
            case "list":
                return self._list(request)
            case "describe":
                return {"entry": trees.describe(self._root(request), self._path(request))}
            case "hash":
                return self._hash(request)
            case "look":
                return self._look(request)
            case "summaries":
                return self._summaries(request)
            case "names":
                return self._names(request)
            case "hashes":
                return self._hashes(request)
            case "changed":
                return self._changed(_number(request["first"]), request.get("folded") is True)
            case "passed_over":
                return {"count": self._applier.passed_over}
            case unknown:
                return {"error": f"no such question: {unknown!r:.40}", "number": 22}

    def _root(self, request: dict[str, Any]) -> int:
        return self._applier.objects.root(_number(request["volume"]))

    def _path(self, request: dict[str, Any]) -> bytes:
        path = _path(request["path"])
        if not self._shows(_number(request["volume"]), path):
            raise FileNotFoundError(errno.ENOENT, "local to this node")
        return path

    def _shows(self, volume: int, path: bytes) -> bool:
        """What is excluded is nobody's but this node's."""
        if not path or self._excluded is nothing_excluded:
            return True
        status = trees.status_of(self._applier.objects.root(volume), path)
        return status is None or not self._excluded(volume, path, stat.S_ISDIR(status.st_mode))

    def _some(self, items: Any, most: int, of: Callable[[Any], tuple[T, int]]) -> list[T]:
        """Of the first of these items, at most so many; `of` also says how long the answer to one is."""
        if not isinstance(items, list):
            raise TypeError("not a list of questions")
        found: list[T] = []
        text = 0
        for item in items[:most]:
            if found and (text > PAGE_TEXT_BYTES or self._ended()):
                break
            one, length = of(item)
            found.append(one)
            text += length
        return found

    def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        after = bytes.fromhex(request["from"])
        entries, whole = trees.list_entries(self._root(request), self._path(request), after)
        return {"entries": {name.hex(): entry for name, entry in entries.items()}, "whole": whole}

    def _hash(self, request: dict[str, Any]) -> dict[str, Any]:
        first, count = _number(request["first"]), _number(request["count"])
        fd = trees.open_file(self._root(request), self._path(request))
        try:
            return {"blocks": trees.hash_blocks(fd, first, count), "size": os.fstat(fd).st_size}
        finally:
            os.close(fd)

    def _look(self, request: dict[str, Any]) -> dict[str, Any]:
        root, volume = self._root(request), _number(request["volume"])

        def look(told: Any) -> tuple[trees.Entry | None, int]:
            path = _path(told)
            entry = trees.look(root, path) if self._shows(volume, path) else None
            return entry, trees.text_of(entry)

        return {"entries": self._some(request["paths"], LOOKS_MAX, look)}

    def _summaries(self, request: dict[str, Any]) -> dict[str, Any]:
        root, volume = self._root(request), _number(request["volume"])

        def summary(item: Any) -> tuple[dict[str, Any] | None, int]:
            path, buckets = _path(item[0]), min(max(_number(item[1]), 1), BUCKETS_MAX)
            if not self._shows(volume, path):
                return _told(None)
            return _told(summarize(root, volume, path, buckets, self._excluded))

        return {"summaries": self._some(request["items"], DIRECTORIES_MAX, summary)}

    def _names(self, request: dict[str, Any]) -> dict[str, Any]:
        volume, of = _number(request["volume"]), max(_number(request["of"]), 1)
        wanted = {_number(bucket) for bucket in request["buckets"]}
        last = bytes.fromhex(request["from"])
        names = names_in(self._root(request), volume, self._path(request), of, wanted, self._excluded)
        names = [name for name in names if name > last]
        page = self._some(names, len(names), lambda name: (name.hex(), 2 * len(name) + 3))
        return {"names": page, "whole": len(page) == len(names)}

    def _hashes(self, request: dict[str, Any]) -> dict[str, Any]:
        root, volume = self._root(request), _number(request["volume"])
        blocks = 0
        fits: list[tuple[bytes, int, int]] = []
        for path, first, count in request["items"][:LOOKS_MAX]:
            blocks += min(_number(count), BLOCKS_MAX)
            if fits and blocks > BLOCKS_MAX:
                break
            fits.append((_path(path), _number(first), count))

        def hashed(one: tuple[bytes, int, int]) -> tuple[list[str], int]:
            return trees.hash_at(root, *one) if self._shows(volume, one[0]) else [], 0

        return {"digests": self._some(fits, len(fits), hashed)}

    def _changed(self, first: int, folded: bool) -> dict[str, Any]:
        """Where this node may differ from the primary, as its own log says (S5), from this entry on.

        `folded`: the primary knows entries of directories with all that is in them; one of an older release
        is told of such a directory that anything below it may differ.
        """
        log = self._log
        if log is None or log.says_too_little:
            return {"unreadable": True}
        if first == 0:
            self._located = list(self._locate(log))
            if not folded:
                deep = (ops.NAMES, ops.WHOLE)
                self._located = [(*one[:2], *deep) if one[2] == ops.ALL else one for one in self._located]
        rest = self._located[first:]
        page = self._some(
            rest, len(rest), lambda one: ([one[0], one[1].hex(), *one[2:]], 2 * len(one[1]) + _ENTRY_BYTES)
        )
        return {"changed": page, "whole": len(page) == len(rest)}

    def _locate(self, log: ChangeLog) -> Iterator[tuple[int, bytes, int, int]]:
        keys = log.keys()
        places, placed = log.places()
        for volume in range(self._applier.volumes):
            finder = Finder(self._applier.objects.root(volume), volume, nothing_excluded)
            found = finder.find(by_inode(keys, volume), places, placed, {})
            for path in sorted(found):
                for what, extent in sorted(found[path].about):
                    yield volume, path, what, extent


def _told(summary: Summary | None) -> tuple[dict[str, Any] | None, int]:
    """A summary as it is answered, and how long that is."""
    if summary is None:
        return None, 5
    digests = b"".join(digest.to_bytes(8, "little") for digest in summary.digests).hex()
    text = sum(2 * len(name) + len(handle) + 6 for name, handle in summary.linked.items())
    if text > LINKED_TEXT_MAX:
        return {"digests": digests, "linked": None}, len(digests)
    linked = {name.hex(): handle for name, handle in summary.linked.items()}
    return {"digests": digests, "linked": linked}, len(digests) + text


def _path(text: Any) -> bytes:
    path = bytes.fromhex(text)
    trees.check_path(path)
    return path


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _NUMBER_MAX:
        raise ValueError(f"not a number: {value!r:.40}")
    return value
