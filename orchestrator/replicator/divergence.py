"""What was set aside on this node: listed, shown file by file, and released by the operator's order."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from orchestrator.host import disk
from orchestrator.model.errors import HafarmError
from orchestrator.replicator import quarantine, trees
from orchestrator.replicator.ops import HIDDEN
from orchestrator.replicator.quarantine import HERE_ONLY, THERE_DELETED, Listed
from orchestrator.replicator.settings import load

NAMES_SHOWN: Final = 5  # on a screen of one line; `shown` has all
PAGE: Final = 1_000
"""Files in one answer: some hundred kilobytes."""


@dataclass(eq=False)
class NoDivergence(HafarmError):
    """The operator named one that is not here."""

    code: ClassVar[str] = "HF4017"
    id: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        return f"no divergence {self.id} is kept here; these are: {', '.join(self.known) or 'none'}"


@dataclass(eq=False)
class DivergenceInUse(HafarmError):
    """What is set aside now must not be taken away under the copy."""

    code: ClassVar[str] = "HF4018"
    id: str

    def __str__(self) -> str:
        return f"what {self.id} lists is not all set aside yet: release it when the node serves or is in sync"


def readable(path: bytes) -> str:
    """For people and JSON: what is no UTF-8 is shown by its bytes."""
    return path.decode("utf-8", "backslashreplace")


def listed(roots: Sequence[int]) -> list[dict[str, Any]]:
    """Every divergence on this node, the oldest first, with how many files and bytes it keeps."""
    found: dict[str, dict[str, Any]] = {}
    for volume, root in enumerate(roots):
        for id, about in quarantine.every(root):
            new = {"id": id, **_told(about), "files": 0, "bytes": 0, "names": [], "ended": True}
            entry = found.setdefault(id, new)
            entry["ended"] = entry["ended"] and about["ended"]
            for file in _files(root, volume, id, about.get("since")):
                entry["files"] += 1
                entry["bytes"] += file["size"]
                if len(entry["names"]) < NAMES_SHOWN:
                    entry["names"].append(file["path"])
    return [found[id] for id in sorted(found)]


def _told(about: dict[str, Any]) -> dict[str, Any]:
    """Set-asides of which the description was lost are listed too."""
    return {
        "at": about.get("at"),
        "verdict": about.get("verdict", "unknown"),
        "why": about.get("why", ""),
        "lost": about.get("lost", ""),
        "kept_by": about.get("kept_by", ""),
        "lineages": about.get("lineages", {}),
    }


def shown(roots: Sequence[int], id: str, after: int = 0) -> dict[str, Any]:
    """A page of the files of one divergence; `next`: where the next page begins, None: that was the last."""
    about = _about(roots, id)
    page: list[dict[str, Any]] = []
    for number, file in enumerate(_all_files(roots, id, about.get("since"))):
        if number >= after + PAGE:
            return {"id": id, **_told(about), "files": page, "next": number}
        if number >= after:
            page.append(file)
    return {"id": id, **_told(about), "files": page, "next": None}


def released(roots: Sequence[int], id: str, copying: bool) -> dict[str, Any]:
    """Take it away for ever; how many files and bytes that freed. DivergenceInUse while it still grows."""
    about = _about(roots, id)
    # A list of edits says what to set aside when the node follows again: without it they are overwritten.
    if not about["ended"] and (copying or quarantine.is_of_edits(about)):
        raise DivergenceInUse(id)
    files = list(_all_files(roots, id, about.get("since")))
    for root in roots:
        try:
            parent = disk.open_beneath(root, HIDDEN + b"/" + quarantine.FOLDER, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # nothing of this one was in this directory
        try:
            quarantine.remove_tree(parent, id.encode())
            os.fsync(parent)
        except FileNotFoundError:
            pass
        finally:
            os.close(parent)
    return {"id": id, "files": len(files), "bytes": sum(file["size"] for file in files)}


def _about(roots: Sequence[int], id: str) -> dict[str, Any]:
    known: list[str] = []
    found: dict[str, Any] | None = None
    for root in roots:
        for tag, about in quarantine.every(root):
            known.append(tag)
            if tag == id:
                ended = about["ended"] and (found is None or found["ended"])
                found = {**about, **(found or {}), "ended": ended}
    if found is None:
        raise NoDivergence(id, tuple(dict.fromkeys(known)))
    return found


def _all_files(roots: Sequence[int], id: str, since: float | None) -> Iterator[dict[str, Any]]:
    for volume, root in enumerate(roots):
        yield from _files(root, volume, id, since)


def _files(root: int, volume: int, id: str, since: float | None) -> Iterator[dict[str, Any]]:
    """Every file of one divergence in one volume, once each, in the order of the list."""
    disk.check_name(id.encode())
    try:
        folder = disk.open_beneath(
            root, b"/".join((HIDDEN, quarantine.FOLDER, id.encode())), os.O_RDONLY | os.O_DIRECTORY
        )
    except FileNotFoundError:
        return
    try:
        seen: set[bytes] = set()
        entries = list(quarantine.read_list(folder))
        # One of which bytes were kept speaks for the line that only its attributes differed, too.
        for entry in sorted(entries, key=lambda entry: (not entry.kept, entry.facts is None)):
            if entry.was not in seen and (found := list(_files_of(folder, entry, since))):
                seen.add(entry.was)
                yield from ({"volume": volume, **file} for file in found)
    finally:
        os.close(folder)


def _files_of(folder: int, entry: Listed, since: float | None) -> Iterator[dict[str, Any]]:
    if not entry.kept:
        yield _file(entry.was, entry.why, 0, "", entry.facts)
        return
    try:
        status = os.stat(entry.kept, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return  # listed before it was taken, which a crash prevented: it stayed where it was
    if not stat.S_ISDIR(status.st_mode):
        why = entry.why if entry.why != HERE_ONLY else _why_gone(folder, entry.kept, since)
        yield _file(entry.was, why, _size(status), entry.kept.decode(), entry.facts)
        return
    pending = [b""]
    while pending:
        below = pending.pop()
        fd = disk.open_beneath(folder, trees.join(entry.kept, below), os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = sorted(map(os.fsencode, os.listdir(fd)))
            statuses = {name: os.stat(name, dir_fd=fd, follow_symlinks=False) for name in names}
            inner = [name for name in names if stat.S_ISDIR(statuses[name].st_mode)]
            place, kept = (trees.join(path, below) if below else path for path in (entry.was, entry.kept))
            if not names:
                yield _file(place + b"/", _why_gone(fd, b"", since), 0, os.fsdecode(kept), None)
            for name in names:
                if not stat.S_ISDIR(statuses[name].st_mode):
                    why, size = _why_gone(fd, name, since), _size(statuses[name])
                    yield _file(place + b"/" + name, why, size, os.fsdecode(kept + b"/" + name), None)
        finally:
            os.close(fd)
        pending += [trees.join(below, name) for name in reversed(inner)]


def _file(path: bytes, why: str, size: int, kept: str, facts: Any) -> dict[str, Any]:
    return {
        "path": readable(path),
        "why": why,
        "size": size,
        "kept": readable(os.fsencode(kept)),
        "attributes": facts,
    }


def _size(status: os.stat_result) -> int:
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _why_gone(folder: int, name: bytes, since: float | None) -> str:
    """Of what one side has alone: made here after the histories parted, or removed there after that."""
    born_ns = disk.birth_time_ns(folder, name)
    if since is None or born_ns is None or born_ns / 1e9 >= since:
        return HERE_ONLY
    return THERE_DELETED


def main() -> int:
    """`python -m orchestrator.replicator.divergence SETTINGS.json list|show ID AFTER|release ID`: the answer
    as JSON, for a node whose replicator does not run."""
    path, verb, *words = sys.argv[1:]
    settings = load(path)
    try:
        roots = [os.open(volume.path, os.O_RDONLY | os.O_DIRECTORY) for volume in settings.volumes]
        match verb:
            case "list":
                answer: Any = listed(roots)
            case "show":
                answer = shown(roots, words[0], int(words[1]))
            case _:
                answer = released(roots, words[0], copying=False)
    except HafarmError as fault:
        answer = {"error": {"code": fault.code, "text": str(fault)}}
    except OSError as fault:
        answer = {"error": {"code": "HF4001", "text": str(fault)}}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
