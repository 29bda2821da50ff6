"""Real pulses in network namespaces: an address is silent when its pulse dies, freezes or is cut off."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.host import lines
from orchestrator.host.netns import Network
from orchestrator.model.report import ModuleState
from tests.support.waiting import eventually

NODES = {"paris": "198.18.70.1", "lyon": "198.18.70.2"}
VIP = "198.18.70.100"


def listens(where: Path) -> bool:
    """A socket has its name before it takes connections."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(where)) == 0


class Agent:
    """What an agent says to its pulse."""

    def __init__(self, where: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(where))
        self.buffer = lines.LineBuffer()
        self.events: list[str] = []
        self.ask(do="hello", agent=True)
        self.ask(do="announce", module="shop", state=ModuleState().as_list())

    def ask(self, **request: Any) -> Any:
        self.sock.sendall(lines.encode({"id": 1, **request}))
        while True:
            for message in self.buffer.receive_data(self.sock.recv(65536)):
                if "id" in message:
                    return message["ok"]
                self.events.append(message["event"])

    def verdict(self, peer: str) -> str:
        return str(self.ask(do="status")["peers"][peer]["verdict"])


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = Network(
            f"hp{os.getpid()}", {n: (f"{a}/24",) for n, a in NODES.items()} | {"client": ("198.18.70.9/24",)}
        )
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.agents: dict[str, Agent] = {}

    def start(self) -> None:
        self.net.create()
        (self.folder / "key").write_bytes(b"k" * 32)
        for node, address in NODES.items():
            peers = {name: each for name, each in NODES.items() if name != node}
            where = self.folder / f"{node}.sock"
            settings = {
                "cluster": "shop",
                "node": node,
                "paths": {"lan": {"listen": address, "peers": peers}},
                "port": 9710,
                "key_file": str(self.folder / "key"),
                "timing": {"detection_s": 0.5, "period_s": 0.05},
                "socket": str(where),
                "addresses": [VIP],
            }
            (self.folder / f"{node}.json").write_text(json.dumps(settings))
            command = [sys.executable, "-m", "orchestrator.pulse", str(self.folder / f"{node}.json")]
            self.processes[node] = subprocess.Popen(self.net.inside(node, *command))
            eventually(lambda where=where: listens(where), 20)  # type: ignore[misc]
            self.agents[node] = Agent(where)
        eventually(lambda: self.agents["paris"].verdict("lyon") == "alive", 20)
        self.net_address("add")

    def net_address(self, verb: str) -> None:
        subprocess.run(
            ["ip", "-n", self.net.namespace("paris"), "address", verb, f"{VIP}/24", "dev", "eth0"], check=True
        )

    def hold(self, *members: str) -> None:
        self.agents["paris"].ask(do="lease", module="shop", epoch=1, members=list(members), addresses=[VIP])
        eventually(self.answers, 10)

    def answers(self) -> bool:
        command = self.net.inside("client", sys.executable, "-c", PROBE, VIP)
        return subprocess.run(command, check=False, timeout=20).returncode == 0

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)
        self.net.destroy()


# A who-has by hand, so that no neighbour cache answers in the address's place.
PROBE = """
import socket, sys, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
raw.bind(("eth0", 0x0806))
mac = raw.getsockname()[4]
own, vip = socket.inet_aton("198.18.70.9"), socket.inet_aton(sys.argv[1])
raw.send(b"\\xff" * 6 + mac + bytes.fromhex("08060001080006040001") + mac + own + bytes(6) + vip)
end = time.monotonic() + 0.15
while (left := end - time.monotonic()) > 0:
    raw.settimeout(left)
    try:
        frame = raw.recv(2048)
    except TimeoutError:
        break
    if frame[20:22] == b"\\0\\2" and frame[28:32] == vip:
        sys.exit(0)
sys.exit(1)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.mark.parametrize("deed", [signal.SIGKILL, signal.SIGSTOP])
def test_an_address_is_silent_when_its_pulse_dies_or_freezes(cluster: Cluster, deed: signal.Signals) -> None:
    assert not cluster.answers()
    cluster.hold("paris", "lyon")
    cluster.processes["paris"].send_signal(deed)
    gone = time.monotonic()
    eventually(lambda: not cluster.answers(), 10)
    # The lease is 0.4 s; the rest is the probe's own start on a busy machine.
    assert time.monotonic() - gone < 3
    assert not cluster.answers()


def test_a_one_way_cut_silences_the_holder_and_frees_the_other(cluster: Cluster) -> None:
    cluster.hold("lyon")
    cluster.net.cut("paris", "lyon")
    eventually(lambda: cluster.agents["lyon"].verdict("paris") == "lost", 10)
    assert cluster.agents["paris"].verdict("lyon") == "suspected"
    assert not cluster.answers()
    cluster.net.heal()
    eventually(lambda: cluster.agents["lyon"].verdict("paris") == "alive", 10)
    eventually(cluster.answers, 10)


def test_a_holder_that_stops_cleanly_answers_no_more_and_a_kept_lease_never_runs_out(
    cluster: Cluster,
) -> None:
    cluster.hold("paris", "lyon")
    held = cluster.net.inside("paris", "nft", "list", "set", "inet", "hafarm_lease", "held4")
    for _ in range(20):
        for agent in cluster.agents.values():
            agent.ask(do="alive")
        assert VIP in subprocess.run(held, check=True, capture_output=True, text=True).stdout
    cluster.agents["paris"].ask(do="goodbye")
    assert cluster.processes["paris"].wait(10) == 0
    rules = cluster.net.inside("paris", "nft", "list", "ruleset")
    assert not subprocess.run(rules, check=True, capture_output=True).stdout


def test_a_pulse_whose_rules_somebody_flushes_goes_on_and_guards_again(cluster: Cluster) -> None:
    cluster.hold("paris", "lyon")

    def nft(*words: str) -> str:
        command = cluster.net.inside("paris", "nft", *words)
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout

    nft("flush", "ruleset")
    eventually(lambda: VIP in nft("list", "set", "inet", "hafarm_lease", "held4"), 10)
    assert cluster.processes["paris"].poll() is None
    assert cluster.answers()
    cluster.processes["paris"].send_signal(signal.SIGSTOP)
    eventually(lambda: not cluster.answers(), 10)


def test_a_clean_stop_is_told_at_once_and_leaves_no_rule(cluster: Cluster) -> None:
    # A loaded machine may have lost and found it before: what counts is what follows the goodbye.
    eventually(lambda: cluster.agents["paris"].verdict("lyon") == "alive", 10)
    before = len(cluster.agents["paris"].events)
    cluster.agents["lyon"].ask(do="goodbye")
    eventually(lambda: cluster.agents["paris"].verdict("lyon") == "left", 10)
    assert cluster.processes["lyon"].wait(10) == 0
    assert "peer_lost" not in cluster.agents["paris"].events[before:]
