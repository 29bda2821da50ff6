"""The may-differ logs on a real disk: what is durable, and what it costs."""

from __future__ import annotations

from pathlib import Path

from orchestrator.mirror import differ
from orchestrator.mirror.lineage import Position
from orchestrator.model.names import NodeName
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.ops import DATA, FRESH, FRESH_RUN

LYON, NICE = NodeName("lyon"), NodeName("nice")
STREAM = "0123456789abcdef" * 2


def batches(folder: Path, node: NodeName) -> int:
    """How often the log's disk was waited for."""
    return differ.decode((folder / f"may-differ.{node}").read_bytes()).batches


def test_of_many_new_files_one_waits_for_the_disk(tmp_path: Path) -> None:
    logs = ChangeLogs(str(tmp_path), [LYON, NICE])
    before = batches(tmp_path, LYON)
    for inode in range(1000, 1000 + FRESH_RUN):
        logs.made(0, inode, 7, None)
        logs.before_change([(0, inode, FRESH, 0)], 7)
    assert batches(tmp_path, LYON) == before + 1
    logs.made(0, 1000 + FRESH_RUN, 7, None)
    assert batches(tmp_path, LYON) == batches(tmp_path, NICE) == before + 2


def test_a_new_file_is_in_every_log_after_a_crash(tmp_path: Path) -> None:
    logs = ChangeLogs(str(tmp_path), [LYON, NICE])
    for inode in (50, 51, 9000):
        logs.made(3, inode, 7, None)
    after = ChangeLogs(str(tmp_path), [LYON, NICE])  # of what was not closed: a process that was killed
    for log in after.of.values():
        assert {(3, 50, FRESH, 0), (3, 51, FRESH, 0), (3, 9000, FRESH, 0)} <= set(log.keys())


def test_entries_that_no_file_needed_go_before_those_that_one_needed(tmp_path: Path) -> None:
    logs = ChangeLogs(str(tmp_path), [LYON])
    log = logs.of[LYON]
    for number in range(differ.HOT_MAX):
        logs.before_change([(0, number, DATA, 1)], number)
    logs.before_change([], 10_000)
    logs.made(0, 70_000, 10_000, None)
    log.confirmed(Position(STREAM, 10))
    gone = {(0, 70_000 + number, FRESH, 0) for number in range(FRESH_RUN)} - set(log.keys())
    kept = {(0, number, DATA, 1) for number in range(11, differ.HOT_MAX)}
    assert kept <= set(log.keys()), "a change that is not durable on both sides lost its entry"
    assert gone, "the run's unused entries stay for ever"
    for inode in range(70_000, 70_000 + FRESH_RUN):
        logs.before_change([(0, inode, FRESH, 0)], 10_001)  # one that went is durable again before its use
    assert {(0, 70_000 + number, FRESH, 0) for number in range(FRESH_RUN)} <= set(
        ChangeLogs(str(tmp_path), [LYON]).of[LYON].keys()
    )
