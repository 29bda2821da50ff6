"""Covering a directory and uncovering it: whatever else is mounted there stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from orchestrator.host.fuse.mount import mount, mounts_of_ours, open_device, uncover
from tests.support.disks import ext4

AT_ONCE = 8
ROUNDS = 50
"""The agent, a keeper and a replicator may all uncover at a death; a race that is there shows in a few."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on which a disk of its own is mounted, as production data often is."""
    with ext4(tmp_path / "image", tmp_path / "disk") as place:
        (place / "marker").touch()
        yield place


def cover_and_die(place: Path) -> None:
    """A mount whose keeper is gone: whoever looks into it is told ENOTCONN."""
    device = open_device()
    mount(device, str(place))
    os.close(device)


def test_a_dead_mount_is_taken_away_and_what_it_covers_stays_mounted(disk: Path) -> None:
    cover_and_die(disk)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(disk)
    uncover(str(disk))
    assert (disk / "marker").exists()
    uncover(str(disk))
    assert (disk / "marker").exists()


def test_every_one_of_several_dead_mounts_is_taken_away(disk: Path) -> None:
    for _ in range(3):
        cover_and_die(disk)
    uncover(str(disk))
    assert mounts_of_ours(str(disk)) == 0
    assert (disk / "marker").exists()


def test_whoever_uncovers_at_the_same_moment_the_disk_beneath_stays(disk: Path) -> None:
    gate = Barrier(AT_ONCE)

    def work() -> None:
        gate.wait()
        uncover(str(disk))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in range(ROUNDS):
            cover_and_die(disk)
            for done in [threads.submit(work) for _ in range(AT_ONCE)]:
                done.result()
            assert (disk / "marker").exists(), "the disk itself was unmounted"


def test_another_mount_over_ours_is_not_touched(disk: Path) -> None:
    cover_and_die(disk)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True)
    try:
        (disk / "theirs").touch()
        with pytest.raises(OSError, match="over hafarm's"):
            uncover(str(disk))
        assert (disk / "theirs").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        uncover(str(disk))
    assert (disk / "marker").exists()
