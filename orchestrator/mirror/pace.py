"""How fast another node has durable points on its disk: slow, fast again, or too slow to be waited for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, NamedTuple

from orchestrator.model.config import TOLD_ONLY, SlowPeerConfig
from orchestrator.model.names import Instant

ANSWERS: Final = 5
"""The last ones, of which more than half must be slow: one hiccup of a disk is not its pace."""
SLOW_S: Final = 1.0
"""An answer that takes longer is slow, whatever is usual."""
FLOOR_S: Final = 0.25
"""One that takes no longer is not: disks that are shared have such moments, and nobody feels them."""
USUAL_TIMES: Final = 8
"""Between the two, so many times what is usual for this node is slow."""
OWN_TIMES: Final = 2
"""What takes this node's own disk half as long is much work, and no slow peer."""
STALL_S: Final = 2.0
"""One answer that is awaited for so long says it alone: those behind it only come later."""
CALM_S: Final = 10.0
"""Without a slow answer for so long a node is fast again: twice what `ack_timeout` lets it hang."""
REST_S: Final = 30.0
"""A node that was given up for its pace has to be fast for so long before it is taken in again, and for twice
as long after each time that follows: a disk that is slow now and then must not cost a copy every minute."""
REST_MAX_S: Final = 600.0
FORGOTTEN_S: Final = 3600.0
"""Given up once more after so long, it counts as the first time."""
_WEIGHT: Final = 1 / 16
"""Of a new answer in what is usual: some seconds of a busy application."""


class Finding(Enum):
    """What is new of a node's pace."""

    SLOW = "slow"
    FAST_AGAIN = "fast again"
    GIVE_UP = "give up"
    """The policy does not wait for it any longer."""


class Answer(NamedTuple):
    """How long one durable point took to be on the other node's disk."""

    took_s: float
    slow: bool


@dataclass(frozen=True, slots=True)
class Pace:
    """One other node's pace, as its primary sees it; learns answers, and is looked at now and then."""

    policy: SlowPeerConfig = TOLD_ONLY
    answers: tuple[Answer, ...] = ()
    usual_s: float = 0.0
    """Of its answers that were not slow; 0: none is known."""
    slow_since: Instant | None = None
    slow_at: Instant | None = None
    """When an answer was slow last, or waited for too long."""
    worst_s: float = 0.0
    """The longest answer of this time of slowness."""
    given_up: int = 0
    """How often in a row the policy gave it up."""
    given_up_at: Instant | None = None

    @property
    def limit_s(self) -> float:
        """An answer that takes longer is slow."""
        return min(SLOW_S, max(FLOOR_S, USUAL_TIMES * self.usual_s)) if self.usual_s else SLOW_S

    def answered(self, now: Instant, took_s: float, own_s: float | None) -> Pace:
        """A durable point is on its disk. `own_s`: what it took on this node; None: that is still at it."""
        slow = self._is_slow(took_s, own_s)
        usual_s = self.usual_s
        if not slow:
            usual_s = usual_s + _WEIGHT * (took_s - usual_s) if usual_s else took_s
        answers = (*self.answers, Answer(took_s, slow))[-ANSWERS:]
        pace = replace(self, answers=answers, usual_s=usual_s)
        return pace._slowed(now, took_s) if slow else pace

    def looked_at(self, now: Instant, waited_s: float, own_s: float | None) -> tuple[Pace, Finding | None]:
        """What is new, told once. `waited_s`: how long an answer is awaited that has not come; 0: none is."""
        late = self._is_slow(waited_s, own_s)
        pace = self._slowed(now, waited_s) if late else self
        if pace._seems_slow(late, waited_s):
            if pace.slow_since is None:
                return replace(pace, slow_since=now), Finding.SLOW
            if pace._is_enough(now):
                again = pace.given_up_at is not None and now - pace.given_up_at < FORGOTTEN_S
                times = pace.given_up + 1 if again else 1
                return replace(pace, given_up=times, given_up_at=now), Finding.GIVE_UP
        if pace.slow_since is not None and pace._is_calm(now):
            return replace(pace, slow_since=None, answers=(), worst_s=0.0), Finding.FAST_AGAIN
        return pace, None

    def may_join(self, now: Instant) -> bool:
        """Whether a node that lacks nothing is fast enough to be waited for again."""
        if self.given_up_at is None:
            return True
        rest_s = min(REST_S * (1 << (self.given_up - 1)), REST_MAX_S)
        return now - max(self.given_up_at, self.slow_at or self.given_up_at) >= rest_s

    def _slowed(self, now: Instant, took_s: float) -> Pace:
        lately = self.slow_at is not None and now - self.slow_at < CALM_S
        return replace(self, slow_at=now, worst_s=max(self.worst_s, took_s) if lately else took_s)

    def _is_calm(self, now: Instant) -> bool:
        """Who was given up counts as slow until it may be taken in: people see why it is not in sync."""
        return (self.slow_at is None or now - self.slow_at >= CALM_S) and self.may_join(now)

    def _is_slow(self, took_s: float, own_s: float | None) -> bool:
        return own_s is not None and took_s > max(self.limit_s, OWN_TIMES * own_s)

    def _seems_slow(self, late: bool, waited_s: float) -> bool:
        recent = [*(answer.slow for answer in self.answers), *([True] if late else [])][-ANSWERS:]
        return 2 * sum(recent) > ANSWERS or (late and waited_s > STALL_S)

    def _is_enough(self, now: Instant) -> bool:
        """Slow for as long as the policy bears it, and now: of an idle node nothing new is known."""
        if self.policy.do != "drop" or self.slow_since is None or self.slow_at != now:
            return False
        if self.given_up_at is not None and self.given_up_at >= self.slow_since:
            return False  # that was said
        return now - self.slow_since >= self.policy.after_s
