"""Resync by the logs alone: whatever changed on either side while they were apart, found without a walk."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.mirror.differ import Place
from orchestrator.replicator import trees
from orchestrator.replicator.change_log import ChangeLog
from orchestrator.replicator.questions import Questions
from orchestrator.replicator.verify import Verifier
from tests.replicator.pair import LYON, PARIS, LiveTree, Pair, picture, record
from tests.support.waiting import eventually

FIRST, SECOND = secrets.token_hex(16), secrets.token_hex(16)
TOGETHER = record(1, FIRST, {PARIS})
AFTER = record(2, SECOND, {LYON}, LYON)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a whole tree was walked for a copy; a comparison counts what there is, and may."""
    made: list[int] = []
    walk = trees.walk

    def counted(root: int, volume: int, excluded: trees.Excluded) -> Iterator[tuple[bytes, int, bool]]:
        made.append(volume)
        return walk(root, volume, excluded)

    monkeypatch.setattr(trees, "walk", counted)
    monkeypatch.setattr(Verifier, "_count", lambda self, known: known or 1)
    return made


def ready(pair: Pair) -> None:
    eventually(lambda: pair.said("member_ready") != [], 30)


def filled(pair: Pair, dice: random.Random, links: bool) -> None:
    """Many directories, of which a few are changed later; files in them, one of them with several extents."""
    root = pair.trees[PARIS]
    for top in "abcdefgh":
        for path in (top, f"{top}/x", f"{top}/y", f"{top}/y/z"):
            (root / path).mkdir()
            for number in range(3):
                (root / path / f"old{number}").write_bytes(dice.randbytes(dice.randrange(4000)))
    with (root / "d" / "large").open("wb") as file:
        file.truncate(20 << 20)
        file.seek(9 << 20)
        file.write(dice.randbytes(2000))
    if links:
        os.link(root / "a" / "old0", root / "e" / "y" / "linked")
    # Nothing has to be copied first: a log that knows all names from then would hide what is looked for here.
    subprocess.run(["cp", "-a", f"{root}/.", pair.trees[LYON]], check=True)


def changed(live: LiveTree, dice: random.Random, times: int, mark: str, links: bool) -> None:
    """Any change that an application can make, at random."""
    root = live.path
    for number in range(times):
        everything = [path for path in root.rglob("*") if ".hafarm" not in path.parts]
        files = sorted(str(path.relative_to(root)) for path in everything if path.is_file())
        folders = sorted(str(path.relative_to(root)) for path in everything if path.is_dir())
        fresh = os.path.join(dice.choice(["", *folders]), f"{mark}{number}")
        file = dice.choice(files)
        match dice.randrange(12):
            case 0 | 1:
                live.create(fresh)
                live.write(fresh, 0, dice.randbytes(dice.randrange(1, 3000)))
            case 2:
                live.write(file, dice.randrange(3000), dice.randbytes(50))
            case 3:
                live.write("d/large", dice.randrange(19 << 20), dice.randbytes(50))
            case 4:
                live.rename(file, fresh)
            case 5:
                live.rename(file, dice.choice(files))  # takes another's name, or its own
            case 6 if links:
                live.link(file, fresh)
            case 7 if len(files) > 6 and file != "d/large":
                live.unlink(file)
            case 8:
                live.mkdir(fresh)
            case 9:
                folder = dice.choice(folders)
                if folder != "d" and not f"{fresh}/".startswith(f"{folder}/"):
                    live.rename(folder, fresh)
            case 10:
                for folder in folders:
                    if not any((root / folder).iterdir()):
                        live.rmdir(folder)
                        break
            case _:
                live.chmod(dice.choice([*files, *folders]), dice.choice([0o700, 0o750, 0o755]))
        if not (root / "d" / "large").exists():
            (root / "d").mkdir(exist_ok=True)
            live.create("d/large")


def apart(pair: Pair, dice: random.Random, times: int, links: bool) -> None:
    """Paris changes what Lyon never hears of, and is gone; Lyon serves, and changes its own copy."""
    filled(pair, dice, links)
    pair.start_follower(TOGETHER).adopt()
    primary = pair.start_primary(TOGETHER)
    ready(pair)
    assert pair.live is not None
    changed(pair.live, dice, 10, "t", links)
    target = primary.outbox.last
    eventually(lambda: pair.follower is not None and pair.follower.applied >= target, 20)
    pair.stop_follower()
    eventually(lambda: not primary._links[LYON].is_up, 10)
    changed(pair.live, dice, times, "p", links)
    pair.stop_primary()
    pair.told.clear()


