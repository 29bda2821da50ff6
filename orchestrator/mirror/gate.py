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
        self.joining: frozenset[NodeName] = frozenset()
        """Who lacks nothing and is not required yet: waited for all the same, as long as its stream stands."""
        self.passed = 0
        """The highest point that was let go. It may still wait for the own disk, and nobody can hold it back."""
        self._durable: dict[NodeName, int] = {}
        self._held: list[tuple[int, int, Token]] = []
        self._count = 0

    @property
    def held(self) -> int:
        """How many points wait."""
        return len(self._held)

    @property
    def settled_to(self) -> float:
        """Every point up to here is on the disk of each member that is waited for."""
        return min((self._durable.get(member, 0) for member in self.awaited), default=float("inf"))

    @property
    def awaited(self) -> frozenset[NodeName]:
        """Whose disks a point waits for, beside the own."""
        return (self.required | self.joining) - {self.me}

    def durable(self, member: NodeName) -> int:
        return self._durable.get(member, 0)

    def expect(self, joiner: NodeName, reached: int) -> None:
        """This node holds everything up to here: wait for it from now on, so that no point passes it by."""
        self._durable[joiner] = max(reached, self._durable.get(joiner, 0))
        if joiner not in self.required:
            self.joining |= {joiner}

    def lacks(self, joiner: NodeName) -> bool:
        """Some point was let go that is not known to be on its disk; once it is waited for, only an old one."""
        return self.durable(joiner) < self.passed

    def forget(self, joiner: NodeName) -> list[Token]:
        """Its stream ended: what is not required is not waited for."""
        self.joining -= {joiner}
        return self._settle()

    def widen(self, members: Iterable[NodeName]) -> bool:
        """Need these members too, from now on: before the bid that names them leaves (R2).

        False, and nothing changed, when a newcomer's stream is down or it lacks a point that was let go: the
        record must not name it.
        """
        newcomers = frozenset(members) - self.required - {self.me}
        if not newcomers <= self.joining or any(map(self.lacks, newcomers)):
            return False
        self.required |= newcomers
        self.joining -= newcomers
        return True

    def serve(self, members: Iterable[NodeName]) -> list[Token]:
        """A bid is proved won: open, and need exactly the members of its record."""
        self.required = frozenset(members)
        self.joining -= self.required
        assert self.me in self.required
        self.is_open = True
        return self._settle()

    def begin_stream(self) -> None:
        """Sequence numbers begin anew: what was confirmed of the former stream says nothing of this one."""
        assert not self.is_open
        assert not self._held
        self._durable.clear()
        self.joining = frozenset()
        self.passed = 0

    def hold(self, sequence: int, token: Token) -> bool:
        """True when this point is already settled; else it is held."""
        assert self.is_open, "a closed gate holds nothing: the caller answers EIO"
        if sequence <= self.settled_to:
            self.passed = max(self.passed, sequence)
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
                self.passed = max(self.passed, sequence)
                settled.append(token)
        return settled
