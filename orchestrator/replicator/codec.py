"""Operations as bytes: one code, fixed numbers, then each text with its length."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter, itemgetter
from typing import Any, Final

from orchestrator.host import disk
from orchestrator.mirror.frames import OPERATION_BYTES_MAX, WireFault
from orchestrator.replicator import ops

_LENGTH: Final = struct.Struct("<I")
DIRECTORIES_MAX: Final = 64
"""In one sync, each of which costs the receiver a descriptor; for more a file is synced several times."""

_FILE_BYTES_MAX: Final = (1 << 63) - 1  # the kernel's own bound
_RENAME_FLAGS: Final = (0, disk.RENAME_NOREPLACE, disk.RENAME_EXCHANGE)


@dataclass(frozen=True, slots=True)
class Remove:
    """Only a copy says it: take this name away with all below it, or set it aside where that is ordered."""

    volume: int
    parent: int
    name: bytes


Sent = ops.Operation | Remove

_WRITE: Final = 10

# For each operation: its code, its numbers in order with their format, its texts.
_TABLE: Final[tuple[tuple[type[Any], int, str, str, str], ...]] = (
    (ops.Bind, 1, "HQQ", "volume id parent", "name"),
    (ops.Unbind, 2, "HQ", "volume id", ""),
    (ops.Create, 3, "HQQIIIQ", "volume id parent mode uid gid rdev", "name"),
    (ops.Mkdir, 4, "HQQIII", "volume id parent mode uid gid", "name"),
    (ops.Symlink, 5, "HQQII", "volume id parent uid gid", "name target"),
    (ops.Link, 6, "HQQ", "volume id parent", "name"),
    (ops.Unlink, 7, "HQ", "volume parent", "name"),
    (ops.Rmdir, 8, "HQ", "volume parent", "name"),
    (ops.Rename, 9, "HQQI", "volume parent new_parent flags", "name new_name"),
    (ops.Write, _WRITE, "HQQ", "volume id offset", "data"),
    (ops.SetAttr, 11, "HQIIIIQqq", "volume id which mode uid gid size atime_ns mtime_ns", ""),
    (ops.Allocate, 12, "HQIQQ", "volume id mode offset length", ""),
    (ops.SetXattr, 13, "HQ", "volume id", "name value"),
    (ops.RemoveXattr, 14, "HQ", "volume id", "name"),
    (ops.SyncDirectory, 16, "HQ", "volume id", ""),
    (Remove, 17, "HQ", "volume parent", "name"),
)
_SYNC: Final = 15
_CHECKED: Final = frozenset({_WRITE, _SYNC})
"""By their own decoders: the two that a database waits for."""
_SYNC_HEAD: Final = struct.Struct("<BHQBHqq")
_SYNC_DATA_ONLY, _SYNC_TIMES = 1, 2
_WRITE_HEAD: Final = struct.Struct("<BHQQI")


def encode(operation: Sent) -> bytes:
    """One operation as the payload of a frame."""
    return _ENCODERS[type(operation)](operation)


def decode(payload: bytes) -> Sent:
    """The operation in a payload; WireFault when it is not exactly one, or not one that a primary sends."""
    if not payload or payload[0] not in _DECODERS:
        raise WireFault(f"unknown operation {payload[:1].hex() or 'of no bytes'}")
    try:
        operation = _DECODERS[payload[0]](payload)
    except struct.error as fault:
        raise WireFault(f"operation {payload[0]} is cut short") from fault
    if payload[0] not in _CHECKED:
        _check(operation)
    return operation


def _check(operation: Sent) -> None:
    """Refuse what no system call of the primary can have been: numbers beyond a file, flags of its own."""
    match operation:
        case ops.SetAttr(which=which, size=size):
            honest = which < 2 * ops.MTIME and size <= _FILE_BYTES_MAX
        case ops.Allocate(mode=mode, offset=offset, length=length):
            honest = mode in disk.ALLOCATE_MODES and offset + length <= _FILE_BYTES_MAX
        case ops.Rename(flags=flags):
            honest = flags in _RENAME_FLAGS
        case ops.Create(id=id) | ops.Mkdir(id=id) | ops.Symlink(id=id) | ops.Bind(id=id):
            honest = id > ops.ROOT
        case _:
            honest = True
    if not honest:
        raise WireFault(f"{type(operation).__name__} that no primary can have done")


def _encode_write(write: ops.Write) -> bytes:
    head = _WRITE_HEAD.pack(_WRITE, write.volume, write.id, write.offset, len(write.data))
    return head + write.data


def _decode_write(payload: bytes) -> ops.Write:
    _, volume, id, offset, length = _WRITE_HEAD.unpack_from(payload)
    if len(payload) != _WRITE_HEAD.size + length:
        raise WireFault("a write of the wrong size")
    if offset + length > _FILE_BYTES_MAX:
        raise WireFault("Write that no primary can have done")
    return ops.Write(volume, id, offset, payload[_WRITE_HEAD.size :])


def _encode_sync(sync: ops.Sync) -> bytes:
    count = len(sync.directories)
    assert count <= DIRECTORIES_MAX
    how = (_SYNC_DATA_ONLY if sync.data_only else 0) | (_SYNC_TIMES if sync.times else 0)
    head = _SYNC_HEAD.pack(_SYNC, sync.volume, sync.id, how, count, *(sync.times or (0, 0)))
    return head + struct.pack(f"<{count}Q", *sync.directories)


def _decode_sync(payload: bytes) -> ops.Sync:
    _, volume, id, how, count, atime, mtime = _SYNC_HEAD.unpack_from(payload)
    if (
        how & ~(_SYNC_DATA_ONLY | _SYNC_TIMES)
        or count > DIRECTORIES_MAX
        or len(payload) != _SYNC_HEAD.size + 8 * count
    ):
        raise WireFault("a sync of the wrong size")
    directories = struct.unpack_from(f"<{count}Q", payload, _SYNC_HEAD.size)
    times = (atime, mtime) if how & _SYNC_TIMES else None
    return ops.Sync(volume, id, bool(how & _SYNC_DATA_ONLY), directories, times)


def _encoder(code: int, head: struct.Struct, numbers: list[str], texts: list[str]) -> Callable[[Any], bytes]:
    numbers_of = attrgetter(*numbers)

    def encoded(operation: Any) -> bytes:
        start: bytes = head.pack(code, *numbers_of(operation))
        if not texts:
            return start
        parts = [start]
        for name in texts:
            text = getattr(operation, name)
            parts.append(_LENGTH.pack(len(text)) + text)
        return b"".join(parts)

    return encoded


def _decoder(
    kind: type[Any], head: struct.Struct, numbers: list[str], texts: list[str]
) -> Callable[[bytes], Any]:
    order = [[*numbers, *texts].index(field.name) for field in fields(kind)]
    in_order = itemgetter(*order)

    def decoded(payload: bytes) -> Any:
        values: tuple[Any, ...] = head.unpack_from(payload)[1:]
        at = head.size
        for name in texts:
            length = _LENGTH.unpack_from(payload, at)[0]
            at += _LENGTH.size
            if length > OPERATION_BYTES_MAX or at + length > len(payload):
                raise WireFault(f"{kind.__name__}: {name} is longer than the frame")
            values += (payload[at : at + length],)
            at += length
        if at != len(payload):
            raise WireFault(f"{kind.__name__}: {len(payload) - at} bytes too many")
        return kind(*in_order(values))

    return decoded


_ENCODERS: Final[dict[type[Any], Callable[[Any], bytes]]] = {}
_DECODERS: Final[dict[int, Callable[[bytes], Sent]]] = {}


def _fill() -> None:
    for kind, code, numbers_format, numbers, texts in _TABLE:
        head = struct.Struct("<B" + numbers_format)
        _ENCODERS[kind] = _encoder(code, head, numbers.split(), texts.split())
        _DECODERS[code] = _decoder(kind, head, numbers.split(), texts.split())
    _ENCODERS[ops.Write] = _encode_write  # the hot one: the same bytes without the loop
    _DECODERS[_WRITE] = _decode_write
    _ENCODERS[ops.Sync] = _encode_sync
    _DECODERS[_SYNC] = _decode_sync


_fill()
