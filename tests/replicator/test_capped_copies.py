"""A copy that is capped, paused, bounded, estimated, or seeded from a backup."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from orchestrator.replicator import trees
from orchestrator.replicator.estimate import estimate
from orchestrator.replicator.ops import EXTENT_BYTES
from orchestrator.replicator.throttle import BURST_S, Throttle
from tests.replicator.pair import LYON, PARIS, Pair, picture, record
from tests.support.waiting import eventually

ALONE = record(1, secrets.token_hex(16), {PARIS})
MIB = 1 << 20


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()


def ready(pair: Pair, timeout_s: float = 30) -> None:
    eventually(lambda: pair.said("member_ready") != [], timeout_s)


def begin(pair: Pair) -> None:
    pair.start_follower(ALONE)
    pair.start_primary(ALONE)
    ready(pair)


def away(pair: Pair) -> None:
    """Lyon goes, having everything on its disk."""
    assert pair.primary is not None
    log = pair.primary.logs.of[LYON].log
    target = pair.primary.flush()
    # A second one: a baseline is what both disks hold, and each says so of itself in its next word.
    pair.primary.flush()
    eventually(lambda: log.baseline is not None and log.baseline.sequence >= target, 10)
    pair.stop_follower()
    eventually(lambda: not pair.primary._links[LYON].is_up, 10)  # type: ignore[union-attr]


def back(pair: Pair) -> None:
    assert pair.primary is not None
    assert pair.primary.record is not None
    pair.told.clear()
    pair.start_follower(pair.primary.record)
    pair.primary.settings.ports[LYON] = pair.port  # type: ignore[index]


# --- the rate -----------------------------------------------------------------------------------------------


class Clock:
    """A time that only passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("piece", [1_000, 10_000, 256 << 10])
def test_a_rate_holds_within_a_tenth_over_every_second(piece: int) -> None:
    clock, rate = Clock(), 1_000_000
    throttle = Throttle(rate, clock)
    sent: list[tuple[float, int]] = []

    def pass_time(condition: object, timeout_s: float | None) -> None:
        assert timeout_s is not None
        clock.now += timeout_s

    with mock.patch.object(threading.Condition, "wait", pass_time):
        while clock.now < 112:
            throttle.wait(lambda: False)
            throttle.spent(piece)
            assert len(sent) < 20_000, "nobody waits"
            sent.append((clock.now, piece))
            if clock.now > 105 and clock.now < 106:
                clock.now = 106.0  # it had nothing to send for a while: that is not saved up
    for begin in [at for at, _ in sent if at < 111]:
        within = sum(count for at, count in sent if begin <= at < begin + 1)
        assert within <= rate * (1 + BURST_S) + piece
    busy = [count for at, count in sent if 106 <= at < 111]
    assert abs(sum(busy) / 5 - rate) < rate / 10 + piece


def test_without_a_rate_nobody_waits_and_a_pause_ends_with_the_copy() -> None:
    throttle = Throttle()
    throttle.spent(1 << 40)
    throttle.wait(lambda: False)
    throttle.pause(True)
    over = threading.Event()
    waiting = threading.Thread(target=throttle.wait, args=(over.is_set,))
    waiting.start()
    over.set()
    throttle.wake()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_capped_copy_keeps_its_rate_and_live_changes_do_not_wait_for_it(pair: Pair) -> None:
    for number in range(16):
        (pair.trees[PARIS] / f"f{number}").write_bytes(os.urandom(256 << 10))
    follower = pair.start_follower(ALONE)
    sent: list[tuple[float, int]] = []
    spent = Throttle.spent

    def noted(self: Throttle, count: int) -> None:
        sent.append((time.monotonic(), count))
        spent(self, count)

    rate = 2 * MIB
    with mock.patch.object(Throttle, "spent", noted), mock.patch.object(Throttle, "__init__", _capped(rate)):
        primary = pair.start_primary(ALONE)
        assert pair.live is not None
        eventually(lambda: len(sent) > 10, 10)
        pair.live.create("live")
        primary.throttle.rate = 1  # the next block of the copy may go in three days
        primary.throttle.spent(256 << 10)
        for number in range(40):
            sequence = pair.live.write("live", number * 4096, b"x" * 4096)
            primary.hurry()
            eventually(lambda sequence=sequence: follower.applied >= sequence, 10)  # type: ignore[misc]
        assert not pair.said("member_ready"), "the live writes were not beside the copy"
        held = len(sent)
        primary.throttle.rate, primary.throttle._free_at = rate, 0.0
        primary.throttle.wake()
        ready(pair)
    began, ended = sent[held][0], sent[-1][0]
    total = sum(count for _, count in sent[held:])
    assert total >= 2 * MIB
    # A busy machine may be slower than the rate, and never faster.
    assert total / (ended - began) < 1.1 * rate + (256 << 10) / (ended - began)
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])


def _capped(rate: int) -> Any:
    begin = Throttle.__init__

    def capped(self: Throttle, _: int = 0) -> None:
        begin(self, rate)

    return capped


# --- pause, workers ----------------------------------------------------------------------------------------


