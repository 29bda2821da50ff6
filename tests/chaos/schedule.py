"""Which fault comes when: drawn from a seed, so that a run can be had again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tests.chaos.faults import FAULTS, Fault

DELAY_S = (0.1, 1.5)
"""Before each fault: some 10 to 150 rows of normal service."""
HASTY = 0.2
"""How many of the faults do not wait until the one before is got over. Data must bear any number of faults
that leave the disks; service may be interrupted by two at once."""


@dataclass(frozen=True)
class Step:
    """One fault of a run."""

    number: int
    fault: Fault
    delay_s: float
    hold_s: float
    hasty: bool
    """The next one comes before this one is got over."""

    def __str__(self) -> str:
        hasty = ", the next without waiting" if self.hasty else ""
        return f"{self.number:3} after {self.delay_s:.2f} s: {self.fault.name} for {self.hold_s:.2f} s{hasty}"


def schedule(seed: int, faults: Sequence[Fault] = FAULTS, hasty: float = HASTY) -> Iterator[Step]:
    """For ever: every fault comes once in each round, and every kind within the shortest beginning of it."""
    chance = random.Random(seed)
    number = 0
    while True:
        for fault in shuffled(faults, chance):
            number += 1
            yield Step(
                number,
                fault,
                chance.uniform(*DELAY_S),
                chance.uniform(*fault.hold_s),
                chance.random() < hasty,
            )


def until_moved(
    moved: Callable[[], int], wanted: int, steps: Iterable[Step], mover: Fault, more_max: int = 8
) -> Iterator[Step]:
    """These steps, and then as many of a fault that surely moves the service as the wanted count still needs.

    Some faults are over before anybody has to act; how many is a matter of the machine's speed.
    """
    yield from steps
    for step in islice(schedule(wanted, [mover], hasty=0), more_max):
        if moved() >= wanted:
            return
        yield step


def shuffled(faults: Sequence[Fault], chance: random.Random) -> list[Fault]:
    """In random order, one of each kind first."""
    cards = chance.sample(faults, len(faults))
    firsts = list({card.kind: card for card in reversed(cards)}.values())
    chance.shuffle(firsts)
    return firsts + [card for card in cards if card not in firsts]
