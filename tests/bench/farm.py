"""`bench farm`: what a request costs through an address of several nodes, and what a change breaks."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from orchestrator.farm.plane import Member, Mode, Plane, Service
from orchestrator.model.names import NodeName
from tests.bench import farm_losses
from tests.bench.mirror import Bench, Measurement
from tests.bench.rows import Row, median_row, ratios, worst_row
from tests.farm.rig import SEED, V4, Farm, begin, dealt, end, enter, shared
from tests.farm.web import HTTP, START_S, answers, stop, web, web_servers, wrk
from tests.support.jhash import bucket
from tests.support.waiting import eventually

PROXY, IPERF = 8080, 5201
NODES: Final = ("n1", "n2", "n3", "n4")
ROUND_S: Final = 3
CLIENTS: Final = 4
"""wrk of one thread each with four connections: one for each node where the nodes are asked directly."""
CONNECTIONS: Final = 400
SIXTEEN: Final = tuple(f"n{number}" for number in range(1, 17))
FIRST_CLIENT: Final = ip_address("198.18.0.0")
PERIOD_S: Final = 0.1
"""Each connection says something so often."""
HAPROXY = """
global
  maxconn 1000
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend all
  bind :8080
  default_backend nodes
backend nodes
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """One way of asking, in one round."""

    requests_per_s: float
    cpu_us: float
    """Of everybody who took part: clients, servers, a proxy, and the kernel's threads for packets."""
    p50_us: float


def requests(bench: Bench, names: frozenset[str]) -> Iterator[Row]:
    """The nodes asked directly, through the address in two modes, and through HAProxy, in turns."""
    with _serving(bench.work) as (farm, servers):
        ways: dict[str, tuple[Mode | None, list[str]]] = {
            "direct": (None, [f"http://{farm.nodes[name].member.v4}/" for name in NODES]),
            "directed": (Mode.DIRECTED, [f"http://{V4}/"] * CLIENTS),
            "invisible": (Mode.INVISIBLE, [f"http://{V4}/"] * CLIENTS),
            "haproxy": (None, [f"http://{farm.nodes['n1'].member.v4}:{PROXY}/"] * CLIENTS),
        }

        def ask(way: str, words: tuple[str, ...]) -> Cost:
            mode, urls = ways[way]
            if mode is not None:
                _steer(farm, web(shared(*NODES)), mode)
            try:
                return _cost(farm, servers, urls, words)
            finally:
                if mode is not None:
                    farm.clean()

        for name, words in (("", ()), ("new_", ("-H", "Connection: close"))):
            if not any(("_new_" in row) == bool(name) for row in names):
                continue
            costs = _in_turns(bench, list(ways), lambda way, words=words: ask(way, words))
            if costs:
                yield from _cost_rows(costs, name)


def _cost_rows(costs: list[dict[str, Cost]], name: str) -> Iterator[Row]:
    def of(way: str, what: Callable[[Cost], float]) -> list[float]:
        return [what(each[way]) for each in costs]

    def against(what: Callable[[Cost], float], unit: str) -> str:
        rival = statistics.median(ratios(of("haproxy", what), of("direct", what)))
        return f"direct {statistics.median(of('direct', what)):.4g} {unit}; HAProxy: {rival:.3g}"

    def cpu(cost: Cost) -> float:
        return cost.cpu_us

    for way in ("directed", "invisible"):
        values = ratios(of(way, cpu), of("direct", cpu))
        yield median_row(f"farm_{name}cpu_{way}_vs_direct", values, against(cpu, "us a request"))
    if not name:
        for row, what, unit in (
            ("farm_requests_directed_vs_direct", lambda cost: cost.requests_per_s, "requests/s"),
            ("farm_p50_directed_vs_direct", lambda cost: cost.p50_us, "us"),
        ):
            values = ratios(of("directed", what), of("direct", what))
            yield median_row(row, values, against(what, unit))


