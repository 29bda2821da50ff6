"""The may-differ logs on a real disk: what is durable, and what it costs."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from orchestrator.mirror import differ
from orchestrator.mirror.differ import Place
from orchestrator.mirror.lineage import Position
from orchestrator.model.names import NodeName
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.ops import DATA, FRESH, FRESH_RUN, NAMES
from tests.support.disks import ext4

LYON, NICE = NodeName("lyon"), NodeName("nice")
STREAM = "0123456789abcdef" * 2


def batches(folder: Path, node: NodeName) -> int:
    """How often the log's disk was waited for."""
    return differ.decode((folder / f"may-differ.{node}").read_bytes()).batches


@pytest.mark.parametrize("direction", [1, -1])
def test_of_many_new_files_one_waits_for_the_disk(tmp_path: Path, direction: int) -> None:
    """ext4 gives numbers upwards, and downwards where it has deleted much a short while ago."""
    logs = ChangeLogs(str(tmp_path), [LYON, NICE])
    before = batches(tmp_path, LYON)
    block = range(4 * FRESH_RUN, 5 * FRESH_RUN)[::direction]
    for inode in block:
        logs.made(0, inode, 7, None)
        logs.before_change([(0, inode, FRESH, 0)], 7)
    waited = 1 if direction > 0 else 2  # where it goes is seen by the second
    assert batches(tmp_path, LYON) == before + waited
    logs.made(0, block[-1] + 2 * direction, 7, None)
    assert batches(tmp_path, LYON) == batches(tmp_path, NICE) == before + waited + 1


def test_a_new_file_is_in_every_log_after_a_crash(tmp_path: Path) -> None:
    logs = ChangeLogs(str(tmp_path), [LYON, NICE])
    for inode in (50, 51, 9000):
        logs.made(3, inode, 7, None)
    after = ChangeLogs(str(tmp_path), [LYON, NICE])  # of what was not closed: a process that was killed
    for log in after.of.values():
        assert {(3, 50, FRESH, 0), (3, 51, FRESH, 0), (3, 9000, FRESH, 0)} <= set(log.keys())


def test_entries_that_no_file_needed_go_before_those_that_one_needed(tmp_path: Path) -> None:
    logs = ChangeLogs(str(tmp_path), [LYON])
    log = logs.of[LYON]
    for number in range(differ.HOT_MAX):
        logs.before_change([(0, number, DATA, 1)], number)
    logs.before_change([], 10_000)
    run = range(300 * FRESH_RUN, 301 * FRESH_RUN)
    logs.made(0, run[0], 10_000, None)
    log.confirmed(Position(STREAM, 10))
    gone = {(0, inode, FRESH, 0) for inode in run} - set(log.keys())
    kept = {(0, number, DATA, 1) for number in range(11, differ.HOT_MAX)}
    assert kept <= set(log.keys()), "a change that is not durable on both sides lost its entry"
    assert gone, "the run's unused entries stay for ever"
    for inode in run:
        logs.before_change([(0, inode, FRESH, 0)], 10_001)  # one that went is durable again before its use
    assert {(0, inode, FRESH, 0) for inode in run} <= set(ChangeLogs(str(tmp_path), [LYON]).of[LYON].keys())


def test_a_place_outlives_a_crash_and_costs_no_wait_of_its_own(tmp_path: Path) -> None:
    logs = ChangeLogs(str(tmp_path), [LYON])
    old, new = Place(b"h" * 16, b"d" * 16, b"old"), Place(b"h" * 16, b"e" * 16, b"n" * 255)
    logs.before_change([(0, 9, DATA, 1)], 1, lambda volume, inode: old)
    before = batches(tmp_path, LYON)
    logs.moved(0, 9, new)
    logs.moved(0, 10, new)  # has no entry: where it is is of no interest
    assert batches(tmp_path, LYON) == before
    logs.before_change([(0, 11, DATA, 1)], 1)
    assert batches(tmp_path, LYON) == before + 1
    log = ChangeLogs(str(tmp_path), [LYON]).of[LYON]  # of what was not closed: a process that was killed
    assert log.places() == ({(0, 9): new}, True)
    assert not log.unreadable


