"""A tree without what must exist in it begins nothing: an empty mount point is not the module's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host.fuse.mount import mounts_of_ours
from tests.replicator.processes import Process, record
from tests.replicator.test_edits import stop
from tests.replicator.test_mirror import Pair, begin, pair  # noqa: F401  (the fixture)
from tests.support.disks import ext4
from tests.support.waiting import eventually


def guard(process: Process, name: str = "data/SENTINEL") -> None:
    content = json.loads(process.settings.read_text())
    content["volumes"] = [{"path": str(process.tree), "must_exist": name}]
    process.settings.write_text(json.dumps(content))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Process]:
    with ext4(tmp_path / "image", tmp_path / "disk") as disk:
        (disk / "orders").mkdir()
        process = Process(tmp_path / "paris", disk / "orders")
        guard(process)
        try:
            yield process
        finally:
            process.end()


def keep(process: Process) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.replicator.keeper", str(process.settings)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def looked(process: Process) -> dict[str, dict[str, str]]:
    command = [sys.executable, "-m", "orchestrator.replicator.sentinel", str(process.settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


def make(tree: Path) -> None:
    (tree / "data").mkdir(exist_ok=True)
    (tree / "data" / "SENTINEL").touch()


def test_before_a_first_start_it_is_looked_for_whatever_is_known(alone: Process) -> None:
    assert looked(alone)["error"]["code"] == "HF4021"
    assert f"{alone.tree} has no data/SENTINEL" in looked(alone)["error"]["text"]
    (alone.tree / "data").symlink_to("/")
    assert looked(alone)["error"]["code"] == "HF4021"  # a way out of the tree is no way to it
    (alone.tree / "data").unlink()
    make(alone.tree)
    assert looked(alone) == {}


def test_a_gate_of_files_without_it_never_opens_for_a_first_reign(alone: Process) -> None:
    agent = alone.start()
    agent.ask("take_reign", record=record(1, "paris", agent.ask("status")["life"], ["paris"]))
    assert "data/SENTINEL" in agent.event("volume_failed")["why"]
    assert not agent.ask("status")["open"]


def test_a_node_that_had_the_files_starts_neither_as_primary_nor_as_secondary_on_an_empty_tree(
    pair: Pair,  # noqa: F811
) -> None:
    for process in (pair.paris, pair.lyon):
        guard(process)
    make(pair.paris.tree)
    # Lyon never had them: it is filled, and the sentinel comes with the rest.
    paris, lyon, _ = begin(pair)
    eventually(lambda: (pair.lyon.tree / "data" / "SENTINEL").exists(), 10)
    for process, agent in ((pair.lyon, lyon), (pair.paris, paris)):
        stop(process, agent)
        away = process.tree.with_name("away")
        process.tree.rename(away)
        process.tree.mkdir()
        done = keep(process)
        assert (done.returncode, done.stderr.startswith("HF4021: ")) == (1, True), done
        assert mounts_of_ours(str(process.tree)) == 0
        assert list(process.tree.iterdir()) == []
        process.tree.rmdir()
        away.rename(process.tree)
        life = process.start().ask("status")
        assert (life["failed"], life["edited"]) == ("", None)
    assert os.listdir(pair.lyon.tree / "data") == ["SENTINEL"]
