"""A directory read as C programs read it: one entry at a time, with places to come back to."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


class _Entry(ctypes.Structure):
    _fields_ = (
        ("inode", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("length", ctypes.c_ushort),
        ("kind", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.POINTER(_Entry)
_libc.readdir.argtypes = _libc.closedir.argtypes = (ctypes.c_void_p,)
_libc.telldir.restype = ctypes.c_long
_libc.telldir.argtypes = (ctypes.c_void_p,)
_libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)


class Walk:
    """opendir, readdir, telldir, seekdir, closedir."""

    def __init__(self, directory: Path) -> None:
        self._stream = _libc.opendir(bytes(directory))
        assert self._stream

    def next(self) -> str | None:
        entry = _libc.readdir(self._stream)
        return os.fsdecode(entry.contents.name) if entry else None

    def tell(self) -> int:
        place: int = _libc.telldir(self._stream)
        return place

    def seek(self, place: int) -> None:
        _libc.seekdir(self._stream, place)

    def close(self) -> None:
        _libc.closedir(self._stream)
