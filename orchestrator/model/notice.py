"""Something that the place a machine runs in is going to do to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """One announcement, as it stands now."""

    key: str
    """The same for the same one, however often it is read."""
    kind: str
    """For people, in the place's own words."""
    at: float | None = None
    """Not before this, in seconds since the epoch by the place's clock; None: at any moment."""
    answer: str = ""
    """What the place wants to be told when the machine is ready for it; empty: it asks for no answer."""