def broken(bench: Bench) -> Iterator[Row]:
    """Connections that move and check bytes all the time, over a join, a drain and a change of weights."""
    four = shared("n1", "n2", "n3", "n4")
    five = tuple("n5" if number % 5 == 0 else owner for number, owner in enumerate(four))
    drained = dealt(five, "n2", "n1", "n3", "n4", "n5")
    weighed = tuple("n4" if number % 3 == 0 else owner for number, owner in enumerate(drained))
    found: list[float] = []
    with Farm(5) as farm:
        for _ in range(bench.much(3, 1)):
            farm.apply(four, "n1")
            with farm.moving(V4, CONNECTIONS, PERIOD_S) as moving:
                chain = begin(four)
                for after in (five, drained, weighed):
                    chain = farm.move(chain, after, "n1")
                    turns = moving.report()["turns"]
                    eventually(lambda turns=turns: _all_turned(moving.report(), turns), 30)
                report = moving.report()
                found.append(len(report["broken"]) + len(report["stuck"]))
            farm.clean()
    yield worst_row("farm_planned_broken", found, f"of {CONNECTIONS}: join, drain, another weight")


def _all_turned(report: dict[str, list[int] | dict[str, str]], turns: list[int]) -> bool:
    moved = sum(now > then for now, then in zip(report["turns"], turns, strict=True))
    return moved >= len(turns) - len(report["broken"])


def install(bench: Bench) -> Iterator[Row]:
    """A node of sixteen dies: from the new map to rules in the kernel, on one node, with all around it."""
    both, less = shared(*SIXTEEN), dealt(shared(*SIXTEEN), "n16", *SIXTEEN[:15])
    with Farm(1) as farm:
        node = farm.nodes["n1"]
        peers = [_stranger(number) for number in range(2, 17)]
        times = []
        for number in range(bench.much(40, 10)):
            plane = farm.plane("n1", less if number % 2 else both, "n1", peers=tuple(peers))
            times.append(1000 * node.apply(plane))
        times = times[2:]
    about = f"four services, IPv4 and IPv6, 64 buckets each change; worst {max(times):.1f}"
    yield median_row("farm_install_ms", times, about)


def _stranger(number: int) -> Member:
    return Member(
        NodeName(f"n{number}"),
        f"02:00:00:00:00:{number:02x}",
        f"198.18.0.{10 + number}",
        f"2001:2::{number:x}",
    )


def spread_of_clients(_: Bench) -> Iterator[Row]:
    """The kernel's hash over 100,000 addresses, on equal shares; tests hold this copy against the kernel."""
    shares = dict.fromkeys(NODES, 0)
    owners = shared(*NODES)
    for number in range(100_000):
        shares[owners[bucket(SEED, str(FIRST_CLIENT + number))]] += 1
    value = max(shares.values()) / statistics.mean(shares.values())
    yield median_row("farm_max_share_vs_mean", [value], "100,000 addresses in a row, 4 nodes")


def gigabits(bench: Bench) -> Iterator[Row]:
    """One stream through a director that only passes it on, against the same straight to its node."""
    values: list[float] = []
    told: list[str] = []
    with Farm(2) as farm:
        server = subprocess.Popen(
            [*enter(farm.nodes["n2"].namespace), "iperf3", "-s"], stdout=subprocess.DEVNULL
        )
        try:
            for _ in range(bench.much(5, 1)):
                _steer(farm, web(shared("n2"), IPERF), Mode.DIRECTED)
                through, rate = _stream(farm, server.pid, V4)
                straight, other = _stream(farm, server.pid, farm.nodes["n2"].member.v4)
                farm.clean()
                values.append(through - straight)
                told.append(f"{rate:.1f} of {other:.1f} Gbit/s")
        finally:
            end(server)
    yield median_row("farm_cpu_s_per_gbit", values, f"core seconds more than directly; {', '.join(told)}")


# --- helpers ------------------------------------------------------------------------------------------------


def _in_turns(bench: Bench, ways: list[str], ask: Callable[[str], Cost]) -> list[dict[str, Cost]]:
    numbers = iter(range(1000))

    def play() -> dict[str, Cost]:
        number = next(numbers)
        return {way: ask(way) for way in [*ways[number % len(ways) :], *ways[: number % len(ways)]]}

    # The ratio of one round says little where others use the machine: two runs of seven differed by a sixth.
    return bench.rounds(bench.much(15, 1), 400, play)


