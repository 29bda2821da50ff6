"""Where the objects of may-differ entries are: where the log remembers them, if so; at last by a walk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.host import disk
from orchestrator.mirror.differ import Key, Place
from orchestrator.replicator import ops, trees
from orchestrator.replicator.trees import Excluded

About = set[tuple[int, int]]
"""What of one object may differ: (what, extent)."""


@dataclass(frozen=True, slots=True)
class Target:
    """An object that was seen in the tree, and what of it may differ."""

    inode: int
    about: About
    is_directory: bool
    links: int
    size: int


_RENAMED: Final = frozenset({(ops.FRESH, 0), (ops.DATA, ops.WHOLE)})
_ANY_NAME: Final = frozenset({(ops.FRESH, 0), (ops.NAMES, ops.WHOLE), (ops.ALL, 0)})
_GONE: Final = (errno.ESTALE, errno.ENOENT)
_LISTED: Final = frozenset({(ops.FRESH, 0), (ops.NAMES, 0), (ops.NAMES, ops.WHOLE), (ops.ALL, 0)})


def may_be_another(about: About) -> bool:
    """It may have got its name lately: what the other side has under that name may be another object."""
    return not _RENAMED.isdisjoint(about)


def is_new(about: About) -> bool:
    """Of a directory: it was made or moved lately, or its entry is one of many; any name in it may differ."""
    return not about.isdisjoint(_ANY_NAME)


def by_inode(keys: Iterable[Key], volume: int) -> dict[int, About]:
    """The entries of one volume."""
    found: dict[int, About] = {}
    for where, inode, what, extent in keys:
        if where == volume:
            found.setdefault(inode, set()).add((what, extent))
    return found


class Finder:
    """Finds paths of inodes beneath one root. A remembered place counts only when it is seen to be right."""

    def __init__(self, root: int, volume: int, excluded: Excluded) -> None:
        self._root = root
        self._volume = volume
        self._excluded = excluded
        self._paths: dict[int, set[bytes]] = {}
        self._seen: dict[int, tuple[int, int, int]] = {}
        """Mode, number of names and size of each inode that was seen."""
        self._orphans: set[int] | None = None

    def find(
        self,
        wanted: Mapping[int, About],
        places: Mapping[tuple[int, int], Place],
        placed: bool,
        names: Mapping[int, frozenset[bytes]],
    ) -> dict[bytes, Target]:
        """These by path. Of what may have other names than before, every name is found.

        `placed`: what has no place was needed by no object, or is in a directory whose own names may differ.
        `names`: of directories of which it is known, the names that changed.
        What is gone, excluded, or has no name in the tree is left out.
        """
        if not wanted:
            return {}
        known = {inode: place for inode in wanted if (place := places.get((self._volume, inode))) is not None}
        mount = disk.reopen(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._see(os.fstat(mount), b"")
            self._look_where_they_were(mount, known)
            lost = self._not_found(wanted)
            if lost:
                self._scan_listed(wanted, names)
                lost = [
                    inode
                    for inode in self._not_found(wanted)
                    if not self._is_accounted_for(mount, inode, wanted[inode], known.get(inode), placed)
                ]
        finally:
            os.close(mount)
        if lost:
            self._walk(set(lost))
        return {
            path: self._target(inode, wanted[inode])
            for inode, paths in self._paths.items()
            if inode in wanted
            for path in paths
            if not self._is_hidden(path, stat.S_ISDIR(self._seen[inode][0]))
        }

    def _see(self, status: os.stat_result, path: bytes) -> None:
        self._paths.setdefault(status.st_ino, set()).add(path)
        self._seen[status.st_ino] = (status.st_mode, status.st_nlink, status.st_size)

    def _target(self, inode: int, about: About) -> Target:
        mode, links, size = self._seen[inode]
        is_directory = stat.S_ISDIR(mode)
        return Target(inode, about, is_directory, 1 if is_directory else links, size)

    def _is_hidden(self, path: bytes, is_directory: bool) -> bool:
        own = path == ops.HIDDEN or path.startswith(ops.HIDDEN + b"/")
        return own or self._excluded(self._volume, path, is_directory)

    def _not_found(self, wanted: Mapping[int, About]) -> list[int]:
        """What was not seen, or not under all its names where each of them counts."""
        return [
            inode
            for inode, about in wanted.items()
            if inode not in self._paths
            or (may_be_another(about) and len(self._paths[inode]) < self._target(inode, about).links)
        ]

    # --- as the log remembers ------------------------------------------------------------------------------

    def _look_where_they_were(self, mount: int, known: Mapping[int, Place]) -> None:
        """Directories by their own handles, everything else by its name in a directory found so."""
        held: dict[bytes, list[tuple[int, bytes]]] = {}
        for inode, place in known.items():
            if place.name:
                held.setdefault(place.directory, []).append((inode, place.name))
            else:
                held.setdefault(place.handle, [])
        for handle, names in held.items():
            found = self._directory(mount, handle)
            if found is None:
                continue
            fd, path = found
            try:
                self._see(os.stat(fd), path)
                for inode, name in names:
                    self._look_for(fd, path, name, inode)
            finally:
                os.close(fd)

    def _directory(self, mount: int, handle: bytes) -> tuple[int, bytes] | None:
        """A descriptor of this directory and its path; None when it is not beneath the root."""
        try:
            fd = disk.open_handle(mount, handle, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            top, there = (os.fsencode(os.readlink(disk.path_of(one))) for one in (mount, fd))
            path = os.path.relpath(there, top)
            path = b"" if path == b"." else path
            # What the kernel calls it is text: the path counts when it leads there without a way out.
            beneath = trees.open_path(self._root, path, os.O_PATH | os.O_DIRECTORY)
            try:
                if os.path.samestat(os.stat(beneath), os.stat(fd)):
                    return fd, path
            finally:
                os.close(beneath)
        except OSError:
            pass
        os.close(fd)
        return None

    def _look_for(self, directory: int, path: bytes, name: bytes, inode: int) -> None:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return
        if status.st_ino == inode:
            self._see(status, trees.join(path, name))

    # --- where names changed -------------------------------------------------------------------------------

    def _scan_listed(self, wanted: Mapping[int, About], names: Mapping[int, frozenset[bytes]]) -> None:
        """Whatever moved or came moved into a directory whose names are in the log: these are read."""
        pending = []
        for inode, paths in list(self._paths.items()):
            if _LISTED.isdisjoint(wanted.get(inode, ())):
                continue
            known = None if is_new(wanted[inode]) else names.get(inode)
            if known is None:
                pending += sorted(paths)
                continue
            for child in (trees.join(path, name) for path in paths for name in known):
                status = trees.status_of(self._root, child)
                if status is not None and status.st_ino in wanted:
                    self._see(status, child)
        done: set[bytes] = set()
        while pending:
            path = pending.pop()
            if path in done or self._is_hidden(path, True):
                continue
            done.add(path)
            for child, status in self._children(path, wanted):
                self._see(status, child)
                # A new directory has its entry too, and what is new may be in there.
                if stat.S_ISDIR(status.st_mode) and not _LISTED.isdisjoint(wanted[status.st_ino]):
                    pending.append(child)

    def _children(self, path: bytes, wanted: Mapping[int, About]) -> list[tuple[bytes, os.stat_result]]:
        try:
            fd = trees.open_path(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return []  # no directory, or gone
        found = []
        try:
            with os.scandir(fd) as items:
                for item in items:
                    if item.inode() in wanted:
                        try:
                            status = item.stat(follow_symlinks=False)
                        except OSError:
                            continue
                        found.append((trees.join(path, os.fsencode(item.name)), status))
        finally:
            os.close(fd)
        return found

    # --- gone, or to be searched for -----------------------------------------------------------------------

    def _is_accounted_for(
        self, mount: int, inode: int, about: About, place: Place | None, placed: bool
    ) -> bool:
        """There is nothing to search for: it is gone, or was needed by no change."""
        if place is None and placed and about == {(ops.FRESH, 0)}:
            # If it was made lately, all its names are in directories that were read: this is an older object.
            self._paths.pop(inode, None)
            return True
        if place is None or inode in self._paths:
            return False  # an entry without a place, or not under all its names
        if disk.inode_of(place.handle) != inode:
            return False  # not this object's, or of a kind that does not tell
        try:
            fd = disk.open_handle(mount, place.handle, os.O_PATH)
        except OSError as fault:
            return fault.errno in _GONE
        try:
            status = os.stat(fd)
        finally:
            os.close(fd)
        return status.st_nlink == 0 or (status.st_nlink == 1 and self._is_orphan(inode))

    def _is_orphan(self, inode: int) -> bool:
        """Its only name is the one that keeps an unlinked open file."""
        if self._orphans is None:
            self._orphans = set()
            try:
                fd = trees.open_path(self._root, ops.ORPHANS, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                return False  # there are none
            try:
                with os.scandir(fd) as items:
                    self._orphans.update(item.inode() for item in items)
            finally:
                os.close(fd)
        return inode in self._orphans

    def _walk(self, lost: set[int]) -> None:
        """Nothing that is remembered fits: look at every name in the tree."""
        for path, inode, _ in trees.walk(self._root, self._volume, self._excluded):
            if inode in lost:
                status = trees.status_of(self._root, path)
                if status is not None and status.st_ino == inode:
                    self._see(status, path)


def links_of(root: int, volume: int, excluded: Excluded) -> dict[int, list[bytes]]:
    """Every path to each object that has several, by a walk: only a look at all names knows them all."""
    found: dict[int, list[bytes]] = {}
    for path, inode, is_directory in trees.walk(root, volume, excluded):
        if not is_directory:
            status = trees.status_of(root, path)
            if status is not None and status.st_ino == inode and status.st_nlink > 1:
                found.setdefault(inode, []).append(path)
    return found


def place_at(root: int, path: bytes) -> Place | None:
    """The place of what is at this path now; None where there are no handles, or nothing is there."""
    above, _, name = path.rpartition(b"/")
    try:
        fd = trees.open_path(root, above, os.O_PATH | os.O_DIRECTORY)
        try:
            if not path:
                return Place(disk.handle_of(fd, b""))
            handle = disk.handle_of(fd, name)
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                return Place(handle)
            return Place(handle, disk.handle_of(fd, b""), name)
        finally:
            os.close(fd)
    except OSError:
        return None
