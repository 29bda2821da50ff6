"""The event log survives its own damage, and is not filled by what fails again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agent.journal import Journal


def texts(journal: Journal) -> list[str]:
    return [event["text"] for event in journal.since(0)]


def test_events_outlive_the_agent(tmp_path: Path) -> None:
    path = str(tmp_path / "events.jsonl")
    Journal(path, "paris").tell("orders", "HF1102", "one")
    after = Journal(path, "paris")
    after.tell("orders", "HF1102", "two")
    assert [(event["id"], event["text"]) for event in after.since(0)] == [(1, "one"), (2, "two")]


@pytest.mark.parametrize(
    "damage", [b'{"id": 2, "te', b"null\n", b"[]\n", b'{"id": "x"}\n', b"\xff\x00\xfe\n", b"[" * 100_000]
)
def test_what_can_be_read_of_a_damaged_log_stands(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    Journal(str(path), "paris").tell("orders", "HF1102", "one")
    with path.open("ab") as file:
        file.write(damage)
    journal = Journal(str(path), "paris")
    journal.tell("orders", "HF1102", "two")
    assert texts(journal) == ["one", "two"]
    assert texts(Journal(str(path), "paris")) == ["one", "two"]


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
