"""What hafarm costs while nothing happens, and how fast it answers a person."""

from __future__ import annotations

import os
import time
from pathlib import Path

from orchestrator.demo.machine import Machine
from tests.bench.many import Many
from tests.bench.rig import Served

MODULES = 8
OURS = "orchestrator."
SETTLE_S = 3.0
"""After the last resync: announcements are over, nothing is due."""
TICKS_S = os.sysconf("SC_CLK_TCK")


def status_ms(served: Served) -> float:
    """`hafarm status`, typed once: from the start of its process to its end."""
    begin = time.monotonic()
    done = served.cluster.hafarm(served.cluster.names[0], "status")
    assert done.returncode == 0, done.stderr
    return 1000 * (time.monotonic() - begin)


class Idle:
    """A cluster with eight modules in sync that nobody uses."""

    def __init__(self, work: Path, answer: Path) -> None:
        self._cluster = Many(
            work,
            {
                f"m{number}": {
                    "run": {"command": [str(answer), str(7800 + number)]},
                    "vip": [{"address": f"198.18.0.{100 + number}/24"}],
                }
                for number in range(MODULES)
            },
        )

    def __enter__(self) -> Idle:
        try:
            self._cluster.up()
            self._cluster.begin()
            time.sleep(SETTLE_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.remove()

    def cpu_pct(self, seconds: float) -> float:
        """All processes of the product on the busier node, in percent of one core."""
        nodes = [self._cluster.machines[name] for name in self._cluster.names]
        pids = [machine.pids(OURS) for machine in nodes]
        before = [sum(map(ticks, each)) for each in pids]
        begin = time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - begin
        spent = [sum(map(ticks, each)) - was for each, was in zip(pids, before, strict=True)]
        return 100 * max(spent) / TICKS_S / passed

    def agent_and_pulse_mib(self) -> list[float]:
        """By node."""
        return [
            self._rss(machine, "orchestrator.agent", "orchestrator.pulse") for machine in self._machines()
        ]

    def replicators_mib(self) -> list[float]:
        """Each replicator with its keeper, on both nodes."""
        return [
            sum(rss_mib(pid) for pid in machine.pids("orchestrator.replicator", f"/m{number}/"))
            for machine in self._machines()
            for number in range(MODULES)
        ]

    def _machines(self) -> list[Machine]:
        return [self._cluster.machines[name] for name in self._cluster.names]

    def _rss(self, machine: Machine, *rooms: str) -> float:
        return sum(rss_mib(pid) for room in rooms for pid in machine.pids(room))


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def rss_mib(pid: int) -> float:
    """Resident memory as the kernel counts it: pages shared with others count whole for each."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
