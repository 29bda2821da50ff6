"""The follower's answers to a primary that compares the two trees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from orchestrator.model.names import NodeName
from orchestrator.replicator import trees
from orchestrator.replicator.apply import Applier
from orchestrator.replicator.logs import ChangeLog, ChangeLogs
from orchestrator.replicator.places import Finder, by_inode
from orchestrator.replicator.summaries import BUCKETS_MAX, Summary, names_in, summarize
from orchestrator.replicator.trees import Excluded, nothing_excluded

PAGE_BYTES: Final = 4 << 20
"""Of paths in one answer: as text twice as many, half of what an answer may have."""
_ENTRY_BYTES: Final = 32  # numbers and punctuation of one entry, halved as its path is


class Answers:
    """Questions about this node's tree; nothing here changes it."""

    def __init__(self, applier: Applier, logs: ChangeLogs, primary: NodeName, excluded: Excluded) -> None:
        self._applier = applier
        self._log = logs.of.get(primary)
        self._excluded = excluded
        self._located: list[tuple[int, bytes, int, int]] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer, or why there is none."""
        try:
            match request.get("do"):
                case "list":
                    return self._list(request)
                case "describe":
                    return {"entry": trees.describe(self._root(request), _path(request))}
                case "hash":
                    return self._hash(request)
                case "look":
                    root = self._root(request)
                    return {"entries": [trees.look(root, bytes.fromhex(path)) for path in request["paths"]]}
                case "summaries":
                    return self._summaries(request)
                case "names":
                    return self._names(request)
                case "hashes":
                    root = self._root(request)
                    wanted = ((bytes.fromhex(path), first, count) for path, first, count in request["items"])
                    return {"digests": [trees.hash_at(root, *one) for one in wanted]}
                case "changed":
                    return self._changed(int(request["first"]))
                case "passed_over":
                    return {"count": self._applier.passed_over}
                case unknown:
                    return {"error": f"no such question: {unknown!r:.40}", "number": 22}
        except OSError as fault:
            return {"error": str(fault), "number": fault.errno or 5}
        except (KeyError, TypeError, ValueError) as fault:
            return {"error": f"not a question of ours: {fault}", "number": 22}

    def _root(self, request: dict[str, Any]) -> int:
        return self._applier.objects.root(int(request["volume"]))

    def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        entries, whole = trees.list_entries(
            self._root(request), _path(request), bytes.fromhex(request["from"])
        )
        return {"entries": {name.hex(): entry for name, entry in entries.items()}, "whole": whole}

    def _hash(self, request: dict[str, Any]) -> dict[str, Any]:
        fd = trees.open_path(self._root(request), _path(request), os.O_RDONLY | os.O_NONBLOCK)
        try:
            first, count = int(request["first"]), int(request["count"])
            return {"blocks": trees.hash_blocks(fd, first, count), "size": os.fstat(fd).st_size}
        finally:
            os.close(fd)

    def _summaries(self, request: dict[str, Any]) -> dict[str, Any]:
        root, volume = self._root(request), int(request["volume"])
        found = [
            summarize(
                root, volume, bytes.fromhex(path), min(max(int(buckets), 1), BUCKETS_MAX), self._excluded
            )
            for path, buckets in request["items"]
        ]
        return {"summaries": [one and _summary(one) for one in found]}

    def _names(self, request: dict[str, Any]) -> dict[str, Any]:
        of, wanted = max(int(request["of"]), 1), set(request["buckets"])
        volume = int(request["volume"])
        names = names_in(self._root(request), volume, _path(request), of, wanted, self._excluded)
        return {"names": [name.hex() for name in names]}

    def _changed(self, first: int) -> dict[str, Any]:
        """Where this node may differ from the primary, as its own log says (S5), from this entry on."""
        log = self._log
        if log is None or log.unreadable:
            return {"unreadable": True}
        if first == 0:
            self._located = list(self._locate(log))
        page: list[list[Any]] = []
        text = 0
        for volume, path, what, extent in self._located[first:]:
            if page and text > PAGE_BYTES:
                break
            page.append([volume, path.hex(), what, extent])
            text += len(path) + _ENTRY_BYTES
        return {"changed": page, "whole": first + len(page) >= len(self._located)}

    def _locate(self, log: ChangeLog) -> Iterator[tuple[int, bytes, int, int]]:
        keys = log.keys()
        places, placed = log.places()
        for volume in range(self._applier.volumes):
            finder = Finder(self._applier.objects.root(volume), volume, nothing_excluded)
            found = finder.find(by_inode(keys, volume), places, placed, {})
            for path in sorted(found):
                for what, extent in sorted(found[path].about):
                    yield volume, path, what, extent


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "digests": b"".join(digest.to_bytes(8, "little") for digest in summary.digests).hex(),
        "linked": {name.hex(): handle for name, handle in summary.linked.items()},
    }


def _path(request: dict[str, Any]) -> bytes:
    return bytes.fromhex(request["path"])
