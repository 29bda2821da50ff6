"""What is in a replicated directory here: how much, whose, linked to where. Looks only, and not for ever."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from orchestrator.model.choice import Choice
from orchestrator.model.config import DirectoryConfig

LOOK_S: Final = 20.0
"""For one directory: two million names on a warm disk; more is a matter of patience, and said to be more."""
OWNERS_MAX: Final = 500  # different ones, of users and of groups; a file server's home directories
_HIDDEN: Final = b".hafarm"
_CHECK_EVERY: Final = 256  # names, between two looks at the clock


@dataclass(slots=True)
class Survey:
    """What was seen of what is replicated."""

    path: str
    files: int = 0
    """All but directories."""
    directories: int = 0
    bytes: int = 0
    """As they lie on the disk: of a sparse file not its holes, and of a file with several names once."""
    stopped: bool = False
    """There is more than could be looked at in the time."""
    unread: int = 0
    """Directories that could not be read."""
    seconds: float = 0.0
    users: set[int] = field(default_factory=set)
    """Who owns something of it, by number."""
    groups: set[int] = field(default_factory=set)
    outside: list[str] = field(default_factory=list)
    """Names of files that have another one outside of the directory."""
    across: list[str] = field(default_factory=list)
    """Names of files that have another one in what is local to the node."""


def survey(directory: DirectoryConfig, look_s: float = LOOK_S) -> Survey:
    """Look through one directory; OSError when it cannot be read at all."""
    return _Walk(directory, look_s).done()


class _Walk:
    """One look: first at what is replicated, then, if it needs to be, at what is not."""

    def __init__(self, directory: DirectoryConfig, look_s: float) -> None:
        self._choice = Choice(directory.exclude, directory.only)
        self._top = os.fsencode(directory.path)
        self._began = time.monotonic()
        self._ends = self._began + look_s
        self._found = Survey(directory.path)
        self._links: dict[int, tuple[int, list[bytes]]] = {}
        """Of files with several names: how many, and those that were seen."""
        self._local: list[bytes] = []
        """Directories that are not replicated."""
        self._names = 0
        self._over = False

    def done(self) -> Survey:
        status = os.stat(self._top)
        self._device = status.st_dev
        self._own(status)
        self._replicated()
        self._found.stopped = self._over
        if not self._over:
            self._look_for_other_names()
        self._found.seconds = time.monotonic() - self._began
        return self._found

    def _replicated(self) -> None:
        pending = [b""]
        while pending:
            path = pending.pop()
            for name, child, status in self._in(path):
                is_directory = stat.S_ISDIR(status.st_mode)
                if self._choice.is_local_in(path, name, is_directory):
                    if is_directory or status.st_nlink > 1:
                        self._local.append(child)
                elif self._count(child, status) and is_directory:
                    pending.append(child)

    def _in(self, path: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
        """Name, path and status of what is in a directory; nothing once the time is over."""
        try:
            with os.scandir(os.path.join(self._top, path)) as items:
                for item in items:
                    self._names += 1
                    if self._names % _CHECK_EVERY == 0 and time.monotonic() > self._ends:
                        self._over = True
                    if self._over:
                        return
                    if not path and item.name == _HIDDEN:
                        continue
                    try:
                        status = item.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # gone while we looked
                    yield item.name, os.path.join(path, item.name), status
        except OSError as fault:
            if not path:
                raise
            if not isinstance(fault, FileNotFoundError | NotADirectoryError):
                self._found.unread += 1

    def _count(self, path: bytes, status: os.stat_result) -> bool:
        """Note one object; False: it is not of this file system."""
        if status.st_dev != self._device:
            return False
        self._own(status)
        if stat.S_ISDIR(status.st_mode):
            self._found.directories += 1
            return True
        self._found.files += 1
        if status.st_nlink > 1:
            names = self._links.setdefault(status.st_ino, (status.st_nlink, []))[1]
            names.append(path)
            if len(names) > 1:
                return True
        if stat.S_ISREG(status.st_mode):
            self._found.bytes += min(status.st_size, status.st_blocks * 512)
        return True

    def _own(self, status: os.stat_result) -> None:
        for owners, number in ((self._found.users, status.st_uid), (self._found.groups, status.st_gid)):
            if len(owners) < OWNERS_MAX:
                owners.add(number)

    def _look_for_other_names(self) -> None:
        """Of files whose names were not all seen: are the others in what is local, or outside?"""
        lacking = {inode: names for inode, (links, names) in self._links.items() if len(names) < links}
        found: set[int] = set()
        pending = self._local if lacking else []
        while pending and not self._over:
            path = pending.pop()
            try:
                status = os.lstat(os.path.join(self._top, path))
            except FileNotFoundError:
                continue
            found.add(status.st_ino)
            if not stat.S_ISDIR(status.st_mode):
                continue
            for _, child, below in self._in(path):
                found.add(below.st_ino)
                if stat.S_ISDIR(below.st_mode) and below.st_dev == self._device:
                    pending.append(child)
        if self._over:
            return  # of what is replicated everything was seen, and nothing is claimed of the rest
        for inode, names in lacking.items():
            where = self._found.across if inode in found else self._found.outside
            where.append(shown(os.path.join(self._top, names[0])))


def shown(path: bytes) -> str:
    """For people: what is no UTF-8 is shown by its bytes."""
    return path.decode("utf-8", "backslashreplace")
