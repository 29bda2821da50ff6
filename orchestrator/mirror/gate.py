"""Which durable points may be acknowledged: those that each required member has on its disk (R1)."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Generic, TypeVar

from orchestrator.model.names import NodeName

Token = TypeVar("Token")


class Gate(Generic[Token]):
    """The acknowledgement arithmetic: no lock, no socket, no clock.

    Points that cannot settle yet are held; every call returns the tokens that it settles. The own disk is not
    counted here: whoever answers the application waits for it too.
    """

    def __init__(self, me: NodeName) -> None:
        self.me = me
        self.is_open = False
        self.required: frozenset[NodeName] = frozenset()
        self._durable: dict[NodeName, int] = {}
        self._held: list[tuple[int, int, Token]] = []
        self._count = 0
        self._acknowledged = 0
        """Every point up to here may have been acknowledged."""

    @property
    def held(self) -> int:
        """How many points wait."""
        return len(self._held)

    @property
    def settled_to(self) -> float:
        """Every point up to here is on the disk of each required member."""
        return min(
            (self._durable.get(member, 0) for member in self.required - {self.me}), default=float("inf")
        )

    def durable(self, member: NodeName) -> int:
        return self._durable.get(member, 0)

    def widen(self, members: Iterable[NodeName]) -> None:
        """Need these members too, from now on: before the bid that names them leaves (R2)."""
        self.required |= frozenset(members)

    def lacking(self, members: Iterable[NodeName]) -> frozenset[NodeName]:
        """Those that have not confirmed every point acknowledged so far: not to be taken in yet (R7)."""
        return frozenset(
            name for name in members if name != self.me and self._durable.get(name, 0) < self._acknowledged
        )

    def narrow(self, members: Iterable[NodeName]) -> list[Token]:
        """Need these no more: the bid that would have named them was never sent."""
        self.required -= frozenset(members)
        return self._settle()

    def serve(self, members: Iterable[NodeName]) -> list[Token]:
        """A bid is proved won: open, and need exactly the members of its record."""
        self.required = frozenset(members)
        assert self.me in self.required
        self.is_open = True
        return self._settle()

    def begin_stream(self) -> None:
        """Sequence numbers begin anew: what was confirmed of the former stream says nothing of this one."""
        assert not self.is_open
        assert not self._held
        self._durable.clear()
        self._acknowledged = 0

    def hold(self, sequence: int, token: Token) -> bool:
        """True when this point is already settled; else it is held."""
        assert self.is_open, "a closed gate holds nothing: the caller answers EIO"
        if sequence <= self.settled_to:
            self._acknowledged = max(self._acknowledged, sequence)
            return True
        self._count += 1
        heapq.heappush(self._held, (sequence, self._count, token))
        return False

    def confirm(self, member: NodeName, sequence: int) -> list[Token]:
        """This member has every durable point up to here on its disk."""
        if sequence > self._durable.get(member, 0):
            self._durable[member] = sequence
        return self._settle()

    def close(self) -> list[Token]:
        """Acknowledge nothing more; the held points, which the caller answers with EIO."""
        self.is_open = False
        refused = [token for _, _, token in sorted(self._held, key=lambda point: point[:2])]
        self._held.clear()
        return refused

    def _settle(self) -> list[Token]:
        settled: list[Token] = []
        if self.is_open:
            limit = self.settled_to
            while self._held and self._held[0][0] <= limit:
                sequence, _, token = heapq.heappop(self._held)
                self._acknowledged = max(self._acknowledged, sequence)
                settled.append(token)
        return settled
