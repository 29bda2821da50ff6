"""Files that survive a power cut, and that say so when they did not."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import zlib
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.host import disk
from orchestrator.model.errors import CorruptState, StoreFailed

VERSION: Final = 1
COPY_BYTES: Final = 4096  # of which a copy has one or more: what file systems allocate and overwrite at once
FILE_BYTES_MAX: Final = 64 << 20  # nothing of ours is larger; a file that is was not written by us


def write_durable(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace the file as a whole: after a crash at any point it holds the old or the new content.

    Raises StoreFailed, and then the old content stands.
    """
    folder, name = os.path.split(path)
    draft = os.path.join(folder, f".{name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            _write_all(fd, data)
            disk.fsync(fd)
        finally:
            os.close(fd)
        os.rename(draft, path)
        sync_directory(folder)
    except OSError as fault:
        _drop(draft)
        raise StoreFailed(where=path, why=fault.strerror or str(fault)) from fault


def _drop(draft: str) -> None:
    try:
        os.unlink(draft)
    except OSError:
        pass  # the first failure is the one to tell


def sync_directory(folder: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class JsonFile:
    """One JSON object in one file, kept twice: a change overwrites one copy, syncs it, then writes the other.

    To overwrite a block and sync it takes a quarter of the time of a durable rename, and no room on the disk.
    The copy that was synced last is not touched before its twin is synced. Each has a version, a checksum and
    a number that grows with every change.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._one_at_a_time = threading.Lock()
        self._known = False
        self._copy_bytes = 0
        """0: there is no file, or what the disk holds of it is not known; the next write makes a new one."""
        self._synced = 0
        """Which copy the next change leaves alone until the other is durable."""
        self._number = 0

    def write(self, content: Mapping[str, Any]) -> None:
        """Make this the content, durably; StoreFailed when it could not be."""
        body = json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
        with self._one_at_a_time:
            if not self._known:
                self._look()
            copy = _encode(self._number + 1, body)
            if len(copy) > self._copy_bytes:
                size = -len(copy) // COPY_BYTES * -COPY_BYTES
                write_durable(self.path, 2 * copy.ljust(size, b"\n"))
                self._copy_bytes = size
                self._synced = 0
            else:
                self._overwrite(copy.ljust(self._copy_bytes, b"\n"))
            self._number += 1

    def _look(self) -> None:
        """What the successor of a process that wrote the file has to know; what is damaged is replaced."""
        self._known = True
        with contextlib.suppress(FileNotFoundError, CorruptState):
            self._take_in()

    def _overwrite(self, copy: bytes) -> None:
        size = self._copy_bytes
        self._copy_bytes = 0  # until all went well: after a fault nobody knows what the disk holds
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                first, then = (size, 0) if self._synced == 0 else (0, size)
                _overwrite_at(fd, copy, first)
                disk.fdatasync(fd)
                _overwrite_at(fd, copy, then)
            finally:
                os.close(fd)
        except OSError as fault:
            raise StoreFailed(where=self.path, why=fault.strerror or str(fault)) from fault
        self._copy_bytes, self._synced = size, 1 - self._synced

    def read(self) -> dict[str, Any] | None:
        """The content; None only when there is no such file. Damage is CorruptState, never a fresh start."""
        with self._one_at_a_time:
            try:
                body = self._take_in()
            except FileNotFoundError:
                return None
            finally:
                self._known = True
        content = json.loads(body)
        if not isinstance(content, dict):
            raise CorruptState("the file", "not an object", self.path)
        return content

    def _take_in(self) -> bytes:
        """The body of the newer whole copy, which is the one that the next change leaves alone."""
        try:
            # For writing too: what was written and never synced is believed only once it is durable.
            fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                disk.fdatasync(fd)
                data = os.read(fd, FILE_BYTES_MAX + 1)
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise
        except OSError as fault:
            raise CorruptState("the file", fault.strerror or str(fault), self.path) from fault
        size, rest = divmod(len(data), 2)
        if not size or rest or size % COPY_BYTES or len(data) > FILE_BYTES_MAX:
            raise CorruptState("the file", f"{len(data)} bytes are no length that we write", self.path)
        whole = [
            (*found, copy) for copy, half in enumerate((data[:size], data[size:])) if (found := _decode(half))
        ]
        if not whole:
            raise CorruptState("the file", _why_not_whole(data), self.path)
        self._number, body, self._synced = max(whole)
        self._copy_bytes = size
        return body


def _decode(copy: bytes) -> tuple[int, bytes] | None:
    """The number and the body of one copy; None when it is not whole, or of another version."""
    head, _, rest = copy.partition(b"\n")
    words = head.split(b" ")
    if len(words) != 5 or not words[3].isdigit() or not words[4].isdigit():
        return None
    number, body = int(words[3]), rest[: int(words[4])]
    return (number, body) if copy.startswith(_encode(number, body)) else None


def _why_not_whole(data: bytes) -> str:
    words = data.split(b" ", 2)
    if words[0] == b"hafarm" and words[1] != b"%d" % VERSION:
        return f"version {words[1].decode(errors='replace')!r}, this hafarm reads {VERSION}"
    return "neither of its two copies is whole"


def _encode(number: int, body: bytes) -> bytes:
    facts = b"%d %d" % (number, len(body))
    checksum = zlib.crc32(body, zlib.crc32(facts))
    return b"hafarm %d %08x %b\n%b" % (VERSION, checksum, facts, body)


def _overwrite_at(fd: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
