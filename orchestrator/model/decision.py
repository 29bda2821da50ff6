"""What a step gives back: the machine as it is now, and what is to be done, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.model.effects import Effect

Machine = TypeVar("Machine", covariant=True)


@dataclass(frozen=True, slots=True)
class Decision(Generic[Machine]):
    """The new state, and the effects that the hands carry out one after another."""

    state: Machine
    effects: tuple[Effect, ...] = ()
