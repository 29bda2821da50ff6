"""A file that is kept twice: whatever a crash leaves of a change, the content is the old or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.host.store import COPY_BYTES, JsonFile
from orchestrator.model.errors import CorruptState, StoreFailed

LONG = {"epoch": 8, "long": "x" * 2 * COPY_BYTES}


@pytest.fixture
def file(tmp_path: Path) -> JsonFile:
    file = JsonFile(str(tmp_path / "orders.json"))
    file.write({"epoch": 7})
    return file


def read(file: JsonFile) -> object:
    """As the next process does."""
    return JsonFile(file.path).read()


def test_what_is_written_is_read_however_often_and_long_it_is(file: JsonFile, tmp_path: Path) -> None:
    for content in ({"epoch": 8}, LONG, {"epoch": 9}, {"epoch": 9}, {}, LONG):
        file.write(content)
        assert read(file) == content
        JsonFile(file.path).write({"by": "a successor that never read it"})
        assert read(file) == {"by": "a successor that never read it"}
        file = JsonFile(file.path)
    assert [path.name for path in tmp_path.iterdir()] == ["orders.json"]


def test_no_file_is_no_content_and_an_empty_one_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "orders.json"
    assert read(JsonFile(str(path))) is None
    path.write_bytes(b"")
    with pytest.raises(CorruptState):
        read(JsonFile(str(path)))


@given(torn=st.integers(0, COPY_BYTES), first=st.booleans(), rubbish=st.binary(min_size=1, max_size=64))
def test_a_copy_that_a_crash_tore_leaves_the_other(
    tmp_path_factory: pytest.TempPathFactory, torn: int, first: bool, rubbish: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn") / "orders.json"
    file = JsonFile(str(path))
    for epoch in (7, 8):
        file.write({"epoch": epoch})
    whole = path.read_bytes()
    at = torn if first else COPY_BYTES + torn
    limit = COPY_BYTES if first else 2 * COPY_BYTES
    harmed = whole[:at] + rubbish[: limit - at] + whole[at + len(rubbish[: limit - at]) :]
    path.write_bytes(harmed)
    assert read(file) == {"epoch": 8}
    JsonFile(str(path)).write({"epoch": 9})
    assert read(file) == {"epoch": 9}


@pytest.mark.parametrize("torn", [0, 1])
def test_the_only_whole_copy_is_left_alone_until_the_next_change_is_durable(
    file: JsonFile, monkeypatch: pytest.MonkeyPatch, torn: int
) -> None:
    path = Path(file.path)
    file.write({"epoch": 8})
    harmed = bytearray(path.read_bytes())
    harmed[torn * COPY_BYTES] ^= 1
    path.write_bytes(harmed)
    synced: list[bytes] = []
    monkeypatch.setattr("os.fdatasync", lambda fd: synced.append(path.read_bytes()))
    JsonFile(file.path).write({"epoch": 9})
    kept = slice(COPY_BYTES, None) if torn == 0 else slice(None, COPY_BYTES)
    assert synced[-1] != bytes(harmed)
    assert synced[-1][kept] == bytes(harmed)[kept]


def test_the_newer_copy_counts(file: JsonFile) -> None:
    path = Path(file.path)
    before = path.read_bytes()
    file.write({"epoch": 8})
    after = path.read_bytes()
    # As after a crash between the two: one of them has the change.
    path.write_bytes(before[:COPY_BYTES] + after[COPY_BYTES:])
    assert read(file) == {"epoch": 8}
    path.write_bytes(after[:COPY_BYTES] + before[COPY_BYTES:])
    assert read(file) == {"epoch": 8}


def test_whatever_the_disk_has_taken_when_the_current_fails_every_finished_write_is_there(
    file: JsonFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that keeps unsynced blocks or not, and tears the one that is being synced."""
    path = Path(file.path)
    finished = [{"epoch": 7}]
    disk = {0: path.read_bytes()[:COPY_BYTES], 1: path.read_bytes()[COPY_BYTES:]}
    torn = 0

    def fail_in_the_middle(fd: int) -> None:
        nonlocal torn
        now = path.read_bytes()
        cache = {0: now[:COPY_BYTES], 1: now[COPY_BYTES:]}
        changed = [copy for copy in (0, 1) if cache[copy] != disk[copy]]
        for lost in [(), *([copy] for copy in changed)]:
            left = {copy: b"torn" + bytes(COPY_BYTES - 4) if copy in lost else disk[copy] for copy in (0, 1)}
            other = path.with_suffix(".after")
            other.write_bytes(left[0] + left[1])
            with monkeypatch.context() as whole:
                whole.setattr("os.fdatasync", lambda fd: None)
                assert JsonFile(str(other)).read() in (finished[-1], {"epoch": finished[-1]["epoch"] + 1})
            torn += bool(lost)
        disk.update(cache)

    monkeypatch.setattr("os.fdatasync", fail_in_the_middle)
    for epoch in range(8, 14):
        file.write({"epoch": epoch})
        finished.append({"epoch": epoch})
    assert torn >= 6, "a check that tears nothing proves nothing"


def test_both_copies_damaged_is_told(file: JsonFile) -> None:
    path = Path(file.path)
    harmed = bytearray(path.read_bytes())
    for copy in (0, COPY_BYTES):
        harmed[copy + 30] ^= 1
    path.write_bytes(harmed)
    with pytest.raises(CorruptState, match="neither of its"):
        read(file)


def test_a_later_version_is_named(file: JsonFile) -> None:
    path = Path(file.path)
    path.write_bytes(path.read_bytes().replace(b"hafarm 1 ", b"hafarm 2 "))
    with pytest.raises(CorruptState, match="version '2', this hafarm reads 1"):
        read(file)


@pytest.mark.parametrize("cut", [1, 7, COPY_BYTES])
def test_a_file_of_another_length_is_damaged(file: JsonFile, cut: int) -> None:
    path = Path(file.path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CorruptState, match="no length"):
        read(file)


def test_what_cannot_be_written_is_told_and_the_next_write_counts(file: JsonFile) -> None:
    path = Path(file.path)
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    with pytest.raises(StoreFailed):
        file.write({"epoch": 8})
    path.rmdir()
    file.write({"epoch": 9})
    assert read(file) == {"epoch": 9}
