"""Random sequences: answered on the mount as below it, and the same tree on the other node."""

from __future__ import annotations

import ast
import dataclasses
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.replicator import apply, ops
from tests.fidelity.campaign import as_python, find, smallest
from tests.fidelity.kept import KEPT
from tests.fidelity.operations import Operation, generate
from tests.fidelity.rig import DISKS, Rig, rig
from tests.fidelity.shrink import shrink

SEEDS = 40
"""Of 120 operations each, on both kinds of disk: some 20 s in all; `./run chaos --operations` goes on."""


@pytest.fixture(scope="module", params=sorted(DISKS))
def hurt(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, rig(Path(folder), request.param) as made:
        yield made


def told(hurt: Rig, operations: list[Operation]) -> str:
    """Nothing, or the shortest sequence that shows a difference, to be kept."""
    shown, difference = smallest(hurt, operations)
    return f"on {hurt.kind}: {difference.text}\n{as_python(shown)}"


def test_random_sequences_show_no_difference(hurt: Rig) -> None:
    found = find(hurt, list(range(SEEDS)))
    assert found is None, f"seed {found[0]}, {told(hurt, found[1])}"


@pytest.mark.parametrize("name", sorted(KEPT))
def test_what_once_showed_a_difference_shows_none(hurt: Rig, name: str) -> None:
    assert hurt.judge(KEPT[name]) is None


def test_the_same_seed_gives_the_same_sequence_and_its_text_runs() -> None:
    drawn = generate(7, 60)
    assert drawn == generate(7, 60) != generate(8, 60)
    assert ast.literal_eval(as_python(drawn)) == drawn


def without_modes(applier: apply.Applier, op: ops.SetAttr) -> None:
    """What the follower does with attributes, except that a change of mode is forgotten.

    Whatever comes with it: whether times travel in the same operation is a matter of timing.
    """
    if op.which != ops.MODE:
        apply.Applier._set_attr(applier, dataclasses.replace(op, which=op.which & ~ops.MODE))


def without_size(applier: apply.Applier, op: ops.SetAttr) -> None:
    if not op.which & ops.SIZE:
        apply.Applier._set_attr(applier, op)


@pytest.mark.parametrize(
    ("fault", "verbs"),
    [(without_modes, {"chmod", "fchmod"}), (without_size, {"truncate", "ftruncate", "open"})],
)
def test_a_planted_fault_is_found_and_shrunk(
    hurt: Rig, monkeypatch: pytest.MonkeyPatch, fault: Any, verbs: set[str]
) -> None:
    monkeypatch.setitem(apply._DO, ops.SetAttr, fault)
    found = find(hurt, list(range(SEEDS)))
    assert found is not None, "nobody noticed"
    shown, difference = smallest(hurt, found[1])
    assert "on the follower" in difference.text
    assert len(shown) <= 10  # of 120: three or four, where timing hides the fault from none of the tries
    assert verbs & {operation[1] for operation in shown}
    monkeypatch.undo()
    assert hurt.judge(shown) is None, "it is not the planted fault that it shows"


def test_shrinking_leaves_only_what_is_needed() -> None:
    drawn: list[Operation] = [("ann", "chmod", b"a", number) for number in range(100)]

    def fails(candidate: list[Operation]) -> bool:
        return sum(operation[3] in (17, 83) for operation in candidate) == 2

    assert shrink(drawn, fails) == [("root", "chmod", b"a", 17), ("root", "chmod", b"a", 83)]


def test_the_worker_tells_what_must_be_equal() -> None:
    """A picture that left something out would see no difference in it."""
    from tests.fidelity.worker import Worker

    with tempfile.TemporaryDirectory() as folder:
        before = os.open(".", os.O_RDONLY)
        try:
            os.chdir(folder)
            worker = Worker()
            assert worker.do("mknod", [b"p", stat.S_IFIFO | 0o600, 0]) == ("ok", None)
            assert worker.do("utimens", [b"p", 0, 999_999_999]) == ("ok", None)
            facts = worker.do("lstat", [b"p"])[1]
            assert (facts["mode"], facts["links"], facts["modified"]) == ("0o10600", 1, 999_999_999)
            assert worker.do("pread", [0, 0, 1]) == ("error", "EBADF")
            worker.do("leave", [])
        finally:
            os.fchdir(before)
            os.close(before)
