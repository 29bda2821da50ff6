"""How much was tested, and what a first copy was measured to take: for whoever says what to expect."""

from __future__ import annotations

from typing import Final

FILES_TESTED: Final = 1_000_000
"""In one replicated directory: compared in full, and looked through at a start (docs/limits.md)."""
RATE_ASSUMED: Final = 100 << 20
"""Bytes a second of a copy, where none was ever measured: what a network of 1 Gbit/s takes."""
NEW_FILES_PER_S: Final = 500
"""Files that a first copy makes in a second; 435 to 630 were measured, with both nodes on two busy
processors."""


def first_copy_s(files: int, size: int, rate_max: int = 0) -> float:
    """About how long a node without anything is filled; `rate_max` in bytes a second, 0: no cap."""
    rate = min(RATE_ASSUMED, rate_max) if rate_max else RATE_ASSUMED
    return files / NEW_FILES_PER_S + size / rate