def test_a_new_objects_place_is_durable_before_its_directorys_entry_goes(tmp_path: Path) -> None:
    logs = ChangeLogs(str(tmp_path), [LYON])
    directory, place = (0, 5, NAMES, 0), Place(b"h" * 16, b"d" * 16, b"new")
    logs.before_change([directory], 1)
    logs.made(0, 100, 1, None)
    logs.made(0, 101, 1, place)  # reserved with the one before: no append
    logs.let_go(2)
    for number in range(differ.HOT_MAX):
        logs.before_change([(0, number, DATA, 1)], 9)
    log = logs.of[LYON]
    log.confirmed(Position(STREAM, 2))
    assert directory not in set(log.keys())
    after = ChangeLogs(str(tmp_path), [LYON]).of[LYON]
    assert directory not in set(after.keys())
    assert after.places()[0][0, 101] == place


def test_a_log_without_places_says_so(tmp_path: Path) -> None:
    """As an older version wrote it: what is not placed may be anywhere."""
    record = differ.encode_add([(0, 9, DATA, 1)])
    (tmp_path / f"may-differ.{LYON}").write_bytes(differ.encode_batch(0, record))
    log = ChangeLogs(str(tmp_path), [LYON]).of[LYON]
    assert log.keys() == [(0, 9, DATA, 1)]
    assert log.places() == ({}, False)


def test_no_entry_goes_without_a_mark_of_the_time(tmp_path: Path) -> None:
    """Not even one that came to be surplus after somebody looked, or that an older version left."""
    record = differ.encode_add([(0, 9, DATA, 1)])
    (tmp_path / f"may-differ.{LYON}").write_bytes(differ.encode_batch(0, record))
    log = ChangeLogs(str(tmp_path), [LYON]).of[LYON]
    marks: list[int] = []
    log.before_retiring = lambda: marks.append(len(log.log.stamps))
    log.unpin(1)
    log.confirmed(Position(STREAM, 2))
    assert (log.keys(), marks) == ([], [1])

    class Late(threading.Condition):
        """Who comes first when it is free adds one more entry."""

        def __enter__(self) -> bool:
            entered = super().__enter__()
            log.log.stamps[0, 1, DATA, 1] = 3
            return entered

    for number in range(differ.HOT_MAX):
        log.log.stamps[0, 10 + number, DATA, 1] = 3
    log._lock = Late()
    log.confirmed(Position(STREAM, 3))
    assert marks == [1]
    assert len(log.log.stamps) == differ.HOT_MAX + 1
    log.confirmed(Position(STREAM, 4))
    assert marks == [1, differ.HOT_MAX + 1]
    assert len(log.keys()) == differ.HOT_MAX


def test_a_reserved_entry_is_no_business_of_a_copy_until_it_is_used(tmp_path: Path) -> None:
    logs = ChangeLogs(str(tmp_path), [LYON])
    logs.made(0, 100, 1, None)
    assert logs.of[LYON].keys() == [(0, 100, FRESH, 0)]
    logs.of[LYON].pin_all()
    assert logs.of[LYON].keys() == [(0, 100, FRESH, 0)]


def test_what_an_entry_left_that_went_makes_no_reserved_one_look_needed(tmp_path: Path) -> None:
    """Every cold object beside a new one would be read. One that is needed again has its place at once."""
    logs = ChangeLogs(str(tmp_path), [LYON])
    old, new = Place(b"h" * 16, b"d" * 16, b"old"), Place(b"n" * 16, b"d" * 16, b"new")
    logs.made(0, 300, 1, old)
    logs.let_go(1)
    for number in range(differ.HOT_MAX):
        logs.before_change([(0, 1000 + number, DATA, 1)], 9)
    logs.of[LYON].confirmed(Position(STREAM, 1))
    assert (0, 300, FRESH, 0) not in logs.of[LYON].log.stamps
    logs.made(0, 500, 10, None)
    logs.made(0, 301, 10, new)  # and those below it
    for log in (logs.of[LYON], ChangeLogs(str(tmp_path), [LYON]).of[LYON]):
        assert (0, 300, FRESH, 0) in log.log.stamps
        assert (0, 300) not in log.places()[0]
        assert log.places()[0][0, 301] == new
    again = ChangeLogs(str(tmp_path), [LYON])
    again.before_change([(0, 300, FRESH, 0)], 11, lambda volume, inode: old)
    assert ChangeLogs(str(tmp_path), [LYON]).of[LYON].places()[0][0, 300] == old


