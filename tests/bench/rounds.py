"""Rounds that count: a round in which the machine itself stood still is void, said aloud, and repeated."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from orchestrator.host import realtime

STALL_S: Final = 0.05
"""A real-time sleeper that wakes up so late was not the only one that did not run."""
SLEEP_S: Final = 0.005
REPEATS_MAX: Final = 3
"""A machine that stalls in each of four rounds is not fit to measure on."""
T = TypeVar("T")


class Void(Exception):
    """This round says nothing about us; the reason is the text."""


def count(
    work: Callable[[], T], stalled_s: Callable[[float, float], float], tell: Callable[[str], None]
) -> T | None:
    """The result of the first round that counts; None when it and all its repeats are void."""
    for attempt in range(REPEATS_MAX + 1):
        begin = time.monotonic()
        try:
            result = work()
            worst = stalled_s(begin, time.monotonic())
            if worst <= STALL_S:
                return result
            why = f"a real-time sleeper was {1000 * worst:.0f} ms late"
        except Void as fault:
            why = str(fault)
        tell(f"VOID round ({why}), {'repeated' if attempt < REPEATS_MAX else 'left out'}")
    return None


class Sleeper:
    """A process that only sleeps, in real time, and tells of each time that it woke up late."""

    def __init__(self) -> None:
        self.late: list[tuple[float, float]] = []
        self.refused: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.rounds"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.refused = json.loads(self._process.stdout.readline())
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            begin, end = json.loads(line)
            self.late.append((begin, end))

    def stalled_s(self, begin: float, end: float) -> float:
        """The longest stall that touched this stretch of CLOCK_MONOTONIC."""
        time.sleep(2 * SLEEP_S)  # a stall that has just ended is told of first
        return max(
            (late for since, until in self.late if (late := until - since) and until > begin and since < end),
            default=0.0,
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Sleep until killed, or until whoever started us is gone."""
    print(json.dumps(realtime.become_punctual()), flush=True)
    before = time.monotonic()
    with contextlib.suppress(BrokenPipeError):
        while True:
            time.sleep(SLEEP_S)
            now = time.monotonic()
            if now - before > STALL_S:
                print(json.dumps([before, now]), flush=True)
            before = now


if __name__ == "__main__":
    main()
