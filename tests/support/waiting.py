"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def eventually(predicate: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return once the predicate is true; fail after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < end, f"not true within {timeout_s} s"
        time.sleep(0.01)


async def until(predicate: Callable[[], object], timeout_s: float = 10.0) -> None:
    """The same inside a loop, which goes on meanwhile."""
    end = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < end, f"not true within {timeout_s} s"
        await asyncio.sleep(0.01)
