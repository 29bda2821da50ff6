"""Names: looking up, making, linking, renaming, removing; each change locally first, then on the stream."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from orchestrator.host import disk
from orchestrator.host.fuse import wire
from orchestrator.host.fuse.session import NO_REPLY, Caller
from orchestrator.replicator import ops
from orchestrator.replicator.handles import CAPABILITY, Node
from orchestrator.replicator.ops import ChangeKey
from orchestrator.replicator.trees import join
from orchestrator.replicator.unnamed import Unnamed
from orchestrator.replicator.volume import Mode, refusal


def text(body: memoryview, start: int = 0) -> bytes:
    """The NUL-terminated name at the end of a request."""
    return bytes(body[start:]).split(b"\0", 1)[0]


class Namespace(Unnamed):
    """The operations on names."""

    # --- reading ----------------------------------------------------------------------------------------

    def lookup(self, caller: Caller, number: int, body: memoryview) -> bytes:
        parent, name = self.node(number), text(body)
        self.check_visible(parent, name, errno.ENOENT)
        with self.names, parent as fd:
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                if not self.cached_s:
                    raise
                return wire.ENTRY.pack(0, 0, self.cached_s, 0, 0, 0) + bytes(wire.ATTR.size)
            return self.entry(self.find(parent, fd, name, status), status)

    def forget(self, caller: Caller, number: int, body: memoryview) -> bytes:
        self._forget(number, wire.ID_IN.unpack_from(body)[0])
        return NO_REPLY

    def forget_many(self, caller: Caller, number: int, body: memoryview) -> bytes:
        count = wire.XATTR_IN.unpack_from(body)[0]
        for index in range(count):
            self._forget(*wire.FORGET_ONE.unpack_from(body, 8 + 16 * index))
        return NO_REPLY

    def _forget(self, number: int, times: int) -> None:
        with self.names:
            node = self.table.nodes.get(number)
            if node is None:
                return
            if node.lookups <= times and not node.opens:
                self.settle_if_there(node)  # nobody would know it any more when its times' turn came
            if self.table.count_down(node, times):
                self.dropped(node)

    def dropped(self, node: Node) -> None:
        """The kernel knows it no more. Held: the namespace lock."""
        if node.orphan:
            self.remove_orphan(node)
        if node.bound == self.outlet.binding and not node.local and self.mode is Mode.OPEN:
            self.send(ops.Unbind(self.number, node.id))

    def readlink(self, caller: Caller, number: int, body: memoryview) -> bytes:
        with self.node(number) as fd:
            return os.readlink(b"", dir_fd=fd)

    # --- making -----------------------------------------------------------------------------------------

    def make(
        self,
        caller: Caller,
        number: int,
        name: bytes,
        act: Callable[[int], None],
        target: bytes | None = None,
    ) -> bytes:
        """Make one object by `act(parent descriptor)` as the caller, tell the stream; its entry."""
        node, status = self.make_node(caller, number, name, act, target)
        with self.names:
            return self.entry(node, status)

    def make_node(
        self,
        caller: Caller,
        number: int,
        name: bytes,
        act: Callable[[int], None],
        target: bytes | None = None,
        opened: Sequence[int] = (),
    ) -> tuple[Node, os.stat_result]:
        """`opened`: where `act` puts a descriptor of what it made, if it keeps one."""
        parent = self.node(number)
        disk.check_name(name)
        self.check_visible(parent, name, errno.EPERM)
        named = self.named(parent, name)
        self.before(self.key(parent, ops.NAMES), self.key(parent, ops.ATTRIBUTES), names=(named,))
        with self.names, parent as fd:
            self.check_open(caller, parent)
            self.bind(parent)
            try:
                with disk.Acting(caller.uid, caller.gid):
                    act(fd)
            except FileExistsError:
                if not caller.unique & wire.RESENT:
                    raise  # a resent request may find its own work done
            own = opened[0] if opened else None
            status = os.stat(name, dir_fd=fd, follow_symlinks=False) if own is None else os.fstat(own)
            node = self.find(parent, fd, name, status, own)
            if not node.local:
                self._note_made(node, parent, fd, name)
                node.fresh = True
                self._tell_made(node, parent, name, status, target, own)
                node.fresh_names.add(parent.id)
                self.touch(parent)
            return node, status

    def _note_made(self, node: Node, parent: Node, fd: int, name: bytes) -> None:
        """A full disk may have room for the object and none for the note of it: then it was never made."""
        try:
            self.outlet.made(self.number, node.inode)
        except OSError:
            (os.rmdir if node.is_directory else os.unlink)(name, dir_fd=fd)
            self.table.unnamed(node, parent.id, name)
            self.table.count_down(node, 0)
            raise

    def _tell_made(
        self,
        node: Node,
        parent: Node,
        name: bytes,
        status: os.stat_result,
        target: bytes | None,
        own: int | None,
    ) -> None:
        place = (self.number, node.id, parent.id, name)
        mode, uid, gid = status.st_mode, status.st_uid, status.st_gid
        if target is not None:
            self.send(ops.Symlink(*place, target, uid, gid))
        elif stat.S_ISDIR(mode):
            self.send(ops.Mkdir(*place, stat.S_IMODE(mode), uid, gid))
        else:
            self.send(ops.Create(*place, mode, uid, gid, status.st_rdev))
        node.bound = self.outlet.binding
        if own is not None:
            keys = disk.list_xattrs(own, is_open=True)
        else:
            with node as fd:
                keys = disk.list_xattrs(fd)
        if keys:  # an inherited ACL, a security label
            with node as fd:
                for key in keys:
                    self.send(ops.SetXattr(self.number, node.id, key, disk.get_xattr(fd, key)))
        node.lacks_capability = CAPABILITY not in keys
        self.touch(node)

    def mkdir(self, caller: Caller, number: int, body: memoryview) -> bytes:
        mode, mask = wire.MKDIR_IN.unpack_from(body)
        name = text(body, 8)
        self.apply_umask(mask)
        return self.make(caller, number, name, lambda fd: os.mkdir(name, mode & 0o7777, dir_fd=fd))

    def mknod(self, caller: Caller, number: int, body: memoryview) -> bytes:
        mode, device, mask, _ = wire.MKNOD_IN.unpack_from(body)
        name = text(body, 16)
        self.apply_umask(mask)
        rdev = wire.device_of(device)
        return self.make(caller, number, name, lambda fd: os.mknod(name, mode, rdev, dir_fd=fd))

    def symlink(self, caller: Caller, number: int, body: memoryview) -> bytes:
        name, target = bytes(body).split(b"\0")[:2]
        return self.make(caller, number, name, lambda fd: os.symlink(target, name, dir_fd=fd), target)

    def link(self, caller: Caller, number: int, body: memoryview) -> bytes:
        node, parent, name = self.node(wire.ID_IN.unpack_from(body)[0]), self.node(number), text(body, 8)
        self.check_visible(parent, name, errno.EPERM)
        self.before(
            *(self.key(parent, what) for what in (ops.NAMES, ops.ATTRIBUTES)),
            self.key(node, ops.ATTRIBUTES),
            self._whole_key(node),
            names=(self.named(parent, name),),
        )
        with self.names, parent as parent_fd, node as fd:
            self.check_open(caller, parent)
            is_local = self.is_local(parent, name, False)
            if is_local != node.local and not node.orphan:
                raise refusal(errno.EXDEV)
            self.bind(parent)
            self.bind(node)
            try:
                with disk.Acting(caller.uid, caller.gid):
                    disk.link(fd, parent_fd, name)
            except FileExistsError:
                if not caller.unique & wire.RESENT:
                    raise
            self.table.named(node, parent.id, name)
            if not is_local:
                if node.orphan:  # the kernel lets only a file through here that never had a name
                    self.tell_named(node, parent, name)
                else:
                    self.send(ops.Link(self.number, node.id, parent.id, name))
                node.fresh_names.add(parent.id)
                self.touch(parent)
            self.take_refuge_back(node)
            return self.entry(node, os.stat(name, dir_fd=parent_fd, follow_symlinks=False))

    # --- removing ---------------------------------------------------------------------------------------

    def unlink(self, caller: Caller, number: int, body: memoryview) -> bytes:
        return self._remove(caller, number, text(body), False)

    def rmdir(self, caller: Caller, number: int, body: memoryview) -> bytes:
        return self._remove(caller, number, text(body), True)

    def _remove(self, caller: Caller, number: int, name: bytes, directory: bool) -> bytes:
        parent = self.node(number)
        self.check_visible(parent, name, errno.EPERM)
        named = self.named(parent, name)
        self.before(self.key(parent, ops.NAMES), self.key(parent, ops.ATTRIBUTES), names=(named,))
        victim, last = None, False
        with self.names, parent as fd:
            self.check_open(caller, parent)
            self.bind(parent)
            try:
                victim, last = self._victim(fd, name)
                local = victim.local if victim is not None else self.is_local(parent, name, directory)
                if victim is not None and not victim.is_directory and (not last or victim.opens):
                    # It has other names, or gets one: without an entry its time of change would be nobody's.
                    self.before(self.key(victim, ops.ATTRIBUTES))
                    if self.outlet.folded(self.number, parent.inode):
                        self.before((self.number, victim.inode, ops.ALL, 0))
                self._shelter(victim, last)
                (os.rmdir if directory else os.unlink)(name, dir_fd=fd)
            except FileNotFoundError:
                if not caller.unique & wire.RESENT:
                    raise
                return b""
            except OSError:
                self.take_refuge_back(victim)
                raise
            if victim is not None:
                self.table.unnamed(victim, parent.id, name)
                if not last:  # where what is gone was last is as good as any place
                    self.outlet.moved(self.number, victim.inode)
            if not local:
                operation = ops.Rmdir if directory else ops.Unlink
                self.send(operation(self.number, parent.id, name))
                self.touch(parent)
            if victim is not None and last:
                self.gone(victim)
            return b""

    def _victim(self, fd: int, name: bytes) -> tuple[Node | None, bool]:
        """The known node that is about to lose this name, and whether it is its last one."""
        victim = self.table.by_key.get(disk.handle_of(fd, name))
        if victim is None:
            return None, False
        if victim.is_directory:
            return victim, True
        return victim, os.stat(name, dir_fd=fd, follow_symlinks=False).st_nlink == 1

    def _shelter(self, victim: Node | None, last: bool) -> None:
        """An open file that is about to lose its last name gets a refuge; its entry is durable."""
        if victim is not None and last and victim.opens and not victim.is_directory:
            with victim as own:
                self.give_refuge(victim, own)

    # --- renaming ---------------------------------------------------------------------------------------

    def rename(self, caller: Caller, number: int, body: memoryview) -> bytes:
        old, new = bytes(body[8:]).split(b"\0")[:2]
        return self._rename(caller, number, old, wire.ID_IN.unpack_from(body)[0], new, 0)

    def rename2(self, caller: Caller, number: int, body: memoryview) -> bytes:
        new_parent, flags, _ = wire.RENAME2_IN.unpack_from(body)
        old, new = bytes(body[16:]).split(b"\0")[:2]
        return self._rename(caller, number, old, new_parent, new, flags)

    def _rename(
        self, caller: Caller, number: int, old: bytes, new_number: int, new: bytes, flags: int
    ) -> bytes:
        parent, new_parent = self.node(number), self.node(new_number)
        if flags & ~(disk.RENAME_NOREPLACE | disk.RENAME_EXCHANGE):
            raise refusal(errno.EINVAL)
        self.check_visible(parent, old, errno.EPERM)
        self.check_visible(new_parent, new, errno.EPERM)
        keys = [self.key(up, what) for up in (parent, new_parent) for what in (ops.NAMES, ops.ATTRIBUTES)]
        victim, last = None, False
        with self.names, parent as fd, new_parent as new_fd:
            self.check_open(caller, parent)
            self.bind(parent)
            self.bind(new_parent)
            try:
                moved = self.find(parent, fd, old)
                if flags & disk.RENAME_EXCHANGE and self._was_exchanged(caller, moved):
                    return b""
                victim, last = self._check_rename(moved, new_parent, new_fd, new, flags, parent, old)
                whole = (self._whole_key(node) for node in (moved, victim) if node is not None)
                self.before(*keys, *whole, names=(self.named(parent, old), self.named(new_parent, new)))
                self._shelter(victim, last)
                with disk.Acting(caller.uid, caller.gid):
                    disk.rename(fd, old, new_fd, new, flags)
            except FileNotFoundError:
                if not caller.unique & wire.RESENT:
                    raise
                return b""
            except OSError:
                self.take_refuge_back(victim)
                raise
            self._rename_known(moved, victim, last, parent, old, new_parent, new, flags)
            if not moved.local:
                place = (parent.id, old, new_parent.id, new)
                self.send(ops.Rename(self.number, *place, flags))
                moved.fresh_names.update((parent.id, new_parent.id))
                self.touch(parent)
                self.touch(new_parent)
                if victim is not None and flags & disk.RENAME_EXCHANGE:
                    # XFS takes the new way up that a directory gets for a change of what is in it.
                    self.touch(moved)
                    self.touch(victim)
            if victim is not None and last:
                self.gone(victim)
            return b""

    def _was_exchanged(self, caller: Caller, moved: Node) -> bool:
        """An earlier life of this process did what this request, sent anew, asks for."""
        unique = caller.unique & ~wire.RESENT
        before = self.table.exchanges.get(unique)
        if caller.unique & wire.RESENT and before is not None:
            return before != moved.key
        self.table.note_exchange(unique, moved.key)
        return False

    def _whole_key(self, node: Node) -> ChangeKey:
        with node as fd:
            return ops.whole_key(self.number, os.fstat(fd))

    def _check_rename(
        self, moved: Node, new_parent: Node, new_fd: int, new: bytes, flags: int, parent: Node, old: bytes
    ) -> tuple[Node | None, bool]:
        """Refuse to cross the border of what is replicated.

        The node that has the new name now, if any is known, and whether it loses its last name.
        """
        if self._crosses_the_border(moved, parent, old, new_parent, new):
            raise refusal(errno.EXDEV)
        if flags & disk.RENAME_EXCHANGE:
            other = self.find(new_parent, new_fd, new)
            if self._crosses_the_border(other, new_parent, new, parent, old):
                raise refusal(errno.EXDEV)
            return other, False
        try:
            if disk.handle_of(new_fd, new) == moved.key or flags & disk.RENAME_NOREPLACE:
                return None, False  # two names of one object: rename(2) does nothing then
            return self._victim(new_fd, new)
        except FileNotFoundError:
            return None, False

    def _crosses_the_border(
        self, node: Node, parent: Node, name: bytes, new_parent: Node, new: bytes
    ) -> bool:
        """Under its new name it, or something in it, would become local to this node, or end to be."""
        if self.is_local(new_parent, new, node.is_directory) != node.local:
            return True
        if not node.is_directory or self.choice.everything:
            return False
        here, there = join(self.path_to(parent), name), join(self.path_to(new_parent), new)
        return not self.choice.moves(here, there)

    def _rename_known(
        self,
        moved: Node,
        victim: Node | None,
        last: bool,
        parent: Node,
        old: bytes,
        new_parent: Node,
        new: bytes,
        flags: int,
    ) -> None:
        with new_parent as new_fd:
            if disk.handle_of(new_fd, new) != moved.key:
                return
        if victim is not None:
            self.table.unnamed(victim, new_parent.id, new)
            if flags & disk.RENAME_EXCHANGE:
                self.table.named(victim, parent.id, old)
            if not last:
                self.outlet.moved(self.number, victim.inode)
        self.table.named(moved, new_parent.id, new)
        self.table.unnamed(moved, parent.id, old)
        self.outlet.moved(self.number, moved.inode)
