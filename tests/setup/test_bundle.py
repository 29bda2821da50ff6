"""Bundles are made whole or not at all, and a wrong one is told by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.setup.bundle import BundleRefused, check_bundle, init


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    init("shop", ["paris", "lyon"], str(tmp_path / "keys"))
    return tmp_path / "keys"


def test_init_makes_one_bundle_a_node_and_one_for_the_witness_without_the_heartbeat_key(keys: Path) -> None:
    assert {folder.name for folder in keys.iterdir()} == {"ca", "paris", "lyon", "witness"}
    assert not (keys / "witness" / "heartbeat.key").exists()
    assert not (keys / "paris" / "ca.key").exists()
    assert (keys / "paris" / "heartbeat.key").read_bytes() == (keys / "lyon" / "heartbeat.key").read_bytes()
    for node in ("paris", "lyon"):
        check_bundle(str(keys / node), "shop", node)
    for file in keys.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0


def test_keys_are_never_overwritten(keys: Path) -> None:
    before = (keys / "ca" / "ca.key").read_bytes()
    with pytest.raises(BundleRefused, match="exists"):
        init("shop", ["paris"], str(keys))
    assert (keys / "ca" / "ca.key").read_bytes() == before


def test_nothing_is_left_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused):
        init("shop", ["paris"], str(tmp_path / ("x" * 300)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda folder: (folder / "node.key").unlink(), "node.key is missing"),
        (lambda folder: (folder / "node.key").chmod(0o644), "read by others"),
        (lambda folder: (folder / "heartbeat.key").write_text("aa\n"), "wrong length"),
        (lambda folder: (folder / "node.crt").write_text("nonsense"), "cannot be read"),
        (lambda folder: shutil.copy(folder.parent / "lyon" / "node.key", folder), "does not belong"),
    ],
)
def test_a_damaged_bundle_is_refused_with_its_reason(keys: Path, harm, word: str) -> None:
    harm(keys / "paris")
    with pytest.raises(BundleRefused, match=word):
        check_bundle(str(keys / "paris"), "shop", "paris")


def test_another_node_s_or_cluster_s_bundle_is_refused_by_name(keys: Path) -> None:
    with pytest.raises(BundleRefused, match="speaks for lyon"):
        check_bundle(str(keys / "lyon"), "shop", "paris")
    with pytest.raises(BundleRefused, match="of cluster shop"):
        check_bundle(str(keys / "paris"), "prod", "paris")


@pytest.mark.parametrize("name", ["witness", "ca"])
def test_no_node_may_be_named_as_one_of_the_other_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleRefused, match=f"a node is named {name}"):
        init("shop", ["paris", name], str(tmp_path / "keys"))
    assert list(tmp_path.iterdir()) == []
