"""Which cut comes when: every named step and random moments by turns, drawn from a seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.cuts.steps import STEPS, Step

STEADY, PROMOTION, RESYNC = 8, 6, 6
"""In each round, beside one cut at every named step: so many at random moments of each time."""
BOTH = 0.25
"""How many of the cuts strike both nodes."""
LONGEST_S = {"promotion": 0.05, "resync": 0.3}
"""So long after the order a cut at a random moment comes at most: about what the thing takes."""


@dataclass(frozen=True)
class Plan:
    """One cut of a serving pair, and one more while that is got over."""

    first: str
    """`primary`, `secondary` or `both`; what it strikes is what the second one needs to be got over."""
    delay_s: float
    during: str = "steady"
    """When the second one falls: in the `promotion`, in the `resync`; `steady`: there is none."""
    step: Step | None = None
    """At this step of it; None: `delay_s` after its beginning."""
    calls: int = 1
    both: bool = False
    other: bool = False
    """At a random moment: it strikes not who takes the role or joins, but the other."""

    def __str__(self) -> str:
        if self.during == "steady":
            return f"{self.first} after {self.delay_s * 1000:.0f} ms"
        at = f"at {self.step.name!r}" if self.step else f"{self.delay_s * 1000:.0f} ms into it"
        return f"{self.first}, then {'both ' if self.both else ''}in the {self.during} {at}"


def rounds(seed: int) -> Iterator[list[Plan]]:
    """For ever."""
    chance = random.Random(seed)
    while True:
        plans = [at_step(step, chance) for step in STEPS]
        for _ in range(STEADY):
            plans.append(Plan(_someone(chance, 1, 1, 1), chance.uniform(0, 0.08)))
        plans += [_at_random("promotion", chance) for _ in range(PROMOTION)]
        plans += [_at_random("resync", chance) for _ in range(RESYNC)]
        chance.shuffle(plans)
        yield plans


def every(seed: int) -> Iterator[Plan]:
    """All plans of a seed, in their order; for ever."""
    return itertools.chain.from_iterable(rounds(seed))


def at_step(step: Step, chance: random.Random) -> Plan:
    """A cut that makes this step happen, and one when it does."""
    first = _someone(chance, 3, 0, 1) if step.during == "promotion" else _someone(chance, 2, 3, 1)
    both = chance.random() < BOTH
    return Plan(first, chance.uniform(0, 0.03), step.during, step, chance.randint(1, step.many), both)


def _at_random(during: str, chance: random.Random) -> Plan:
    first = _someone(chance, 3, 0, 1) if during == "promotion" else _someone(chance, 2, 3, 1)
    delay_s = chance.uniform(0, LONGEST_S[during])
    other = during == "resync" and chance.random() < 0.5
    return Plan(first, delay_s, during, both=chance.random() < BOTH, other=other)


def _someone(chance: random.Random, primary: int, secondary: int, both: int) -> str:
    return chance.choice(["primary"] * primary + ["secondary"] * secondary + ["both"] * both)
