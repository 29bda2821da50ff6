"""Is this the tree that the module had? A name that must be in it says so, before anything is begun.

An empty tree is mostly a disk that is not mounted. Served, it would be copied over the full one; followed
into, it would fill the disk that the mount point is on.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

from orchestrator.host import disk
from orchestrator.host.store import JsonFile
from orchestrator.mirror.lineage import LINEAGE, Standing
from orchestrator.model.errors import CorruptState, HafarmError
from orchestrator.replicator.settings import Settings, VolumeSettings, load

_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV})
"""Nothing has this path, or a symbolic link is on it: what that leads to is not in the tree."""


@dataclass(eq=False)
class SentinelMissing(HafarmError):
    """A directory lacks what must exist in it; nothing was begun, and nothing changed."""

    code: ClassVar[str] = "HF4021"
    path: str
    name: str

    def __str__(self) -> str:
        return (
            f"{self.path} has no {self.name}, which must exist: its disk is not mounted, or these are not "
            "the module's files"
        )


def check(volume: VolumeSettings, root: int) -> None:
    """SentinelMissing. `root`: the plain directory, whatever is mounted over it."""
    if not volume.must_exist:
        return
    try:
        os.close(disk.open_beneath(root, os.fsencode(volume.must_exist), os.O_PATH | os.O_NOFOLLOW))
    except OSError as fault:
        if fault.errno not in _NOT_THERE:
            raise
        raise SentinelMissing(volume.path, volume.must_exist) from fault


def check_known(settings: Settings, roots: Iterable[int]) -> None:
    """The same of a copy that has a history. A node that never had these files may be empty: it is filled."""
    if _has_history(settings):
        for volume, root in zip(settings.volumes, roots, strict=True):
            check(volume, root)


def _has_history(settings: Settings) -> bool:
    try:
        found = JsonFile(os.path.join(settings.state_directory, LINEAGE)).read()
        return found is not None and bool(Standing.from_dict(found).reigns)
    except CorruptState:
        return True  # whoever reads it next refuses to serve with it


def main() -> int:
    """`python -m orchestrator.replicator.sentinel SETTINGS.json`, of a module that does not run here.

    Looks before a first start, which makes these files the ones to begin with; prints what is wrong.
    """
    try:
        for volume in load(sys.argv[1]).volumes:
            root = os.open(volume.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                check(volume, root)
            finally:
                os.close(root)
    except SentinelMissing as fault:
        print(json.dumps({"error": {"code": fault.code, "text": str(fault)}}))
        return 0
    except OSError as fault:
        print(fault, file=sys.stderr)
        return 1  # the directory itself: whoever opens it to serve it says what is wrong with it
    print(json.dumps({}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
