"""Files without a name: open ones whose last name was taken away, and those that never had one."""

from __future__ import annotations

import os
import stat

from orchestrator.host import disk
from orchestrator.host.fuse import wire
from orchestrator.replicator import ops
from orchestrator.replicator.handles import Node
from orchestrator.replicator.ops import HIDDEN
from orchestrator.replicator.volume import Volume, log


class Unnamed(Volume):
    """What no name leads to is this node's alone: nobody could find it on another one.

    A hidden link keeps it while it is open, so that a later life of this process finds it again.
    """

    def orphan_directory(self) -> int:
        """A descriptor of the hidden directory that keeps files without a name."""
        for path in (HIDDEN, ops.ORPHANS):
            try:
                os.mkdir(path, 0o700, dir_fd=self.root_fd)
            except FileExistsError:
                pass
        return disk.open_beneath(self.root_fd, ops.ORPHANS, os.O_PATH | os.O_DIRECTORY)

    def give_refuge(self, node: Node, fd: int) -> None:
        """A hidden link to the open file behind this descriptor. Held: the namespace lock."""
        try:
            refuge = self.orphan_directory()
            try:
                disk.link(fd, refuge, ops.orphan_name(node.id))
            finally:
                os.close(refuge)
        except FileExistsError:
            pass  # an earlier life of this process gave it
        except OSError as fault:
            # On a full disk names can still be taken away; only a crash of ours would now lose what is open.
            log.warning("an unlinked open file has no refuge: %s", fault)
        self.table.orphaned(node, True)

    def take_refuge_back(self, node: Node | None) -> None:
        """It has a name after all. Held: the namespace lock."""
        if node is not None and node.orphan:
            self.remove_orphan(node)
            self.table.orphaned(node, False)

    def remove_orphan(self, node: Node) -> None:
        """The hidden link goes: nobody has it open any more, or it has a name."""
        try:
            refuge = disk.open_beneath(self.root_fd, ops.ORPHANS, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        try:
            os.unlink(ops.orphan_name(node.id), dir_fd=refuge)
        except FileNotFoundError:
            pass
        finally:
            os.close(refuge)

    def settle_refuges(self) -> None:
        """At a beginning: what an earlier life did not come to note is noted, what nobody needs is dropped.

        A refuge that stays behind would be taken for that of the next object with its number.
        """
        try:
            # Not made here: a full disk must not keep a gate from opening.
            refuge = disk.open_beneath(self.root_fd, ops.ORPHANS, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        try:
            for name in map(os.fsencode, os.listdir(disk.path_of(refuge))):
                node = self.table.nodes.get(ops.orphan_number(name))
                if node is None or not self._is_refuge_of(node, refuge, name):
                    os.unlink(name, dir_fd=refuge)
                elif not node.orphan:
                    self.table.orphaned(node, True)
        finally:
            os.close(refuge)

    @staticmethod
    def _is_refuge_of(node: Node, refuge: int, name: bytes) -> bool:
        """It is all that is left of this object; one with another name gives its refuge back."""
        status = os.stat(name, dir_fd=refuge, follow_symlinks=False)
        return status.st_nlink == 1 and disk.handle_of(refuge, name) == node.key

    def gone(self, node: Node) -> None:
        """Its last name was taken away, here and on the stream. Held: the namespace lock."""
        if node.local:
            return
        with self.stripe(node.inode):  # whoever changes it now has told; whoever comes later tells nothing
            node.local = True
            self.untouch(node)
        if node.bound == self.outlet.binding:
            self.send(ops.Unbind(self.number, node.id))

    # --- a first name -----------------------------------------------------------------------------------

    def tell_named(self, node: Node, parent: Node, name: bytes) -> None:
        """A file that never had a name got this one: the others get it whole. Held: the namespace lock.

        What was synced before it had a name is as durable there as here once the name is.
        """
        self.outlet.made(self.number, node.inode)
        with self.stripe(node.inode), node as fd:
            status = os.fstat(fd)
            self.send(
                ops.Create(
                    self.number, node.id, parent.id, name, status.st_mode, status.st_uid, status.st_gid
                )
            )
            node.bound = self.outlet.binding
            for key in disk.list_xattrs(fd):
                self.send(ops.SetXattr(self.number, node.id, key, disk.get_xattr(fd, key)))
            self._tell_data(node, fd, status.st_size)
            times = (status.st_atime_ns, status.st_mtime_ns)
            self.send(
                ops.SetAttr(
                    self.number,
                    node.id,
                    ops.SIZE | ops.MODE | ops.ATIME | ops.MTIME,
                    mode=stat.S_IMODE(status.st_mode),  # writing ended setuid
                    size=status.st_size,
                    atime_ns=times[0],
                    mtime_ns=times[1],
                )
            )
            self.send(ops.Sync(self.number, node.id, False, (), times))
            self.table.replicated(node)

    def _tell_data(self, node: Node, fd: int, size: int) -> None:
        own = disk.reopen(fd, os.O_RDONLY)
        try:
            at = 0
            while at < size:
                try:
                    start = os.lseek(own, at, os.SEEK_DATA)
                except OSError:
                    return  # a hole up to the end
                at = min(os.lseek(own, start, os.SEEK_HOLE), size)
                while start < at and (data := os.pread(own, min(at - start, wire.MAX_WRITE), start)):
                    self.send(ops.Write(self.number, node.id, start, data))
                    start += len(data)
        finally:
            os.close(own)
