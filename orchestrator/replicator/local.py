"""What is local to a follower, and in the way of a change that its primary made."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable
from typing import Final

from orchestrator.host import disk
from orchestrator.replicator.quarantine import remove_tree
from orchestrator.replicator.trees import Excluded, join

log = logging.getLogger("hafarm.local")

_IN_THE_WAY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


def do_past_local(
    excluded: Excluded, volume: int, root: int, parent: int, name: bytes, deed: Callable[[], None]
) -> None:
    """Do it; if only what is local has this name, or is in the directory of this name, without that.

    A directory that goes on the primary takes along what is local in it here: its place is gone. Refused, the
    change would cost the follower, whose next copy would take the directory away all the same.
    """
    try:
        deed()
    except OSError as fault:
        if fault.errno not in _IN_THE_WAY or not _clear(excluded, volume, root, parent, name):
            raise
        deed()


def _clear(excluded: Excluded, volume: int, root: int, parent: int, name: bytes) -> bool:
    """Take away what is local there; False, with nothing changed, when there is more than that or nothing."""
    path = join(_path(root, parent), name)
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        if not excluded(volume, path, False):
            return False
        log.warning("a local file goes, as the primary made a directory of its name: %r", path)
        os.unlink(name, dir_fd=parent)
        return True
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with os.scandir(fd) as items:
            found = [(os.fsencode(item.name), item.is_dir(follow_symlinks=False)) for item in items]
        if not found or not all(excluded(volume, join(path, child), is_dir) for child, is_dir in found):
            return False
        log.warning("%d local names go with the directory that they are in: %r", len(found), path)
        for child, _ in found:
            remove_tree(fd, child)
    finally:
        os.close(fd)
    return True


def _path(root: int, directory: int) -> bytes:
    top, there = (os.fsencode(os.readlink(disk.path_of(fd))) for fd in (root, directory))
    path = os.path.relpath(there, top)
    return b"" if path == b"." else path
