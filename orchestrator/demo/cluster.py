"""A whole cluster on one machine: nodes, a witness and clients behind a switch, all in namespaces."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.demo.machine import Machine
from orchestrator.demo.story import MODULE
from orchestrator.host import http
from orchestrator.host.netns import Network
from orchestrator.setup.bundle import init

PORT = 8080
VIP = "198.18.0.100"
WITNESS = "198.18.0.20"
START_TIMEOUT_S = 30.0


class Cluster:
    """Two nodes or more, a witness, and a machine for clients. `module` adds to the mirror's keys."""

    vip = VIP
    port = PORT

    def __init__(
        self,
        work: Path,
        nodes: tuple[str, ...] = ("paris", "lyon"),
        preset: str = "lan",
        module: dict[str, Any] | None = None,
        images: bool = True,
        cluster: str = "demo",
    ) -> None:
        self.work = work
        self.names = nodes
        self.cluster = cluster
        self.data = work / "srv"
        """The replicated directory, at the same place on every node."""
        tag = f"hf{os.getpid() % 100000}"
        hosts = [*nodes, "witness", "client"]
        subnet: dict[str, tuple[str, ...]] = {
            name: (f"198.18.0.{11 + number}/24", f"198.18.1.{11 + number}/24")
            for number, name in enumerate(nodes)
        }
        subnet |= {"witness": (f"{WITNESS}/24",), "client": ("198.18.0.30/24",)}
        self.network = Network(tag, {name: subnet[name] for name in hosts})
        self.machines = {
            name: Machine(
                name,
                work / name,
                self.network,
                images and name != "client",
                {"data": self.data} if name in nodes else {},
            )
            for name in hosts
        }
        self._config = self._make_config(preset, module or {})

    @property
    def nodes(self) -> tuple[str, str]:
        return self.names[0], self.names[1]

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        application = [sys.executable, "-m", "orchestrator.demo.application", str(self.data), str(PORT)]
        return {
            "cluster": {
                "name": self.cluster,
                "preset": preset,
                "witness": {"kind": "witness", "url": f"https://{WITNESS}:9700"},
            },
            "nodes": [
                {
                    "name": name,
                    "addresses": {"lan": f"198.18.0.{11 + number}", "backup": f"198.18.1.{11 + number}"},
                }
                for number, name in enumerate(self.names)
            ],
            "modules": [
                {
                    "name": MODULE,
                    "kind": "mirror",
                    "nodes": list(self.names),
                    "replicate": [{"path": str(self.data)}],
                    "run": {"command": application},
                    "vip": [{"address": f"{VIP}/24"}],
                    "checks": [{"tcp": PORT, "every": "1s", "fail_after": 3}],
                    **module,
                }
            ],
        }

    # --- up and down --------------------------------------------------------------------------------------

    def up(self) -> None:
        """Wire the network, make the keys, boot every machine, start witness and agents."""
        self.boot()
        self.start_processes()

    def boot(self) -> None:
        """Everything but processes of ours: disks can be filled now."""
        self.data.mkdir(parents=True, exist_ok=True)
        self.network.create()
        init(self.cluster, self.names, str(self.work / "keys"))
        (self.work / "hafarm.yaml").write_text(json.dumps(self._config, indent=1))
        for machine in self.machines.values():
            machine.power_on()

    def start_processes(self) -> None:
        """The witness and the agents, until each of them answers."""
        self.start_witness()
        for name in self.names:
            self._write_agent_settings(name)
            self.start_agent(name)
        for name in self.names:
            self._await(f"the agent of {name}", functools.partial(self._answers, name))

    def _answers(self, name: str) -> bool:
        return self.status(name) is not None

    def _write_agent_settings(self, name: str) -> None:
        machine = self.machines[name]
        settings = {
            "node": name,
            "config": str(self.work / "hafarm.yaml"),
            "bundle": str(self.work / "keys" / name),
            "state_dir": str(machine.disk / "state"),
            "run_dir": str(machine.run_dir),
            "log_dir": str(machine.log_dir),
        }
        (machine.work / "agent.yaml").write_text(json.dumps(settings, indent=1))

    def start_witness(self) -> None:
        machine = self.machines["witness"]
        state = machine.disk / "state"
        words = ["--listen=0.0.0.0:9700", f"--bundle={self.work / 'keys' / 'witness'}", f"--state={state}"]
        machine.start(sys.executable, "-m", "orchestrator.witness", *words, log="witness")

    def start_agent(self, name: str) -> None:
        machine = self.machines[name]
        settings = str(machine.work / "agent.yaml")
        machine.start(sys.executable, "-m", "orchestrator.agent", "--config", settings, log="agent")

    def down(self) -> None:
        """Leave nothing, whatever state it is in."""
        for machine in self.machines.values():
            with contextlib.suppress(Exception):
                machine.power_off()
        self.network.destroy()

    def remove(self) -> None:
        """Also the files."""
        self.down()
        shutil.rmtree(self.work, ignore_errors=True)

    def _await(self, what: str, condition: Any) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} does not come up; its logs are in {self.work}")
            time.sleep(0.05)

    # --- faults -------------------------------------------------------------------------------------------

    def lose(self, node: str) -> None:
        """The node's cable is cut and its current fails, at once."""
        self.unplug(node)
        self.machines[node].power_off()

    def bring_back(self, node: str) -> None:
        """It boots again with what its disk kept."""
        self.machines[node].power_on()
        self.plug(node)
        if node in self.names:
            self.start_agent(node)
        elif node == "witness":
            self.start_witness()

    def unplug(self, node: str) -> None:
        self._port(node, "down")

    def plug(self, node: str) -> None:
        self._port(node, "up")

    def _port(self, node: str, state: str) -> None:
        switch = self.network.namespace("switch")
        subprocess.run(
            ["ip", "-n", switch, "link", "set", self.network.ports[node], state],
            check=True,
            capture_output=True,
        )

    def split(self) -> None:
        """Nothing passes between the nodes; each still reaches the witness and the clients."""
        first, second = self.nodes
        self.network.cut(first, second)
        self.network.cut(second, first)

    def heal(self) -> None:
        self.network.heal()

    # --- asking -------------------------------------------------------------------------------------------

    def hafarm(self, node: str, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line, on a node."""
        machine = self.machines[node]
        socket = str(machine.run_dir / "agent.sock")
        return machine.call(
            sys.executable, "-m", "orchestrator.cli", "--socket", socket, *words, timeout_s=180
        )

    def status(self, node: str) -> dict[str, Any] | None:
        """What the node's agent says, asked over its socket; None when it does not answer."""
        machine = self.machines[node]
        if not machine.up:
            return None
        answer = ask(str(machine.run_dir / "agent.sock"), "GET", "/api/v1/status")
        return answer[1] if answer and answer[0] == 200 else None

    def all_hear(self) -> bool:
        """Every node has heard of every other and of its modules: a first start can begin."""
        return all(map(self.hears, self.names))

    def hears(self, node: str) -> bool:
        """This node hears all others alive, and what they say of their modules."""
        status = self.status(node)
        return status is not None and all(
            [
                *(one["alive"] for one in status["nodes"]),
                *(one["role"] != "?" for module in status["modules"] for one in module["nodes"]),
            ]
        )

    def act(self, node: str, /, **wish: Any) -> tuple[int, dict[str, Any]] | None:
        """One action over the API."""
        path = f"/api/v1/modules/{MODULE}/actions"
        return ask(str(self.machines[node].run_dir / "agent.sock"), "POST", path, wish)

    def start_clients(self, count: int) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "orchestrator.demo.clients", VIP, str(PORT), str(count)]
        return self.machines["client"].start(*words, pipes=True)

    def read_rows(self) -> dict[str, Any]:
        """All rows, through the virtual IP."""
        url = f"http://{VIP}:{PORT}/rows"
        code = f"import urllib.request as u; print(u.urlopen('{url}', timeout=10).read().decode())"
        done = self.machines["client"].call(sys.executable, "-c", code)
        if done.returncode != 0:
            raise TimeoutError(f"the rows cannot be read through {VIP}: {done.stderr.strip()[-200:]}")
        rows: dict[str, Any] = json.loads(done.stdout)
        return rows


def ask(socket_path: str, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]] | None:
    """One request over a Unix socket; None when nobody answers."""
    try:
        status, answer = http.ask(socket_path, method, path, body, 10)
        return status, json.loads(answer)
    except (OSError, ValueError):
        return None
