"""What many tests of the files begin with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replicator.mounted import Mounted
from tests.support.disks import ext4


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("disk")
    with ext4(base / "image", base / "at") as at:
        yield at


@pytest.fixture
def mounted(disk: Path, tmp_path: Path) -> Iterator[Mounted]:
    tree = disk / f"tree-{os.getpid()}-{tmp_path.name}"
    tree.mkdir()
    thing = Mounted(tree, tmp_path / "journal", exclude=("*.tmp",))
    try:
        yield thing
    finally:
        thing.close()
