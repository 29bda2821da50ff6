"""What a test turns to make a cloud slow, busy, broken, forgetful or strict; and what was used of it."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from fnmatch import fnmatchcase


class Do(StrEnum):
    """What befalls a call."""

    DELAY = "delay"
    """It is served `seconds` later."""
    THROTTLED = "throttled"
    """It is answered with 429 and `retry_after_s`, and nothing happens."""
    BROKEN = "broken"
    """It is answered with `status` and `code`, and nothing happens."""
    DENIED = "denied"
    """The caller lacks the permission."""
    EXPIRED = "expired"
    """The caller's token is told to be too old."""
    LOST = "lost"
    """It is served whole, and its answer never comes: nothing for `seconds`, then a reset."""
    STALE = "stale"
    """It reads what was true `changes` accepted requests ago, or `seconds` ago."""
    SLOW = "slow"
    """The operation that it starts takes `seconds`."""
    FAILS = "fails"
    """The operation that it starts ends with the error `code`, and changes nothing that packets meet."""
    OVERTAKEN = "overtaken"
    """Somebody else changes the thing first: the ETag or fingerprint that the caller read is old."""


@dataclass(frozen=True, slots=True)
class Knob:
    """Which calls, how many of them, and what befalls each."""

    effect: Do
    action: str = "*"
    """A pattern for the name of the permission that the call needs, in the cloud's own words."""
    about: str = ""
    """A word of the address of the thing that is called, without regard to case."""
    who: str = "*"
    times: int | None = None
    """For so many calls; None means for all until `clear`."""
    skip: int = 0
    """So many fitting calls pass first."""
    seconds: float = 0.0
    changes: int = 1
    status: int = 503
    code: str = ""
    retry_after_s: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, object]) -> Knob:
        """The same from JSON; it refuses what it does not know."""
        unknown = set(told) - {each.name for each in fields(cls)}
        if unknown:
            raise ValueError(f"a knob has no {', '.join(sorted(unknown))}")
        return cls(**{**told, "effect": Do(str(told["effect"]))})  # type: ignore[arg-type]

    def fits(self, call: Call) -> bool:
        if self.about and self.about.lower() not in re.split("[/?]", call.target.lower()):
            return False
        if not fnmatchcase(call.who, self.who):
            return False
        return any(matches(self.action, action) for action in call.needs)


def matches(pattern: str, action: str) -> bool:
    """Permissions are named without regard to case, and patterns may hold a star."""
    return fnmatchcase(action.lower(), pattern.lower())


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the cloud understood it."""

    needs: tuple[str, ...]
    """Permissions, the call's own one first, then those of what it refers to."""
    target: str
    mutates: bool
    who: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """A call and the status that it was answered with; 0 where the answer was lost."""

    call: Call
    status: int


def refusal(met: Mapping[Do, Knob]) -> Knob | None:
    """What refuses the call whoever calls, if anything does."""
    if Do.THROTTLED in met:
        return replace(met[Do.THROTTLED], status=429)
    return met.get(Do.BROKEN)


@dataclass
class Knobs:
    """The knobs that are in force, and everything that was asked; for any thread."""

    knobs: list[Knob] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    _allowed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def turn(self, effect: Do | str, action: str = "*", **words: object) -> Knob:
        """Put one into force behind those that are."""
        knob = Knob.of({"effect": effect, "action": action, **words})
        with self._lock:
            self.knobs.append(knob)
        return knob

    def allow_only(self, actions: Collection[str], who: str = "*") -> None:
        """Such callers may do nothing else from now on."""
        with self._lock:
            self._allowed[who] = tuple(actions)

    def clear(self) -> None:
        """No knob is in force; what was asked stays known."""
        with self._lock:
            self.knobs.clear()
            self._allowed.clear()

    def forget(self) -> None:
        """What was asked is no longer known; knobs stay in force."""
        with self._lock:
            self.done.clear()
            self.used.clear()

    def meet(self, call: Call) -> dict[Do, Knob]:
        """What befalls this call, each kind at most once; a knob that was used up goes."""
        met: dict[Do, Knob] = {}
        with self._lock:
            for place, knob in enumerate(self.knobs):
                if knob.effect in met or not knob.fits(call):
                    continue
                if knob.skip:
                    self.knobs[place] = replace(knob, skip=knob.skip - 1)
                    continue
                met[knob.effect] = knob
                if knob.times is not None:
                    self.knobs[place] = replace(knob, times=knob.times - 1)
            self.knobs[:] = [knob for knob in self.knobs if knob.times is None or knob.times > 0]
        return met

    def missing(self, call: Call, met: Mapping[Do, Knob]) -> str | None:
        """The first permission of those that the call needs which its caller has not."""
        with self._lock:
            allowed = [
                actions for pattern, actions in self._allowed.items() if fnmatchcase(call.who, pattern)
            ]
        for action in call.needs:
            if Do.DENIED in met and matches(met[Do.DENIED].action, action):
                return action
            if allowed and not any(matches(pattern, action) for each in allowed for pattern in each):
                return action
        return None

    def holds(self, call: Call) -> bool:
        """Whether the caller has the permission, asked without making use of it or of a knob."""
        with self._lock:
            denied = [knob for knob in self.knobs if knob.effect is Do.DENIED and knob.fits(call)]
        return self.missing(call, {Do.DENIED: denied[0]} if denied else {}) is None

    def note_used(self, call: Call) -> None:
        """The caller had these permissions and made use of them."""
        with self._lock:
            self.used.update(call.needs)

    def note_done(self, call: Call, status: int) -> None:
        with self._lock:
            self.done.append(Done(call, status))

    @property
    def writes(self) -> list[Done]:
        """What was asked that would change something, answered or not."""
        with self._lock:
            return [each for each in self.done if each.call.mutates]
