"""A UDP probe each millisecond through an address: how long were there no good replies?

    probe.py ADDRESS PORT

says {"ready": true}, probes until standard input ends, then says what it saw. Times: CLOCK_MONOTONIC seconds.
It runs in real time: what it measures must be the service's silence, not its own.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any

from orchestrator.host import realtime

PERIOD_S = 0.001
"""A tenth of the shortest time that is measured with it."""
GAP_MIN_S = 0.01
"""Shorter silences are a few lost or late probes, not an outage."""
STALL_S = 0.05
"""We did not run for so long: what looks like a gap is ours, and the round does not count."""
LAST_REPLIES_S = 0.3
"""A reply that takes longer than this is counted as lost."""


class Probe:
    """Asks and listens; remembers every silence."""

    def __init__(self, address: str, port: int) -> None:
        self._target = (address, port)
        self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._awaited: set[bytes] = set()
        self.sent = self.stalls = 0
        self.gaps: list[tuple[float, float]] = []
        self.last_of: dict[str, float] = {}
        """By node: when it answered last."""
        self.last_good = self._before = self._due = time.monotonic()

    def run(self) -> None:
        """Until standard input ends, and then until the last replies are in."""
        while not self._turn([sys.stdin]):
            pass
        over, self._due = time.monotonic(), float("inf")
        while self._awaited and time.monotonic() < over + LAST_REPLIES_S:
            self._turn([])
        if over - self.last_good > GAP_MIN_S:
            self.gaps.append((self.last_good, over))

    def _turn(self, others: list[Any]) -> bool:
        """Listen until the next probe is due, send it; True when one of the others has something to say."""
        wait = min(LAST_REPLIES_S, max(0.0, self._due - time.monotonic()))
        readable, _, _ = select.select([self._socket, *others], [], [], wait)
        now = time.monotonic()
        self.stalls += now - self._before > STALL_S and self._due < float("inf")
        self._before = now
        if self._socket in readable:
            self._listen(now)
        if now >= self._due:
            self._due = now + PERIOD_S
            self._ask()
        return any(other in readable for other in others)

    def _ask(self) -> None:
        number = b"%d" % self.sent
        self.sent += 1
        self._awaited.add(number)
        try:
            self._socket.sendto(number, self._target)
        except OSError:
            pass  # no route or no neighbour yet: that is what is being measured

    def _listen(self, now: float) -> None:
        try:
            while True:
                number, _, node = self._socket.recv(2048).partition(b" ")
                if number not in self._awaited:
                    continue
                self._awaited.discard(number)
                if now - self.last_good > GAP_MIN_S:
                    self.gaps.append((self.last_good, now))
                self.last_good = self.last_of[node.decode()] = now
        except (BlockingIOError, ConnectionError):
            pass

    def report(self) -> dict[str, object]:
        return {
            "sent": self.sent,
            "lost": len(self._awaited),
            "gaps": self.gaps,
            "last_of": self.last_of,
            "stalls": self.stalls,
        }


def main() -> None:
    probe = Probe(sys.argv[1], int(sys.argv[2]))
    realtime.become_punctual()
    print(json.dumps({"ready": True}), flush=True)
    probe.run()
    print(json.dumps(probe.report()), flush=True)


if __name__ == "__main__":
    main()
