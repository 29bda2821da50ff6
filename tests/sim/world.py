"""Simulated time: one queue of events, one source of chance, and a trace that tells two runs apart."""

from __future__ import annotations

import heapq
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.host import Host


class Violation(AssertionError):
    """An invariant does not hold: the product, or the simulated world, is wrong."""


LOOK_EVENTS = 1000
"""Between two looks at this machine's clock: some ten milliseconds."""


class TwoHistories(Exception):
    """An operator made a node serve without the register: what follows is told in a story, not here."""


class CutShort(Exception):
    """The campaign is over; what this seed has shown so far counts."""


class World:
    """Time, chance and the wires between the nodes.

    Two clocks: `at` counts what is simulated in full, heartbeats included; `skipped` counts the quiet
    stretches that were jumped over. Pulses live in the first, everything else in their sum.
    """

    __slots__ = (
        "at",
        "beat_random",
        "busy",
        "check",
        "counts",
        "cuts",
        "disturbed_at",
        "events",
        "far",
        "faults",
        "jitter",
        "jumping",
        "late",
        "log",
        "loss",
        "over_at",
        "queue",
        "random",
        "seed",
        "serial",
        "settle_s",
        "skipped",
        "trace",
    )

    def __init__(self, seed: int, settle_s: float, jumping: bool = True, jitter: bool = True) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        # Heartbeats draw from a source of their own: how many of them are simulated changes nothing else.
        self.beat_random = random.Random(seed ^ 0x5EED)
        self.at = 0.0
        self.skipped = 0.0
        self.queue: list[tuple[float, int, bool, Host | None, int, Callable[..., None], tuple[Any, ...]]] = []
        self.far: list[tuple[float, int, Host | None, int, Callable[..., None], tuple[Any, ...]]] = []
        self.serial = 0
        self.busy = 0
        self.events = 0
        self.faults = 0
        self.counts: Counter[str] = Counter()
        self.trace = 0
        self.log: list[str] | None = None
        self.cuts: set[tuple[str, str]] = set()
        self.loss = 0.0
        self.late = 0.0
        self.jumping = jumping
        self.jitter = jitter
        self.settle_s = settle_s
        self.disturbed_at = 0.0
        self.check: Callable[[], None] = lambda: None
        self.over_at = float("inf")
        """Of this machine's clock: when whoever plays this has no more time."""

    # --- time ---------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Simulated seconds since the beginning."""
        return self.at + self.skipped

    def after(
        self, delay_s: float, host: Host | None, do: Callable[..., None], *args: Any, beat: bool = False
    ) -> None:
        """Run this later; it dies with the host's present boot. Beats do not count as something going on."""
        assert delay_s >= 0
        self.serial += 1
        boot = host.boot if host is not None else 0
        self.busy += not beat
        heapq.heappush(self.queue, (self.at + delay_s, self.serial, beat, host, boot, do, args))

    def much_later(self, delay_s: float, host: Host | None, do: Callable[..., None], *args: Any) -> None:
        """Like `after`, but nothing goes on until then: a quiet stretch may be jumped over."""
        self.serial += 1
        boot = host.boot if host is not None else 0
        heapq.heappush(self.far, (self.now + delay_s, self.serial, host, boot, do, args))

    def disturb(self) -> None:
        """Something changed: time-outs run now, nothing is jumped over until they have ended."""
        self.disturbed_at = self.at

    def run(self, until: float) -> None:
        """Let events happen until this simulated instant."""
        while self._next(until):
            pass
        if self.now < until:
            self.at += until - self.now

    def _next(self, until: float) -> bool:
        far_at = self.far[0][0] if self.far else until
        if self.jumping and not self.busy and self.at - self.disturbed_at > self.settle_s and not self.loss:
            goal = min(far_at, until)
            if goal > self.now:
                self.skipped += goal - self.now
        near_at = self.queue[0][0] + self.skipped if self.queue else until + 1
        if min(near_at, far_at) >= until:
            return False
        if far_at <= near_at:
            _, _, host, boot, do, args = heapq.heappop(self.far)
            self.at = max(self.at, far_at - self.skipped)
            beat = False
        else:
            at, _, beat, host, boot, do, args = heapq.heappop(self.queue)
            self.busy -= not beat
            self.at = at
        if host is not None:
            if host.boot != boot:
                return True
            if host.frozen:
                host.backlog.append((beat, do, args))
                return True
        self.events += 1
        if self.events % LOOK_EVENTS == 0 and time.monotonic() > self.over_at:
            raise CutShort
        do(*args)
        if not beat:
            self.check()
        return True

    # --- wires --------------------------------------------------------------------------------------------

    def delay(self, beat: bool = False) -> float:
        """How long a message is on its way: mostly a millisecond, now and then much longer."""
        if not self.jitter:
            return 0.001
        chance = self.beat_random if beat else self.random
        drawn = chance.random()
        if drawn < self.late:
            return chance.random() * 3.0
        return 0.0003 + 0.002 * drawn

    def send(
        self,
        source: str,
        target: str,
        host: Host | None,
        do: Callable[..., None],
        *args: Any,
        beat: bool = False,
        arrives: float | None = None,
    ) -> None:
        """One message: lost, late, doubled or overtaken by the next one."""
        if (source, target) in self.cuts:
            self.counts["message cut"] += 1
            return
        if self.loss:
            chance = self.beat_random if beat else self.random
            drawn = chance.random()
            if drawn < self.loss:
                self.counts["message lost"] += 1
                return
            if drawn > 1 - self.loss:
                self.counts["message doubled"] += 1
                self.after(self.delay(beat) * 2, host, do, *args, beat=beat)
        delay_s = self.delay(beat) if arrives is None else arrives - self.at
        self.after(delay_s, host, do, *args, beat=beat)

    # --- what happened ------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """One line of the trace."""
        self.trace = zlib.crc32(what.encode(), zlib.crc32(b"%.6f" % self.now, self.trace))
        if self.log is not None:
            self.log.append(f"{self.now:12.4f} {what}")

    def say(self, what: str) -> None:
        """One line for the reader of a story; not part of the trace."""
        if self.log is not None:
            self.log.append(f"{self.now:12.4f}     {what}")

    def fault(self, kind: str, whom: str = "") -> None:
        """Count one fault."""
        self.faults += 1
        self.counts["fault " + kind] += 1
        self.disturb()
        self.note(f"fault {kind} {whom}")
