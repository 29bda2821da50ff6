"""Seeded sequences on both kinds of disk until the time is over; the first difference, shrunk and printed."""

from __future__ import annotations

import ast
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.fidelity.operations import Operation, generate
from tests.fidelity.rig import DISKS, Difference, Rig, rig
from tests.fidelity.shrink import shrink

OPERATIONS = 120
"""In one sequence: enough for names to collide, few enough to be shrunk in a minute."""


def find(hurt: Rig, seeds: list[int]) -> tuple[int, list[Operation]] | None:
    """The first of these seeds that shows a difference, with its sequence."""
    for seed in seeds:
        operations = generate(seed, OPERATIONS)
        if hurt.judge(operations):
            return seed, operations
    return None


def smallest(hurt: Rig, operations: list[Operation]) -> tuple[list[Operation], Difference]:
    """A difference that a sequence shows, with the shortest part of it that was seen to show one."""
    shown: list[Difference] = []

    def fails(candidate: list[Operation]) -> bool:
        found = hurt.judge(candidate)
        if found:
            shown.append(found)
        return found is not None

    assert fails(operations), "it does not show it every time: a matter of timing"
    return shrink(operations, fails), shown[-1]


def as_python(operations: list[Operation]) -> str:
    """As a list that can be kept in a test, or given to `--replay`."""
    return "[\n" + "".join(f"    {operation!r},\n" for operation in operations) + "]"


def run(seed: int, minutes: float, tell: Callable[[str], None]) -> int:
    """How many sequences showed no difference; raises Found at the first that does."""
    until = time.monotonic() + minutes * 60
    clean = 0
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        for number, kind in zip(itertools.count(), itertools.cycle(DISKS), strict=False):
            base = Path(folder) / str(number)
            base.mkdir()
            with rig(base, kind) as hurt:
                # One set of disks for half a minute: the rest of the time is for both kinds.
                end = min(until, time.monotonic() + 30)
                while time.monotonic() < end:
                    seed += 1
                    found = find(hurt, [seed])
                    if found:
                        tell(f"seed {seed} on {kind} shows a difference; shrinking")
                        raise Found(kind, *smallest(hurt, found[1]))
                    clean += 1
            tell(f"{clean} sequences of {OPERATIONS} operations, no difference ({kind})")
            if time.monotonic() >= until:
                return clean
    raise AssertionError("cycles do not end")


def replay(file: Path, kind: str) -> Difference | None:
    """Run a printed list again."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, rig(Path(folder), kind) as hurt:
        return hurt.judge(ast.literal_eval(file.read_text()))


class Found(Exception):
    """The mount answered otherwise than the file system below, or the other node's tree is not the same."""

    def __init__(self, kind: str, operations: list[Operation], difference: Difference) -> None:
        super().__init__(f"on {kind}: {difference.text}\n{as_python(operations)}")
        self.kind, self.operations, self.difference = kind, operations, difference
