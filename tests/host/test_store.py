"""A file whose next content is expected: half the work is done before; nothing is believed too early."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.host.store import JsonFile
from orchestrator.model.errors import StoreFailed


@pytest.fixture
def file(tmp_path: Path) -> JsonFile:
    file = JsonFile(str(tmp_path / "orders.json"))
    file.write({"epoch": 7})
    return file


def read(file: JsonFile) -> object:
    """As the next process does."""
    return JsonFile(file.path).read()


def test_what_is_expected_is_not_the_content_until_it_is_written(file: JsonFile) -> None:
    file.prepare({"epoch": 8})
    assert read(file) == {"epoch": 7}
    file.write({"epoch": 8})
    assert read(file) == {"epoch": 8}


def test_another_content_than_the_expected_one_is_written_as_ever(file: JsonFile) -> None:
    file.prepare({"epoch": 8})
    file.write({"epoch": 9})
    assert read(file) == {"epoch": 9}
    file.write({"epoch": 8})
    assert read(file) == {"epoch": 8}, "an expectation holds for one write"


def test_an_expectation_is_replaced_by_the_next_also_after_a_crash(file: JsonFile, tmp_path: Path) -> None:
    file.prepare({"epoch": 8, "long": "x" * 5000})
    successor = JsonFile(file.path)
    successor.prepare({"epoch": 9})
    successor.write({"epoch": 9})
    assert read(file) == {"epoch": 9}
    assert [path.name for path in tmp_path.iterdir()] == ["orders.json"]


def test_an_expectation_that_cannot_be_kept_leaves_the_content_alone(file: JsonFile, tmp_path: Path) -> None:
    (tmp_path / ".orders.json.ready").mkdir()
    with pytest.raises(StoreFailed):
        file.prepare({"epoch": 8})
    file.write({"epoch": 8})
    assert read(file) == {"epoch": 8}
