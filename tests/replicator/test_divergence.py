"""Two histories meet: what the loser had is kept, listed file by file, and released by order."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from orchestrator.model.names import NodeName
from orchestrator.replicator import divergence, quarantine
from orchestrator.replicator.divergence import DivergenceInUse, NoDivergence
from tests.replicator.pair import LYON, PARIS, Pair, picture, record
from tests.support.waiting import eventually

LIFE, OTHER, LATER = (secrets.token_hex(16) for _ in range(3))
ALONE = record(1, LIFE, {PARIS})


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()


def begin(pair: Pair) -> None:
    pair.start_follower(ALONE)
    pair.start_primary(ALONE)
    eventually(lambda: pair.said("member_ready") != [], 20)
    assert pair.live is not None


def part(pair: Pair) -> None:
    """Both sides are promoted by force: each begins a reign that the other one lacks."""
    pair.stop_primary()
    pair.stop_follower()
    for node, nonce in ((LYON, OTHER), (PARIS, LATER)):
        history, logs = pair.state(node)
        history.add_reign(record(2, nonce, {node}, node))
        logs.close()


def meet(pair: Pair, wait: bool = True) -> None:
    now = record(3, LATER, {PARIS})
    pair.told.clear()
    pair.start_follower(now)
    pair.start_primary(now)
    if wait:
        eventually(lambda: pair.said("member_ready") != [], 20)


def roots(pair: Pair, node: NodeName = LYON) -> list[int]:
    pair._roots.append(os.open(pair.trees[node], os.O_RDONLY | os.O_DIRECTORY))
    return pair._roots[-1:]


def files(pair: Pair, id: str) -> dict[str, tuple[str, int]]:
    return {file["path"]: (file["why"], file["size"]) for file in divergence.shown(roots(pair), id)["files"]}


def test_the_losers_files_are_listed_with_why_and_how_much(pair: Pair) -> None:
    paris, lyon = pair.trees[PARIS], pair.trees[LYON]
    for name in ("same", "changed", "removed", "mode"):
        (paris / name).write_text(name)
    begin(pair)
    part(pair)
    (lyon / "changed").write_text("changed in lyon")
    (lyon / "new").mkdir()
    (lyon / "new" / b"caf\xe9".decode(errors="surrogateescape")).write_text("1234")
    (lyon / "mode").chmod(0o600)
    (paris / "removed").unlink()
    (paris / "changed").write_text("changed in paris")
    meet(pair)
    assert picture(lyon) == picture(paris)
    (found,) = divergence.listed(roots(pair))
    assert (found["verdict"], found["lost"], found["kept_by"]) == ("diverged", LYON, PARIS)
    assert found["lineages"] == {LYON: [[1, LIFE], [2, OTHER]], PARIS: [[1, LIFE], [2, LATER], [3, LATER]]}
    assert found["ended"]
    assert files(pair, found["id"]) == {
        "changed": ("changed here", len("changed in lyon")),
        "new/caf\\xe9": ("only here", 4),
        "removed": ("deleted there", len("removed")),
        "mode": ("changed here", 0),
    }
    assert (found["files"], found["bytes"]) == (4, 15 + 4 + 7)
    assert pair.said("set_aside")[0]["id"] == found["id"]
    aside = lyon / ".hafarm" / "quarantine" / found["id"]
    kept = {file["path"]: file["kept"] for file in divergence.shown(roots(pair), found["id"])["files"]}
    assert (aside / kept["changed"]).read_text() == "changed in lyon"


def test_release_frees_it_and_only_it(pair: Pair) -> None:
    (pair.trees[PARIS] / "data").write_text("of paris")
    begin(pair)
    part(pair)
    (pair.trees[LYON] / "data").write_text("of lyon!")
    meet(pair)
    (found,) = divergence.listed(roots(pair))
    with pytest.raises(NoDivergence, match="no divergence 7-7 is kept here; these are: " + found["id"]):
        divergence.released(roots(pair), "7-7", copying=False)
    assert divergence.released(roots(pair), found["id"], copying=True)["bytes"] == len("of lyon!")
    assert divergence.listed(roots(pair)) == []
    assert (pair.trees[LYON] / "data").read_text() == "of paris"


def test_a_set_aside_that_broke_off_goes_on_in_the_same_folder_and_keeps_the_first_content(
    pair: Pair,
) -> None:
    paris, lyon = pair.trees[PARIS], pair.trees[LYON]
    for number in range(30):
        (paris / f"f{number:02}").write_bytes(os.urandom(300_000))
    begin(pair)
    part(pair)
    mine = {}
    for number in range(30):
        mine[f"f{number:02}"] = os.urandom(300_000)
        (lyon / f"f{number:02}").write_bytes(mine[f"f{number:02}"])
        (paris / f"g{number:02}").write_bytes(os.urandom(300_000))
    meet(pair, wait=False)
    follower = pair.follower
    assert follower is not None
    eventually(lambda: follower.applied > 20, 20)
    pair.stop_primary()
    pair.stop_follower()
    assert not pair.said("member_ready"), "it was too fast to be broken off"
    (found,) = divergence.listed(roots(pair))
    with pytest.raises(DivergenceInUse):
        divergence.released(roots(pair), found["id"], copying=True)
    for number in range(30):
        (paris / f"g{number:02}").write_bytes(b"changed between the two copies")
    meet(pair)
    assert picture(lyon) == picture(paris)
    (found,) = divergence.listed(roots(pair))
    shown = divergence.shown(roots(pair), found["id"])["files"]
    aside = lyon / ".hafarm" / "quarantine" / found["id"]
    assert {file["path"]: (aside / file["kept"]).read_bytes() for file in shown} == mine


def test_without_the_quarantine_what_only_the_loser_had_is_gone(pair: Pair) -> None:
    """The rule off: the checks above look at something that can be lost."""
    (pair.trees[PARIS] / "data").write_text("of paris")
    begin(pair)
    part(pair)
    (pair.trees[LYON] / "data").write_text("of lyon")
    with mock.patch.object(quarantine.Quarantine, "preserve", return_value=None):
        meet(pair)
    (found,) = divergence.listed(roots(pair))
    assert found["files"] == 0


def test_a_node_whose_replicator_does_not_run_is_asked_by_a_process(pair: Pair, tmp_path: Path) -> None:
    (pair.trees[PARIS] / "data").write_text("of paris")
    begin(pair)
    part(pair)
    (pair.trees[LYON] / "data").write_text("of lyon")
    meet(pair)
    settings = tmp_path / "replicator.json"
    content: dict[str, Any] = {
        "cluster": "shop", "module": "db", "node": "lyon", "socket": str(tmp_path / "s"),
        "state_directory": "", "bundle": "", "volumes": [{"path": str(pair.trees[LYON])}],
    }  # fmt: skip
    settings.write_text(json.dumps(content))

    def ask(*words: str) -> Any:
        command = [sys.executable, "-m", "orchestrator.replicator.divergence", settings, *words]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)

    (found,) = ask("list")
    assert [file["path"] for file in ask("show", found["id"], "0")["files"]] == ["data"]
    assert ask("show", "nonsense", "0")["error"]["code"] == "HF4017"
    assert ask("release", found["id"])["files"] == 1
    assert ask("list") == []
