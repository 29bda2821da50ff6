"""One application at a time: stopped before started, watched, given its chance here and then elsewhere."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.demo.story import MODULE
from orchestrator.host.process import started_at
from tests.house.rules import ROOT
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare

SERVICE = str(ROOT / "tests" / "whole" / "service.py")
PORT = 8080


@dataclass(frozen=True)
class Stamp:
    what: str
    node: str
    at: float
    pid: int


class Watched(Bare):
    """A cluster whose application writes down when it lives."""

    stamps: Path

    def seen(self, what: str = "") -> list[Stamp]:
        lines = self.stamps.read_text().split("\n")[:-1] if self.stamps.exists() else []
        found = [Stamp(one, node, float(at), int(pid)) for one, node, at, pid in map(str.split, lines)]
        return [stamp for stamp in found if what in ("", stamp.what)]

    def sicken(self, node: str) -> None:
        Path(f"{self.stamps}.sick-{node}").touch()

    def primary(self) -> str:
        found = [node for node in self.cluster.nodes if self.role(node)[0] in ("PRIM", "ALONE")]
        return found[0] if len(found) == 1 else ""

    def other(self, node: str) -> str:
        return next(name for name in self.cluster.nodes if name != node)

    def redundant(self) -> bool:
        return sorted(self.role(node) for node in self.cluster.nodes) == [
            ("PRIM", "ready"),
            ("SECOND", "ready"),
        ]

    def swap(self) -> None:
        done = self.cluster.hafarm(self.primary(), "swap", MODULE, "--wait=60s")
        assert done.returncode == 0, done.stderr
        eventually(self.redundant, 60)

    def lives(self, times: int) -> None:
        """It has begun so often."""
        eventually(lambda: len(self.seen("begin")) == times, 60)

    def living(self, node: str) -> list[int]:
        return self.cluster.machines[node].pids(SERVICE)


@contextmanager
def watched(run: Any, work: Path, **module: Any) -> Iterator[Watched]:
    """`run(stamps)` is the module's `run`."""
    stamps = work / "stamps"
    options = {"run": run(stamps), "vip": [], "checks": [], **module}
    with bare(module=options) as made:
        found = Watched(made.cluster)
        found.stamps = stamps
        found.begin()
        found.lives(1)
        yield found


def command(*more: str, **run: Any) -> Any:
    return lambda stamps: {"command": [sys.executable, SERVICE, str(stamps), str(PORT), *more], **run}


def in_turn(stamps: list[Stamp]) -> bool:
    """Each began only after the one before had ended."""
    kinds = [stamp.what for stamp in stamps]
    times = [stamp.at for stamp in stamps]
    return kinds == ["begin", "end"] * (len(kinds) // 2) + ["begin"] * (len(kinds) % 2) and times == sorted(
        times
    )


def test_a_swap_lets_the_application_end_here_before_it_begins_there(tmp_path: Path) -> None:
    with watched(command("--linger", "0.7"), tmp_path) as found:
        for begun in (2, 3, 4):
            found.swap()
            found.lives(begun)
        stamps = found.seen()
        assert [stamp.node for stamp in stamps if stamp.what == "begin"] == ["paris", "lyon", "paris", "lyon"]
        assert in_turn(stamps), stamps
        # It runs in a group of its own, not in the agent's.
        (pid,) = found.living("lyon")
        group = Path(f"/proc/{pid}/cgroup").read_text()
        assert f"hafarm/{MODULE}/app" in group
        logs = list((found.cluster.machines["lyon"].log_dir / MODULE).glob("command-*.log"))
        assert len(logs) == 2  # one for each run here


def test_a_deaf_application_is_killed_when_its_time_is_over_and_never_overlaps(tmp_path: Path) -> None:
    with watched(command("--deaf", stop_timeout="1s"), tmp_path) as found:
        (before,) = found.living("paris")
        found.swap()
        found.lives(2)
        first, second = found.seen("begin")
        assert second.at - first.at > 1.0
        assert started_at(before) is None
        assert found.living("paris") == []
        assert any("HF1112" in event for event in found.events("paris"))


