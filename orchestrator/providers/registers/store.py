"""A store that only compares tags: what it has to offer, and how its failures are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from orchestrator.model.errors import RegisterRefused


@dataclass(frozen=True, slots=True)
class Held:
    """What stands under a key, and the tag that the store gave to it."""

    content: bytes
    tag: str


class Store(Protocol):
    """Nothing is ever sent twice: whoever asked decides whether to ask again."""

    where: str
    """For people."""
    pause_s: float
    """Between two writes under one key, where the store bears no more of them."""

    async def get(self, key: str) -> Held | None:
        """What stands; a linearizable read. Raises RegisterRefused or RegisterUnreachable."""
        ...

    async def put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        """Replace exactly `expected` (None: nothing at all). None: something else stands, and still does.

        Raises RegisterRefused when it cannot have happened, RegisterUnreachable when it may have.
        """
        ...

    async def close(self) -> None: ...


@dataclass(eq=False)
class StoreRefused(RegisterRefused):
    """The store understood and said no: rights, names, what is there."""

    code: ClassVar[str] = "HF7100"
    fix: str = ""

    def __str__(self) -> str:
        return f"the register {self.where} refused: {self.why}" + (f"; {self.fix}" if self.fix else "")


@dataclass(eq=False)
class StoreUnfit(RegisterRefused):
    """It grants to everybody: two nodes would become primary."""

    code: ClassVar[str] = "HF7101"

    def __str__(self) -> str:
        return f"{self.where} is no register: {self.why}; nothing is asked of it"


@dataclass(eq=False)
class ExtraMissing(RegisterRefused):
    """The cloud's own library is not installed here."""

    code: ClassVar[str] = "HF7102"

    def __str__(self) -> str:
        return f"the register {self.where} needs what is not installed here: {self.why}"
