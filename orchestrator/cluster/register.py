"""The register: one record per mirror, changed by compare-and-swap; what every kind of it must do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator.model.names import ModuleName, NodeName
from orchestrator.model.record import Outcome, Record


@dataclass(frozen=True, slots=True)
class BidResult:
    """What is known of a bid, and the record that stands where the register said it."""

    outcome: Outcome
    current: Record | None = None


class Register(Protocol):
    """The one small interface; `tests/witness/conformance.py` is what each kind has to pass."""

    async def read(self, module: ModuleName) -> Record | None:
        """A linearizable read. Raises RegisterRefused or RegisterUnreachable."""
        ...

    async def swap(self, expected: Record | None, record: Record) -> BidResult:
        """Replace exactly `expected` (None: nothing at all). UNKNOWN: it may or may not have happened."""
        ...


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a register does with one bid: `accepted` is the record to make durable, else `why` not."""

    accepted: Record | None
    won: bool
    why: str = ""


def judge(stored: Record | None, expected: Record | None, record: Record, bidder: NodeName) -> Judgement:
    """The whole of a register's judgement. The same bid again, after it has won, has won (a lost answer).

    R2 once more, in depth: who bids must be in the in-sync set that it wants to change, but for an operator's
    forced record; and lower epochs are refused for ever.
    """
    if stored is not None and _same(stored, record):
        return Judgement(None, won=True)
    if (stored.reign if stored else None) != (expected.reign if expected else None):
        return Judgement(None, won=False, why="another record stands")
    if bidder not in record.nodes:
        return Judgement(None, won=False, why=f"{bidder} is no node of this module")
    if stored is None:
        first = record.epoch == 1 and record.in_sync == {bidder}
        # A register that lost everything is told again what it held, by an operator's order.
        if record.primary == bidder and (first or record.forced):
            return Judgement(record, won=True)
        return Judgement(None, won=False, why="a first record is {me} at epoch 1")
    if record.epoch != stored.epoch + 1 and not (record.forced and record.epoch > stored.epoch):
        return Judgement(None, won=False, why=f"epoch {record.epoch} does not follow {stored.epoch}")
    if (record.cluster, record.module) != (stored.cluster, stored.module):
        return Judgement(None, won=False, why="another cluster's or module's record")
    if bidder not in stored.in_sync and not record.forced:
        return Judgement(None, won=False, why=f"{bidder} is not in sync and may not bid")
    return Judgement(record, won=True)


def _same(stored: Record, record: Record) -> bool:
    """Two sendings of one bid."""
    return (stored.reign, stored.primary, stored.in_sync) == (record.reign, record.primary, record.in_sync)
