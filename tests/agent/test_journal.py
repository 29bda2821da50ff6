"""The event log survives its own damage, and is not filled by what fails again and again."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.agent import journal as journal_module
from orchestrator.agent.journal import Journal
from tests.support.waiting import eventually


def texts(journal: Journal) -> list[str]:
    return [event["text"] for event in journal.since(0)]


def written(path: Path, *told: str) -> Journal:
    """A journal that told these, and closed."""
    with closing(Journal(str(path), "paris")) as journal:
        for text in told:
            journal.tell("orders", "HF1102", text)
    return journal


def test_events_outlive_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    written(path, "one", "two")
    after = written(path, "three")
    assert [(event["id"], event["text"]) for event in after.since(0)] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
    ]
    assert texts(written(path)) == ["one", "two", "three"]


def test_an_event_is_in_the_file_a_moment_after_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with closing(Journal(str(path), "paris")) as journal:
        journal.tell("orders", "HF1102", "one")
        eventually(lambda: path.exists() and path.read_text().endswith("\n"))


def test_a_log_on_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "CLOSE_TIMEOUT_S", 0.1)
    path = tmp_path / "events.jsonl"
    journal = Journal(str(path), "paris")
    os.mkfifo(path)  # to open it for writing waits for a reader
    journal.tell("orders", "HF1102", "one")
    journal.tell("orders", "HF1102", "two")
    journal.close()
    assert texts(journal) == ["one", "two"]
    with path.open() as reader:
        assert len(reader.readlines()) == 2


def test_a_log_that_is_full_keeps_its_newer_half_and_no_event_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "EVENTS_MAX", 4)
    path = tmp_path / "events.jsonl"
    told = [f"event {number}" for number in range(20)]
    for text in told:
        written(path, text)
    kept = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert kept == told[-len(kept) :]
    assert 4 <= len(kept) <= 9


@pytest.mark.parametrize(
    "damage", [b'{"id": 2, "te', b"null\n", b"[]\n", b'{"id": "x"}\n', b"\xff\x00\xfe\n", b"[" * 100_000]
)
def test_what_can_be_read_of_a_damaged_log_stands(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    written(path, "one")
    with path.open("ab") as file:
        file.write(damage)
    assert texts(written(path, "two")) == ["one", "two"]
    assert texts(written(path)) == ["one", "two"]


def test_a_log_that_cannot_be_written_is_kept_in_memory(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "missing" / "events.jsonl"), "paris")
    journal.tell("orders", "HF1102", "one")
    assert texts(journal) == ["one"]


def test_what_is_tried_again_is_told_once_and_everything_else_each_time(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "events.jsonl"), "paris")
    for _ in range(5):
        journal.tell("orders", "HF4012", "no replication with lyon")
        journal.tell("orders", "HF1102", "the application runs")
    journal.tell("orders", "HF4012", "no replication with rome")
    found = texts(journal)
    assert found.count("no replication with lyon") == 1
    assert found.count("the application runs") == 5
    assert found[-1] == "no replication with rome"