def test_a_paused_copy_stands_still_while_live_changes_go_on_and_ends_when_it_may(pair: Pair) -> None:
    for number in range(30):
        (pair.trees[PARIS] / f"f{number:02}").write_bytes(os.urandom(300_000))
    follower = pair.start_follower(ALONE)
    with mock.patch.object(Throttle, "__init__", _capped(4 * MIB)):
        primary = pair.start_primary(ALONE)
    eventually(lambda: pair.said("progress") and primary._links[LYON].status()["copy"]["files"] > 2, 20)
    primary.throttle.pause(True)
    primary.tell_progress()
    eventually(lambda: follower.applied == primary.outbox.last, 10)
    status = primary._links[LYON].status()["copy"]
    assert status["paused"]
    assert pair.said("progress")[-1]["paused"]
    assert 0 < status["files"] < 30
    assert pair.live is not None
    pair.live.create("live")
    sequence = pair.live.write("live", 0, b"goes on")
    eventually(lambda: follower.applied >= sequence, 10)
    again = primary._links[LYON].status()["copy"]
    assert (again["files"], again["sent"]) == (status["files"], status["sent"])
    primary.throttle.rate = 0
    primary.throttle.pause(False)
    ready(pair)
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_workers_than_configured_read_at_a_time(pair: Pair, workers: int) -> None:
    for number in range(3):
        (pair.trees[PARIS] / f"f{number}").write_bytes(os.urandom(4 * MIB))
    shutil.copytree(pair.trees[PARIS], pair.trees[LYON], dirs_exist_ok=True)
    busy, most, lock = 0, 0, threading.Lock()
    hash_block = trees._hash_block

    def counted(fd: int, block: int) -> str | None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.002)
        try:
            return hash_block(fd, block)
        finally:
            with lock:
                busy -= 1

    trees.HASHERS.bound_to(workers)
    try:
        with mock.patch.object(trees, "_hash_block", counted):
            pair.start_follower(ALONE).adopt()
            pair.start_primary(ALONE)
            ready(pair)
    finally:
        trees.HASHERS.bound_to(trees.WORKERS)
    assert most == workers


# --- estimate -----------------------------------------------------------------------------------------------


def test_an_estimate_names_what_the_resync_then_looks_at(pair: Pair) -> None:
    paris = pair.trees[PARIS]
    for number in range(50):
        (paris / f"f{number:02}").write_bytes(b"x" * 1000)
    (paris / "large").write_bytes(bytes(3 * EXTENT_BYTES))
    begin(pair)
    primary, live = pair.primary, pair.live
    assert primary is not None
    assert live is not None
    away(pair)
    assert estimate(primary, primary.logs.of[LYON].unsettled()) == {"files": 0, "bytes": 0, "directories": 0}
    for number in range(10):
        live.write(f"f{number:02}", 0, b"changed")
    live.write("large", EXTENT_BYTES + 5, b"one extent of three")
    live.create("new")
    live.write("new", 0, b"12345")
    before = picture(paris, times=True)
    found = estimate(primary, primary.logs.of[LYON].unsettled())
    assert found == {"files": 12, "bytes": 10 * 1000 + EXTENT_BYTES + 5, "directories": 1}
    assert picture(paris, times=True) == before
    back(pair)
    ready(pair)
    last = pair.said("progress")[-1]
    assert not last["full"]
    assert last["sent"] <= found["bytes"]
    assert picture(pair.trees[LYON]) == picture(paris)


def test_an_estimate_of_everything_counts_everything(pair: Pair) -> None:
    (pair.trees[PARIS] / "d").mkdir()
    (pair.trees[PARIS] / "d" / "f").write_bytes(b"12345")
    begin(pair)
    assert pair.primary is not None
    assert estimate(pair.primary, None) == {"files": 1, "bytes": 5, "directories": 1}
    assert pair.live is not None
    away(pair)
    pair.live.rename("d", "e")
    found = estimate(pair.primary, pair.primary.logs.of[LYON].unsettled())
    assert (found["files"], found["bytes"]) == (1, 5), "all below a directory that moved"


# --- seeding ------------------------------------------------------------------------------------------------


def test_a_node_filled_from_a_backup_gets_only_what_changed_since(pair: Pair) -> None:
    paris, lyon = pair.trees[PARIS], pair.trees[LYON]
    for number in range(20):
        (paris / f"d{number % 4}").mkdir(exist_ok=True)
        (paris / f"d{number % 4}" / f"f{number:02}").write_bytes(os.urandom(1 * MIB))
    os.link(paris / "d0" / "f00", paris / "d0" / "hard")
    shutil.copytree(paris, lyon, dirs_exist_ok=True, copy_function=shutil.copyfile)  # other times and links
    changed = paris / "d1" / "f01"
    with changed.open("r+b") as file:
        file.seek(300_000)
        file.write(b"since the backup")
    (paris / "d2" / "f02").unlink()
    (paris / "d3" / "new").write_bytes(b"new" * 100)
    follower = pair.start_follower(ALONE)
    pair.start_primary(ALONE)
    eventually(lambda: {"unknown files"} & {str(told.get("verdict")) for told in pair.told}, 10)
    assert (lyon / "d2" / "f02").exists(), "nothing is touched before the operator says what these files are"
    follower.adopt()
    ready(pair)
    assert picture(lyon, times=True) == picture(paris, times=True)
    last = pair.said("progress")[-1]
    linked, block = 1 * MIB, trees.BLOCK_BYTES
    assert last["sent"] <= block + 300 + linked + 64
    assert last["files"] == 21