def test_names_are_known_one_by_one_only_where_every_change_told_them(tmp_path: Path) -> None:
    logs = ChangeLogs(str(tmp_path), [LYON])
    log = logs.of[LYON]
    logs.before_change([(0, 5, NAMES, 0)], 1, names=[(0, 5, b"a")])
    logs.before_change([(0, 5, NAMES, 0)], 1, names=[(0, 5, b"b")])  # held by this thread already
    assert log.names() == {(0, 5): {b"a", b"b"}}
    logs.before_change([(0, 5, NAMES, 0)], 1)
    assert log.names() == {}, "one change that told no name may have been any"
    logs.before_change([(0, 6, NAMES, 0)], 1, names=[(0, 6, b"a")])
    log.pin([(0, 6, NAMES, 0), (0, 7, NAMES, 0)])
    assert log.names() == {}, "what the other node changed there, only its own log knew"
    logs.before_change([(0, 8, NAMES, 0)], 1, names=[(0, 8, b"%d" % n) for n in range(differ.NAMES_MAX + 1)])
    assert log.names() == {}
    assert ChangeLogs(str(tmp_path), [LYON]).of[LYON].names() == {}, "another process knows of none"


def test_a_log_of_more_records_than_a_batch_has_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / f"may-differ.{LYON}"
    runs = [differ.encode_run((0, 1 + start, FRESH, 0), 1 << 15) for start in range(0, 70_000, 1 << 15)]
    path.write_bytes(differ.encode_batch(0, runs))
    log = ChangeLogs(str(tmp_path), [LYON]).of[LYON]
    again = differ.decode(path.read_bytes())
    assert again.verdict == "whole"
    assert set(again.log.stamps) == set(log.keys())
    assert again.batches > 1


def test_a_full_disk_is_an_answer_and_nothing_that_was_noted_is_forgotten(tmp_path: Path) -> None:
    with ext4(tmp_path / "image", tmp_path / "disk", size="16M") as disk:
        folder = disk / "state"
        logs = ChangeLogs(str(folder), [LYON])
        logs.before_change([(0, 7, DATA, 1)], 1)
        fill(disk)
        noted, number = [(0, 7, DATA, 1)], 1000
        with contextlib.suppress(OSError):
            while number < 10_000:  # what is left of the block that is there already is room for some
                logs.before_change([(0, number, DATA, 1)], 2)
                noted.append((0, number, DATA, 1))
                number += 1
        for refused in range(20):
            with pytest.raises(OSError, match="No space"):
                logs.before_change([(0, 5000 + refused, DATA, 1)], 3)
        logs.close()
        # As after a crash on a disk that is still full: what is there is read, and gone on with.
        again = ChangeLogs(str(folder), [LYON])
        assert set(noted) <= set(again.of[LYON].keys())
        with pytest.raises(OSError, match="No space"):
            again.before_change([(0, 9000, DATA, 1)], 3)
        (disk / "filler").unlink()
        again.before_change([(0, 6000, DATA, 1)], 4)
        found = differ.decode((folder / f"may-differ.{LYON}").read_bytes())
        assert found.verdict == "whole"
        assert {*noted, (0, 9000, DATA, 1), (0, 6000, DATA, 1)} <= set(found.log.stamps)
        again.close()


def fill(disk: Path) -> None:
    """To the last byte."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(size))
        os.fsync(filler.fileno())
