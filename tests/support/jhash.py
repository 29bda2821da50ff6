"""The kernel's jhash (linux/jhash.h) as nftables uses it: which bucket a client falls into."""

from __future__ import annotations

from ipaddress import ip_address

_WORD = 0xFFFFFFFF


def bucket(seed: int, address: str, port: int | None = None, buckets: int = 1024) -> int:
    """Of a client's address, and of its port where that counts; a port fills a register of four bytes."""
    key = ip_address(address).packed + (b"" if port is None else port.to_bytes(2) + bytes(2))
    return (_jhash(key, seed) * buckets) >> 32


def _jhash(key: bytes, seed: int) -> int:
    a = b = c = (0xDEADBEEF + len(key) + seed) & _WORD
    while len(key) > 12:
        a, b, c = (x + y & _WORD for x, y in zip((a, b, c), _words(key[:12]), strict=True))
        a, b, c = _mix(a, b, c)
        key = key[12:]
    a, b, c = (x + y & _WORD for x, y in zip((a, b, c), _words(key.ljust(12, b"\0")), strict=True))
    return _final(a, b, c)


def _words(twelve: bytes) -> tuple[int, int, int]:
    first, second, third = (int.from_bytes(twelve[at : at + 4], "little") for at in (0, 4, 8))
    return first, second, third


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & _WORD


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for by in (4, 6, 8, 16, 19, 4):
        # Six times the same three lines, with the names moved on by one.
        a = ((a - c) & _WORD) ^ _rotated(c, by)
        c = (c + b) & _WORD
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - _rotated(b, 14)) & _WORD
    a = ((a ^ c) - _rotated(c, 11)) & _WORD
    b = ((b ^ a) - _rotated(a, 25)) & _WORD
    c = ((c ^ b) - _rotated(b, 16)) & _WORD
    a = ((a ^ c) - _rotated(c, 4)) & _WORD
    b = ((b ^ a) - _rotated(a, 14)) & _WORD
    return ((c ^ b) - _rotated(b, 24)) & _WORD
