"""What clients were told, computed outside the product, and the invariants that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.model.record import Record
from tests.sim.volume import DIRECTORY, EMPTY
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from tests.sim.volume import Volume


class Ghost:
    """Sees everything at once, as no node can.

    `line[x]` is the serving history of one extent: from the value last acknowledged to the newest value
    that the last opened gate has written, each written over the one before.
    """

    __slots__ = (
        "acked", "brought", "edits", "forced_at", "known", "line", "losing", "owner", "owner_epoch", "serial",
        "world",
    )  # fmt: skip

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
        self.brought: dict[int, tuple[int, int]] = {}
        """By a value of the directory: the file that a rename put in its place, and what that held."""
        self.edits: list[tuple[int, set[int], int]] = []
        """Of others, by extent: what was there, and what they wrote over it."""
        self.losing: list[tuple[int, set[int]]] = []
        """By extent: what clients could read when force gave it up, or what somebody else wrote."""

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

    def edit(self, node: str, extent: int, over: set[int]) -> int:
        """Somebody changes a plain file; what it holds then must not vanish in silence either."""
        self.serial += 1
        if self.world.log is not None:
            self.world.say(f"somebody writes {self.serial} over {sorted(over)} in extent {extent} on {node}")
        self.edits.append((extent, over, self.serial))
        for lost, values in self.losing:
            if lost == extent and over & values:
                values.add(self.serial)
        self.losing.append((extent, {self.serial}))
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

    def opens(
        self, node: str, record: Record, memory: list[int], disk: list[int], listed: set[tuple[int, int]]
    ) -> None:
        """A gate that was closed opens: what an application reads here must be history, and on this disk.

        `listed`: what others changed here and was found: on the node that serves it counts (F3).
        """
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
            elif (extent, value) in listed:
                self.world.counts["edit served"] += 1
                self.line[extent] = [value]
                self.known[extent].add(value)
            elif self.forced_at > self.owner_epoch:
                self.world.counts["acknowledged data given up by force"] += 1
                self.losing.append((extent, self._or_what_became_of_them(extent, set(line))))
                self.line[extent] = [value]
            else:
                raise Violation(
                    f"{node} opens under epoch {record.epoch} with {value} in extent {extent}; clients were "
                    f"told {line[0]}, the history is {line}"
                )
        self.owner, self.owner_epoch = node, record.epoch
        self.world.counts["gate opened"] += 1

    def _or_what_became_of_them(self, extent: int, values: set[int]) -> set[int]:
        """Whoever overwrites a plain file takes what was in it away himself."""
        for edited, over, value in self.edits:
            if edited == extent and over & values:
                values.add(value)
        return values

    def is_a_moment(self, node: str, record: Record, memory: list[int]) -> None:
        """O1: what is taken over is the history up to some moment; no later write without an earlier one."""
        if record.forced or (record.epoch <= self.owner_epoch and node != self.owner):
            return
        theirs = {value for _, _, value in self.edits}
        known = [(extent, value) for extent, value in enumerate(memory) if value in self.line[extent]]
        newest = max((value for _, value in known if value not in theirs), default=EMPTY)
        for extent, value in known:
            line = self.line[extent]
            missed = [other for other in line[line.index(value) + 1 :] if other < newest]
            if missed:
                raise Violation(
                    f"{node} opens with {newest} and without {missed[0]} in extent {extent}: "
                    "it lacks what was written before"
                )

    def kept(self, volumes: list[Volume]) -> None:
        """What force gave up, and what others changed, is still on some node, in its tree or set aside."""
        for extent, values in self.losing:
            if not self._is_kept(extent, values, volumes):
                raise Violation(f"extent {extent} had {sorted(values)}, and no node has them")

    def _is_kept(self, extent: int, values: set[int], volumes: list[Volume]) -> bool:
        return any(
            volume.memory[extent] in values
            or volume.disk[extent] in values
            or any(at == extent and value in values for at, value in volume.aside)
            for volume in volumes
        )

    def whole(self, node: str, disk: list[int]) -> None:
        """O6: what was written, closed and renamed is there as it was, or the rename is not there."""
        file, value = self.brought.get(disk[DIRECTORY], (0, EMPTY))
        if disk[file] < value:
            raise Violation(
                f"{node} has the name {disk[DIRECTORY]} of file {file} on disk, and {disk[file]} in it: "
                f"it was renamed with {value}, and is torn"
            )

    def rolled_back(self, volumes: list[Volume]) -> None:
        """Who puts an old disk in a node's place takes away what was only there."""
        self.losing = [one for one in self.losing if self._is_kept(*one, volumes)]

    def holds(self, node: str, volume: Volume, disk: list[int]) -> None:
        """An in-sync member's disk has, for each extent, what was acknowledged last or a later write."""
        if self.forced_at > self.owner_epoch:
            return  # By force another history begins when the promoted node's gate opens.
        for extent, value in enumerate(disk):
            if value not in self.line[extent] and not volume.is_exempt(extent, value):
                raise Violation(
                    f"{node} is in sync and has {value} in extent {extent} on disk; clients were told "
                    f"{self.line[extent][0]}, the history is {self.line[extent]}"
                )
