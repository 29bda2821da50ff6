"""What clients were told, computed outside the product, and the invariants that follow from it."""

from __future__ import annotations

from orchestrator.model.record import Record
from tests.sim.world import Violation, World

EMPTY = 0
"""What every extent holds at the beginning."""


class Ghost:
    """Sees everything at once, as no node can.

    `line[x]` is the serving history of one extent: from the value last acknowledged to the newest value
    that the last opened gate has written, each written over the one before.
    """

    __slots__ = ("acked", "forced_at", "known", "line", "losing", "owner", "owner_epoch", "serial", "world")

    def __init__(self, world: World, extents: int) -> None:
        self.world = world
        self.line: list[list[int]] = [[EMPTY] for _ in range(extents)]
        self.known: list[set[int]] = [{EMPTY} for _ in range(extents)]
        self.serial = EMPTY
        self.acked = 0
        self.owner: str | None = None
        self.owner_epoch = 0
        self.forced_at = 0
        """The epoch of the newest record by which an operator accepted a loss."""
        self.losing: list[tuple[int, set[int]]] = []
        """By extent: what clients were told or could read when an operator's force gave it up."""

    def write(self, node: str, extent: int, over: int) -> int:
        """The application on this node overwrites a value; gives the new one."""
        self.serial += 1
        line = self.line[extent]
        if self.world.log is not None:
            self.world.say(f"{node} writes {self.serial} over {over} in extent {extent}")
        for lost, values in self.losing:
            if lost == extent and over in values:
                values.add(self.serial)
        if node == self.owner and line[-1] == over:
            line.append(self.serial)
            self.known[extent].add(self.serial)
        return self.serial

    def acknowledge(self, node: str, extent: int, value: int) -> None:
        """The client was told that this value is safe."""
        self.acked += 1
        if self.world.log is not None:
            self.world.say(f"{node} acknowledges {value} of extent {extent}")
        line = self.line[extent]
        if value in line:
            del line[: line.index(value)]
        elif value not in self.known[extent]:
            raise Violation(
                f"{node} acknowledged {value} of extent {extent}, which the serving history {line} "
                f"of {self.owner} does not hold: two nodes acknowledge"
            )

    def opens(self, node: str, record: Record, memory: list[int], disk: list[int]) -> None:
        """A gate that was closed opens: what an application reads here must be history, and on this disk."""
        if memory != disk:
            raise Violation(
                f"{node} opens with {memory} in memory and {disk} on disk: a power cut takes it back"
            )
        if record.epoch <= self.owner_epoch and node != self.owner:
            return
        for extent, value in enumerate(memory):
            line = self.line[extent]
            if value in line:
                del line[line.index(value) + 1 :]
            elif self.forced_at > self.owner_epoch:
                self.world.counts["acknowledged data given up by force"] += 1
                self.losing.append((extent, set(line)))
                self.line[extent] = [value]
            else:
                raise Violation(
                    f"{node} opens under epoch {record.epoch} with {value} in extent {extent}; clients were "
                    f"told {line[0]}, the history is {line}"
                )
        self.owner, self.owner_epoch = node, record.epoch
        self.world.counts["gate opened"] += 1

    def kept(self, held: list[set[tuple[int, int]]]) -> None:
        """What force gave up is still on some node, in its tree or set aside."""
        for extent, values in self.losing:
            if not any((extent, value) in each for each in held for value in values):
                raise Violation(
                    f"extent {extent} had {sorted(values)} before the force, and no node has them"
                )

    def holds(self, node: str, disk: list[int]) -> None:
        """An in-sync member's disk has, for each extent, what was acknowledged last or a later write."""
        if self.forced_at > self.owner_epoch:
            return  # By force another history begins when the promoted node's gate opens.
        for extent, value in enumerate(disk):
            if value not in self.line[extent]:
                raise Violation(
                    f"{node} is in sync and has {value} in extent {extent} on disk; clients were told "
                    f"{self.line[extent][0]}, the history is {self.line[extent]}"
                )
