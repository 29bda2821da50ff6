"""The register: linearizable, and far away: requests and answers are lost, late and doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.model.record import Outcome, Record
from tests.sim.world import World

WITNESS = "witness"
LATE_S = 20.0
"""How late a request may still land: ten times longer than its sender waits."""


class Register:
    """One record, changed by compare-and-swap."""

    __slots__ = ("changed", "down", "history", "life", "lossy", "record", "slow_s", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self.record: Record | None = None
        self.history: list[Record] = []
        self.down = False
        self.slow_s = 0.0
        self.lossy = 0.0
        self.life = 0
        self.changed: Callable[[Record], None] = lambda record: None

    @property
    def troubled(self) -> bool:
        """Something is wrong with it now."""
        return self.down or bool(self.lossy) or self.record is not self.newest

    @property
    def newest(self) -> Record | None:
        """What it answered last before its disk was replaced."""
        return self.history[-1] if self.history else None

    def lose(self, known: int) -> bool:
        """Its disk is replaced: by an old copy that every node knows better than, else by nothing."""
        if self.troubled or self.record is None:
            return False
        # What was on its way to the former disk's process ends with it: it could land on the old copy.
        self.life += 1
        older = [record for record in self.history if record.epoch < known]
        self.record = self.world.random.choice([None, *older[-3:]])
        return True

    def found_again(self) -> None:
        """The operator gives it the newest record again."""
        self.record = self.newest

    def ask(self, source: str, answer: Callable[..., None], *question: Any) -> None:
        """Send a question; `answer` is called back with what `_read` or `_swap` say, perhaps never."""
        world = self.world
        world.send(source, WITNESS, None, self._arrive, self.life, source, answer, question)
        if self.lossy and world.random.random() < self.lossy:
            # A request that its sender has long given up may still land.
            world.counts["bid late"] += 1
            world.after(
                world.random.random() * LATE_S, None, self._arrive, self.life, source, answer, question
            )

    def _arrive(self, life: int, source: str, answer: Callable[..., None], question: tuple[Any, ...]) -> None:
        if self.down or life != self.life:
            return
        delay_s = self.world.random.random() * self.slow_s
        self.world.after(delay_s, None, self._decide, life, source, answer, question)

    def _decide(self, life: int, source: str, answer: Callable[..., None], question: tuple[Any, ...]) -> None:
        if self.down or life != self.life:
            return
        said = self._swap(*question) if question else (self.record,)
        if self.lossy and self.world.random.random() < self.lossy:
            self.world.counts["answer lost after its effect"] += 1
            return
        self.world.send(WITNESS, source, None, answer, *said)

    def _swap(self, expected: Record | None, record: Record) -> tuple[Outcome, Record | None]:
        tag = expected.epoch if expected is not None else None
        standing = self.record.epoch if self.record is not None else None
        if tag != standing:
            self.world.counts["bid refused"] += 1
            return Outcome.LOST, self.record
        self.record = record
        self.history.append(record)
        self.world.counts["bid won"] += 1
        self.world.note(f"register {record.epoch} {record.primary} {sorted(record.in_sync)} {record.reason}")
        self.changed(record)
        return Outcome.WON, None
