"""A disk that hangs is told once; it costs the role only by policy, and only where another can have it."""

from __future__ import annotations

from orchestrator.mirror.hang import Finding, OwnDisk
from orchestrator.model.config import HANGS_S, HungDiskConfig

MOVE = HungDiskConfig(after_s=30.0, do="move")


def findings(disk: OwnDisk, *looks: tuple[float, bool]) -> list[Finding | None]:
    found = []
    for waited_s, heir in looks:
        disk, finding = disk.looked_at(waited_s, heir)
        found.append(finding)
    return found


def test_a_disk_that_takes_some_seconds_does_not_hang() -> None:
    assert findings(OwnDisk(MOVE), (HANGS_S - 0.1, True), (0.0, True)) == [None, None]


def test_that_it_hangs_is_told_once_and_so_is_that_it_answers_again() -> None:
    told = findings(OwnDisk(), (HANGS_S, True), (60.0, True), (600.0, True), (0.0, True), (0.0, True))
    assert told == [Finding.HANGS, None, None, Finding.ANSWERS, None]


def test_by_policy_it_is_given_up_after_its_time() -> None:
    assert findings(OwnDisk(MOVE), (11.0, True), (29.0, True), (30.0, True)) == [
        Finding.HANGS,
        None,
        Finding.GIVE_UP,
    ]


def test_without_an_heir_it_is_borne_until_there_is_one() -> None:
    assert findings(OwnDisk(MOVE), (11.0, False), (40.0, False), (41.0, True))[1:] == [None, Finding.GIVE_UP]


def test_one_that_hangs_again_is_told_again() -> None:
    told = findings(OwnDisk(), (11.0, False), (1.0, False), (12.0, False))
    assert told == [Finding.HANGS, Finding.ANSWERS, Finding.HANGS]
