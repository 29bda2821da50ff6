"""Extended attributes and access control lists; first locally, then on the stream."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

from orchestrator.host import disk
from orchestrator.host.fuse import wire
from orchestrator.host.fuse.session import Caller
from orchestrator.replicator import ops
from orchestrator.replicator.contents import Contents
from orchestrator.replicator.handles import CAPABILITY, Node
from orchestrator.replicator.namespace import text
from orchestrator.replicator.volume import refusal

_ACCESS_ACL = b"system.posix_acl_access"
_PRIVATE = b"trusted."  # only root is shown these


class ExtendedAttributes(Contents):
    """The operations on extended attributes."""

    def get_xattr(self, caller: Caller, number: int, body: memoryview) -> bytes:
        size, _ = wire.XATTR_IN.unpack_from(body)
        node, name = self.node(number), text(body, 8)
        if node.lacks_capability and name == CAPABILITY:
            raise refusal(errno.ENODATA)
        with node as fd:
            return _sized(disk.get_xattr(fd, name), size)

    def list_xattrs(self, caller: Caller, number: int, body: memoryview) -> bytes:
        size, _ = wire.XATTR_IN.unpack_from(body)
        with self.node(number) as fd:
            names = disk.list_xattrs(fd)
        if caller.uid:
            names = [name for name in names if not name.startswith(_PRIVATE)]
        return _sized(b"".join(name + b"\0" for name in names), size)

    def set_xattr(self, caller: Caller, number: int, body: memoryview) -> bytes:
        size, flags = wire.XATTR_IN.unpack_from(body)
        # A connection that an earlier release began may have the short form: there the name begins at once.
        start = 8 if body[8] > 1 else 16
        name = text(body, start)
        value = bytes(body[start + len(name) + 1 : start + len(name) + 1 + size])
        loses = start == 16 and body[8] & wire.SETXATTR_KILL_SGID and name == _ACCESS_ACL

        def act(fd: int) -> None:
            try:
                disk.set_xattr(fd, name, value, flags)
            except FileExistsError:
                if not caller.unique & wire.RESENT:
                    raise  # a resent request may find its own work done

        def tell(node: Node) -> None:
            self.send(ops.SetXattr(self.number, node.id, name, value))

        return self._change_xattr(caller, number, act, tell, bool(loses))

    def remove_xattr(self, caller: Caller, number: int, body: memoryview) -> bytes:
        name = text(body)

        def act(fd: int) -> None:
            try:
                disk.remove_xattr(fd, name)
            except OSError as fault:
                if fault.errno != errno.ENODATA or not caller.unique & wire.RESENT:
                    raise

        def tell(node: Node) -> None:
            self.send(ops.RemoveXattr(self.number, node.id, name))

        return self._change_xattr(caller, number, act, tell)

    def _change_xattr(
        self,
        caller: Caller,
        number: int,
        act: Callable[[int], None],
        tell: Callable[[Node], object],
        loses_group: bool = False,
    ) -> bytes:
        node = self.node(number)
        node.lacks_capability = False
        self.before(self.key(node, ops.ATTRIBUTES))
        with self.ordered(caller, node), node as fd:
            with disk.Acting(caller.uid, caller.gid):
                act(fd)
            if not node.local:
                tell(node)
            if loses_group:
                self.strip(node, stat.S_ISGID)
        return b""


def _sized(value: bytes, size: int) -> bytes:
    if size == 0:
        return len(value).to_bytes(4, "little") + bytes(4)
    if len(value) > size:
        raise refusal(errno.ERANGE)
    return value
