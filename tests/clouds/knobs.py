"""What a test turns to make a cloud slow, busy, broken, forgetful or strict; and what was used of it."""

from __future__ import annotations

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
    REFUSE = "refuse"
    """It is answered with `status` and `code`, and nothing happens."""
    DENY = "deny"
    """The caller lacks the permission."""
    EXPIRE = "expire"
    """The caller's token is told to be too old."""
    LOSE = "lose"
    """It is served whole, and its answer never comes: nothing for `seconds`, then a reset."""
    STALE = "stale"
    """It reads what was true `changes` accepted requests ago, or `seconds` ago."""
    SLOW = "slow"
    """The operation that it starts takes `seconds`."""
    BREAK = "break"
    """The operation that it starts ends with the error `code`, and changes nothing that packets meet."""
    OVERTAKE = "overtake"
    """Somebody else changes the thing first: the ETag or fingerprint that the caller read is old."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which calls, how many of them, and what befalls each."""

    do: Do
    action: str = "*"
    """A pattern for the name of the permission that the call needs, in the cloud's own words."""
    target: str = "*"
    """A pattern for the thing that is called, without regard to case."""
    principal: str = "*"
    times: int | None = 1
    """For so many calls; None means for all until `clear`."""
    skip: int = 0
    """So many fitting calls pass first."""
    seconds: float = 0.0
    changes: int = 1
    status: int = 503
    code: str = ""
    retry_after_s: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, object]) -> Rule:
        """The same from JSON; it refuses what it does not know."""
        unknown = set(told) - {each.name for each in fields(cls)}
        if unknown:
            raise ValueError(f"a rule has no {', '.join(sorted(unknown))}")
        return cls(**{**told, "do": Do(str(told["do"]))})  # type: ignore[arg-type]

    def fits(self, call: Call) -> bool:
        if not fnmatchcase(call.target.lower(), self.target.lower()):
            return False
        if not fnmatchcase(call.principal, self.principal):
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
    principal: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """A call and the status that it was answered with; 0 where the answer was lost."""

    call: Call
    status: int


@dataclass
class Knobs:
    """The rules that are in force, and everything that was asked; for any thread."""

    rules: list[Rule] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    _allowed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def turn(self, do: Do, action: str = "*", **how: object) -> Rule:
        """Put a rule into force behind those that are."""
        rule = Rule.of({"do": do, "action": action, **how})
        if do is Do.DENY and "times" not in how:
            rule = replace(rule, times=None)
        with self._lock:
            self.rules.append(rule)
        return rule

    def throttle(self, action: str = "*", *, times: int | None = 1, retry_after_s: int | None = 1) -> Rule:
        return self.turn(Do.REFUSE, action, status=429, times=times, retry_after_s=retry_after_s)

    def allow_only(self, actions: Collection[str], principal: str = "*") -> None:
        """Such principals may do nothing else from now on."""
        with self._lock:
            self._allowed[principal] = tuple(actions)

    def clear(self) -> None:
        """No rule is in force; what was asked stays known."""
        with self._lock:
            self.rules.clear()
            self._allowed.clear()

    def forget(self) -> None:
        """What was asked is no longer known; rules stay in force."""
        with self._lock:
            self.done.clear()
            self.used.clear()

    def meet(self, call: Call) -> dict[Do, Rule]:
        """What befalls this call, each kind at most once; a rule that was used up goes."""
        met: dict[Do, Rule] = {}
        with self._lock:
            for place, rule in enumerate(self.rules):
                if rule.do in met or not rule.fits(call):
                    continue
                if rule.skip:
                    self.rules[place] = replace(rule, skip=rule.skip - 1)
                    continue
                met[rule.do] = rule
                if rule.times is not None:
                    self.rules[place] = replace(rule, times=rule.times - 1)
            self.rules[:] = [rule for rule in self.rules if rule.times is None or rule.times > 0]
        return met

    def missing(self, call: Call, met: Mapping[Do, Rule]) -> str | None:
        """The first permission of those that the call needs which its principal has not."""
        with self._lock:
            allowed = [actions for who, actions in self._allowed.items() if fnmatchcase(call.principal, who)]
        for action in call.needs:
            if Do.DENY in met and matches(met[Do.DENY].action, action):
                return action
            if allowed and not any(matches(pattern, action) for each in allowed for pattern in each):
                return action
        return None

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
