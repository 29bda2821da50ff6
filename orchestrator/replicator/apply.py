"""The follower's side: each operation applied beneath the tree's root, in the order of the stream."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Protocol

from orchestrator.host import disk
from orchestrator.mirror.differ import Key, Place, PlaceOf
from orchestrator.mirror.frames import WireFault
from orchestrator.mirror.lineage import Verdict
from orchestrator.model.errors import HafarmError
from orchestrator.replicator import ops, quarantine
from orchestrator.replicator.behind import LARGE_BYTES, WriteBehind
from orchestrator.replicator.codec import Remove, Sent
from orchestrator.replicator.local import do_past_local
from orchestrator.replicator.objects import ABSENT, Objects
from orchestrator.replicator.quarantine import Quarantine, remove_tree
from orchestrator.replicator.trees import Excluded, nothing_excluded

KEYS_AT_A_TIME: Final = 1 << 16  # in one append to a may-differ log: some megabytes of memory


@dataclass(eq=False)
class ApplyFailed(HafarmError):
    """This node's disk did not take what the primary's disk took: this copy is no longer equal."""

    code: ClassVar[str] = "HF4013"
    operation: str
    number: int
    why: str

    def __str__(self) -> str:
        return (
            f"{self.operation} could not be applied here: {self.why}; "
            "the primary goes on without this node; free space or repair the disk"
        )


class Log(Protocol):
    """What of the may-differ logs an applier needs; OSError when an entry could not be made durable."""

    def before_change(self, keys: Iterable[Key], sequence: int, place_of: PlaceOf) -> None: ...

    def folded(self, volume: int, directory: int) -> bool: ...

    def made(self, volume: int, inode: int, sequence: int, place: Place | None) -> None: ...

    def moved(self, volume: int, inode: int, place: Place | None) -> None: ...


class Applier:
    """Applies one stream. The log makes may-differ entries durable before each change.

    While a copy runs (`copying`) the tree is not the primary's yet: what is absent is passed over and
    counted, what is in the way goes aside; the copy brings it all right. Else every error ends the stream.
    """

    def __init__(self, roots: Sequence[int], log: Log, excluded: Excluded = nothing_excluded) -> None:
        self.objects = Objects(roots)
        self.volumes = len(roots)
        self.copying = False
        self.passed_over = 0
        self._aside: list[Quarantine] = []
        self._log = log
        self._excluded = excluded
        self._sequence = 0
        self._behind = WriteBehind()

    def close(self) -> None:
        self.end_copy()
        self.objects.close()

    def begin_copy(self, set_aside: str, about: Mapping[str, Any] = MappingProxyType({})) -> str:
        """From now on the tree is made equal; `set_aside` names the folder for what is lost, or is ''.

        The name of the folder: that of an earlier one that was left unfinished, if there is one.
        """
        self.end_copy()
        self.passed_over = 0
        if set_aside:
            set_aside = self._begin_aside(set_aside, about)
        # Only now: what cannot be set aside must not be overwritten.
        self.copying = True
        return set_aside

    def _begin_aside(self, set_aside: str, about: Mapping[str, Any]) -> str:
        roots = [self.objects.root(volume) for volume in range(self.volumes)]
        if about.get("verdict") == Verdict.EDITED.value:
            # Only what was edited is anybody's loss: the rest is merely older than the primary's.
            listed = quarantine.edits(roots[0])
            # Without a list nobody knows what was edited: whatever differs is kept.
            only = [quarantine.edited(root, listed) if listed else None for root in roots]
            set_aside = listed or set_aside
        else:
            set_aside = quarantine.unfinished(roots[0], about) or set_aside
            only = [None] * len(roots)
        for root, inodes in zip(roots, only, strict=True):
            self._aside.append(Quarantine(root, set_aside, about, inodes))
        return set_aside

    def end_copy(self, whole: bool = False) -> None:
        """`whole`: the copy came to its end; one that did not may be gone on with."""
        self.copying = False
        for aside in self._aside:
            if whole:
                aside.end()
            aside.close()
        self._aside = []

    def apply(self, operation: Sent, sequence: int) -> Callable[[], None] | None:
        """Do it; of a durable point the sync, which is still to be called once and raises OSError.

        ApplyFailed: this copy is no longer equal. WireFault: it is nothing that a primary does.
        """
        try:
            self._sequence = sequence
            keys = self._keys(operation)
            if keys:
                self._log.before_change(keys, sequence, functools.partial(self._place_of, operation))
            return _DO[type(operation)](self, operation)
        except (ValueError, OverflowError) as fault:
            # A NUL in a text, a number beyond what the system call takes: no primary can have done that.
            raise WireFault(f"{type(operation).__name__}: {fault}") from fault
        except OSError as fault:
            if self.copying and fault.errno in _PASSED_OVER:
                self.passed_over += 1
                return None
            raise ApplyFailed(type(operation).__name__, fault.errno or errno.EIO, str(fault)) from fault

    def sync_all(self) -> None:
        """Everything applied is on disk on return; OSError when it is not."""
        for volume in range(self.volumes):
            disk.sync_filesystem(self.objects.root(volume))

    # --- the operations ------------------------------------------------------------------------------------

    def _bind(self, op: ops.Bind) -> None:
        self._guard(op.parent, op.name)
        self.objects.bind(op.volume, op.id, op.parent, op.name)

    def _unbind(self, op: ops.Unbind) -> None:
        self.objects.drop(op.volume, op.id)

    def _create(self, op: ops.Create) -> None:
        parent = self._clear(op.volume, op.parent, op.name)
        if stat.S_ISREG(op.mode):
            how = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            writer = os.open(op.name, how, 0o600, dir_fd=parent)
            status = self.objects.adopt(op.volume, op.id, writer, op.parent, op.name)
            self._note_made(op, status.st_ino)
            if (status.st_uid, status.st_gid) != (op.uid, op.gid):
                os.fchown(writer, op.uid, op.gid)
            os.fchmod(writer, stat.S_IMODE(op.mode))
            return
        if stat.S_IFMT(op.mode) in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            os.mknod(op.name, stat.S_IFMT(op.mode) | 0o600, op.rdev, dir_fd=parent)
        else:
            raise OSError(errno.EINVAL, f"a file of type {op.mode:o}")
        self._made(op, op.mode)

    def _mkdir(self, op: ops.Mkdir) -> None:
        parent = self._clear(op.volume, op.parent, op.name)
        self._past_local(op.volume, parent, op.name, lambda: os.mkdir(op.name, 0o700, dir_fd=parent))
        self._made(op, op.mode)

    def _symlink(self, op: ops.Symlink) -> None:
        os.symlink(op.target, op.name, dir_fd=self._clear(op.volume, op.parent, op.name))
        self._made(op, None)

    def _made(self, op: ops.Create | ops.Mkdir | ops.Symlink, mode: int | None) -> None:
        fd = self.objects.bind(op.volume, op.id, op.parent, op.name)
        self._note_made(op, self.objects.inode(op.volume, op.id))
        disk.chown(fd, op.uid, op.gid)
        if mode is not None:
            os.chmod(disk.path_of(fd), stat.S_IMODE(mode))

    def _note_made(self, op: ops.Create | ops.Mkdir | ops.Symlink, inode: int) -> None:
        self._log.made(op.volume, inode, self._sequence, self.objects.place_of(op.volume, inode))
        self.objects.made(op.volume, op.id)
        if self._aside:
            self._aside[op.volume].made_here(inode)

    def _link(self, op: ops.Link) -> None:
        target = self.objects.get(op.volume, op.id)
        disk.link(target, self._clear(op.volume, op.parent, op.name), op.name)

    def _unlink(self, op: ops.Unlink) -> None:
        self._guard(op.parent, op.name)
        if self.copying:
            return self._remove(op)
        os.unlink(op.name, dir_fd=self.objects.get(op.volume, op.parent))
        return None

    def _rmdir(self, op: ops.Rmdir) -> None:
        self._guard(op.parent, op.name)
        if self.copying:
            return self._remove(op)
        parent = self.objects.get(op.volume, op.parent)
        self._past_local(op.volume, parent, op.name, lambda: os.rmdir(op.name, dir_fd=parent))
        return None

    def _remove(self, op: Remove | ops.Unlink | ops.Rmdir) -> None:
        self._guard(op.parent, op.name)
        if not self.copying:
            raise OSError(errno.EPERM, "only a copy removes a whole tree")
        self._put_away(op.volume, self.objects.get(op.volume, op.parent), op.name)

    def _rename(self, op: ops.Rename) -> None:
        self._guard(op.parent, op.name)
        self._guard(op.new_parent, op.new_name)
        parent = self.objects.get(op.volume, op.parent)
        new_parent = self.objects.get(op.volume, op.new_parent)
        if self.copying and not op.flags & disk.RENAME_EXCHANGE:
            # The name is taken over on the primary either way; what this node has under it is history.
            os.stat(op.name, dir_fd=parent, follow_symlinks=False)
            self._put_away_if_there(op.volume, new_parent, op.new_name)
        self._past_local(
            op.volume,
            new_parent,
            op.new_name,
            lambda: disk.rename(parent, op.name, new_parent, op.new_name, op.flags),
        )
        self._note_moved(op.volume, op.new_parent, op.new_name)
        if op.flags & disk.RENAME_EXCHANGE:
            self._note_moved(op.volume, op.parent, op.name)

    def _note_moved(self, volume: int, parent: int, name: bytes) -> None:
        found = self.objects.place_at(volume, parent, name)
        if found is not None:
            self.objects.moved(volume, *found)
            self._log.moved(volume, *found)

    def _write(self, op: ops.Write) -> None:
        fd = self.objects.writer(op.volume, op.id)
        if self._aside:
            self._aside[op.volume].preserve(fd)
        done = os.pwrite(fd, op.data, op.offset)
        while done < len(op.data):
            done += os.pwrite(fd, op.data[done:], op.offset + done)
        if done >= LARGE_BYTES:
            self._behind.wrote((op.volume, op.id), fd, done)

    def _set_attr(self, op: ops.SetAttr) -> None:
        if op.which & ops.SIZE:
            writer = self.objects.writer(op.volume, op.id)
            if self._aside:
                self._aside[op.volume].preserve(writer)
            os.ftruncate(writer, op.size)
        fd, is_open = self.objects.found(op.volume, op.id)
        if self._aside:
            self._mark_attributes(op, fd)
        if op.which & (ops.UID | ops.GID):
            disk.chown(fd, op.uid if op.which & ops.UID else -1, op.gid if op.which & ops.GID else -1)
        if op.which & ops.MODE:
            os.chmod(fd if is_open else disk.path_of(fd), stat.S_IMODE(op.mode))
        if op.which & (ops.ATIME | ops.MTIME):
            atime = op.atime_ns if op.which & ops.ATIME else None
            disk.set_times(fd, atime, op.mtime_ns if op.which & ops.MTIME else None)

    def _mark_attributes(self, op: ops.SetAttr, fd: int) -> None:
        status = os.stat(fd)
        was = {"mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid}
        told = {"mode": (ops.MODE, stat.S_IMODE(op.mode)), "uid": (ops.UID, op.uid), "gid": (ops.GID, op.gid)}
        if any(op.which & bit and was[name] != value for name, (bit, value) in told.items()):
            self._aside[op.volume].mark(fd, was)

    def _allocate(self, op: ops.Allocate) -> None:
        writer = self.objects.writer(op.volume, op.id)
        if self._aside:
            self._aside[op.volume].preserve(writer)
        disk.allocate(writer, op.mode, op.offset, op.length)

    def _set_xattr(self, op: ops.SetXattr) -> None:
        fd = self.objects.get(op.volume, op.id)
        if self._aside:
            self._mark_xattrs(op.volume, fd)
        disk.set_xattr(fd, op.name, op.value)

    def _remove_xattr(self, op: ops.RemoveXattr) -> None:
        fd = self.objects.get(op.volume, op.id)
        if self._aside:
            self._mark_xattrs(op.volume, fd)
        disk.remove_xattr(fd, op.name)

    def _mark_xattrs(self, volume: int, fd: int) -> None:
        was = {os.fsdecode(name): disk.get_xattr(fd, name).hex() for name in disk.list_xattrs(fd)}
        self._aside[volume].mark(fd, {"xattrs": was})

    def _sync(self, op: ops.Sync) -> Callable[[], None]:
        fds = [self.objects.syncer(op.volume, op.id)]
        try:
            if op.times is not None:
                os.utime(fds[0], ns=op.times)
            for directory in op.directories:
                try:
                    fds.append(self.objects.syncer(op.volume, directory))
                except OSError as fault:
                    if fault.errno not in (*ABSENT, errno.EBADF):
                        raise
                    # It was removed meanwhile, and the file moved out of it before.
        except BaseException:
            _close_all(fds)
            raise
        # fdatasync makes a new size durable too; the names need a full fsync of their directories.
        return functools.partial(_sync_all, fds, op.data_only)

    def _sync_directory(self, op: ops.SyncDirectory) -> Callable[[], None]:
        fd = disk.reopen(self.objects.get(op.volume, op.id), os.O_RDONLY | os.O_DIRECTORY)
        return functools.partial(_sync_all, [fd], False)

    # --- names ---------------------------------------------------------------------------------------------

    def _past_local(self, volume: int, parent: int, name: bytes, deed: Callable[[], None]) -> None:
        do_past_local(self._excluded, volume, self.objects.root(volume), parent, name, deed)

    def _guard(self, parent: int, name: bytes) -> None:
        disk.check_name(name)
        if parent == ops.ROOT and name == ops.HIDDEN:
            raise OSError(errno.EPERM, "the hidden directory is never replicated")

    def _clear(self, volume: int, parent: int, name: bytes) -> int:
        """The parent's descriptor; while copying, nothing is in the way of this name any more."""
        self._guard(parent, name)
        fd = self.objects.get(volume, parent)
        if self.copying:
            self._put_away_if_there(volume, fd, name)
        return fd

    def _put_away_if_there(self, volume: int, parent: int, name: bytes) -> None:
        try:
            self._put_away(volume, parent, name)
        except FileNotFoundError:
            pass  # the name is free

    def _put_away(self, volume: int, parent: int, name: bytes) -> None:
        keys = self._with_other_names(volume, parent, name, ops.ALL)
        while some := list(itertools.islice(keys, KEYS_AT_A_TIME)):
            self._log.before_change(some, self._sequence, self.objects.place_of)
        if self._aside and self._aside[volume].wants(parent, name):
            self._aside[volume].move(parent, name)
        else:
            remove_tree(parent, name)

    def _keys(self, op: Sent) -> list[Key]:
        """What this operation makes different, in this node's own inode numbers."""
        volume = op.volume
        match op:
            case ops.Write():
                first = op.offset // ops.EXTENT_BYTES
                last = max(op.offset + len(op.data) - 1, op.offset) // ops.EXTENT_BYTES
                return [self.objects.key(volume, op.id, ops.DATA, at) for at in range(first, last + 1)]
            case ops.Allocate():
                return [self.objects.key(volume, op.id, ops.DATA, ops.WHOLE)]
            case ops.SetAttr():
                resized = (
                    [self.objects.key(volume, op.id, ops.DATA, ops.WHOLE)] if op.which & ops.SIZE else []
                )
                return [self.objects.key(volume, op.id, ops.ATTRIBUTES), *resized]
            case ops.SetXattr() | ops.RemoveXattr() | ops.Sync(times=(_, _)):
                return [self.objects.key(volume, op.id, ops.ATTRIBUTES)]
            case ops.Rename():
                return self._renamed(op)
            case ops.Link():
                linked = ops.whole_key(volume, os.fstat(self.objects.get(volume, op.id)))
                return [self.objects.key(volume, op.parent, ops.NAMES), linked]
            case ops.Unlink() if not self.copying:
                above = self.objects.inode(volume, op.parent)
                what = ops.ALL if self._log.folded(volume, above) else ops.ATTRIBUTES
                stays = self._with_other_names(volume, self.objects.get(volume, op.parent), op.name, what)
                return [self.objects.key(volume, op.parent, ops.NAMES), *stays]
            case ops.Create() | ops.Mkdir() | ops.Symlink() | ops.Rmdir() | ops.Unlink() | Remove():
                return [self.objects.key(volume, op.parent, ops.NAMES)]
            case _:
                return []

    def _with_other_names(self, volume: int, parent: int, name: bytes, what: int) -> Iterator[Key]:
        """What outlives this name, or one below it: without an entry its time of change would be nobody's.

        And where an entry of the directory may have stood for its own, all of it.
        """
        disk.check_name(name)
        for inode in quarantine.with_other_names(parent, name):
            self._loses_a_name(volume, inode)
            yield (volume, inode, what, 0)

    def _loses_a_name(self, volume: int, inode: int) -> None:
        self.objects.loses_a_name(volume, inode)
        self._log.moved(volume, inode, None)

    def _place_of(self, op: Sent, volume: int, inode: int) -> Place | None:
        """Where an object is that this operation is about to change."""
        known = self.objects.place_of(volume, inode)
        if known is not None or not isinstance(op, ops.Rename):
            return known
        for parent, name in ((op.parent, op.name), (op.new_parent, op.new_name)):
            found = self.objects.place_at(volume, parent, name)
            if found is not None and found[0] == inode:
                return found[1]
        return None

    def _renamed(self, op: ops.Rename) -> list[Key]:
        moved = []
        for id, name in ((op.parent, op.name), (op.new_parent, op.new_name)):
            directory = self.objects.get(op.volume, id)
            moved.append(self.objects.key(op.volume, id, ops.NAMES))
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                continue  # the new name is free
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                self._loses_a_name(op.volume, status.st_ino)
            moved.append(ops.whole_key(op.volume, status))
        return moved


