"""Compare both trees while they are in use, without false alarms."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from typing import Any, Final, Protocol

from orchestrator.replicator import trees
from orchestrator.replicator.ops import Tree
from orchestrator.replicator.outbox import Outbox
from orchestrator.replicator.trees import BLOCK_BYTES, BLOCKS_MAX, Entry, Excluded

NAMES_SHOWN_MAX: Final = 10_000  # an answer of bounded size; whoever differs more needs a full compare anyway
_COMPARED: Final = ("mode", "uid", "gid", "size", "rdev", "links", "target", "xattrs")
# Not the times: they follow a write by itself a moment later, and an access changes them.


class Compared(Protocol):
    """What a comparison needs of the primary."""

    outbox: Outbox
    tree: Tree
    volumes: int
    excluded: Excluded


class Verifier:
    """Two looks at everything that seems to differ; the second one holds the live changes of it still."""

    def __init__(self, source: Compared, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._source = source
        self._tree = source.tree
        self._ask = ask

    def differing(self) -> list[str]:
        """The paths that differ, as `VOLUME:PATH`, sorted."""
        found: list[str] = []
        for volume in range(self._source.volumes):
            for path in sorted(self._suspects(volume)):
                if len(found) < NAMES_SHOWN_MAX and self._differs_still(volume, path):
                    found.append(f"{volume}:{os.fsdecode(path)}")
        return found

    def _suspects(self, volume: int) -> set[bytes]:
        suspects: set[bytes] = set()
        pending = [b""]
        while pending:
            path = pending.pop()
            own, theirs = self._own(volume, path), self._theirs(volume, path)
            if own is None or theirs is None:
                suspects.add(path)
                continue
            for name in set(own) | set(theirs):
                child = trees.join(path, name)
                if (
                    name not in own
                    or name not in theirs
                    or self._differs(volume, child, own[name], theirs[name])
                ):
                    suspects.add(child)
                elif stat.S_ISDIR(own[name]["mode"]):
                    pending.append(child)
                if name in own and name in theirs and child in suspects and stat.S_ISDIR(own[name]["mode"]):
                    pending.append(child)
        return suspects

    def _own(self, volume: int, path: bytes) -> dict[bytes, Entry] | None:
        try:
            entries: dict[bytes, Entry] = {}
            whole, last = False, b""
            while not whole:
                page, whole = trees.list_entries(self._tree.root(volume), path, last)
                entries |= page
                last = max(page, default=last)
        except OSError:
            return None
        return self._visible(volume, path, entries)

    def _theirs(self, volume: int, path: bytes) -> dict[bytes, Entry] | None:
        entries: dict[bytes, Entry] = {}
        whole, last = False, b""
        try:
            while not whole:
                answer = self._question("list", volume, path, **{"from": last.hex()})
                page = {bytes.fromhex(name): entry for name, entry in answer["entries"].items()}
                entries |= page
                whole, last = bool(answer["whole"]) or not page, max(page, default=last)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self._visible(volume, path, entries)

    def _visible(self, volume: int, path: bytes, entries: dict[bytes, Entry]) -> dict[bytes, Entry]:
        return {
            name: entry
            for name, entry in entries.items()
            if not self._source.excluded(volume, trees.join(path, name))
        }

    def _differs(self, volume: int, path: bytes, own: Entry, theirs: Entry) -> bool:
        if any(own.get(what) != theirs.get(what) for what in _COMPARED if not _counts_children(own, what)):
            return True
        return stat.S_ISREG(own["mode"]) and self._data_differs(volume, path, own["size"])

    def _data_differs(self, volume: int, path: bytes, size: int) -> bool:
        try:
            fd = trees.open_path(self._tree.root(volume), path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return True
        try:
            blocks = -(-size // BLOCK_BYTES)
            for first in range(0, blocks, BLOCKS_MAX):
                count = min(BLOCKS_MAX, blocks - first)
                question = functools.partial(self._question, "hash", volume, path, first=first, count=count)
                answer, own = trees.side_by_side(
                    question, functools.partial(trees.hash_blocks, fd, first, count)
                )
                if answer["blocks"] != own:
                    return True
            return False
        except OSError:
            return True
        finally:
            os.close(fd)

    def _differs_still(self, volume: int, path: bytes) -> bool:
        """Look again at one name while nothing of it changes here, and the peer has applied all of it."""
        with self._tree.namespace(volume):
            own = self._look(volume, path)
            if own is None:
                return self._look_there(volume, path) is not None
            with self._tree.object(volume, own["inode"]):
                own, theirs = self._look(volume, path), self._look_there(volume, path)
                return own is None or theirs is None or self._differs(volume, path, own, theirs)

    def _look(self, volume: int, path: bytes) -> Entry | None:
        try:
            return trees.describe(self._tree.root(volume), path)
        except OSError:
            return None

    def _look_there(self, volume: int, path: bytes) -> Entry | None:
        try:
            entry: Entry = self._question("describe", volume, path)["entry"]
        except OSError:
            return None
        return entry

    def _question(self, do: str, volume: int, path: bytes, **more: Any) -> dict[str, Any]:
        request = {"do": do, "volume": volume, "path": path.hex(), "after": self._source.outbox.last, **more}
        return self._ask(request)


def _counts_children(entry: Entry, what: str) -> bool:
    """A directory's link count and size are the file system's own affair."""
    return what in ("links", "size") and stat.S_ISDIR(entry["mode"])
