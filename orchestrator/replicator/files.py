"""One replicated directory as the kernel sees it: the mount, its modes, and the table of what it answers."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from orchestrator.host import disk
from orchestrator.host.fuse import mount, wire
from orchestrator.host.fuse.session import Caller, Handler, Session, Wishes
from orchestrator.mirror.differ import Place
from orchestrator.model.choice import Choice
from orchestrator.model.errors import Unsupported
from orchestrator.replicator.handles import Node, Table
from orchestrator.replicator.ops import HIDDEN, ROOT, Outlet
from orchestrator.replicator.settings import VolumeSettings
from orchestrator.replicator.volume import Mode
from orchestrator.replicator.xattrs import ExtendedAttributes

_SETTLE_S = 1.0  # how late times may reach the other node; durable points take them along at once
_DESCRIPTORS_MAX = 10_000  # kept open beside the application's: each holds an inode in the kernel's memory
Op = wire.Op


class Files(ExtendedAttributes):
    """Serves one directory: `start`, then `open_writes`, `close_writes` or `follow`, at last `stop`."""

    def __init__(
        self,
        number: int,
        settings: VolumeSettings,
        fds: tuple[int, int, int],
        outlet: Outlet,
        writeback: bool,
    ) -> None:
        """`fds`: the device, the directory O_PATH, the directory for reading; all opened before the mount."""
        device, root, readable = fds
        self.path = settings.path
        self._readable = readable
        # Half of what the process may open: the other half is for the application's open files and sockets.
        descriptors_max = min(_DESCRIPTORS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        table = Table(readable, settings.journal, descriptors_max)
        choice = Choice(settings.exclude, settings.only)
        super().__init__(number, root, table, outlet, choice, writeback)
        self._add_root()
        self._session = Session(
            device, self._handlers(), Wishes(writeback), self._started, table.keep, self._begun, self.fault
        )
        self._device = device
        self._ended = threading.Event()
        self._settling = threading.Thread(target=self._settle_loop, name="settle", daemon=True)
        self.reply = self._session.reply
        self.widen = self._session.widen
        self.forget_attributes = self._session.forget_attributes

    def _add_root(self) -> None:
        self.table.load()
        try:
            key = disk.handle_of(self.root_fd, b"")
        except OSError as fault:
            raise Unsupported(
                what=f"the file system of {self.path}",
                why=f"no file handles ({fault.strerror})",
                fix="use ext4 or XFS",
            ) from fault
        status = os.fstat(self.root_fd)
        self.table.add(key, status.st_ino, stat.S_IFDIR, False)

    def _handlers(self) -> dict[int, Handler]:
        return {
            Op.LOOKUP: self.lookup,
            Op.FORGET: self.forget,
            Op.BATCH_FORGET: self.forget_many,
            Op.GETATTR: self.get_attributes,
            Op.SETATTR: self.set_attributes,
            Op.READLINK: self.readlink,
            Op.SYMLINK: self._once(self.symlink),
            Op.MKNOD: self._once(self.mknod),
            Op.MKDIR: self._once(self.mkdir),
            Op.UNLINK: self._once(self.unlink),
            Op.RMDIR: self._once(self.rmdir),
            Op.RENAME: self._once(self.rename),
            Op.RENAME2: self._once(self.rename2),
            Op.LINK: self._once(self.link),
            Op.CREATE: self._once(self.create),
            Op.TMPFILE: self._once(self.tmpfile),
            Op.OPEN: self._once(self.open),
            Op.OPENDIR: self._once(self.open_directory),
            Op.READ: self.read,
            Op.WRITE: self.write,
            Op.STATFS: self.statfs,
            Op.RELEASE: self.release,
            Op.RELEASEDIR: self.release,
            Op.FSYNC: self.fsync,
            Op.FSYNCDIR: self.fsync_directory,
            Op.SETXATTR: self.set_xattr,
            Op.GETXATTR: self.get_xattr,
            Op.LISTXATTR: self.list_xattrs,
            Op.REMOVEXATTR: self.remove_xattr,
            Op.FALLOCATE: self.allocate,
            Op.LSEEK: self.seek,
            Op.READDIR: self.read_directory,
            Op.READDIRPLUS: self.read_directory_plus,
        }

    def _once(self, handler: Callable[[Caller, int, memoryview], bytes]) -> Handler:
        """What must not run twice: the reply is noted before it is given, and given again if asked again."""

        def handle(caller: Caller, number: int, body: memoryview) -> bytes:
            unique = caller.unique & ~wire.RESENT
            if caller.unique & wire.RESENT and unique in self.table.outcomes:
                return self.table.outcomes[unique]
            answer = handler(caller, number, body)
            with self.names:
                self.table.note_outcome(unique, answer)
            return answer

        return handle

    # --- life -------------------------------------------------------------------------------------------

    @property
    def resumes(self) -> bool:
        """An earlier process of this keeper has mounted and begun."""
        return self.table.started

    def start(self, mode: Mode = Mode.READ_ONLY) -> None:
        """Serve in this mode; mount if no earlier process of this keeper did."""
        resume = self.resumes
        self.has_served = resume  # for all that is known
        self.mode = mode
        self.start_syncers()
        if resume:
            with self.names:
                self.settle_refuges()
        else:
            mount.mount(self._device, self.path, os.fstatvfs(self._readable).f_flag)
        self._session.start(resume)
        self._settling.start()

    def _started(self) -> None:
        with self.names:
            self.table.note_started()

    def _begun(self) -> None:
        # Only now: the kernel sets its own bound when it takes the answer to INIT.
        mount.raise_read_ahead(self.path)

    def _settle_loop(self) -> None:
        while not self._ended.is_set():
            self._any_touched.wait()
            self._ended.wait(_SETTLE_S)
            self._any_touched.clear()
            self.settle_all()

    def forget_followed(self) -> None:
        """What the kernel cached while others changed the tree is dropped, before changes are let in."""
        self.settle_refuges()
        self._forget_cached()

    def open_writes(self) -> None:
        """Let changes in, at once."""
        assert not self.failed
        self.has_served = True
        self.mode = Mode.OPEN

    def close_writes(self) -> None:
        """Answer every new change with EIO; when this returns, all that were let in are emitted."""
        if self.mode is Mode.OPEN:
            self.settle_all()
        self.refuse_writes()
        self.barrier()

    def refuse_writes(self) -> None:
        """Answer every new change with EIO, at once; what was let in before may still be on its way."""
        self.mode = Mode.CLOSED

    def refuse_all(self) -> None:
        """Answer everything that waits with EIO, also what waits for a disk that does not answer."""
        self._session.refuse_all()

    def follow(self) -> None:
        """Read-only, and nothing cached."""
        self.mode = Mode.READ_ONLY
        self.barrier()
        self._forget_cached()

    def _forget_cached(self) -> None:
        with self.names:
            numbers = list(self.table.nodes)
            for node in self.table.nodes.values():
                node.lacks_capability = False  # others may have changed it, or will
        for number in numbers:
            self._session.forget_inode(number)

    @property
    def plain(self) -> int:
        """A descriptor, not O_PATH, of the directory below the mount."""
        return self._readable

    def sync_volume(self) -> None:
        """All of the file system below is on its disk, or OSError (R10)."""
        disk.sync_filesystem(self._readable)

    def stop(self) -> None:
        """Uncover the directory; what is still open keeps working until the device is closed."""
        self._ended.set()
        self._any_touched.set()
        mount.uncover(self.path)
        self._session.join(1.0)  # ends at once unless a file is still open; then the process's end cuts it
        with self.names:
            self.table.forget_journal()

    # --- opening what is no named file ---------------------------------------------------------------------

    def tmpfile(self, caller: Caller, number: int, body: memoryview) -> bytes:
        """O_TMPFILE: a file in this directory without a name in it."""
        flags, mode, mask, _ = wire.CREATE_IN.unpack_from(body)
        self.apply_umask(mask)
        how = (self._access(flags) & ~os.O_EXCL) | os.O_TMPFILE | os.O_CLOEXEC
        parent = self.node(number)
        with self.names, parent as fd:
            self.check_open(caller, parent)
            with disk.Acting(caller.uid, caller.gid):
                own = os.open(disk.path_of(fd), how, mode & 0o7777)
            try:
                status = os.fstat(own)
                node = self.table.add(disk.handle_of(own, b""), status.st_ino, stat.S_IFREG, True)
                self.give_refuge(node, own)
            except BaseException:
                os.close(own)
                raise
            file = self.table.open_file(node, self._access(flags) | (flags & os.O_SYNC), own)
            return self.entry(node, status) + self._open_reply(file)

    # --- directories ------------------------------------------------------------------------------------

    def open_directory(self, caller: Caller, number: int, body: memoryview) -> bytes:
        node = self.node(number)
        with node as fd:
            own = disk.reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
        with self.names:
            file = self.table.open_file(node, os.O_RDONLY | os.O_DIRECTORY, own)
        return wire.OPEN_OUT.pack(file.number, 0, 0)

    def _entries(self, body: memoryview) -> tuple[Node, int, list[tuple[int, int, int, bytes]]]:
        handle, offset, size, *_ = wire.IO_IN.unpack_from(body)
        file = self.file(handle)
        with file.lock:
            found = disk.read_directory(file.fd, offset, max(size, 4096))
        hidden = file.node.id == ROOT
        return file.node, size, [entry for entry in found if not (hidden and entry[3] == HIDDEN)]

    def read_directory(self, caller: Caller, number: int, body: memoryview) -> bytes:
        _, size, entries = self._entries(body)
        out = bytearray()
        for inode, position, kind, name in entries:
            record = _dirent(inode, position, kind, name)
            if len(out) + len(record) > size:
                break
            out += record
        return bytes(out)

    def read_directory_plus(self, caller: Caller, number: int, body: memoryview) -> bytes:
        directory, size, entries = self._entries(body)
        out = bytearray()
        with self.names, directory as fd:
            for inode, position, kind, name in entries:
                record = _dirent(inode, position, kind, name)
                if len(out) + _ENTRY_BYTES + len(record) > size:
                    break
                out += self._entry_of(directory, fd, name) + record
        return bytes(out)

    def _entry_of(self, directory: Node, fd: int, name: bytes) -> bytes:
        if name in (b".", b".."):
            return bytes(_ENTRY_BYTES)
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            return self.entry(self.find(directory, fd, name, status), status)
        except FileNotFoundError:
            return bytes(_ENTRY_BYTES)  # node 0: the kernel takes the name alone

    def statfs(self, caller: Caller, number: int, body: memoryview) -> bytes:
        status = os.fstatvfs(self._readable)
        return wire.STATFS_OUT.pack(
            status.f_blocks,
            status.f_bfree,
            status.f_bavail,
            status.f_files,
            status.f_ffree,
            status.f_bsize,
            status.f_namemax,
            status.f_frsize,
            0,
        )

    # --- what a copy needs (ops.Tree) -------------------------------------------------------------------

    def object(self, inode: int) -> AbstractContextManager[object]:
        return self.stripe(inode)

    def id_of(self, inode: int) -> int | None:
        node = self.table.by_inode.get(inode)
        if node is None or node.local:
            return None
        self.bind(node)
        return node.id


class Trees:
    """All replicated directories of a mirror, as `ops.Tree`."""

    def __init__(self, volumes: list[Files]) -> None:
        self._volumes = volumes

    def root(self, volume: int) -> int:
        return self._volumes[volume].root_fd

    def namespace(self, volume: int) -> AbstractContextManager[object]:
        return self._volumes[volume].names

    def object(self, volume: int, inode: int) -> AbstractContextManager[object]:
        return self._volumes[volume].object(inode)

    def id_of(self, volume: int, inode: int) -> int | None:
        return self._volumes[volume].id_of(inode)

    def place_of(self, volume: int, inode: int) -> Place | None:
        return self._volumes[volume].table.place_of(inode)

    def new_id(self, volume: int) -> int:
        with self._volumes[volume].names:
            return self._volumes[volume].table.new_id()


_ENTRY_BYTES = wire.ENTRY.size + wire.ATTR.size


def _dirent(inode: int, position: int, kind: int, name: bytes) -> bytes:
    return wire.DIRENT.pack(inode, position, len(name), kind) + name + bytes(-len(name) % 8)