def together(
    pair: Pair, dice: random.Random, times: int, before: Callable[[ChangeLog], None], links: bool
) -> None:
    """Lyon serves, and Paris comes back to it; `before` is done to both logs."""
    primary = pair.start_primary(AFTER, LYON)
    assert pair.live is not None
    changed(pair.live, dice, times, "l", links)
    before(primary.logs.of[PARIS])
    follower = pair.start_follower(AFTER, PARIS)
    before(follower.logs.of[LYON])
    primary.settings.ports[PARIS] = pair.port  # type: ignore[index]
    ready(pair)
    assert not pair.said("progress")[-1]["full"], pair.said("progress")[-1]["why"]
    assert picture(pair.trees[PARIS]) == picture(pair.trees[LYON])
    assert primary.verify(PARIS) == []


def test_a_full_comparison_asks_for_data_of_many_directories_at_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(pair, random.Random(1), links=True)
    other = pair.trees[LYON] / "c" / "y" / "old1"
    status = other.stat()
    other.write_bytes(bytes(status.st_size))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))  # nothing but its data tells
    asked: list[int] = []
    hashes = Questions.hashes

    def counted(self: Questions, volume: int, wanted: list[tuple[bytes, int, int]]) -> list[list[str]]:
        asked.append(len(wanted))
        return hashes(self, volume, wanted)

    monkeypatch.setattr(Questions, "hashes", counted)
    pair.start_follower(TOGETHER).adopt()
    pair.start_primary(TOGETHER)
    ready(pair)
    assert picture(pair.trees[PARIS]) == picture(pair.trees[LYON])
    assert pair.said("progress")[-1]["files"] == sum(path.is_file() for path in pair.trees[PARIS].rglob("*"))
    assert sum(asked) > 90
    assert len(asked) <= 5  # of 32 directories, three levels deep; and once more for the one that differs


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_changed_on_either_side_is_brought_together_without_a_walk(
    pair: Pair, seed: int, links: bool, walks: list[int]
) -> None:
    dice = random.Random(seed)
    apart(pair, dice, 8, links)
    walks.clear()
    together(pair, dice, 8, lambda log: None, links)
    # Only of an object with several names is every name looked for, and the log knows one.
    assert links or not walks


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_changed_while_one_was_away_is_brought_to_it_without_a_walk(
    pair: Pair, seed: int, links: bool, walks: list[int]
) -> None:
    """The other one went on, with all that it knows in its memory."""
    dice = random.Random(50 + seed)
    filled(pair, dice, links)
    pair.start_follower(TOGETHER).adopt()
    primary = pair.start_primary(TOGETHER)
    ready(pair)
    assert pair.live is not None
    for number in range(2):
        pair.stop_follower()
        eventually(lambda: not primary._links[LYON].is_up, 10)
        changed(pair.live, dice, 10, f"p{number}-", links)
        walks.clear()
        pair.told.clear()
        pair.start_follower(TOGETHER)
        primary.settings.ports[LYON] = pair.port  # type: ignore[index]
        ready(pair)
        assert not pair.said("progress")[-1]["full"], pair.said("progress")[-1]["why"]
        assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])
        assert primary.verify(LYON) == []
        assert links or not walks


def no_places(log: ChangeLog) -> None:
    """As a log of an older version."""
    log.log.places.clear()
    log.log.placed = False


def wrong_places(log: ChangeLog) -> None:
    """Each object is said to be where another one is."""
    places = log.log.places
    others = list(places.values())[1:] + list(places.values())[:1]
    for about, other in zip(list(places), others, strict=True):
        places[about] = Place(places[about].handle, other.directory, other.name)


def broken_places(log: ChangeLog) -> None:
    """Nothing that is said means anything."""
    for about in log.log.places:
        log.log.places[about] = Place(secrets.token_bytes(16), secrets.token_bytes(16), b"nobody")


@pytest.mark.parametrize("damage", [no_places, wrong_places, broken_places])
@pytest.mark.parametrize("seed", range(3))
def test_correctness_rests_on_no_remembered_place(
    pair: Pair, seed: int, damage: Callable[[ChangeLog], None]
) -> None:
    dice = random.Random(100 + seed)
    apart(pair, dice, 8, True)
    together(pair, dice, 8, damage, True)
