"""Files that a copy would overwrite although nobody decided against them: kept aside, and listed."""

from __future__ import annotations

import json
import os
import shutil
import stat
from typing import Final

from orchestrator.host import disk
from orchestrator.replicator.ops import HIDDEN

FOLDER: Final = b"quarantine"


class Quarantine:
    """One set-aside of one volume: `.hafarm/quarantine/TAG/`, with a LIST of what was where."""

    def __init__(self, root: int, tag: str) -> None:
        self._root = root
        self._fd = _folder(_folder(_folder(root, HIDDEN), FOLDER), tag.encode())
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._list = os.open(b"LIST", flags, 0o600, dir_fd=self._fd)
        self._count = len([name for name in os.listdir(self._fd) if name.isdigit()])
        self._kept: set[int] = set()

    def close(self) -> None:
        os.close(self._list)
        os.close(self._fd)

    def made_here(self, inode: int) -> None:
        """This object is of the copy itself: nothing in it is worth keeping."""
        self._kept.add(inode)

    def move(self, parent: int, name: bytes) -> None:
        """Take the name away, durably, with everything below it."""
        kept = self._next(os.path.join(os.fsencode(os.readlink(disk.path_of(parent))), name))
        disk.rename(parent, name, self._fd, kept, disk.RENAME_NOREPLACE)
        os.fsync(self._fd)
        disk.sync_directory(parent)

    def preserve(self, fd: int) -> None:
        """Keep a copy of this file before its first byte changes; durable on return. Once for each file."""
        status = os.stat(fd)
        if status.st_ino in self._kept:
            return
        if stat.S_ISREG(status.st_mode):
            self._copy(fd, status)
        self._kept.add(status.st_ino)

    def _copy(self, fd: int, status: os.stat_result) -> None:
        kept = self._next(os.fsencode(os.readlink(disk.path_of(fd))))
        source = disk.reopen(fd, os.O_RDONLY)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            target = os.open(kept, flags, 0o600, dir_fd=self._fd)
            with open(source, "rb", closefd=False) as reader, open(target, "wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                writer.flush()
                os.chown(target, status.st_uid, status.st_gid)
                os.chmod(target, stat.S_IMODE(status.st_mode))
                os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
                os.fsync(target)
        finally:
            os.close(source)
        os.fsync(self._fd)

    def _next(self, path: bytes) -> bytes:
        """A name for what was at `path`; the list tells it, durably, before it is used."""
        self._count += 1
        kept = b"%06d" % self._count
        root = os.fsencode(os.readlink(disk.path_of(self._root)))
        line = {"kept": kept.decode(), "was": os.fsdecode(os.path.relpath(path, root))}
        os.write(self._list, json.dumps(line).encode() + b"\n")
        os.fsync(self._list)
        return kept


def remove_tree(parent: int, name: bytes) -> None:
    """Take a name away with all below it, crossing no symbolic link."""
    disk.check_name(name)
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    # rmtree with dir_fd walks by descriptors and refuses to follow a link put in its way.
    shutil.rmtree(os.fsdecode(name), dir_fd=parent)


def _folder(parent: int, name: bytes) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        disk.sync_directory(parent)
    except FileExistsError:
        pass  # made by an earlier life
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
