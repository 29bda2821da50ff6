"""What a code is, and the numbers that the command line ends with."""

from __future__ import annotations

from dataclasses import dataclass

OK, FAILED, USAGE, DIFFERS, FORBIDDEN, TIMED_OUT, REFUSED, CONFLICT, UNREACHABLE = range(9)
"""What `hafarm` exits with; scripts rely on these numbers."""


@dataclass(frozen=True, slots=True)
class Code:
    """One code. `exit`: what the command line ends with when an order fails with it."""

    title: str
    meaning: str
    remedy: str
    exit: int = FAILED
