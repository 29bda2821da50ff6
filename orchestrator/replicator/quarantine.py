"""Files that a copy would overwrite although nobody decided against them: kept aside, and listed."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.host import disk
from orchestrator.mirror.lineage import Verdict
from orchestrator.replicator.ops import HIDDEN

FOLDER: Final = b"quarantine"
LIST: Final = b"LIST"
ABOUT: Final = b"ABOUT"
MADE: Final = b"MADE"
ENDED: Final = b"ENDED"
"""Names in the folder of one divergence: what was where, why it is here, which objects are the copy's own,
and that nothing more comes."""
HERE_CHANGED: Final = "changed here"
HERE_ONLY: Final = "only here"
THERE_DELETED: Final = "deleted there"
HERE_DELETED: Final = "deleted here"
_PART: Final = b".part"
_INODE: Final = struct.Struct("<Q")
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a LIST: a name that is kept aside, or that only its attributes differ at."""

    was: bytes
    """The path below the volume's root."""
    why: str
    kept: bytes = b""
    """The name in the quarantine; empty: nothing had to be kept."""
    inode: int = 0
    facts: Mapping[str, Any] | None = None
    """What was lost without a byte of data: owner, mode, extended attributes."""

    def as_line(self) -> bytes:
        line = {
            "kept": self.kept.decode(),
            "was": os.fsdecode(self.was),
            "why": self.why,
            "inode": self.inode,
            "facts": self.facts,
        }
        return json.dumps(line).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Listed | None:
        """None for a torn or damaged line: the others stand."""
        try:
            data = json.loads(line)
            return cls(
                os.fsencode(data["was"]),
                str(data["why"]),
                str(data["kept"]).encode(),
                int(data["inode"]),
                data["facts"],
            )
        except (ValueError, KeyError, TypeError):
            return None


