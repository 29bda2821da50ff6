"""Files that survive a power cut, and that say so when they did not."""

from __future__ import annotations

import json
import os
import secrets
import threading
import zlib
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.model.errors import CorruptState, StoreFailed

VERSION: Final = 1
FILE_BYTES_MAX: Final = 64 << 20  # nothing of ours is larger; a file that is was not written by us


def write_durable(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace the file as a whole: after a crash at any point it holds the old or the new content.

    Raises StoreFailed, and then the old content stands.
    """
    folder, name = os.path.split(path)
    draft = os.path.join(folder, f".{name}.{secrets.token_hex(4)}")
    _write_draft(draft, path, data, os.O_EXCL, mode)
    _put_in_place(draft, path)


def _write_draft(draft: str, path: str, data: bytes, more: int, mode: int) -> None:
    """Durable, under another name: nobody takes it for the content yet."""
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | more, mode)
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as fault:
        _drop(draft)
        raise StoreFailed(where=path, why=fault.strerror or str(fault)) from fault


def _put_in_place(draft: str, path: str) -> None:
    try:
        os.rename(draft, path)
        sync_directory(os.path.dirname(path))
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
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _encode(content: Mapping[str, Any]) -> bytes:
    body = json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
    return b"hafarm %d %08x\n" % (VERSION, zlib.crc32(body)) + body


class JsonFile:
    """One JSON object in one file, with a version and a checksum in the line before it."""

    def __init__(self, path: str) -> None:
        self.path = path
        folder, name = os.path.split(path)
        self._draft = os.path.join(folder, f".{name}.ready")
        self._drafted = b""
        self._one_at_a_time = threading.Lock()

    def prepare(self, content: Mapping[str, Any]) -> None:
        """Expect this content to be written soon: half of that work is done now, and nothing is changed."""
        data = _encode(content)
        with self._one_at_a_time:
            self._drafted = b""
            _write_draft(self._draft, self.path, data, os.O_TRUNC, 0o600)
            self._drafted = data

    def write(self, content: Mapping[str, Any]) -> None:
        """Make this the content, durably; StoreFailed when it could not be."""
        data = _encode(content)
        with self._one_at_a_time:
            drafted, self._drafted = self._drafted, b""
            if drafted == data:
                _put_in_place(self._draft, self.path)
            else:
                write_durable(self.path, data)

    def read(self) -> dict[str, Any] | None:
        """The content; None only when there is no such file. Damage is CorruptState, never a fresh start."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise CorruptState("the file", fault.strerror or str(fault), self.path) from fault
        return self._decode(data)

    def _decode(self, data: bytes) -> dict[str, Any]:
        head, newline, body = data.partition(b"\n")
        words = head.split(b" ")
        if len(data) > FILE_BYTES_MAX or not newline or len(words) != 3 or words[0] != b"hafarm":
            raise CorruptState("the file", "it does not begin as we write it, or is cut short", self.path)
        if words[1] != b"%d" % VERSION:
            version = words[1].decode(errors="replace")
            raise CorruptState("the file", f"version {version!r}, this hafarm reads {VERSION}", self.path)
        if words[2] != b"%08x" % zlib.crc32(body):
            raise CorruptState("the file", "its checksum does not fit", self.path)
        content = json.loads(body)
        if not isinstance(content, dict):
            raise CorruptState("the file", "not an object", self.path)
        return content
