"""Trees compared in use: exactly what differs, no false alarm, and a part at a time."""

from __future__ import annotations

import os
import random
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from orchestrator.replicator import verify
from orchestrator.replicator.verify import Memory, Round, Verifier
from tests.replicator.pair import LYON, PARIS, Pair, record
from tests.support.waiting import eventually

ALONE = record(1, secrets.token_hex(16), {PARIS})


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()


def begin(pair: Pair) -> None:
    pair.start_follower(ALONE)
    pair.start_primary(ALONE)
    eventually(lambda: pair.said("member_ready") != [], 20)


def run(pair: Pair, round: Round, budget_s: float | None = None) -> dict[str, Any]:
    assert pair.primary is not None
    return pair.primary.verifier(LYON).run(round, budget_s)


def names(report: dict[str, Any]) -> dict[str, str]:
    return {each["path"]: each["what"] for each in report["differing"]}


def fill(folder: Path, count: int) -> None:
    for number in range(count):
        below = folder / f"d{number % 7}" / f"e{number % 3}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"f{number:04}").write_bytes(b"%d" % number * 50)


def test_each_difference_is_named_with_what_it_is(pair: Pair) -> None:
    paris, lyon = pair.trees[PARIS], pair.trees[LYON]
    fill(paris, 60)
    begin(pair)
    assert names(run(pair, Round())) == {}
    (lyon / "d0" / "e0" / "f0000").write_bytes(b"1" * 50)
    (lyon / "d1" / "e1" / "f0001").chmod(0o600)
    (lyon / "d2" / "e2" / "f0002").unlink()
    (lyon / "d3" / "new").mkdir()
    (lyon / "d4" / "e1" / "f0004").write_bytes(b"")
    assert names(run(pair, Round())) == {
        "0:d0/e0/f0000": "data",
        "0:d1/e1/f0001": "mode",
        "0:d2/e2/f0002": "only here",
        "0:d3/new": "only there",
        "0:d4/e1/f0004": "size",
    }


def test_under_load_nothing_is_called_different_but_what_is(pair: Pair) -> None:
    fill(pair.trees[PARIS], 30)
    begin(pair)
    live, over = pair.live, threading.Event()
    assert live is not None

    def load(seed: int) -> None:
        dice = random.Random(seed)
        number = 0
        while not over.is_set():
            number += 1
            at = dice.randrange(30)
            name = f"d{at % 7}/e{at % 3}/f{at:04}"
            live.write(name, dice.randrange(90), dice.randbytes(20))
            live.create(f"d{seed}/n{number}")
            live.rename(f"d{seed}/n{number}", f"d{seed}/m{number}")
            if number % 2:
                live.unlink(f"d{seed}/m{number}")

    loads = [threading.Thread(target=load, args=(seed,)) for seed in range(2)]
    for each in loads:
        each.start()
    try:
        for _ in range(4):
            assert names(run(pair, Round())) == {}
        quiet = pair.trees[LYON] / "d6" / "e0" / "f0027"
        quiet.write_bytes(quiet.read_bytes())
        (pair.trees[LYON] / "planted").touch()
        assert names(run(pair, Round())) == {"0:planted": "only there"}
    finally:
        over.set()
        for each in loads:
            each.join()


def test_without_the_second_look_load_is_taken_for_a_difference(pair: Pair) -> None:
    """The rule off: the test above can fail."""
    fill(pair.trees[PARIS], 30)
    begin(pair)
    assert pair.live is not None
    live, over = pair.live, threading.Event()

    def load() -> None:
        number = 0
        while not over.is_set():
            number += 1
            live.create(f"d0/n{number}")
            live.unlink(f"d0/n{number}")

    def believe(self: Verifier, volume: int, path: bytes) -> str:
        return "seen once"

    busy = threading.Thread(target=load)
    busy.start()
    try:
        with mock.patch.object(Verifier, "_still_differs", believe):
            eventually(lambda: names(run(pair, Round())) != {}, 20)
    finally:
        over.set()
        busy.join()


def test_a_budget_ends_it_and_the_next_run_goes_on_until_all_is_covered(pair: Pair, tmp_path: Path) -> None:
    paris, lyon = pair.trees[PARIS], pair.trees[LYON]
    fill(paris, 200)
    (paris / "a-large").write_bytes(os.urandom(3 << 20))
    begin(pair)
    for name in ("d0/e0/f0000", "d6/e2/f0020"):
        (lyon / name).write_bytes(b"planted")
    memory = Memory(str(tmp_path / "verify.lyon"))
    reports: list[dict[str, Any]] = []
    looked: list[bytes] = []
    entries = Verifier._entries

    def noted(self: Verifier, volume: int) -> Iterator[Any]:
        for path, own, theirs in entries(self, volume):
            looked.append(path)
            yield path, own, theirs

    with (
        mock.patch.object(Verifier, "_entries", noted),
        mock.patch.object(verify, "BLOCKS_MAX", 4),
    ):
        while not reports or not reports[-1]["complete"]:
            assert len(reports) < 400
            round = memory.recall()
            reports.append(run(pair, round, 0.02))
            memory.keep(round)
    assert len(reports) > 3, "it was too fast for its budget"
    assert names(reports[-1]) == {"0:d0/e0/f0000": "size", "0:d6/e2/f0020": "size"}
    everything = [os.fsencode(path.relative_to(paris)) for path in paris.rglob("*")]
    assert sorted(set(looked)) == sorted(everything)
    once = [path for path in looked if path != b"a-large"]  # begun again at its block, after a budget
    assert len(once) == len(set(once)), "what was covered is not compared again"
    assert sum(report["files"] for report in reports) == len(everything) == reports[-1]["covered_files"]
    assert sum(report["bytes"] for report in reports) >= 3 << 20
    covered = [report["percent"] for report in reports if report["percent"] is not None]
    assert covered == sorted(covered)
    assert covered[-1] == 100.0
    assert max(report["seconds"] for report in reports) < 2.0
    assert memory.recall().at is None, "the next round begins anew"


def test_what_was_mended_between_two_runs_is_not_told_any_more(pair: Pair) -> None:
    paris, lyon = pair.trees[PARIS], pair.trees[LYON]
    fill(paris, 40)
    begin(pair)
    there = lyon / "d0" / "e0" / "f0000"
    good = there.read_bytes()
    there.write_bytes(b"planted")
    round = Round()
    report = run(pair, round, 1e-9)
    while not report["differing"]:
        report = run(pair, round, 0.005)
    assert not report["complete"]
    there.write_bytes(good)
    assert names(run(pair, round, 60)) == {}


def test_a_memory_that_cannot_be_read_begins_a_round_anew(tmp_path: Path) -> None:
    (tmp_path / "verify.lyon").write_text("nonsense")
    assert Memory(str(tmp_path / "verify.lyon")).recall() == Round()
    memory = Memory(str(tmp_path / "other"))
    kept = Round((0, b"a/\xff", 3), 7.0, 1, 2, 9, {(0, b"x"): "data"})
    memory.keep(kept)
    assert Memory(str(tmp_path / "other")).recall() == kept
