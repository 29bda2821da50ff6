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


@dataclass(slots=True, eq=False)
class Knob:
    """Which calls, how many of them, and what befalls each."""

    effect: Do
    action: str = "*"
    """A pattern for the name of a permission that the call needs; `changes` for all that change something."""
    about: str = ""
    """A word of the address of the thing that is called, without regard to case."""
    who: str = ""
    """Whose calls; anybody's without a name."""
    times: int | None = None
    """For so many calls; None means for all until `clear`."""
    skip: int = 0
    """So many fitting calls pass first."""
    seconds: float = 0.0
    changes: int = 1
    status: int = 503
    code: str = ""
    retry_after_s: int | None = None
    hits: int = 0
    """How many calls it has met."""

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
        if self.who not in ("", call.who) or self.hits == self.times:
            return False
        if self.action == "changes":
            return call.changes
        return any(self.names(action) for action in call.needs)

    def names(self, action: str) -> bool:
        return self.action == "changes" or matches(self.action, action)


def matches(pattern: str, action: str) -> bool:
    """Permissions are named without regard to case, and patterns may hold a star."""
    return fnmatchcase(action.lower(), pattern.lower())


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the cloud understood it."""

    needs: tuple[str, ...]
    """Permissions, the call's own one first, then those of what it refers to."""
    target: str
    changes: bool
    who: str = ""

    @property
    def action(self) -> str:
        return self.needs[0]


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
    rights: dict[str, Collection[str]] = field(default_factory=dict)
    """Patterns of what a caller may do; who is not named may do everything."""
    log: list[Call] = field(default_factory=list)
    """What was let through."""
    done: list[Done] = field(default_factory=list)
    """What was asked, let through or not."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """From when to when each request was inside, by CLOCK_MONOTONIC."""
    used: Counter[str] = field(default_factory=Counter)
    """Permissions that were made use of."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def turn(self, effect: Do | str, action: str = "*", **words: object) -> Knob:
        """Put one into force behind those that are."""
        return self.add(Knob.of({"effect": effect, "action": action, **words}))

    def add(self, knob: Knob) -> Knob:
        with self._lock:
            self.knobs.append(knob)
        return knob

    def allow_only(self, actions: Collection[str], who: str = "*") -> None:
        """This caller, or everybody, may do nothing else from now on."""
        self.rights[who] = actions

    def clear(self) -> None:
        """No knob is in force; what was asked stays known."""
        with self._lock:
            self.knobs.clear()
            self.rights.clear()

    def forget(self) -> None:
        """What was asked is no longer known; knobs stay in force."""
        with self._lock:
            self.log.clear()
            self.done.clear()
            self.used.clear()

    def meet(self, call: Call) -> dict[Do, Knob]:
        """What befalls this call, each kind at most once."""
        met: dict[Do, Knob] = {}
        with self._lock:
            for knob in self.knobs:
                if knob.effect in met or not knob.fits(call):
                    continue
                if knob.skip:
                    knob.skip -= 1
                    continue
                knob.hits += 1
                met[knob.effect] = knob
        return met

    def allowed(self, who: str) -> Collection[str]:
        """The patterns of what a caller may do."""
        return self.rights.get(who, self.rights.get("*", ("*",)))

    def denied(self, target: str, who: str) -> list[str]:
        """The patterns of what the knobs deny a caller there."""
        met = [knob for knob in self.knobs if knob.effect is Do.DENIED]
        asked = Call(("",), target, True, who)
        found = [knob.action for knob in met if replace(knob, action="*").fits(asked)]
        changes = ("*/write", "*/delete", "*/action")
        return [one for action in found for one in (changes if action == "changes" else (action,))]

    def missing(self, call: Call, met: Mapping[Do, Knob]) -> str | None:
        """The first permission of those that the call needs which its caller has not."""
        allowed = self.allowed(call.who)
        for action in call.needs:
            if Do.DENIED in met and met[Do.DENIED].names(action):
                return action
            if not any(matches(pattern, action) for pattern in allowed):
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
            self.log.append(call)
            self.used.update(call.needs)

    def note_done(self, call: Call, status: int) -> None:
        with self._lock:
            self.done.append(Done(call, status))

    def changes(self, who: str = "") -> list[Call]:
        """What was let through that changed something, in order."""
        with self._lock:
            return [each for each in self.log if each.changes and who in ("", each.who)]

    @property
    def writes(self) -> list[Done]:
        """What was asked that would change something, answered or not."""
        with self._lock:
            return [each for each in self.done if each.call.changes]
