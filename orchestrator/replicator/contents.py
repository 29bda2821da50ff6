"""Data and attributes: reading, writing, truncating, syncing; first locally, then on the stream."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from orchestrator.host import disk
from orchestrator.host.fuse import wire
from orchestrator.host.fuse.session import NO_REPLY, READERS, Caller
from orchestrator.replicator import codec, ops
from orchestrator.replicator.behind import LARGE_BYTES, WriteBehind
from orchestrator.replicator.handles import Node, OpenFile
from orchestrator.replicator.namespace import Namespace, text
from orchestrator.replicator.volume import Mode, refusal
from orchestrator.replicator.workers import Workers

_SYNCERS: Final = 8  # each waits for the disk in turn; the disk groups what comes together
_TIMES_S: Final = 0.1
"""The times of a file that is synced more often go along with a sync only so often, and between two of them a
moment later: looking at them costs a commit of the journal with the next sync, on both disks."""
_SYNCS_INLINE: Final = READERS - 1  # threads of the session that may wait for a disk: one reads on
_ACCESS = os.O_ACCMODE
_SPECIAL = stat.S_ISUID | stat.S_ISGID

T = TypeVar("T")


class Durable:
    """One held request: whoever finishes last, this disk or the others', answers it."""

    __slots__ = ("_answer", "_body", "_error", "_lock", "_waits")

    def __init__(self, answer: Callable[[int, bytes], None], body: bytes) -> None:
        self._answer, self._body = answer, body
        self._lock = threading.Lock()
        self._waits, self._error = 2, 0

    def done(self, error: int) -> None:
        with self._lock:
            self._waits -= 1
            self._error = self._error or error
            if self._waits:
                return
        self._answer(self._error, self._body)