class Quarantine:
    """One set-aside of one volume: `.hafarm/quarantine/TAG/`, with a LIST of what was where.

    One that a broken connection left unfinished is gone on with: what it has already is not taken twice, as
    what has that name by then is the copy's.
    """

    def __init__(
        self, root: int, tag: str, about: Mapping[str, Any], only: frozenset[int] | None = None
    ) -> None:
        """`only`: what else is overwritten or removed is nobody's loss."""
        self._root = root
        self._only = only
        self._fd = make_folder(root, HIDDEN, FOLDER, tag.encode())
        self._list = self._made = -1
        try:
            self._begin(about)
        except OSError:
            self.close()
            raise

    def _begin(self, about: Mapping[str, Any]) -> None:
        self._describe(about)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._list = os.open(LIST, flags, 0o600, dir_fd=self._fd)
        self._made = os.open(MADE, flags, 0o600, dir_fd=self._fd)
        listed = list(read_list(self._fd))
        self._count = max((int(each.kept) for each in listed if each.kept), default=0)
        self._paths = {each.was for each in listed if each.kept and _exists(self._fd, each.kept)}
        self._marked = {each.inode for each in listed if each.facts is not None}
        # Not synced: what a power cut takes of it costs one copy too many, and nothing is lost.
        made = os.pread(self._made, os.fstat(self._made).st_size, 0)
        self._kept = {
            inode for (inode,) in _INODE.iter_unpack(made[: len(made) // _INODE.size * _INODE.size])
        }
        disk.sync_directory(self._fd)

    def _describe(self, about: Mapping[str, Any]) -> None:
        """What is known later is added; when it began stands."""
        known = _read_about(self._fd)
        described = {**known, **about, **({"at": known["at"]} if "at" in known else {})}
        if described != known:
            _write_file(self._fd, ABOUT, json.dumps(described).encode())

    def close(self) -> None:
        for fd in (self._list, self._made, self._fd):
            if fd >= 0:
                os.close(fd)

    def end(self) -> None:
        """Nothing more comes."""
        _write_file(self._fd, ENDED, b"")
        disk.fsync(self._fd)

    def made_here(self, inode: int) -> None:
        """This object is of the copy itself: nothing in it is worth keeping."""
        self._kept.add(inode)
        os.write(self._made, _INODE.pack(inode))

    def wants(self, parent: int, name: bytes) -> bool:
        """What has this name, or something below it, is to be kept when the name goes."""
        inodes = (status.st_ino for status in _statuses(parent, name))
        return any(inode not in self._kept and self._cares(inode) for inode in inodes)

    def move(self, parent: int, name: bytes) -> None:
        """Take the name away, durably, with everything below it."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        path = self._path(parent, status.st_ino, name)
        kept = self._next(path, HERE_ONLY, status.st_ino)
        disk.rename(parent, name, self._fd, kept, disk.RENAME_NOREPLACE)
        disk.fsync(self._fd)
        disk.sync_directory(parent)

    def preserve(self, fd: int) -> None:
        """Keep a copy of this file before its first byte changes; durable on return. Once for each file."""
        status = os.stat(fd)
        if status.st_ino in self._kept or not self._cares(status.st_ino):
            return
        path = self._path(fd, status.st_ino)
        if stat.S_ISREG(status.st_mode) and path not in self._paths:
            self._copy(fd, status, path)
        self._kept.add(status.st_ino)

    def mark(self, fd: int, facts: Mapping[str, Any]) -> None:
        """List what is lost of this object without its data; durable on return. Once for each object."""
        inode = os.stat(fd).st_ino
        if inode in self._kept or inode in self._marked or not self._cares(inode):
            return
        self._marked.add(inode)
        path = self._path(fd, inode)
        self.note(Listed(path, HERE_CHANGED, b"", inode, facts))

    def note(self, entry: Listed) -> None:
        """Add one line to the list; durable on return."""
        self.note_all((entry,))

    def note_all(self, entries: Iterable[Listed]) -> None:
        """Add these lines to the list; durable on return."""
        for entry in entries:
            os.write(self._list, entry.as_line())
        disk.fsync(self._list)

    def _cares(self, inode: int) -> bool:
        return self._only is None or inode in self._only

    def _copy(self, fd: int, status: os.stat_result, path: bytes) -> None:
        kept = self._next(path, HERE_CHANGED, status.st_ino)
        source = disk.reopen(fd, os.O_RDONLY)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            target = os.open(kept + _PART, flags, 0o600, dir_fd=self._fd)
            try:
                _copy_data(source, target, status.st_size)
                _copy_xattrs(source, target)
                os.chown(target, status.st_uid, status.st_gid)
                os.chmod(target, stat.S_IMODE(status.st_mode))
                os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
                disk.fsync(target)
            finally:
                os.close(target)
        finally:
            os.close(source)
        # Under its own name only when it is whole: a crash before leaves a line that nothing stands behind.
        os.rename(kept + _PART, kept, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        disk.fsync(self._fd)

    def _path(self, fd: int, inode: int, name: bytes = b"") -> bytes:
        """Where this object is, or what has this name in it; for people, and once for each object."""
        try:
            path = os.path.join(os.fsencode(os.readlink(disk.path_of(fd))), name)
        except OSError as fault:
            if fault.errno != errno.ENAMETOOLONG:
                raise
            # Deeper than the kernel tells: the number keeps apart what is in the same place.
            return b"(too deep)/%d/%s" % (inode, name)
        return os.path.relpath(path, os.fsencode(os.readlink(disk.path_of(self._root))))

    def _next(self, path: bytes, why: str, inode: int) -> bytes:
        """A name for what was at `path`; the list tells it, durably, before it is used."""
        self._count += 1
        kept = b"%06d" % self._count
        self.note(Listed(path, why, kept, inode))
        return kept


def read_list(folder: int) -> Iterator[Listed]:
    """The lines of one divergence's list; none where there is no list."""
    try:
        fd = os.open(LIST, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return
    with open(fd, "rb") as file:
        for line in file:
            entry = Listed.from_line(line)
            if entry is not None:
                yield entry


def unfinished(root: int, about: Mapping[str, Any]) -> str:
    """The tag of a set-aside of this very history that did not end; empty: there is none."""
    for tag, known in every(root):
        same = all(known.get(what) == about.get(what) for what in ("verdict", "lost", "kept_by"))
        mine = about.get("lost")
        if same and _lineage(known, mine) == _lineage(about, mine) and not known["ended"]:
            return tag
    return ""


def _lineage(about: Mapping[str, Any], node: object) -> object:
    return (about.get("lineages") or {}).get(node)


def edits(root: int) -> str:
    """The tag under which edits from outside are listed that nobody has overwritten yet; empty: none are."""
    return next((tag for tag, about in every(root) if is_of_edits(about) and not about["ended"]), "")


def edited(root: int, tag: str) -> frozenset[int] | None:
    """The inodes that this list of edits names; None: nothing is known, so everything may be one."""
    folder = make_folder(root, HIDDEN, FOLDER, tag.encode())
    try:
        if _read_about(folder).get("everything"):
            return None
        return frozenset(entry.inode for entry in read_list(folder))
    finally:
        os.close(folder)


def is_of_edits(about: Mapping[str, Any]) -> bool:
    """It lists what was changed from outside, and not what two histories made."""
    return about.get("verdict") == Verdict.EDITED.value


def every(root: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tag and ABOUT of each set-aside in this volume, the oldest first."""
    try:
        quarantine = disk.open_beneath(root, HIDDEN + b"/" + FOLDER, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        for name in sorted(map(os.fsencode, os.listdir(quarantine))):
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=quarantine)
            try:
                about = _read_about(folder)
                yield name.decode(), {**about, "ended": _exists(folder, ENDED)}
            finally:
                os.close(folder)
    finally:
        os.close(quarantine)


def _read_about(folder: int) -> dict[str, Any]:
    try:
        fd = os.open(ABOUT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return {}
    with open(fd, "rb") as file:
        try:
            about = json.load(file)
        except ValueError:
            return {}  # the list stands all the same
    return about if isinstance(about, dict) else {}


def remove_tree(parent: int, name: bytes) -> None:
    """Take a name away with all below it, crossing no symbolic link."""
    disk.check_name(name)
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    for folder, below, is_directory in walk_below(parent, name):
        (os.rmdir if is_directory else os.unlink)(below, dir_fd=folder)
    os.rmdir(name, dir_fd=parent)


def walk_below(parent: int, name: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Everything below this directory, what is in a directory before the directory itself.

    (A descriptor of the directory, a name in it, is a directory). Two descriptors, however deep it is; no
    symbolic link is crossed, and what is moved meanwhile is an error.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(name, flags, dir_fd=parent)
    # Of each directory on the way down: which it is, the name that was gone into, and what is left there.
    above: list[tuple[os.stat_result, bytes, list[bytes]]] = []
    try:
        left: list[bytes] | None = None
        while True:
            if left is None:
                left = []
                with os.scandir(here) as items:
                    for item in items:
                        below = os.fsencode(item.name)
                        if item.is_dir(follow_symlinks=False):
                            left.append(below)
                        else:
                            yield here, below, False
            if left:
                below = left.pop()
                inner = os.open(below, flags, dir_fd=here)
                above.append((os.fstat(here), below, left))
                left = None
            elif above:
                inner = os.open(b"..", flags, dir_fd=here)
            else:
                return
            os.close(here)
            here = inner
            if left is not None:
                status, below, left = above.pop()
                if not os.path.samestat(status, os.fstat(here)):
                    raise OSError(errno.ESTALE, "a directory was moved while it was walked through")
                yield here, below, True
    finally:
        os.close(here)


def with_other_names(parent: int, name: bytes) -> Iterator[int]:
    """The inodes of what loses this name, or one below it, when it is taken away, and stays under others."""
    for status in _statuses(parent, name):
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            yield status.st_ino


def _statuses(parent: int, name: bytes) -> Iterator[os.stat_result]:
    """Of what has this name, and of everything below it."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    yield status
    if stat.S_ISDIR(status.st_mode):
        for folder, below, _ in walk_below(parent, name):
            yield os.stat(below, dir_fd=folder, follow_symlinks=False)


def _copy_data(source: int, target: int, size: int) -> None:
    """The data regions alone: a sparse file stays one."""
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: nothing but a hole from here on
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end and (data := os.pread(source, min(_CHUNK_BYTES, end - at), at)):
            view = memoryview(data)
            while view:
                written = os.pwrite(target, view, at)
                view, at = view[written:], at + written
    os.ftruncate(target, size)


def _copy_xattrs(source: int, target: int) -> None:
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))


def _exists(folder: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_file(folder: int, name: bytes, data: bytes) -> None:
    """A small file, durable but for its name."""
    fd = os.open(name + _PART, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        os.write(fd, data)
        disk.fsync(fd)
    finally:
        os.close(fd)
    os.rename(name + _PART, name, src_dir_fd=folder, dst_dir_fd=folder)


def make_folder(root: int, *names: bytes) -> int:
    """The innermost of these folders, each made durably if it is not there."""
    fd = os.open(disk.path_of(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
                disk.fsync(fd)
            except FileExistsError:
                pass  # made by an earlier life
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(name, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError:  # of a full disk, perhaps: it is tried again and again
        os.close(fd)
        raise
    return fd
