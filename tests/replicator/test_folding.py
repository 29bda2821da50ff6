"""A long log keeps directories in place of what is in them, and a resync still finds whatever differs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.mirror import folding
from orchestrator.mirror.differ import ALL, IN_USE, Place, decode
from orchestrator.mirror.lineage import Position
from orchestrator.replicator import ops
from orchestrator.replicator.change_log import ChangeLog
from orchestrator.replicator.logs import ChangeLogs
from tests.replicator.pair import LYON, PARIS, Pair, picture
from tests.replicator.test_resync import TOGETHER, apart, changed, filled, ready, together
from tests.support.waiting import eventually

STREAM = "0123456789abcdef" * 2


@pytest.fixture
def pair(disk: Path, tmp_path: Path) -> Iterator[Pair]:
    """On a file system whose handles tell which directory something is in."""
    folder = disk / tmp_path.name
    folder.mkdir()
    made = Pair(folder)
    yield made
    made.stop()


def folding_from(monkeypatch: pytest.MonkeyPatch, entries: int, every: int) -> None:
    monkeypatch.setattr(folding, "FOLD_FROM", entries)
    monkeypatch.setattr(folding, "FOLD_EVERY", every)
    monkeypatch.setattr("orchestrator.replicator.logs.HELD_MAX", 3)  # what a thread holds stays
    monkeypatch.setattr("orchestrator.replicator.change_log.FRESH_RUN", 4)  # what is reserved goes first


def nothing_shows(pair: Pair) -> None:
    """Times and sizes say nothing of who changed what: only the logs do."""
    for tree in pair.trees.values():
        for path in tree.rglob("*"):
            if not path.is_symlink():
                os.utime(path, ns=(10**18, 10**18))


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_changed_on_either_side_is_found_in_directories_kept_as_one(
    pair: Pair, seed: int, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folding_from(monkeypatch, 4, 6)
    dice = random.Random(200 + seed)
    apart(pair, dice, 15, links)
    nothing_shows(pair)
    folds: list[bool] = []
    together(pair, dice, 15, lambda log: folds.append(log.log.folds), links)
    assert any(folds)


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_changed_while_one_was_away_is_found_across_a_restart(
    pair: Pair, seed: int, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier life told of places is not enough to keep anything by its directory."""
    folding_from(monkeypatch, 4, 6)
    dice = random.Random(300 + seed)
    apart(pair, dice, 12, links)
    primary = pair.start_primary(TOGETHER)
    assert pair.live is not None
    changed(pair.live, dice, 12, "again", links)
    assert primary.logs.of[LYON].log.folds
    nothing_shows(pair)
    pair.start_follower(TOGETHER)
    primary.settings.ports[LYON] = pair.port  # type: ignore[index]
    ready(pair)
    assert not pair.said("progress")[-1]["full"], pair.said("progress")[-1]["why"]
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])
    assert primary.verify(LYON) == []


