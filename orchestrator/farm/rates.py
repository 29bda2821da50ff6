"""How fast a farm's traffic comes: from counters that begin anew whenever their rules were put back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.farm.plane import Traffic

WINDOW_S: Final = 5.0
"""What a rate is the mean of, and up to one sample more: slow enough to be read, soon enough to be true."""
SPACING_S: Final = 1.0
"""Between two samples that are kept, so that somebody who looks all the time makes no long list."""
LEAST_S: Final = 0.5
"""Of a shorter time a few packets more or less would be said to be a rate."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What one node takes, in a second; what leaves it goes to clients directly and is not counted."""

    connections: float = 0.0
    packets: float = 0.0
    bytes: float = 0.0


NONE: Final = Traffic()


@dataclass(frozen=True, slots=True)
class Sample:
    """All counters of a farm on one node, read together."""

    at: float
    since: float
    """When they were all zero, on the same clock."""
    counts: Mapping[str, Traffic]
    """By service."""


@dataclass(frozen=True, slots=True)
class Meter:
    """The samples of the last while, the eldest first."""

    samples: tuple[Sample, ...] = ()

    def learn(self, new: Sample) -> Meter:
        """With one more."""
        before = self.samples
        if not before or before[-1].since != new.since:
            # All of it came since then: exact, whatever was counted before by rules that are gone.
            before = (Sample(new.since, new.since, {}),)
        elif _went_back(before[-1], new):
            before = ()  # somebody else set them to zero, and nobody knows when
        if len(before) > 1 and new.at - before[-2].at < SPACING_S:
            before = before[:-1]
        young = [number for number, sample in enumerate(before) if new.at - sample.at <= WINDOW_S]
        # The youngest of those that are too old is where the window begins.
        first = max(0, young[0] - 1) if young else max(0, len(before) - 1)
        return Meter((*before[first:], new))

    def rates(self, services: Iterable[str]) -> Rates | None:
        """Of these services together; None while that cannot be said."""
        if len(self.samples) < 2:
            return None
        first, last = self.samples[0], self.samples[-1]
        seconds = last.at - first.at
        if seconds < LEAST_S:
            return None
        pairs = [(first.counts.get(name, NONE), last.counts.get(name, NONE)) for name in services]
        return Rates(
            sum(new.taken_connections - old.taken_connections for old, new in pairs) / seconds,
            sum(new.taken_packets - old.taken_packets for old, new in pairs) / seconds,
            sum(new.taken_bytes - old.taken_bytes for old, new in pairs) / seconds,
        )


def _went_back(old: Sample, new: Sample) -> bool:
    return any(
        new.counts.get(name, NONE).taken_packets < was.taken_packets for name, was in old.counts.items()
    )
