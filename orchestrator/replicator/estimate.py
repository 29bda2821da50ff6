"""What a resync would have to look at and send at most, without asking for anything to be changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from orchestrator.mirror.differ import Key
from orchestrator.replicator import ops, trees
from orchestrator.replicator.verify import Compared


def estimate(source: Compared, keys: Iterable[Key] | None) -> dict[str, int]:
    """Files and bytes that these entries name, or that there are at all (None), and directories."""
    wanted: dict[tuple[int, int], list[tuple[int, int]]] | None = None
    if keys is not None:
        wanted = {}
        for volume, inode, what, extent in keys:
            wanted.setdefault((volume, inode), []).append((what, extent))
    found = {"files": 0, "bytes": 0, "directories": 0}
    if wanted is None or wanted:
        for volume in range(source.volumes):
            _add(source, volume, wanted, found)
    return found


def _add(
    source: Compared,
    volume: int,
    wanted: dict[tuple[int, int], list[tuple[int, int]]] | None,
    found: dict[str, int],
) -> None:
    root = source.tree.root(volume)
    seen: set[int] = set()
    moved: set[bytes] = set()
    filled: set[bytes] = set()
    top = None if wanted is None else wanted.get((volume, os.stat(root).st_ino))
    if top is not None:
        found["directories"] += 1
        if (ops.ALL, 0) in top:
            filled.add(b"")
    for path, inode, is_directory in trees.walk(root, volume, source.excluded):
        about = None if wanted is None else wanted.get((volume, inode), [])
        above = path.rpartition(b"/")[0]
        if about is None or above in moved or (is_directory and (ops.NAMES, ops.WHOLE) in about):
            about = None  # everything below a directory that got another name may be anything there
            if is_directory:
                moved.add(path)
        if is_directory and about is not None and (ops.ALL, 0) in about:
            filled.add(path)
        if not is_directory and above in filled:
            about = None
        if about == [] or inode in seen:
            continue
        seen.add(inode)
        if is_directory:
            found["directories"] += 1
            continue
        found["files"] += 1
        try:
            found["bytes"] += _bytes(trees.describe(root, path), about)
        except OSError:
            continue  # taken away meanwhile


def _bytes(entry: trees.Entry, about: list[tuple[int, int]] | None) -> int:
    """How much of a file these entries name."""
    size = int(entry["size"])
    if about is None or not stat.S_ISREG(entry["mode"]):
        return size
    extents = {extent for what, extent in about if what in (ops.DATA, ops.FRESH)}
    if ops.WHOLE in extents or (ops.ALL, 0) in about:
        return size
    starts = (extent * ops.EXTENT_BYTES for extent in extents)
    return sum(max(0, min(ops.EXTENT_BYTES, size - start)) for start in starts)
