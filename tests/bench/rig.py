"""What the measurements stand on: one cluster at a time, a probing client, burners of the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.demo.cluster import VIP, Cluster, ask
from orchestrator.demo.machine import Machine
from orchestrator.demo.story import MODULE, Story
from tests.bench.probe import PERIOD_S
from tests.bench.rounds import Void

PORT = 7777
STEADY_S = 0.5
"""Of good replies before and after what is done: what a gap is compared with."""
UP_S = 60.0
HOGS = 16
"""Busy loops: a load average of ten after a minute, eight times what two cores can do."""
HERE = Path(__file__).parent


class Served:
    """A cluster whose module is in sync on two nodes and answers UDP through its address."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.story = Story(cluster, lambda _: None, fast=True)

    def begin(self) -> None:
        first = self.cluster.names[0]
        self.story.await_true("both nodes hear each other", self.cluster.all_hear, UP_S)
        self.cluster.act(first, action="start", first=first)
        self.await_redundant()

    def await_redundant(self) -> None:
        """PRIM here, SECOND there, both ready."""
        story = self.story
        story.await_true("both nodes in sync", lambda: story.roles("PRIM", "ready") == 1, UP_S)
        story.await_true("both nodes in sync", lambda: story.roles("SECOND", "ready") == 1, UP_S)

    def primary(self) -> str:
        return self.story.primary()

    def other(self, node: str) -> str:
        return self.story.other(node)

    def is_member(self, node: str) -> bool:
        """In sync, as far as the node itself knows."""
        status = self.cluster.status(node)
        entries = status["modules"][0]["nodes"] if status else []
        return any(entry["node"] == node and entry["in_sync"] for entry in entries)

    def machine(self, node: str) -> Machine:
        return self.cluster.machines[node]

    def pids(self, node: str, room: str) -> list[int]:
        """A node's processes of one room (`orchestrator.pulse`)."""
        return self.machine(node).pids(room)

    def events(self, node: str, code: str, since: float) -> list[dict[str, Any]]:
        """What a node's event log says since then (seconds since the epoch)."""
        answer = ask(str(self.machine(node).run_dir / "agent.sock"), "GET", f"/api/v1/events?module={MODULE}")
        found = answer[1]["events"] if answer else []
        return [event for event in found if event["code"] == code and event["at"] >= since]

    @contextmanager
    def probed(self) -> Iterator[Probed]:
        """Probes go through the address meanwhile; their report is complete after the block."""
        probed = Probed(self.machine("client"))
        try:
            time.sleep(STEADY_S)
            yield probed
            time.sleep(STEADY_S)
            probed.finish()
        finally:
            probed.kill()


class Probed:
    """A probing client on a machine, and what it reports."""

    def __init__(self, machine: Machine, address: str = VIP) -> None:
        self._process = machine.start(
            sys.executable, "-m", "tests.bench.probe", address, str(PORT), pipes=True
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.report: dict[str, Any] = {}

    def finish(self) -> None:
        out, _ = self._process.communicate()
        self.report = json.loads(out)
        if self.report["stalls"]:
            raise Void(f"the probing client stood still {self.report['stalls']} times")

    @property
    def lost_s(self) -> float:
        """Probes without a reply, as the time that they stand for."""
        return float(self.report["lost"]) * PERIOD_S

    def gap(self, begin: float) -> tuple[float, float]:
        """The longest silence that ended after this moment: when it began and ended; equal ends for none."""
        gaps = [(since, until) for since, until in self.report["gaps"] if until > begin]
        return max(gaps, key=lambda gap: gap[1] - gap[0], default=(begin, begin))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Rig:
    """Hands out clusters: the one that stands, when it is what is asked for."""

    def __init__(self, work: Path, tell: Callable[[str], None], keep: bool = False) -> None:
        self.work = work
        self.tell = tell
        self._keep = keep
        self.answer = compiled("answer", work)
        self._served: Served | None = None
        self._preset = ""
        self._made = 0

    def served(self, preset: str) -> Served:
        """A cluster in sync; every lost node of an earlier measurement is back."""
        if self._served is None or self._preset != preset:
            self.drop()
            self._preset = preset
            self._served = self._start(preset)
        return self._served

    def _start(self, preset: str) -> Served:
        self._made += 1
        command = [str(self.answer), str(PORT)]
        module = {"run": {"command": command}, "checks": []}
        cluster = Cluster(self.work / f"cluster{self._made}", preset=preset, module=module)
        served = Served(cluster)
        self._served = served  # also a half-made one is taken down
        cluster.up()
        served.begin()
        return served

    def drop(self) -> None:
        if self._served is not None and self._keep:
            self._served.cluster.down()
        elif self._served is not None:
            self._served.cluster.remove()
        self._served = None


def compiled(name: str, work: Path) -> Path:
    """One of our small C programs, made for this machine."""
    target = work / name
    if not target.exists():
        # Without a dynamic linker: what the application itself takes to start is not the cluster's.
        words = ["gcc", "-O2", "-pthread", "-static", "-o", str(target), str(HERE / f"{name}.c")]
        subprocess.run(words, check=True)
    return target


@contextmanager
def loaded(load: float, limit_s: float, tell: Callable[[str], None]) -> Iterator[None]:
    """Busy loops in one session, as a busy application's; the block begins once the load average is there."""
    script = f"for one in $(seq {HOGS}); do (while :; do :; done) & done; wait"
    hogs = subprocess.Popen(["sh", "-c", script], start_new_session=True)
    try:
        deadline = time.monotonic() + limit_s
        while os.getloadavg()[0] < load and time.monotonic() < deadline:
            time.sleep(0.5)
        tell(f"{HOGS} busy loops, load average {os.getloadavg()[0]:.1f}")
        yield
    finally:
        os.killpg(hogs.pid, signal.SIGKILL)
        hogs.wait()
