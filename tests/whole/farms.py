"""Five nodes with farms of each mode, a mirror behind one, and clients with thousands of addresses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Final

from orchestrator.agent.farm_place import seed_of
from orchestrator.config.load import load
from orchestrator.demo.cluster import Cluster
from orchestrator.farm.ruleset import Chain, Table
from orchestrator.farm.view import Rules, View, maps
from orchestrator.host.netns import run
from orchestrator.host.nfdump import FAMILIES
from orchestrator.host.nfnetlink import Kind, Nfnetlink, message, text
from orchestrator.host.nftables_seen import digest, tables
from orchestrator.model.config import FarmConfig
from orchestrator.model.names import NodeName
from tests.farm.capture import answers, captured
from tests.farm.clients import SOURCE4, SOURCE6, source
from tests.farm.rig import Moving, end
from tests.farm.web import NGINX
from tests.support.jhash import bucket
from tests.support.netns import inside
from tests.support.waiting import eventually

ROOT: Final = Path(__file__).parents[2]
NODES: Final = ("n1", "n2", "n3", "n4", "n5")
WEB: Final = ("198.18.0.101", "2001:2::101")
ECHO: Final = {
    "echo": ("198.18.0.102", "2001:2::102"),
    "near": ("198.18.0.103", "2001:2::103"),
    "all": ("198.18.0.104", "2001:2::104"),
}
"""By farm that echoes: its addresses."""
MODES: Final = {"web": "directed", "echo": "directed", "near": "spread", "all": "invisible"}
TCP: Final = {"echo": 7000, "near": 7100, "all": 7200}
"""Each has ports of its own, because its application listens on all addresses; UDP is the next one."""
CLIENT: Final = ("198.18.0.30", "2001:2::30")
FOREIGN: Final = "table inet somebody {\n\tchain in {\n\t\ttcp dport 22 accept\n\t}\n}\n"
ANSWER_S: Final = 60
READY_S: Final = 90
"""On a machine that is full: five nodes come in one after the other, in each of four farms."""
PACE_S: Final = 0.05
Client = tuple[str, int]


class Farms(Cluster):
    """The farms `web` (nginx, with the mirror's rows behind it), `echo`, `near` and `all`; IPv4 and IPv6."""

    def __init__(self, work: Path) -> None:
        super().__init__(work, NODES)
        for name in (*NODES, "client"):
            v4, *_ = self.network.nodes[name]
            self.network.nodes = {**self.network.nodes, name: (v4, f"{_v6(name)}/64")}

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        config = super()._make_config(preset, module)
        for node in config["nodes"]:
            node["addresses"] = {"lan": node["addresses"]["lan"], "six": _v6(node["name"])}
        (mirror,) = config["modules"]
        config["modules"] = [{**mirror, "nodes": ["n1", "n2"]}, self._web(), *map(self._echo, ECHO)]
        return config

    def _farm(self, name: str, command: str, vip: list[dict[str, Any]], port: int) -> dict[str, Any]:
        return {
            "name": name,
            "kind": "farm",
            "nodes": list(NODES),
            "mode": MODES[name],
            "run": {"command": ["/bin/sh", "-c", f"exec {command}"]},
            "vip": vip,
            "checks": [{"tcp": port, "every": "500ms"}],
            "drain": "5s",
        }

    def _web(self) -> dict[str, Any]:
        vip = [
            {"address": f"{address}/{_length(address)}", "ports": [80], "affinity": "source-port"}
            for address in WEB
        ]
        return self._farm("web", f"nginx -p {self.work} -c {self.work}/$HAFARM_NODE.nginx", vip, 80)

    def _echo(self, name: str) -> dict[str, Any]:
        port = TCP[name]
        serve = ROOT / "tests" / "farm" / "serve.py"
        vip = [
            {
                "address": f"{address}/{_length(address)}",
                "groups": [
                    {"ports": [port], "affinity": "source-port", "weights": {"n2": 2}},
                    {"ports": [port + 1], "protocols": ["udp"], "affinity": "source", "weights": {"n3": 0}},
                ],
            }
            for address in ECHO[name]
        ]
        return self._farm(name, f"{sys.executable} {serve} $HAFARM_NODE {port} {port + 1}", vip, port)

    # --- up -----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        super().boot()
        self.work.chmod(0o755)  # nginx looks into it as somebody else
        rows = f"location /rows {{ proxy_pass http://{self.vip}:{self.port}/rows; }}"
        for name in NODES:
            text = NGINX.format(work=self.work, node=name)
            text = text.replace("listen 80 backlog=4096;", f"listen 80 backlog=4096; listen [::]:80; {rows}")
            (self.work / f"{name}.nginx").write_text(text)
            for net, via in ((f"{SOURCE4}/18", CLIENT[0]), (f"{SOURCE6}/64", CLIENT[1])):
                self.ip(name, "route", "add", net, "via", via)
            # Somebody else's rules, which are to stay as they are.
            self.network.enter(name, "nft", FOREIGN)
        for net in (f"{SOURCE4}/18", f"{SOURCE6}/64"):
            self.ip("client", "route", "add", "local", net, "dev", "lo")

    def ip(self, node: str, *words: str) -> str:
        return run("ip", "-n", self.network.namespace(node), *words)

    def begin(self) -> None:
        """All modules are started, and everybody takes part."""
        eventually(self.all_hear, 60)
        self.order("start", "orders", "--first", "n1")
        for name in MODES:
            self.order("start", name)
        self.await_ready(*NODES)

    def order(self, *words: str) -> None:
        """An operator's, on the second node; it is accepted."""
        done = self.hafarm("n2", *words)
        assert done.returncode == 0, done.stderr

    # --- what nodes say -----------------------------------------------------------------------------------

    def module(self, node: str, name: str) -> dict[str, Any]:
        status = self.status(node) or {"modules": []}
        return next((each for each in status["modules"] if each["name"] == name), {"nodes": [], "vip": []})

    def await_ready(self, *names: str) -> None:
        """Each of these says so of itself, and all say that these and nobody else share the traffic."""
        eventually(lambda: all(self._is_ready(node, set(names)) for node in names), READY_S)

    def _is_ready(self, node: str, names: set[str]) -> bool:
        # A whole answer costs the node, and those it asks, some milliseconds: not a hundred times a second.
        time.sleep(PACE_S)
        status = self.status(node)
        told = [each for each in status["modules"] if each["kind"] == "farm"] if status else []
        for farm in told:
            sharing = {each["node"] for each in farm["nodes"] if each["serving"]}
            here = next(each for each in farm["nodes"] if each["node"] == node)
            if sharing != names or here["phase"] != "ready":
                return False
        return bool(told)

    def director(self, farm: str) -> str:
        """Who answers for its first address, as the last node that is up says."""
        node = next(name for name in reversed(NODES) if self.status(name))
        return str(self.module(node, farm)["vip"][0]["director"])

    # --- faults -------------------------------------------------------------------------------------------

    def freeze(self, node: str) -> list[int]:
        """Every process of the node stands still; its kernel goes on."""
        pids = self.machines[node].pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    def thaw(self, pids: Iterable[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # --- clients ------------------------------------------------------------------------------------------

    def client(self, module: str, *words: str) -> list[str]:
        return self.network.inside("client", sys.executable, "-m", module, *words)

    def ask(self, address: str, kind: str, port: int, asked: list[Client], size: int = 0) -> list[str]:
        """Who answered each of these clients."""
        done = subprocess.run(
            self.client("tests.farm.clients", "ask", address, kind, str(port), str(size)),
            input=json.dumps(asked),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=ANSWER_S,
            check=True,
        )
        return list(json.loads(done.stdout))

    def owners(self, farm: FarmConfig, alive: Iterable[str]) -> list[tuple[str | None, ...]]:
        """By group of ports: who has each bucket where these nodes share."""
        view = View.of({NodeName(name): 100 for name in alive})
        return list(maps(Rules.of(farm), view))

    def assert_answered_once(
        self, farm: str, alive: tuple[str, ...], first: int = 0, count: int = 60
    ) -> None:
        """What came out of the network: each client of each address, by TCP and by UDP, was answered by the
        node to which its bucket belongs, by that one alone, and nobody by none."""
        config = next(each for each in load(str(self.work / "hafarm.yaml")).farms if each.name == farm)
        seed = seed_of(str(self.work / "keys" / "n1"), config)
        owners = self.owners(config, alive)
        macs = {self._mac(name): name for name in alive}
        groups = [(vip.address, group) for vip in config.vip for group in vip.groups]
        for (cidr, group), owner in zip(groups, owners, strict=True):
            address = str(ip_interface(cidr).ip)
            version, (kind,), port = ip_interface(cidr).version, group.protocols, group.ports[0][0]
            asked = [(source(version, first + 7 * number), 4000 + number) for number in range(count)]
            by_port = group.affinity == "source-port"
            expected = {
                client: owner[bucket(seed, client[0], client[1] if by_port else None)] for client in asked
            }
            with captured(self.network.namespace("client")) as segments:
                said = self.ask(address, kind, port, asked)
            assert dict(zip(asked, said, strict=True)) == expected, f"{farm} {address} {kind}"
            seen = answers(segments, address, port, kind, macs)
            assert {client: seen.get(client) for client in asked} == {
                client: {node} for client, node in expected.items()
            }, f"{farm} {address} {kind}"

    def _mac(self, node: str) -> str:
        return str(json.loads(self.ip(node, "-j", "link", "show", "eth0"))[0]["address"])

    @contextmanager
    def beginning(self, farm: str, version: int, period_s: float = 0.02) -> Iterator[Beginning]:
        """A new connection all the time; what came of them is there after the block."""
        address, port = ECHO[farm][version == 6], str(TCP[farm])
        process = self._start(self.client("tests.farm.clients", "begin", address, port, str(period_s)))
        found = Beginning()
        try:
            yield found
            out, _ = process.communicate("", timeout=ANSWER_S)
            found.met = [(began, took, node) for began, took, node in json.loads(out)]
        finally:
            end(process)

    @contextmanager
    def moving(self, farm: str, version: int, count: int) -> Iterator[Moving]:
        """Connections that move bytes and compare them."""
        address, port = ECHO[farm][version == 6], str(TCP[farm])
        process = self._start(self.client("tests.farm.clients", "move", address, port, str(count), "0.2"))
        try:
            yield Moving(process)
        finally:
            end(process)

    @contextmanager
    def wrk(self, seconds: int, connections: int, *words: str) -> Iterator[subprocess.Popen[str]]:
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", *words]
        process = self._start(self.network.inside("client", "wrk", *options))
        try:
            yield process
        finally:
            end(process)

    def _start(self, words: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    # --- what is left -------------------------------------------------------------------------------------

    def left(self, node: str) -> list[str]:
        """What of a farm is in a node's kernel."""
        shown = json.loads(self.ip(node, "-j", "address"))
        addresses = {*WEB, *(address for pair in ECHO.values() for address in pair)}
        found = [each["local"] for link in shown for each in link["addr_info"] if each["local"] in addresses]
        devices = [link["ifname"] for link in shown if link["ifname"].startswith("haf-")]
        return [*found, *devices, *(name for _, name in self.tables(node) if "hafarm_farm" in name)]

    # Not by nft: it reads everything before it does anything, and begins anew when a lease was renewed
    # meanwhile. With four farms on a full machine it never ends.

    def tables(self, node: str) -> list[tuple[str, str]]:
        with inside(self.network.namespace(node)):
            return tables()

    def delete_tables(self, node: str, name: str) -> None:
        """As somebody else's program would."""
        with inside(self.network.namespace(node)):
            kernel = Nfnetlink()
            gone = [FAMILIES[family] for family, found in tables() if found == name]
            kernel.transact([message(Kind.NFT_MSG_DELTABLE, family, 0, text(1, name)) for family in gone])
            kernel.close()

    def foreign(self, node: str) -> str | None:
        """Whether somebody else's table is as it was; None where it is gone."""
        with inside(self.network.namespace(node)):
            return digest({("inet", "somebody"): Table({"in": Chain(("one",))})})


class Beginning:
    """New connections: when each began, how long until it was greeted, and by whom."""

    met: list[tuple[float, float, str]]

    def bad(self, limit_s: float) -> list[tuple[float, float, str]]:
        """Those that nobody greeted within this time."""
        return [each for each in self.met if not each[2] or each[1] > limit_s]


def _v6(name: str) -> str:
    return CLIENT[1] if name == "client" else f"2001:2::{11 + NODES.index(name):x}"


def _length(address: str) -> int:
    return 64 if ":" in address else 24
