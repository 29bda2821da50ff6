"""Each of those who watch sees what it is there for, when it is planted."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.host import process
from orchestrator.host.cgroup import Cgroup, group, kill_all
from orchestrator.host.launcher import Launcher
from tests.chaos.__main__ import EVERY_KIND_S, judge_kinds
from tests.chaos.campaign import CHECKS, Report, excess_s
from tests.chaos.faults import FAULTS
from tests.chaos.trees import differences
from tests.chaos.watch import Answers, Applications, Spell, group_lives
from tests.chaos.workloads import STOP_TIMEOUT_S
from tests.support.netns import Switch
from tests.support.waiting import eventually

VIP = "198.18.0.100"
ROOT = str(Path(__file__).parents[2])


def watch(switch: Switch) -> Answers:
    """`answers.py` on the machine called client, which knows the two nodes."""
    macs = []
    for node in ("paris", "lyon"):
        words = ["ip", "netns", "exec", switch[node], "cat", "/sys/class/net/eth0/address"]
        macs.append(f"{node}={subprocess.check_output(words, text=True).strip()}")
    words = ["ip", "netns", "exec", switch["client"], sys.executable, "-m", "tests.chaos.answers", VIP, *macs]
    pipe = subprocess.PIPE
    paths = os.environ | {"PYTHONPATH": ROOT}
    return Answers(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=paths))


def address(switch: Switch, node: str, verb: str) -> None:
    subprocess.run(
        ["ip", "-n", switch[node], "address", verb, f"{VIP}/24", "dev", "eth0"],
        check=True,
        capture_output=True,
    )


def test_an_address_that_moves_is_seen_and_one_with_two_owners_is_told() -> None:
    with Switch(paris=("198.18.0.11/24",), lyon=("198.18.0.12/24",), client=("198.18.0.30/24",)) as switch:
        address(switch, "paris", "add")
        answers = watch(switch)
        try:
            eventually(lambda: [name for _, name in answers.owners] == ["paris"])
            address(switch, "paris", "del")
            address(switch, "lyon", "add")
            eventually(lambda: answers.failovers == 1)
            assert answers.doubles == []
            address(switch, "paris", "add")
            eventually(lambda: {double["how"] for double in answers.doubles} == {"arp", "ip"})
            assert answers.doubles[0]["double"] == ["lyon", "paris"]
        finally:
            answers.finish()


def test_an_application_on_two_nodes_is_seen_for_as_long_as_it_is() -> None:
    here, there = [True], [False]
    watching = Applications({"paris": lambda: here[0], "lyon": lambda: there[0]})
    watching.start()
    try:
        eventually(lambda: watching.looks > 5)
        assert watching.overlaps == []
        there[0] = True
        eventually(lambda: watching.overlaps and watching.overlaps[0].length_s > 0.2)
        here[0] = False
        seen = watching.looks
        eventually(lambda: watching.looks > seen + 2)
        (spell,) = watching.overlaps
        assert spell.nodes == ("paris", "lyon")
        assert spell.end < time.monotonic()
    finally:
        watching.stop()


def test_what_waits_to_become_the_application_is_none_and_what_became_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "LAUNCHER", Launcher())
    process.LAUNCHER.start()
    own = group(f"watched-{os.getpid()}/app")
    assert isinstance(own, Cgroup)
    folder = Path(own.born_in or str(Path(own.entered_by).parent))
    try:
        waiting = process.prepare(["/bin/sleep", "600"], own, 1)
        eventually(own.pids)
        assert not group_lives(folder)
        process.begin(waiting, ["/bin/sleep"]).close()
        eventually(lambda: group_lives(folder))
    finally:
        asyncio.run(kill_all(own))
        own.remove()
        process.LAUNCHER.close()
    assert not group_lives(folder)


def test_an_overlap_is_judged_by_the_rule_and_by_what_a_node_could_know() -> None:
    long = Spell(100, 120, ("paris", "lyon"))
    assert excess_s(long, [], "brief") > 0
    assert excess_s(Spell(100, 100 + STOP_TIMEOUT_S, long.nodes), [], "brief") <= 0
    assert excess_s(long, [(99, 118)], "brief") <= 0, "it could not know before"
    assert excess_s(long, [(90, 95)], "brief") > 0, "that was another time"
    assert excess_s(Spell(100, 100.1, long.nodes), [], "none") > 0
    assert excess_s(Spell(100, 100.1, long.nodes), [(99, 101)], "none") <= 0


@pytest.mark.parametrize("what", ["content", "size", "mode", "xattr", "link", "pointer", "missing"])
def test_trees_that_differ_in_anything_are_told_apart(tmp_path: Path, what: str) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for root in (one, other):
        (root / "a").mkdir(parents=True)
        (root / "a" / "file").write_bytes(b"content")
        (root / "b").write_bytes(b"content")
        (root / ".hafarm").mkdir()
        (root / "to").symlink_to("a")
    (one / ".hafarm" / "own").write_bytes(b"each node's own")
    assert differences(one, other) == []
    file = other / "a" / "file"
    match what:
        case "content":
            file.write_bytes(b"c0ntent")
        case "size":
            file.write_bytes(b"content\0")
        case "mode":
            file.chmod(0o600)
        case "xattr":
            os.setxattr(file, "user.x", b"1")
        case "link":
            (other / "b").unlink()
            os.link(file, other / "b")
        case "pointer":
            (other / "to").unlink()
            (other / "to").symlink_to("b")
        case "missing":
            file.unlink()
    assert differences(one, other)


def test_a_long_run_without_one_kind_of_fault_has_failed() -> None:
    report = Report()
    report.faults.update(fault.name for fault in FAULTS if fault.kind != "stop-pulse")
    for name in CHECKS:
        report.check(name, "")
    judge_kinds(report, EVERY_KIND_S - 1)
    assert report.ok
    judge_kinds(report, EVERY_KIND_S + 1)
    assert report.broken == {"every kind of fault occurred": ["stop-pulse"]}
    assert not report.ok


def test_a_report_with_a_check_that_never_looked_is_no_good_report() -> None:
    report = Report()
    for name in CHECKS[1:]:
        report.check(name, "")
    assert not report.ok
