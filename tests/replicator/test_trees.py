"""What one side says of its tree."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from orchestrator.replicator import trees
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
