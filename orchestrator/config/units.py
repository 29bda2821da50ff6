"""Quantities as people write them: `200ms`, `5s`, `100MiB/s`."""

from __future__ import annotations

import re
from typing import Final

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)(/s)?")


def seconds(value: object) -> float:
    """Of `200ms`, `5s`, `2h`; a bare number is refused, since nobody knows which unit was meant."""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[2] not in _SECONDS or found[3]:
        raise ValueError("a time with its unit is needed, such as 200ms, 5s or 2h")
    return float(found[1]) * _SECONDS[found[2]]


def bytes_per_second(value: object) -> int:
    """Of `100MiB/s`."""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[2] not in _BYTES or not found[3]:
        raise ValueError("a rate with its unit is needed, such as 100MiB/s")
    return int(float(found[1]) * _BYTES[found[2]])
