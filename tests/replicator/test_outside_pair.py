"""Edits behind hafarm's back on two nodes: set aside on the one, replicated from the other, rule by rule."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from orchestrator.mirror.differ import MayDiffer
from orchestrator.model.names import NodeName, Nonce
from orchestrator.replicator import divergence, quarantine
from orchestrator.replicator.history import History
from orchestrator.replicator.outside import Outside
from tests.replicator.pair import LYON, PARIS, Pair, picture, record
from tests.replicator.test_outside import nothing
from tests.support.waiting import eventually

LIFE = secrets.token_hex(16)
ALONE = record(1, LIFE, {PARIS})
_retirable = MayDiffer.retirable


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Their logs keep nothing that is equal: no entry of another change hides what an edit lacks."""

    def all_that_is_equal(self: MayDiffer, flushed: int) -> Any:
        return _retirable(self, flushed, 0)

    with mock.patch.object(MayDiffer, "retirable", all_that_is_equal):
        made = Pair(tmp_path)
        yield made
        made.stop()


def look(pair: Pair, name: NodeName) -> None:
    """A life of this node's keeper that does nothing but look, and ends in a crash."""
    with _life(pair, name) as looking:
        looking.check()


def sealed(pair: Pair, name: NodeName) -> None:
    """The clean end of a life that looked at its beginning."""
    with _life(pair, name) as ending:
        ending._trusted = True
        ending.seal()
        if name == LYON:  # what it applied was confirmed long ago
            log = ending._logs.of[PARIS]
            log.log.retire(log.keys())
            log._write_anew()


@contextmanager
def _life(pair: Pair, name: NodeName) -> Iterator[Outside]:
    history, logs = pair.state(name)
    root = os.open(pair.trees[name], os.O_RDONLY | os.O_DIRECTORY)
    pair._roots.append(root)
    state = str(pair.folder / f"state-{name}")
    life = Outside(state, name, [root], nothing, history, logs, Nonce(secrets.token_hex(16)), f"{state}/n")
    yield life
    life._ended.set()
    logs.close()


def both_in_sync_then_stopped(pair: Pair) -> None:
    for name in ("kept", "edited", "older", "deleted"):
        (pair.trees[PARIS] / name).write_text(name)
    pair.start_follower(ALONE)
    pair.start_primary(ALONE)
    eventually(lambda: pair.said("member_ready") != [], 20)
    target = pair.primary.flush()  # type: ignore[union-attr]
    eventually(lambda: pair.follower is not None and pair.follower.flushed >= target, 10)
    log = pair.primary.logs.of[LYON]  # type: ignore[union-attr]
    eventually(lambda: log.keys() == [], 10)
    pair.stop_follower()
    sealed(pair, LYON)
    assert pair.live is not None
    pair.live.write("older", 0, b"OLDER")  # while lyon is away


def lyon_returns(pair: Pair) -> None:
    pair.told.clear()
    assert pair.primary is not None
    assert pair.primary.record is not None
    pair.start_follower(pair.primary.record)
    pair.primary.settings.ports[LYON] = pair.port  # type: ignore[index]
    eventually(lambda: pair.said("member_ready") != [], 20)


def edit(tree: Path) -> None:
    (tree / "kept").chmod(0o600)
    (tree / "edited").write_text("by hand")
    (tree / "extra").write_text("by hand, too")
    (tree / "deleted").unlink()


