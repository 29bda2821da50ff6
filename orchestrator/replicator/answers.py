"""The follower's answers to a primary that compares the two trees."""

from __future__ import annotations

import os
from typing import Any, Final

from orchestrator.model.names import NodeName
from orchestrator.replicator import trees
from orchestrator.replicator.apply import Applier
from orchestrator.replicator.logs import ChangeLogs

LOCATED_MAX: Final = 100_000  # more entries than this: a full compare costs no more than naming them


class Answers:
    """Questions about this node's tree; nothing here changes it."""

    def __init__(self, applier: Applier, logs: ChangeLogs, primary: NodeName) -> None:
        self._applier = applier
        self._log = logs.of.get(primary)

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
                case "changed":
                    return self._changed()
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

    def _changed(self) -> dict[str, Any]:
        """Where this node may differ from the primary, as its own log says (S5)."""
        log = self._log
        if log is None or log.unreadable:
            return {"unreadable": True}
        roots = [self._applier.objects.root(volume) for volume in range(self._applier.volumes)]
        located = trees.locate(roots, log.keys(), lambda volume, path: False)
        if len(located) > LOCATED_MAX:
            return {"unreadable": True}
        return {"changed": [[volume, path.hex(), what, extent] for volume, path, what, extent in located]}


def _path(request: dict[str, Any]) -> bytes:
    return bytes.fromhex(request["path"])
