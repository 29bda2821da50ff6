"""A farm in namespaces: nodes and their clients on one switch, each node's plane driven by the test."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.farm.buckets import BUCKETS
from orchestrator.farm.plane import Affinity, Member, Mode, Plane, Protocol, Service
from orchestrator.model.names import NodeName
from tests.farm.clients import SOURCE4, SOURCE6
from tests.support.jhash import bucket
from tests.support.netns import Switch, ip
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
V4, V6 = "198.18.0.100", "2001:2::100"
SEED = 0x5AFE51F0
TCP, UDP = 7000, 7001
ANSWER_S = 60
ARGUMENTS = {"text": True, "cwd": ROOT}


Chain = list[list[str]]
"""By bucket: who has it, and who had it before and may still have connections of it, the newest first."""


class Order(Exception):
    """The plane refused what was asked; the text says why."""


class Node:
    """One node: its plane's driver and what it serves."""

    def __init__(self, net: Switch, name: str, number: int) -> None:
        self.name = name
        self.namespace = net[name]
        link = json.loads(ip("-j", "link", "show", "eth0", within=self.namespace))[0]
        v4, v6 = f"198.18.0.{10 + number}", f"2001:2::{10 + number:x}"
        self.member = Member(NodeName(name), link["address"], v4, v6)
        self.server = self.start("tests.farm.serve", name, str(TCP), str(UDP))
        self.driver = self.drive()

    def start(self, module: str, *words: str) -> subprocess.Popen[str]:
        """A Python process of ours in the node's network, up when this returns."""
        process = subprocess.Popen(
            [*enter(self.namespace), sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **ARGUMENTS,  # type: ignore[call-overload]
        )
        assert process.stdout is not None
        assert process.stdout.readline(), f"{module} did not come up"
        return process  # type: ignore[no-any-return]

    def drive(self, farm: str = "web") -> subprocess.Popen[str]:
        return self.start("tests.farm.driver", farm)

    def do(self, what: str, driver: subprocess.Popen[str] | None = None, **words: Any) -> Any:
        driver = driver or self.driver
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write(json.dumps({"do": what, **words}) + "\n")
        driver.stdin.flush()
        answer = json.loads(driver.stdout.readline())
        if "error" in answer:
            raise Order(answer["error"])
        return answer["ok"]

    def apply(self, plane: Plane, driver: subprocess.Popen[str] | None = None) -> float:
        """Seconds that it took."""
        return float(self.do("apply", driver, plane=as_json(plane)))

    def nft(self, *words: str) -> str:
        done = subprocess.run(
            [*enter(self.namespace), "nft", *words], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout

    def stop(self) -> None:
        for process in (self.driver, self.server):
            end(process)


class Farm:
    """All of it. `owners` of a service is what the test wants; `apply` tells every node."""

    def __init__(self, count: int) -> None:
        self.names = [f"n{number}" for number in range(1, count + 1)]
        machines = {
            name: (f"198.18.0.{10 + number}/24", f"2001:2::{10 + number:x}/64")
            for number, name in enumerate(self.names, 1)
        }
        self.net = Switch(**machines, client=("198.18.0.200/24", "2001:2::200/64"))
        self.nodes: dict[str, Node] = {}
        self.extra: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Farm:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.net)
            stack.callback(self._stop)
            self._route_clients()
            for number, name in enumerate(self.names, 1):
                self.nodes[name] = Node(self.net, name, number)
            await_addresses(*(self.net[name] for name in (*self.names, "client")))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _stop(self) -> None:
        for process in self.extra:
            end(process)
        for node in self.nodes.values():
            node.stop()

    def _route_clients(self) -> None:
        """Thousands of sources live behind one machine, as behind a router."""
        nets = ((f"{SOURCE4}/18", "198.18.0.200"), (f"{SOURCE6}/64", "2001:2::200"))
        for net, via in nets:
            ip("route", "add", "local", net, "dev", "lo", within=self.net["client"])
            for name in self.names:
                ip("route", "add", net, "via", via, within=self.net[name])

    # --- planes ------------------------------------------------------------------------------------------

    def plane(
        self,
        me: str,
        owners: tuple[str, ...],
        director: str,
        *,
        mode: Mode = Mode.DIRECTED,
        previous: Mapping[int, str] | None = None,
        lost: Iterable[int] = (),
        affinity: Affinity = Affinity.SOURCE_PORT,
        port: int = TCP,
        **words: Any,
    ) -> Plane:
        """TCP and UDP echo on both addresses, all with the same owners; or another port of TCP."""
        services = tuple(
            Service(
                name=f"{protocol}{version}",
                address=address,
                protocol=protocol,
                ports=((at, at),),
                affinity=affinity,
                owners=owners,  # type: ignore[arg-type]
                previous=dict(previous or {}),  # type: ignore[arg-type]
                lost=frozenset(lost),
            )
            for version, address in ((4, V4), (6, V6))
            for protocol, at in ((Protocol.TCP, port), (Protocol.UDP, UDP))
        )
        members = {name: node.member for name, node in self.nodes.items()}
        return Plane(
            **{  # type: ignore[arg-type]
                "farm": "web",
                "me": members[me],
                "mode": mode,
                "interface": "eth0",
                "seed": SEED,
                "peers": tuple(member for name, member in members.items() if name != me),
                "addresses": (V4, V6),
                "answers": frozenset({V4, V6} if director == me else ()),
                "services": services,
                **words,
            }
        )

    def apply(self, owners: tuple[str, ...], director: str, only: Iterable[str] = (), **words: Any) -> None:
        """The same map on all nodes, or on these. Who answers for the address may be another one afterwards,
        and Linux believes no second announcement within a second: tests are in more of a hurry."""
        for name in only or self.names:
            self.nodes[name].apply(self.plane(name, owners, director, **words))
        if not only:
            ip("neigh", "flush", "all", within=self.net["client"])

    def move(self, chain: Chain, after: tuple[str, ...], director: str, **words: Any) -> Chain:
        """A planned change. First all that gain prepare. Then everybody has the new map, and only those
        that gain ask in the new order: an old map may still send to the others. Then everybody does."""
        before = tuple(history[0] for history in chain)
        new: Chain = [
            [owner, *(node for node in history if node != owner)]
            for owner, history in zip(after, chain, strict=True)
        ]
        moved = {number for number in range(BUCKETS) if after[number] != before[number]}
        gain = {after[number] for number in moved}
        lose = {before[number] for number in moved}
        for name in sorted(gain):
            self.apply(
                before, director, [name], previous=_previous(new, name), lost=_lost(chain, name), **words
            )
        # Without a director the old owner goes first: a beginning is answered by nobody rather than by two.
        for name in sorted(self.names, key=lambda name: name not in lose):
            old = {n: to for n, to in _previous(chain, name).items() if n in moved and after[n] != name}
            previous = {n: to for n, to in _previous(new, name).items() if n not in moved or after[n] == name}
            previous |= old
            self.apply(after, director, [name], previous=previous, lost=_lost(new, name), **words)
        for name in self.names:
            self.apply(after, director, [name], previous=_previous(new, name), lost=_lost(new, name), **words)
        return new

    def clean(self) -> None:
        for node in self.nodes.values():
            node.do("clean")

    # --- clients -----------------------------------------------------------------------------------------

    def ask(
        self, address: str, kind: str, asked: list[tuple[str, int]], size: int = 0, at: str = ""
    ) -> list[str]:
        """Who answers each source address and port; `at` another namespace than the clients' own."""
        port = TCP if kind == "tcp" else UDP
        done = subprocess.run(
            self._client(at, "ask", address, kind, str(port), str(size)),
            input=json.dumps(asked),
            stdout=subprocess.PIPE,
            timeout=ANSWER_S,
            check=True,
            **ARGUMENTS,  # type: ignore[call-overload]
        )
        return list(json.loads(done.stdout))

    def _client(self, at: str, *words: str) -> list[str]:
        return [*enter(at or self.net["client"]), sys.executable, "-m", "tests.farm.clients", *words]

    @contextlib.contextmanager
    def moving(self, address: str, count: int, pace_s: float = 0.1) -> Iterator[Moving]:
        process = subprocess.Popen(
            self._client("", "move", address, str(TCP), str(count), str(pace_s)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **ARGUMENTS,  # type: ignore[call-overload]
        )
        try:
            yield Moving(process)
        finally:
            end(process)


class Moving:
    """Connections that move bytes all the time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.nodes: list[str] = json.loads(process.stdout.readline())
        """Who served each when it began."""

    def report(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))


def owner_of(owners: tuple[str, ...], local: str, port: int | None) -> str:
    """Whose client this is, by the kernel's own hash."""
    return owners[bucket(SEED, local, port)]


def shared(*names: str) -> tuple[str, ...]:
    """Buckets dealt in turn."""
    return tuple(names[number % len(names)] for number in range(BUCKETS))


def dealt(owners: tuple[str, ...], gone: str, *others: str) -> tuple[str, ...]:
    """The buckets of one dealt to others, the rest as before."""
    turn = 0
    found = []
    for owner in owners:
        if owner == gone:
            owner, turn = others[turn % len(others)], turn + 1
        found.append(owner)
    return tuple(found)


def begin(owners: tuple[str, ...]) -> Chain:
    return [[owner] for owner in owners]


def _previous(chain: Chain, name: str) -> dict[int, str]:
    """Whom a node asks next about connections that it does not know."""
    return {
        number: history[history.index(name) + 1]
        for number, history in enumerate(chain)
        if name in history[:-1]
    }


def _lost(chain: Chain, name: str) -> set[int]:
    return {number for number, history in enumerate(chain) if name in history[1:]}


def await_addresses(*namespaces: str) -> None:
    """Until a machine has looked for duplicates of its own address it asks for nobody else's."""
    for namespace in namespaces:
        eventually(lambda space=namespace: "tentative" not in ip("-6", "address", within=space))


def enter(namespace: str) -> list[str]:
    return ["nsenter", f"--net=/var/run/netns/{namespace}"]


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(20)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def as_json(plane: Plane) -> dict[str, Any]:
    told = dataclasses.asdict(plane)
    told["answers"] = sorted(told["answers"])
    for service in told["services"]:
        service["lost"] = sorted(service["lost"])
    return told