def test_what_was_edited_on_a_follower_is_set_aside_before_it_is_overwritten_and_nothing_else(
    pair: Pair,
) -> None:
    both_in_sync_then_stopped(pair)
    edit(pair.trees[LYON])
    look(pair, LYON)
    lyon_returns(pair)
    begins = pair.said("copy_begins")[0]
    assert (begins["verdict"], begins["full"]) == ("target with edits", False)
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])
    (found,) = divergence.listed(pair._roots[-1:])
    assert (found["verdict"], found["lost"], found["kept_by"]) == ("target with edits", LYON, PARIS)
    files = divergence.shown(pair._roots[-1:], found["id"])["files"]
    aside = pair.trees[LYON] / ".hafarm" / "quarantine" / found["id"]
    kept = {file["path"]: (aside / file["kept"]).read_text() for file in files if file["kept"]}
    assert kept == {"edited": "by hand", "extra": "by hand, too"}
    assert {file["path"]: file["why"] for file in files} == {
        "kept": "changed here",
        "edited": "changed here",
        "extra": "only here",
        "deleted": "deleted here",
    }
    (rights,) = [file["attributes"] for file in files if file["path"] == "kept"]
    assert rights["mode"] == 0o600
    assert found["ended"]
    assert not History(str(pair.folder / f"state-{LYON}")).standing.edited


def test_a_list_of_edits_is_not_released_before_what_it_names_is_safe(pair: Pair) -> None:
    both_in_sync_then_stopped(pair)
    edit(pair.trees[LYON])
    look(pair, LYON)
    (found,) = divergence.listed(pair._roots[-1:])
    with pytest.raises(divergence.DivergenceInUse):
        divergence.released(pair._roots[-1:], found["id"], copying=False)
    aside = pair.trees[LYON] / ".hafarm" / "quarantine" / found["id"]
    shutil.rmtree(aside)  # by somebody who knew better
    lyon_returns(pair)
    (found,) = divergence.listed(pair._roots[-1:])
    files = divergence.shown(pair._roots[-1:], found["id"])["files"]
    assert {"edited", "extra"} <= {file["path"] for file in files if file["kept"]}
    assert divergence.released(pair._roots[-1:], found["id"], copying=False)["files"] == len(files)


def test_without_the_look_an_edit_on_a_follower_stays_unseen(pair: Pair) -> None:
    """F2 off: equal by every log, and different on the disk for ever."""
    both_in_sync_then_stopped(pair)
    edit(pair.trees[LYON])
    with mock.patch.object(Outside, "_findings", return_value=iter(())):
        look(pair, LYON)
    lyon_returns(pair)
    assert picture(pair.trees[LYON]) != picture(pair.trees[PARIS])
    assert divergence.listed(pair._roots[-1:]) == []


def test_without_setting_aside_an_edit_on_a_follower_is_lost(pair: Pair) -> None:
    """F3 off, on the node that is overwritten."""
    both_in_sync_then_stopped(pair)
    edit(pair.trees[LYON])
    look(pair, LYON)
    with mock.patch.object(quarantine.Quarantine, "wants", return_value=False):
        lyon_returns(pair)
    (found,) = divergence.listed(pair._roots[-1:])
    files = divergence.shown(pair._roots[-1:], found["id"])["files"]
    assert "extra" not in {file["path"] for file in files if file["kept"]}
    assert not (pair.trees[LYON] / "extra").exists()


@pytest.mark.parametrize("rule", [True, False])
def test_what_was_edited_on_the_node_that_serves_reaches_the_others(pair: Pair, rule: bool) -> None:
    """F3 on the serving side, and with its log entries left out."""
    both_in_sync_then_stopped(pair)
    pair.stop_primary()
    sealed(pair, PARIS)
    edit(pair.trees[PARIS])
    off: Any = mock.patch.object(Outside, "_pin") if not rule else mock.patch.object(pair, "admits", True)
    with off:
        look(pair, PARIS)
    now = record(2, LIFE, {PARIS})
    pair.told.clear()
    pair.start_follower(now)
    pair.start_primary(now)
    assert pair.primary is not None
    assert not pair.primary.history.standing.edited, "it is part of what is served now"
    eventually(lambda: pair.said("member_ready") != [], 20)
    assert not pair.said("progress")[-1]["full"]
    assert (picture(pair.trees[LYON]) == picture(pair.trees[PARIS])) is rule