# What a copy in progress explains: not here yet, or in the way of each other.
_PASSED_OVER: Final = frozenset(
    {
        errno.ENOENT,
        errno.ESTALE,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ENODATA,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENXIO,
        errno.EBADF,
    }
)

_DO: Final[dict[type[Any], Callable[[Applier, Any], Callable[[], None] | None]]] = {
    ops.Bind: Applier._bind,
    ops.Unbind: Applier._unbind,
    ops.Create: Applier._create,
    ops.Mkdir: Applier._mkdir,
    ops.Symlink: Applier._symlink,
    ops.Link: Applier._link,
    ops.Unlink: Applier._unlink,
    ops.Rmdir: Applier._rmdir,
    ops.Rename: Applier._rename,
    ops.Write: Applier._write,
    ops.SetAttr: Applier._set_attr,
    ops.Allocate: Applier._allocate,
    ops.SetXattr: Applier._set_xattr,
    ops.RemoveXattr: Applier._remove_xattr,
    ops.Sync: Applier._sync,
    ops.SyncDirectory: Applier._sync_directory,
    Remove: Applier._remove,
}


def _sync_all(fds: list[int], data_only: bool) -> None:
    try:
        for number, fd in enumerate(fds):
            if data_only and number == 0:
                disk.fdatasync(fd)
            else:
                disk.fsync(fd)
    finally:
        _close_all(fds)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