@contextmanager
def _serving(work: Path) -> Iterator[tuple[Farm, list[int]]]:
    """Four nodes with nginx, HAProxy on the first, and the processes of all of them."""
    with Farm(len(NODES)) as farm, web_servers(farm, work) as web_processes:
        config = work / "haproxy.cfg"
        servers = [f"  server {name} {farm.nodes[name].member.v4}:{HTTP}\n" for name in NODES]
        config.write_text(HAPROXY + "".join(servers))
        words = [*enter(farm.nodes["n1"].namespace), "haproxy", "-db", "-f", str(config)]
        proxy = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        try:
            eventually(lambda: answers(farm, f"{farm.nodes['n1'].member.v4}:{PROXY}"), START_S)
            pids = [process.pid for process in (*web_processes, proxy)]
            yield farm, [*pids, *(child for pid in pids for child in _children(pid))]
        finally:
            stop(proxy)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _steer(farm: Farm, service: Service, mode: Mode) -> None:
    for name, node in farm.nodes.items():
        plane: Plane = farm.plane(
            name, shared(name), "n1", mode=mode, services=(service,), addresses=(V4,),
            answers=frozenset({V4} if name == "n1" else ()),
        )  # fmt: skip
        node.apply(plane)
    subprocess.run(
        [*enter(farm.net["client"]), "ip", "neigh", "flush", "all"], check=True, capture_output=True
    )


def _cost(farm: Farm, servers: list[int], urls: list[str], words: tuple[str, ...]) -> Cost:
    before, begun = _cpu_s([*servers, *_packet_threads()]), _own_children_s()
    clients = [wrk(farm, ROUND_S, 4, url, *words) for url in urls]
    said = [client.communicate()[0] for client in clients]
    cpu_s = _cpu_s([*servers, *_packet_threads()]) - before + _own_children_s() - begun
    count = sum(int(_found(r"(\d+) requests in", text)) for text in said)
    errors = [line for text in said for line in text.splitlines() if "Socket errors" in line]
    assert not errors, errors
    rate = sum(float(_found(r"Requests/sec:\s+([\d.]+)", text)) for text in said)
    p50 = statistics.median(_microseconds(_found(r"50%\s+([\d.]+\w+)", text)) for text in said)
    return Cost(rate, 1e6 * cpu_s / count, p50)


def _stream(farm: Farm, server: int, address: str) -> tuple[float, float]:
    """Core seconds for each Gbit, and Gbit/s."""
    before, begun = _cpu_s([server, *_packet_threads()]), _own_children_s()
    words = [*enter(farm.net["client"]), "iperf3", "-J", "-t", str(ROUND_S), "-c", address]
    deadline = time.monotonic() + 10
    while True:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert time.monotonic() < deadline, done.stdout  # the server may just be starting
    cpu_s = _cpu_s([server, *_packet_threads()]) - before + _own_children_s() - begun
    received = json.loads(done.stdout)["end"]["sum_received"]
    return cpu_s / (received["bytes"] * 8 / 1e9), received["bits_per_second"] / 1e9


def _cpu_s(pids: list[int]) -> float:
    """To the nanosecond, of all threads."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _packet_threads() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if (folder / "comm").read_text().startswith("ksoftirqd"):
                    found.append(int(folder.name))
    return found


def _own_children_s() -> float:
    """Of the clients that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


def _microseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1, "ms": 1000, "s": 1_000_000}[unit]


def _all(run: Callable[[Bench], Iterator[Row]]) -> Callable[[Bench, frozenset[str]], Iterator[Row]]:
    return lambda bench, names: run(bench)


ALL: Final = (
    Measurement(("farm_gap_lan_median_s", "farm_gap_fast_median_s"), farm_losses.gaps),
    Measurement(("farm_moved_needless",), _all(farm_losses.moved)),
    Measurement(("farm_recompute_ms",), _all(farm_losses.recompute)),
    Measurement(
        (
            "farm_cpu_directed_vs_direct",
            "farm_cpu_invisible_vs_direct",
            "farm_new_cpu_directed_vs_direct",
            "farm_new_cpu_invisible_vs_direct",
            "farm_requests_directed_vs_direct",
            "farm_p50_directed_vs_direct",
        ),
        requests,
    ),
    Measurement(("farm_cpu_s_per_gbit",), _all(gigabits)),
    Measurement(("farm_planned_broken",), _all(broken)),
    Measurement(("farm_install_ms",), _all(install)),
    Measurement(("farm_max_share_vs_mean",), _all(spread_of_clients)),
)