def test_scripts_are_asked_gently_then_forced_and_have_one_log_a_run(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir(mode=0o755)
    stamps = tmp_path / "stamps"
    (scripts / "start_prim").write_text(
        "#!/bin/sh\necho starting on $HAFARM_NODE\n"
        f"setsid {sys.executable} {SERVICE} {stamps} {PORT} </dev/null >/dev/null 2>&1 &\n"
        f'while ! tail -n1 {stamps} | grep -q "begin $HAFARM_NODE"; do sleep 0.05; done 2>/dev/null\n'
    )
    # Asked to stop, lyon's script hangs for ever: force must end it and what it was to stop.
    (scripts / "stop_prim").write_text(
        "#!/bin/sh\necho stopping on $HAFARM_NODE\n[ $HAFARM_NODE = lyon ] && sleep 1000\n"
        f"pid=$(tail -n1 {stamps} | cut -d' ' -f4)\n"
        "kill $pid\nwhile kill -0 $pid 2>/dev/null; do sleep 0.05; done\n"
    )
    for script in scripts.iterdir():
        script.chmod(0o755)
    with watched(lambda _: {"scripts": str(scripts), "stop_timeout": "3s"}, tmp_path) as found:
        found.swap()
        found.lives(2)
        assert in_turn(found.seen()), found.seen()
        assert found.living("paris") == []
        found.swap()
        found.lives(3)
        assert found.living("lyon") == []
        assert any("HF1112" in event for event in found.events("lyon"))
        logs = found.cluster.machines["paris"].log_dir / MODULE
        starts, stops = sorted(logs.glob("start_prim-*.log")), sorted(logs.glob("stop_prim-*.log"))
        assert (len(starts), len(stops)) == (2, 1)
        assert starts[0].read_text() == "starting on paris\n"
        assert stops[0].read_text() == "stopping on paris\n"


def test_death_is_seen_at_once_and_after_the_budget_the_other_node_gets_its_chance(tmp_path: Path) -> None:
    """No check is configured: only the process's own end can tell."""
    with watched(command(), tmp_path, restarts={"max": 2, "window": "1h"}) as found:
        node = found.primary()
        for deaths in (1, 2, 3):
            (pid,) = found.living(node)
            os.kill(pid, signal.SIGKILL)
            found.lives(deaths + 1)
            if deaths < 3:
                assert found.seen("begin")[-1].node == node
        assert found.seen("begin")[-1].node == found.other(node)
        eventually(found.redundant, 60)
        assert found.primary() == found.other(node)
        events = "\n".join(found.events(node))
        assert events.count("HF1110") == 3
        assert "SIGKILL" in events


def test_an_http_check_restarts_and_then_the_sick_node_gives_the_role_away(tmp_path: Path) -> None:
    check = {"http": f"http://127.0.0.1:{PORT}/", "every": "200ms", "timeout": "5s", "fail_after": 2}
    run = command(start_timeout="5s")
    with watched(run, tmp_path, checks=[check], restarts={"max": 1, "window": "1h"}) as found:
        node = found.primary()
        found.sicken(node)
        eventually(lambda: found.primary() == found.other(node), 60)
        eventually(found.redundant, 60)
        found.lives(3)
        assert [stamp.node for stamp in found.seen("begin")] == [node, node, found.other(node)]
        assert in_turn(found.seen()), found.seen()
        assert any("HF1111" in event for event in found.events(node))


def test_a_check_may_swap_and_may_stop(tmp_path: Path) -> None:
    sick, dead = tmp_path / "sick", tmp_path / "dead"
    checks = [
        {
            "custom": ["/usr/bin/test", "!", "-e", str(sick)],
            "every": "200ms",
            "timeout": "5s",
            "action": "swap",
        },
        {
            "custom": ["/usr/bin/test", "!", "-e", str(dead)],
            "every": "200ms",
            "timeout": "5s",
            "action": "stop",
        },
    ]
    with watched(command(), tmp_path, checks=checks) as found:
        node = found.primary()
        sick.touch()
        eventually(lambda: found.primary() == found.other(node), 60)
        sick.unlink()
        eventually(found.redundant, 60)
        dead.touch()
        eventually(lambda: found.role(found.other(node))[0] == "STOP", 60)
        assert found.living(node) == found.living(found.other(node)) == []
        assert in_turn(found.seen()), found.seen()