class Contents(Namespace):
    """The operations on data and attributes."""

    reply: Callable[[int, int, bytes], None]
    forget_attributes: Callable[[int], None]
    widen: Callable[[], None]
    """What is served now takes long: other threads serve meanwhile."""

    def start_syncers(self) -> None:
        self._syncers = Workers(_SYNCERS, "sync")
        self._behind = WriteBehind()
        self._inline = list(range(_SYNCS_INLINE))
        """Leave for one thread each: taken and given back in one step, a semaphore takes a dozen calls."""

    # --- opening ----------------------------------------------------------------------------------------

    def file(self, number: int) -> OpenFile:
        file = self.table.files.get(number)
        if file is None:
            raise refusal(errno.EBADF)
        return file

    def open(self, caller: Caller, number: int, body: memoryview) -> bytes:
        node = self.node(number)
        flags = wire.OPEN_IN.unpack_from(body)[0]
        if flags & _ACCESS != os.O_RDONLY:
            self.check_open(caller, node)
        own = self._reopen(node, flags)
        with self.names:
            file = self.table.open_file(node, self._access(flags) | (flags & os.O_SYNC), own)
        return self._open_reply(file)

    def _access(self, flags: int) -> int:
        access = flags & _ACCESS
        if self.writeback and access == os.O_WRONLY:
            return os.O_RDWR  # the kernel fills its pages by reading
        return access

    def _reopen(self, node: Node, flags: int) -> int:
        with node as fd:
            return disk.reopen(fd, self._access(flags))

    def _open_reply(self, file: OpenFile) -> bytes:
        # A follower's data changes beneath the kernel: nothing of it may stay in the page cache.
        how = wire.FOPEN_KEEP_CACHE if self.mode is Mode.OPEN else wire.FOPEN_DIRECT_IO
        return wire.OPEN_OUT.pack(file.number, how, 0)

    def create(self, caller: Caller, number: int, body: memoryview) -> bytes:
        flags, mode, mask, _ = wire.CREATE_IN.unpack_from(body)
        name = text(body, 16)
        self.apply_umask(mask)
        how = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | self._access(flags)
        made: list[int] = []

        def act(fd: int) -> None:
            made.append(os.open(name, how, mode & 0o7777, dir_fd=fd))

        with self.names:
            try:
                node, status = self.make_node(caller, number, name, act, opened=made)
                own = made.pop() if made else self._reopen(node, flags)
            finally:
                for fd in made:
                    os.close(fd)
            file = self.table.open_file(node, self._access(flags) | (flags & os.O_SYNC), own)
            return self.entry(node, status) + self._open_reply(file)

    def release(self, caller: Caller, number: int, body: memoryview) -> bytes:
        file = self.file(wire.RELEASE_IN.unpack_from(body)[0])
        if self.mode is Mode.OPEN and not file.node.is_directory:
            self.settle(file.node, file.fd)
        with self.names:
            node = self.table.close_file(file.number)
            if node.orphan and not node.opens:
                self.remove_orphan(node)
            if node.lookups <= 0 and self.table.count_down(node, 0):
                self.dropped(node)
        return b""

    # --- data -------------------------------------------------------------------------------------------

    def read(self, caller: Caller, number: int, body: memoryview) -> memoryview:
        handle, offset, size, *_ = wire.IO_IN.unpack_from(body)
        fd, room = self.file(handle).fd, caller.room[:size]
        if size < LARGE_BYTES:
            try:
                if os.preadv(fd, [room], offset, os.RWF_NOWAIT) == size:
                    return room
            except OSError as fault:
                if fault.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                    raise
        self.widen()  # some of it is not in memory, or it is much to copy
        return caller.room[: os.preadv(fd, [room], offset)]

    def write(self, caller: Caller, number: int, body: memoryview) -> bytes:
        handle, offset, size, how, *_ = wire.IO_IN.unpack_from(body)
        file = self.file(handle)
        node = file.node
        data = bytes(body[40 : 40 + size])
        if size >= LARGE_BYTES:
            self.widen()
        self.outlet.before_change(self.data_keys(node, offset, offset + size), ())
        sequence = 0
        with self.ordered(caller, node):
            # Looked at before: a write as the caller itself ends setuid, and the others must hear of it.
            loses = how & wire.WRITE_KILL_PRIVILEGES and self._is_special(node, file.fd)
            written = self._pwrite(file, data, offset, caller)
            if written >= LARGE_BYTES:
                self._behind.wrote(node.inode, file.fd, written)
            if not node.local:
                if written < size:
                    data = data[:written]
                # Where a sync follows, as in a database, the two leave together: one way through the wire.
                self.send(ops.Write(self.number, node.id, offset, data))
                self.touch(node)
            if loses:
                self._strip_privileges(node)
            if file.flags & os.O_SYNC and not node.local:
                sequence = self._send_sync(node, True, file.fd)
        answer = wire.WRITE_OUT.pack(written, 0)
        if file.flags & os.O_SYNC:
            self._make_durable(caller.unique, file.fd, node, sequence, disk.fsync, answer)
            return NO_REPLY
        return answer

    def _is_special(self, node: Node, fd: int) -> bool:
        """Whether it is setuid or setgid. Held: the stripe.

        Looked at once: the kernel gives the next change of a file whose times were looked at a time of its
        own, and a sync then costs a commit of the journal.
        """
        binding = self.outlet.binding
        if node.plain_in == binding:
            return False
        special = bool(os.fstat(fd).st_mode & _SPECIAL)
        node.plain_in = 0 if special else binding
        return special

    def _pwrite(self, file: OpenFile, data: bytes, offset: int, caller: Caller) -> int:
        if not caller.uid:
            return os.pwrite(file.fd, data, offset)
        return self._as_caller(caller, os.pwrite, file.fd, data, offset)

    @staticmethod
    def _as_caller(caller: Caller, act: Callable[..., T], *arguments: Any) -> T:
        """On an open file, where no right is asked for: what it costs is the caller's, and setuid ends."""
        if caller.uid:
            disk.become_for_files(caller.uid, caller.gid)
        try:
            return act(*arguments)
        finally:
            if caller.uid:
                disk.become_for_files(0, 0)

    def _strip_privileges(self, node: Node) -> None:
        """What write(2) does for a caller without privileges: setuid and setgid end. Held: the stripe."""
        with node as fd:
            mode = os.fstat(fd).st_mode
        self.strip(node, stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))

    def strip(self, node: Node, bits: int) -> None:
        with node as fd:
            mode = os.fstat(fd).st_mode
            kept = stat.S_IMODE(mode & ~bits)
            if mode & bits:
                os.chmod(disk.path_of(fd), kept)
            self.forget_attributes(node.id)  # the kernel leaves this to us, and does not look
            if not node.local:
                self.send(ops.SetAttr(self.number, node.id, ops.MODE, mode=kept))

    def allocate(self, caller: Caller, number: int, body: memoryview) -> bytes:
        handle, offset, length, mode, _ = wire.FALLOCATE_IN.unpack_from(body)
        if mode not in disk.ALLOCATE_MODES:
            raise refusal(errno.EOPNOTSUPP)
        file = self.file(handle)
        node = file.node
        self.outlet.before_change(self.data_keys(node, offset, offset + length), ())
        with self.ordered(caller, node):
            before = os.fstat(file.fd)
            try:
                self._as_caller(caller, disk.allocate, file.fd, mode, offset, length)
            except OSError:
                self._tell_grown(node, before, file.fd)
                raise
            if not node.local:
                self.send(ops.Allocate(self.number, node.id, mode, offset, length))
                self.touch(node)
            if caller.uid and before.st_mode & _SPECIAL:
                self._strip_privileges(node)
        return b""

    def _tell_grown(self, node: Node, before: os.stat_result, fd: int) -> None:
        """A full disk ended it half-way: the file is longer, and the caller hears of an error only."""
        size = os.fstat(fd).st_size
        if size != before.st_size and not node.local:
            self.send(ops.SetAttr(self.number, node.id, ops.SIZE, size=size))
            self.touch(node)

    def seek(self, caller: Caller, number: int, body: memoryview) -> bytes:
        if self.writeback:
            # The kernel asks before it writes back: what it holds would be told as a hole, and `cp` would
            # skip it. Now it asks no more, and takes each file for data from its beginning to its end.
            raise refusal(errno.ENOSYS)
        handle, offset, whence, _ = wire.LSEEK_IN.unpack_from(body)
        file = self.file(handle)
        with file.lock:
            return os.lseek(file.fd, offset, whence).to_bytes(8, "little")

    # --- durable points ---------------------------------------------------------------------------------

    def fsync(self, caller: Caller, number: int, body: memoryview) -> bytes:
        handle, flags, _ = wire.FSYNC_IN.unpack_from(body)
        file = self.file(handle)
        node = file.node
        if self.mode is Mode.READ_ONLY:
            return self._sync_of_a_follower(file)
        sequence = 0
        data_only = bool(flags & wire.FSYNC_DATA_ONLY)
        with self.ordered(caller, node):
            if not node.local:
                sequence = self._send_sync(node, data_only, file.fd)
        sync = disk.fdatasync if data_only else disk.fsync
        self._make_durable(caller.unique, file.fd, node, sequence, sync, b"")
        return NO_REPLY

    def fsync_directory(self, caller: Caller, number: int, body: memoryview) -> bytes:
        file = self.file(wire.FSYNC_IN.unpack_from(body)[0])
        if self.mode is Mode.READ_ONLY:
            return self._sync_of_a_follower(file)
        self.settle(file.node, file.fd)
        sequence = 0
        with self.ordered(caller, file.node):
            if not file.node.local:
                sequence = self.send(ops.SyncDirectory(self.number, file.node.id), hurried=True)
        self._make_durable(caller.unique, file.fd, file.node, sequence, disk.fsync, b"")
        return NO_REPLY

    def _sync_of_a_follower(self, file: OpenFile) -> bytes:
        """Nothing is written here, and a sync waits for nothing but what was written in an earlier reign.

        Whoever wrote that must not hear now that it is safe: the others may never have got it.
        """
        if self.has_served:
            raise refusal(errno.EIO)
        disk.fsync(file.fd)
        return b""

    def _send_sync(self, node: Node, data_only: bool, fd: int) -> int:
        """Say that this is to be durable now; the number of the point. Held: the stripe."""
        directories: tuple[int, ...] = ()
        if node.fresh_names:
            directories = tuple(up for up in node.fresh_names if self._is_bound(up))
            node.fresh_names = set()
        while len(directories) > codec.DIRECTORIES_MAX:
            some, directories = directories[: codec.DIRECTORIES_MAX], directories[codec.DIRECTORIES_MAX :]
            self.send(ops.Sync(self.number, node.id, data_only, some))
        times = None
        now = time.monotonic()
        if not data_only and now >= node.timed_at + _TIMES_S and self.untouch(node):
            status = os.fstat(fd)
            times, node.timed_at = (status.st_atime_ns, status.st_mtime_ns), now
        return self.send(ops.Sync(self.number, node.id, data_only, directories, times), hurried=True)

    def _is_bound(self, number: int) -> bool:
        node = self.table.nodes.get(number)
        return node is not None and node.bound == self.outlet.binding and not node.local

    def _make_durable(
        self, unique: int, fd: int, node: Node, sequence: int, sync: Callable[[int], None], body: bytes
    ) -> None:
        held = Durable(lambda error, answer: self.reply(unique, error, b"" if error else answer), body)

        def sync_here() -> None:
            error = 0
            try:
                sync(fd)  # which stays open: the kernel closes no file that is asked for something
            except OSError as fault:
                self.fault(fault)
                error = fault.errno or errno.EIO
            if not (error or node.local):
                self.outlet.synced(sequence)
            held.done(error or (errno.EIO if self.failed else 0))  # never believed after one failure

        if node.local:
            held.done(0)
        else:
            self.outlet.hurry()
            self.outlet.when_durable(sequence, held.done)
        # A thread that waits here saves the way to another one and back; the last reader never does.
        try:
            leave = self._inline.pop()
        except IndexError:
            self._syncers.put(sync_here)
            return
        self.widen()
        try:
            sync_here()
        finally:
            self._inline.append(leave)

    # --- attributes -------------------------------------------------------------------------------------

    def get_attributes(self, caller: Caller, number: int, body: memoryview) -> bytes:
        node = self.node(number)
        with node as fd:
            return self._attr_reply(node, os.fstat(fd))

    def _attr_reply(self, node: Node, status: os.stat_result) -> bytes:
        return wire.ATTR_OUT.pack(self.cached_s, 0, 0) + self.attributes(node, status)

    def ordered(self, caller: Caller, node: Node) -> Ordered:
        return Ordered(self, caller, node)

    def set_attributes(self, caller: Caller, number: int, body: memoryview) -> bytes:
        fields = wire.SETATTR_IN.unpack_from(body)
        valid, handle, size = fields[0], fields[2], fields[3]
        node = self.node(number)
        keys = [self.key(node, ops.ATTRIBUTES)]
        if valid & wire.FATTR_SIZE:
            with node as fd:
                keys = self.data_keys(node, *sorted((size, os.fstat(fd).st_size)))
        self.outlet.before_change(keys, ())
        with self.ordered(caller, node), node as fd:
            node.plain_in = 0
            # Of one with a capability even a change of owner that changes nothing takes that away.
            is_owner = node.lacks_capability and valid & (wire.FATTR_UID | wire.FATTR_GID)
            before = os.fstat(fd) if is_owner else None
            which = self._set_locally(caller, node, fd, fields, valid, handle, size)
            status = os.fstat(fd)
            if before is not None and _same_owner(before, status):
                which &= ~(ops.UID | ops.GID | ops.MODE)  # as when root unpacks: nothing to tell
            if which and not node.local:
                if self.untouch(node):
                    which |= ops.ATIME | ops.MTIME  # they travel along, and not once more by themselves
                self._tell_attributes(node, which, status)
        return self._attr_reply(node, status)

    def _set_locally(
        self, caller: Caller, node: Node, fd: int, fields: tuple[int, ...], valid: int, handle: int, size: int
    ) -> int:
        """Size, owner, mode, times, in this order: a change of owner clears bits that the mode sets."""
        which = 0
        path = disk.path_of(fd)
        if valid & wire.FATTR_SIZE:
            os.truncate(self.file(handle).fd if valid & wire.FATTR_FH else path, size)
            which |= ops.SIZE | ops.MTIME
            if valid & wire.FATTR_KILL:
                self._strip_privileges(node)
        if valid & (wire.FATTR_UID | wire.FATTR_GID):
            uid = fields[13] if valid & wire.FATTR_UID else -1
            gid = fields[14] if valid & wire.FATTR_GID else -1
            disk.chown(fd, uid, gid)
            which |= ops.UID | ops.GID | (0 if stat.S_ISLNK(node.kind) else ops.MODE)
        if valid & wire.FATTR_MODE and not stat.S_ISLNK(node.kind):
            os.chmod(path, stat.S_IMODE(fields[11]))
            which |= ops.MODE
        if valid & (wire.FATTR_ATIME | wire.FATTR_MTIME):
            which |= self._set_times(fd, valid, fields)
        return which

    def _set_times(self, fd: int, valid: int, fields: tuple[int, ...]) -> int:
        now = time.time_ns()
        atime = mtime = None
        if valid & wire.FATTR_ATIME:
            atime = now if valid & wire.FATTR_ATIME_NOW else _nanoseconds(fields[5], fields[8])
        if valid & wire.FATTR_MTIME:
            mtime = now if valid & wire.FATTR_MTIME_NOW else _nanoseconds(fields[6], fields[9])
        disk.set_times(fd, atime, mtime)
        return (ops.ATIME if atime is not None else 0) | (ops.MTIME if mtime is not None else 0)

    def _tell_attributes(self, node: Node, which: int, status: os.stat_result) -> None:
        self.send(
            ops.SetAttr(
                self.number,
                node.id,
                which,
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_size,
                status.st_atime_ns,
                status.st_mtime_ns,
            )
        )


class Ordered:
    """Bound, under the object's lock and with the gate open: what follows is in the stream's order."""

    __slots__ = ("_caller", "_lock", "_node", "_volume")

    def __init__(self, volume: Contents, caller: Caller, node: Node) -> None:
        self._volume, self._caller, self._node = volume, caller, node
        self._lock = volume.stripe(node.inode)

    def __enter__(self) -> None:
        while True:
            if not self._volume.bound(self._node):
                with self._volume.names:
                    self._volume.bind(self._node)
            self._lock.__enter__()
            try:
                self._volume.check_open(self._caller, self._node)
                if self._volume.bound(self._node):
                    return
            except BaseException:
                self._lock.__exit__(None, None, None)
                raise
            self._lock.__exit__(None, None, None)

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__(None, None, None)


def _same_owner(one: os.stat_result, other: os.stat_result) -> bool:
    """Owner, group and rights are the same."""
    return one.st_mode == other.st_mode and one.st_uid == other.st_uid and one.st_gid == other.st_gid


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    signed = seconds - (1 << 64) if seconds >> 63 else seconds  # before 1970
    return signed * 10**9 + nanoseconds
