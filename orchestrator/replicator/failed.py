"""A disk that failed once is not believed before it is mounted anew: what memory holds may not be on it.

After a write that failed the kernel takes its pages for written. Whoever compares copies then finds them
equal, and the next boot finds that they are not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.host import disk
from orchestrator.host.store import write_durable
from orchestrator.model.errors import StoreFailed

log = logging.getLogger("hafarm.failed")

NOTE: Final = "failed.json"
"""In the run directory: a boot, which mounts anew, takes it away."""


def note(run: Path, roots: Sequence[int], why: str) -> None:
    """Remember that a disk below these directories failed; best effort, it may be the note's own disk."""
    try:
        mounts = [disk.mount_of(root) for root in roots]
        write_durable(str(run / NOTE), json.dumps({"mounts": mounts, "why": why}).encode())
    except (OSError, StoreFailed) as fault:
        log.warning("that the disk failed could not be noted: %s", fault)


def known(run: Path, root: int) -> str:
    """Why what is mounted below this directory is not believed; empty when it is."""
    try:
        noted = json.loads((run / NOTE).read_text())
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as fault:
        return str(fault)  # no role on doubt
    return str(noted["why"]) if disk.mount_of(root) in noted["mounts"] else ""


def forget(run: Path) -> None:
    """Everything is mounted anew."""
    (run / NOTE).unlink(missing_ok=True)