def test_a_fold_is_told_once_and_ends_with_the_copy(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dice = random.Random(1)
    filled(pair, dice, False)
    pair.start_follower(TOGETHER).adopt()
    primary = pair.start_primary(TOGETHER)
    ready(pair)
    pair.stop_follower()
    eventually(lambda: not primary._links[LYON].is_up, 10)
    pair.told.clear()
    log = primary.logs.of[LYON]
    log._fold_from = 20
    folding_from(monkeypatch, 20, 30)
    assert pair.live is not None
    for number in range(60):
        pair.live.create(f"b/x/{number}")
    for number in range(40):
        pair.live.write("c/old0", 0, dice.randbytes(10))
        pair.live.create(f"c/{number}")
    assert pair.said("log_folded") == [{"event": "log_folded", "peer": LYON}]
    assert caplog.text.count("compared with all that is in them") == 1
    assert len(log.keys()) < 100
    folded = {key[1] for key in list(log.keys()) if key[2] == ALL}
    assert (pair.trees[PARIS] / "b" / "x").stat().st_ino in folded
    assert (pair.trees[PARIS] / "d").stat().st_ino not in folded, "of one in which nothing changed"
    (pair.trees[LYON] / "d" / "old1").write_bytes(b"hidden")  # whoever compares everything sees it
    pair.start_follower(TOGETHER)
    primary.settings.ports[LYON] = pair.port  # type: ignore[index]
    ready(pair)
    (began,) = pair.said("copy_begins")
    assert not began["full"]
    assert "compared with all that is in them" in began["why"]
    assert primary.verify(LYON) == ["0:d/old1"], "more than the directories concerned was compared, or less"
    eventually(lambda: not log.log.folds, 20)
    assert [key for key in list(log.keys()) if key[2] == ALL] == []


def test_a_directory_s_entry_is_durable_with_the_first_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folding_from(monkeypatch, 10, 5)
    logs = ChangeLogs(str(tmp_path), [LYON])
    where = handle(77)

    def place_of(volume: int, inode: int) -> Place:
        return Place(handle(inode), where, b"%d" % inode)

    for number in range(1000, 1040):
        logs.before_change([(0, number, ops.DATA, 1)], number, place_of)
        on_disk = decode((tmp_path / f"may-differ.{LYON}").read_bytes()).log.stamps
        covered = (0, 77, ALL, 0) in on_disk
        assert covered or all((0, each, ops.DATA, 1) in on_disk for each in range(1000, number + 1))
        assert (0, number, ops.DATA, 1) in on_disk, "a change on its way lost its entry"
    assert covered
    assert len(on_disk) < 40
    assert on_disk.keys() == logs.of[LYON].log.stamps.keys()


def test_a_directory_s_entry_goes_only_when_all_that_it_stands_for_is_on_both_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folding_from(monkeypatch, 10, 100)
    logs = ChangeLogs(str(tmp_path), [LYON])
    log = logs.of[LYON]
    keys = [(0, number, ops.DATA, 1) for number in range(1000, 1013)]
    for number, key in enumerate(keys, 1):
        log.hold([key], lambda volume, inode: Place(handle(inode), handle(77), b"%d" % inode))
        log.release([key], number)
    folded = (0, 77, ALL, 0)
    stamp = log.log.stamps[folded]
    gone = [number for number, key in enumerate(keys, 1) if key not in log.log.stamps]
    assert stamp == max(gone) > 1
    log.confirmed(Position(STREAM, stamp - 1))
    assert folded in log.log.stamps
    log.confirmed(Position(STREAM, stamp))
    assert folded not in log.log.stamps
    assert not log.log.folds


def test_what_a_thread_holds_or_nobody_saw_stays_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folding_from(monkeypatch, 10, 100)
    folder = str(tmp_path)
    log = ChangeLogs(folder, [LYON]).of[LYON]
    place = Place(handle(5), handle(77), b"name")
    log.hold([(0, 5, ops.DATA, 0)], lambda volume, inode: place)
    for number in range(100, 120):  # no place is known of these
        log.hold([(0, number, ops.DATA, 0)])
        log.release([(0, number, ops.DATA, 0)], 1)
    assert (0, 5, ops.DATA, 0) in log.log.stamps
    assert not log.log.folds
    log.close()
    again = ChangeLog(os.path.join(folder, f"may-differ.{LYON}"))
    assert again.log.places[0, 5] == place
    for number in range(200, 220):
        again.hold([(0, number, ops.DATA, 0)])
    assert (0, 5, ops.DATA, 0) in again.log.stamps, (
        "an earlier life's last rename may not have come to the disk"
    )
    again.moved(0, 5, place)
    for number in range(300, 420):
        again.hold([(0, number, ops.DATA, 0)])
    assert (0, 5, ops.DATA, 0) not in again.log.stamps
    assert again.log.stamps[0, 77, ALL, 0] == IN_USE


def handle(inode: int) -> bytes:
    """As ext4 gives it: the length, the kind, the inode, its generation."""
    numbers = (8, 1, inode, 1)
    return b"".join(number.to_bytes(4, "little") for number in numbers)
