"""One connection to the kernel: threads that read requests, call a handler each, and write the replies."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.host.fuse import wire
from orchestrator.host.fuse.turns import Turns

log = logging.getLogger("hafarm.fuse")

READERS: Final = 3  # that may wait for a disk at a time; more only hand the interpreter lock around
NO_REPLY: Final = b"\0no reply"
"""What a handler returns for a request that is answered later, or never."""


class Caller:
    """Who asks, and which request it is; one object per thread, overwritten by the next request."""

    __slots__ = ("gid", "opcode", "pid", "room", "uid", "unique")

    def __init__(self) -> None:
        self.opcode = self.unique = self.uid = self.gid = self.pid = 0
        self.room = memoryview(mmap.mmap(-1, wire.MAX_WRITE))
        """For the body of a large reply: memory that is there already, once it was needed."""


def present_memory(size: int) -> memoryview:
    """Memory of which every page is there.

    The kernel copies a request page by page. For a thread that is being killed it fetches no page that is
    absent, but ends the request: its caller gets EIO for what the next process would have done.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return memoryview(mmap.mmap(-1, size, flags))


Handler = Callable[[Caller, int, memoryview], bytes | memoryview]
"""(caller, node id, what follows the header) -> the reply's body; raises OSError for a refusal."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the server would like to agree with the kernel."""

    writeback: bool = False


def negotiate(offer: memoryview, wishes: Wishes) -> bytes:
    """The answer to INIT: the flags that both sides keep."""
    _, minor, read_ahead, flags = wire.INIT_IN.unpack_from(offer)
    flags2 = int.from_bytes(offer[16:20], "little") if len(offer) >= 20 else 0
    wanted = (
        wire.ASYNC_READ
        | wire.BIG_WRITES
        | wire.DONT_MASK
        | wire.DO_READDIRPLUS
        | wire.READDIRPLUS_AUTO
        | wire.ASYNC_DIO
        | wire.PARALLEL_DIROPS
        | wire.POSIX_ACL
        | wire.MAX_PAGES
        | wire.HANDLE_KILLPRIV_V2
        | wire.SETXATTR_EXT
        | wire.INIT_EXT
    )
    if wishes.writeback:
        wanted |= wire.WRITEBACK_CACHE
    return wire.INIT_OUT.pack(
        wire.MAJOR,
        min(minor, wire.MINOR),
        read_ahead,
        flags & wanted,
        64,  # requests in the background: enough to keep a disk busy, few enough to answer soon
        48,  # congestion threshold: three quarters, as the kernel's own default
        wire.MAX_WRITE,
        1,  # nanoseconds
        wire.MAX_WRITE // 4096,
        0,
        flags2 & wire.DIRECT_IO_ALLOW_MMAP,
        0,
        0,
    )


_NEVER_ANSWERED: Final = frozenset({wire.Op.FORGET, wire.Op.BATCH_FORGET, wire.Op.INTERRUPT})


class Session:
    """Serves one /dev/fuse descriptor (or a stand-in that keeps message bounds) until it ends."""

    def __init__(
        self,
        device: int,
        handlers: Mapping[int, Handler],
        wishes: Wishes,
        ready: Callable[[], None],
        before_reply: Callable[[], None],
        begun: Callable[[], None],
        failed: Callable[[OSError], None],
    ) -> None:
        """`ready`: the connection begins, and is answered after the return. `begun`: it was.

        `failed`: called with what a handler raised, before its reply.

        `before_reply`: called after each handler, before its reply.
        """
        self._device = device
        self._handlers = dict(handlers)
        self._wishes = wishes
        self._ready = ready
        self._before_reply = before_reply
        self._begun = begun
        self._failed = failed
        self._threads: list[threading.Thread] = []
        self._turns = Turns()
        self.widen = self._turns.widen
        self._unanswered: set[int] = set()
        """Requests that somebody waits for."""

    def start(self, resume: bool) -> None:
        """Begin to serve; `resume` when this connection had its INIT in an earlier process."""
        if resume:
            self._notify(wire.NOTIFY_RESEND, b"")
        for number in range(READERS):
            thread = threading.Thread(target=self._serve, name=f"fuse-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the connection; False when it still stands."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def reply(self, unique: int, error: int, body: bytes | memoryview = b"") -> None:
        """Answer one request; any thread may."""
        self._unanswered.discard(unique)
        header = wire.OUT_HEADER.pack(16 + len(body), -error, unique)
        try:
            os.writev(self._device, (header, body) if body else (header,))
        except OSError as fault:
            # ENOENT: the caller was interrupted and waits no more. Others: the connection ended.
            if fault.errno not in (errno.ENOENT, errno.ENODEV, errno.EPIPE, errno.ECONNABORTED, errno.EINVAL):
                raise

    def refuse_all(self) -> None:
        """Answer whatever waits with EIO, also what a thread is still at: its own answer comes too late."""
        for unique in self._unanswered.copy():
            self.reply(unique, errno.EIO)

    def forget_inode(self, node: int) -> None:
        """Drop what the kernel has cached of this object."""
        self._invalidate(node, 0)

    def forget_attributes(self, node: int) -> None:
        """Drop what the kernel has cached of this object, except its data."""
        self._invalidate(node, -1)

    def _invalidate(self, node: int, offset: int) -> None:
        try:
            self._notify(wire.NOTIFY_INVAL_INODE, wire.INVAL_INODE_OUT.pack(node, offset, 0))
        except OSError as fault:
            if fault.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN):
                raise

    def _notify(self, code: int, body: bytes) -> None:
        os.writev(self._device, (wire.OUT_HEADER.pack(16 + len(body), code, 0), body))

    def _serve(self) -> None:
        whole = present_memory(wire.BUFFER_BYTES)
        caller = Caller()
        device, turns, buffers = self._device, self._turns, [whole]
        while True:
            turns.wait()
            try:
                length = os.readv(device, buffers)
            except OSError as fault:
                if fault.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                length = 0  # ENODEV: unmounted or aborted
            if length == 0:
                turns.end()
                return
            turns.begun()
            self._answer(caller, whole[:length])

    def _answer(self, caller: Caller, request: memoryview) -> None:
        _, opcode, unique, node, caller.uid, caller.gid, caller.pid, _, _ = wire.IN_HEADER.unpack_from(
            request
        )
        caller.opcode, caller.unique = opcode, unique
        if opcode not in _NEVER_ANSWERED:
            self._unanswered.add(unique)
        error = 0
        body: bytes | memoryview = b""
        handler = self._handlers.get(opcode)
        if handler is None:
            self._answer_for_all(opcode, unique, request)
            return
        try:
            body = handler(caller, node, request[40:])
        except OSError as fault:
            self._failed(fault)
            error = fault.errno or errno.EIO
        except Exception:
            # A mistake of ours must not leave a caller hanging for ever: he gets an error, we get the trace.
            log.exception("request %d failed", opcode)
            error = errno.EIO
        self._before_reply()
        if error:
            self.reply(unique, error)
        elif body is not NO_REPLY:
            self.reply(unique, 0, body)

    def _answer_for_all(self, opcode: int, unique: int, request: memoryview) -> None:
        """What is no handler's business: the connection itself, and what nobody serves."""
        if opcode == wire.Op.INTERRUPT:
            return  # allowed to be ignored: every wait of ours is bounded by the gate
        if opcode != wire.Op.INIT:
            self.reply(unique, errno.ENOSYS)
            return
        agreed = negotiate(request[40:], self._wishes)
        self._ready()  # noted before it is answered: a successor must not wait for an INIT that was
        self._before_reply()
        self.reply(unique, 0, agreed)
        self._begun()
