"""Who still reaches a directory's plain files once a mount covers it: best effort, for the operator."""

from __future__ import annotations

import os
from pathlib import Path

_FOUND_MAX = 20  # enough to act on; a list of hundreds is not read


def processes_inside(path: str) -> list[str]:
    """Processes with an open file, a working or root directory in `path`: `PID COMMAND FILE`."""
    prefix = os.path.realpath(path)
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (os.getpid(), os.getppid()):
            continue
        if (where := _reached(entry, prefix)) and len(found) < _FOUND_MAX:
            found.append(f"{entry.name} {_command(entry)} {where}")
    return found


def _reached(process: Path, prefix: str) -> str:
    try:
        links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
    except OSError:
        return ""  # it ended, or is not ours to see
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target == prefix or target.startswith(prefix + "/"):
            return target
    return ""


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"
