"""What one side says of its tree."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.replicator import trees
from orchestrator.replicator.summaries import summarize
from orchestrator.replicator.trees import BLOCK_BYTES, BLOCKS_MAX


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def test_each_side_works_while_the_other_does() -> None:
    meeting = threading.Barrier(2)
    # One after the other they would never meet, and each would fail by its time-out.
    theirs, own = trees.side_by_side(lambda: meeting.wait(10) + 10, lambda: meeting.wait(10) + 20)
    assert {theirs - 10, own - 20} == {0, 1}


def test_what_the_other_side_raises_comes_out_when_both_have_ended() -> None:
    ended: list[bool] = []

    def fail() -> None:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError):
        trees.side_by_side(fail, lambda: ended.append(True))
    assert ended


def test_blocks_are_hashed_in_order_zeros_as_nothing_and_the_last_one_short(tmp_path: Path) -> None:
    blocks = [os.urandom(BLOCK_BYTES), bytes(BLOCK_BYTES), os.urandom(BLOCK_BYTES), b"end"]
    path = tmp_path / "file"
    path.write_bytes(b"".join(blocks))
    expected = [digest(blocks[0]), "", digest(blocks[2]), digest(b"end")]
    fd = os.open(path, os.O_RDONLY)
    try:
        assert trees.hash_blocks(fd, 0, BLOCKS_MAX) == expected
        assert trees.hash_blocks(fd, 2, 1) == expected[2:3]
        assert trees.hash_blocks(fd, 4, BLOCKS_MAX) == []
    finally:
        os.close(fd)


def test_a_hole_is_known_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(40 * BLOCK_BYTES)
        file.seek(7 * BLOCK_BYTES)
        file.write(b"data")
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: read.append(at) or pread(fd, size, at))
    fd = os.open(path, os.O_RDONLY)
    try:
        found = trees.hash_blocks(fd, 0, 40)
    finally:
        os.close(fd)
    assert [digest != "" for digest in found] == [number == 7 for number in range(40)]
    assert read == [7 * BLOCK_BYTES]


def change_nothing(place: Path) -> None:
    pass


def rename(place: Path) -> None:
    (place / "one").rename(place / "uno")


def write(place: Path) -> None:
    (place / "one").write_bytes(b"longer")


def set_attribute(place: Path) -> None:
    os.setxattr(place / "one", "user.a", b"2")


@pytest.mark.parametrize(
    "change",
    [
        change_nothing,
        rename,
        write,
        set_attribute,
        lambda place: (place / "two").mkdir(),
        lambda place: (place / "one").chmod(0o600),
        lambda place: os.chown(place / "one", 3, 4),
        lambda place: os.utime(place / "one", ns=(0, 5)),
        lambda place: ((place / "to").unlink(), (place / "to").symlink_to("there")),
    ],
)
def test_a_directorys_digests_tell_any_difference_of_a_name(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    for side in ("here", "there"):
        place = tmp_path / side / "folder"
        place.mkdir(parents=True)
        (place / "one").write_bytes(b"1")
        os.setxattr(place / "one", "user.a", b"1")
        (place / "to").symlink_to("here")
        for name in ("one", "to"):
            os.utime(place / name, ns=(7, 7), follow_symlinks=False)
    change(tmp_path / "there" / "folder")
    if change is not rename and (tmp_path / "there/folder/to").readlink() != Path("here"):
        os.utime(tmp_path / "there/folder/to", ns=(7, 7), follow_symlinks=False)
    for buckets in (1, 7):
        found = []
        for side in ("here", "there"):
            root = os.open(tmp_path / side, os.O_RDONLY | os.O_DIRECTORY)
            summary = summarize(root, 0, b"folder", buckets, trees.nothing_excluded)
            os.close(root)
            assert summary is not None
            found.append(summary.digests)
        assert (found[0] == found[1]) is (change is change_nothing)
    assert os.getcwd() != str(tmp_path), "the working directory of nobody else changes"


def test_what_is_there_is_counted_without_what_is_local_or_hidden(tmp_path: Path) -> None:
    for path in (".hafarm", "a/b", "local"):
        (tmp_path / path).mkdir(parents=True)
    for path, size in ((".hafarm/mark", 1), ("one", 10), ("a/two", 20), ("a/b/three", 30), ("local/x", 40)):
        (tmp_path / path).write_bytes(bytes(size))
    (tmp_path / "a" / "link").symlink_to("gone")
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = trees.sizes(root, 0, lambda volume, path, is_directory: path == b"local" and is_directory)
        assert sorted(found) == [4, 10, 20, 30]
    finally:
        os.close(root)
