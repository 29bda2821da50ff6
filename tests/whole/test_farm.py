"""A farm of real processes: all nodes serve one address, are restarted under load, lost and found again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.demo.cluster import Cluster
from tests.support.leftovers import remember
from tests.support.waiting import eventually

FARM = "web"
ADDRESS, PORT = "198.18.0.101", 8081
NODES = ("paris", "lyon", "nice")
SERVICE = Path(__file__).parent / "service.py"
ASKING = """
import collections, json, sys, threading, urllib.request
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
good, bad = collections.Counter(), []
while not over.is_set():
    try:
        good[urllib.request.urlopen(sys.argv[1], timeout=20).read().decode()] += 1
    except Exception as fault:
        bad.append(repr(fault))
    over.wait(0.02)
print(json.dumps({"good": good, "bad": bad[:20]}))
"""
"""One new connection after the other, until its input ends; who answered, and what failed."""


class FarmOfProcesses(Cluster):
    """Three nodes with one farm, and no witness: a farm needs none."""

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        config = super()._make_config(preset, module)
        del config["cluster"]["witness"]
        command = [sys.executable, str(SERVICE), str(self.work / "stamps"), str(PORT)]
        config["modules"] = [
            {
                "name": FARM,
                "kind": "farm",
                "nodes": list(self.names),
                "run": {"command": command},
                "vip": [{"address": f"{ADDRESS}/24", "ports": [PORT], "affinity": "source-port"}],
                "checks": [{"tcp": PORT, "every": "200ms"}],
                "drain": "2s",
            }
        ]
        return config

    def start_witness(self) -> None:
        """There is none."""

    def farm(self, node: str) -> dict[str, Any]:
        status = self.status(node)
        return status["modules"][0] if status else {"nodes": [], "vip": []}

    def shares(self, node: str) -> dict[str, float]:
        return {each["node"]: each["share"] for each in self.farm(node)["nodes"]}

    def ready(self, *names: str) -> bool:
        """Each of these says so of itself, and all say the same of who shares the traffic."""
        for name in names:
            told = {each["node"]: each for each in self.farm(name)["nodes"]}
            if not told or told[name]["phase"] != "ready":
                return False
            if {node for node, each in told.items() if each["serving"]} != set(names):
                return False
        return True

    def answers(self) -> str:
        """Who answers one new connection."""
        asked = f"u.urlopen('http://{ADDRESS}:{PORT}/', timeout=5)"
        code = f"import urllib.request as u; print({asked}.read().decode())"
        return self.machines["client"].call(sys.executable, "-c", code).stdout.strip()

    def asking(self) -> Any:
        url = f"http://{ADDRESS}:{PORT}/"
        return self.machines["client"].start(sys.executable, "-c", ASKING, url, pipes=True)


def told(asking: Any) -> dict[str, Any]:
    """What the client met, at its end."""
    found: dict[str, Any] = json.loads(asking.communicate(timeout=60)[0])
    return found


@pytest.fixture
def farm() -> Iterator[FarmOfProcesses]:
    work = remember(Path(tempfile.mkdtemp(prefix="hafarm-test-")))
    farm = FarmOfProcesses(work, NODES, images=False)
    failed = True
    try:
        farm.up()
        eventually(farm.all_hear, 30)
        assert farm.hafarm("paris", "start", FARM, "--wait=60s").returncode == 0
        eventually(lambda: farm.ready(*NODES), 40)
        yield farm
        failed = False
    except BaseException as fault:
        fault.add_note(f"logs of the cluster: {work}")
        raise
    finally:
        farm.down()
        if not failed:
            shutil.rmtree(work, ignore_errors=True)


def test_all_serve_and_neither_a_restart_of_all_nor_of_an_agent_loses_a_request(
    farm: FarmOfProcesses,
) -> None:
    shares = farm.shares("lyon")
    assert all(abs(share - 1 / 3) < 0.001 for share in shares.values()), shares
    asking = farm.asking()
    done = farm.hafarm("nice", "restart", FARM, "--wait=100s")
    assert done.returncode == 0, done.stderr
    eventually(lambda: farm.ready(*NODES), 30)
    for pid in farm.machines["paris"].pids("orchestrator.agent", "--config"):
        os.kill(pid, signal.SIGKILL)
    farm.start_agent("paris")
    eventually(lambda: farm.ready(*NODES), 30)
    met = told(asking)
    assert met["bad"] == []
    assert set(met["good"]) == set(NODES)
    stamps = (farm.work / "stamps").read_text().splitlines()
    assert all(sum(f"begin {name}" in line for line in stamps) == 2 for name in NODES), stamps

    farm.lose("nice")
    eventually(lambda: farm.ready("paris", "lyon"), 20)
    after = farm.shares("paris")
    assert after["nice"] == 0.0
    assert all(abs(after[name] - 0.5) < 0.01 for name in ("paris", "lyon"))
    asking = farm.asking()
    done = farm.hafarm("paris", "drain", FARM, "--node=lyon", "--wait=60s")
    assert done.returncode == 0, done.stderr
    assert farm.hafarm("paris", "drain", FARM, "--node=paris").returncode == 6
    assert farm.hafarm("paris", "undrain", FARM, "--node=lyon", "--wait=60s").returncode == 0
    eventually(lambda: farm.answers() == "lyon", 30)
    met = told(asking)
    assert met["bad"] == []
    assert set(met["good"]) <= {"paris", "lyon"}

    farm.bring_back("nice")
    eventually(lambda: farm.ready(*NODES), 60)
    assert farm.shares("paris") == shares
    assert farm.hafarm("paris", "stop", FARM, "--wait=60s").returncode == 0
    for name in NODES:
        left = farm.machines[name].call("ip", "-o", "address", "show").stdout
        assert ADDRESS not in left, left
