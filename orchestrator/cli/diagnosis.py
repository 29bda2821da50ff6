"""What is wrong with a cluster, as far as one node sees: from the status, the file, a knock at the ports."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

from orchestrator.cli.machine import findings
from orchestrator.model.config import ClusterConfig, NodeConfig
from orchestrator.model.timings import derive

KNOCK_S: Final = 2.0
"""A firewall that drops is silent; whoever is there answers in milliseconds, from another continent too."""
KNOCKS_AT_ONCE: Final = 16
FREE_SHARE: Final = 0.05
"""As file systems keep for root: below it writes begin to fail."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at."""

    verdict: Literal["pass", "warn", "fail"]
    about: str
    text: str
    remedy: str = ""
    """What to do; nothing where the text says it or nothing is to be done."""


def of_machine(config: ClusterConfig, node: str) -> Iterator[Diagnosis]:
    """What this machine needs, and whether there is room."""
    for one in findings(config, node, {}):
        yield Diagnosis(one.verdict, one.what, one.text)
    for module in config.mirrors:
        for directory in module.replicate if node in module.nodes else ():
            yield from _room(directory.path)


def _room(path: str) -> Iterator[Diagnosis]:
    try:
        seen = os.statvfs(path)
    except OSError:
        return  # told by whoever looks at the directory itself
    kinds = (("space", seen.f_bavail, seen.f_blocks), ("inodes", seen.f_favail, seen.f_files))
    for what, free, total in kinds:
        if total and free < FREE_SHARE * total:
            remedy = (
                "make room: a node whose disk is full leaves the in-sync set, and a primary's writes fail"
            )
            yield Diagnosis("warn", path, f"{100 * free / total:.1f} % of its {what} is free", remedy)


def of_nodes(config: ClusterConfig, status: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """Whom this node hears, on which of its networks."""
    lost_s = derive(config.timing).detection_s
    for node in status["nodes"]:
        if node.get("here"):
            continue
        about = f"node {node['name']}"
        if node.get("trouble"):
            yield Diagnosis("fail", about, node["trouble"])
        if not node["alive"]:
            remedy = f"is it on, does its agent run, does UDP port {config.heartbeat_port} pass both ways?"
            yield Diagnosis("fail", about, "is not heard", remedy)
            continue
        silent = [path["path"] for path in node["paths"] if _is_silent(path, lost_s)]
        for path in silent:
            remedy = f"mend that network, or let UDP port {config.heartbeat_port} pass on it"
            yield Diagnosis("warn", about, f"is not heard on {path}: one network less to lose", remedy)
        if not silent:
            yield Diagnosis("pass", about, "is heard on every network")


def _is_silent(path: Mapping[str, Any], lost_s: float) -> bool:
    ago = path.get("heard_ago_s")
    return ago is None or ago > lost_s


def of_register(status: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """Whether it answers this node."""
    register = status["witness"]
    where = register.get("where") or register.get("url") or ""
    about = f"register {register['kind']} {where}".rstrip()
    if register["ok"] is False:
        remedy = "without it no node takes over: `hafarm witness test` says more"
        yield Diagnosis("fail", about, register.get("why") or "does not answer", remedy)
    elif register["ok"]:
        yield Diagnosis("pass", about, f"answers in {register['rtt_ms']:g} ms")


def of_modules(status: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """What keeps each module from outliving the next failure."""
    for module in status["modules"]:
        found = list(_of_module(module))
        yield from found or [Diagnosis("pass", f"module {module['name']}", module["headline"])]


def _of_module(module: Mapping[str, Any]) -> Iterator[Diagnosis]:
    about = f"module {module['name']}"
    if module.get("hint"):
        yield Diagnosis("warn", about, module["headline"], module["hint"])
    elif not any(node["serving"] for node in module["nodes"]):
        yield Diagnosis("fail", about, module["headline"], f"`hafarm status {module['name']}` says why")
    for node in module["nodes"]:
        lacking = node["phase"] != "ready" or (module["kind"] == "mirror" and not node["in_sync"])
        if lacking or node.get("slow"):
            text = node["reason"] or f"{node['role']} {node['phase']}".strip()
            yield Diagnosis("warn", f"{about} on {node['node']}", text)
    for check in module["application"]["checks"]:
        if not check["good"]:
            text = f"check {check['name']}: {check['text']}"
            yield Diagnosis("fail", about, text, "the application's own log says more")
    for each in module.get("divergences", ()):
        remedy = f"`hafarm divergence list {module['name']}`, save what is needed, then release it"
        yield Diagnosis(
            "warn", f"{about} on {each['node']}", "files of another history are set aside", remedy
        )
    for vip in module["vip"]:
        yield from _of_address(vip)


def _of_address(vip: Mapping[str, Any]) -> Iterator[Diagnosis]:
    if vip.get("conflict"):
        text = f"{vip['conflict']} says that it has it too"
        yield Diagnosis(
            "fail", vip["address"], text, "find that machine, and give one of the two another address"
        )
    for part, why in (vip.get("missing") or {}).items():
        yield Diagnosis("fail", vip["address"], f"{part}: {why}", "`hafarm vip show` says where it leads")


def providers_of(status: Mapping[str, Any]) -> list[str]:
    """Who moves addresses of this node's modules."""
    return sorted(
        {vip["provider"] for module in status["modules"] for vip in module["vip"] if "provider" in vip}
    )


def of_provider(name: str, told: Iterable[Mapping[str, str]]) -> Iterator[Diagnosis]:
    """What would refuse or disturb a move, as the provider found it."""
    found = [Diagnosis("fail", f"{name}: {one['subject']}", one["problem"], one["remedy"]) for one in told]
    yield from found or [Diagnosis("pass", name, "can move the addresses to this node")]


def of_ports(config: ClusterConfig, node: str) -> list[Diagnosis]:
    """Whether what listens on the other nodes can be reached from here, and this node's health port."""
    others = [
        (other, address, config.control_port, "orders and comparisons")
        for other in config.nodes
        if other.name != node
        for address in other.addresses.values()
    ]
    with ThreadPoolExecutor(KNOCKS_AT_ONCE) as threads:
        return [*threads.map(lambda words: _knock(*words), others), *_health(config, node)]


def _knock(other: NodeConfig, address: str, port: int, what: str) -> Diagnosis:
    about = f"node {other.name}, TCP {address} port {port}"
    try:
        with socket.create_connection((address, port), KNOCK_S):
            return Diagnosis("pass", about, "can be reached")
    except OSError as fault:
        remedy = f"does its agent run, and do firewalls and security groups let {what} pass?"
        return Diagnosis("fail", about, f"cannot be reached: {fault.strerror or fault}", remedy)


def _health(config: ClusterConfig, node: str) -> Iterator[Diagnosis]:
    """A load balancer's probes need it."""
    if not config.health_port or node not in [one.name for one in config.nodes]:
        return
    for address in next(one for one in config.nodes if one.name == node).addresses.values():
        host = f"[{address}]" if ":" in address else address
        about = f"health port {host}:{config.health_port}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(f"http://{host}:{config.health_port}/live", timeout=KNOCK_S).close()
            yield Diagnosis("pass", about, "answers load balancers")
        except (OSError, urllib.error.URLError) as fault:
            text = f"does not answer: {getattr(fault, 'reason', fault)}"
            yield Diagnosis(
                "fail", about, text, "is the port taken by another program? the agent's log says so"
            )


def with_remedies(found: Sequence[Diagnosis]) -> Iterator[tuple[str, str, str]]:
    """Rows for people: what is wrong comes with what to do."""
    for one in found:
        yield one.verdict, one.about, one.text
        if one.remedy and one.verdict != "pass":
            yield "", "", f"-> {one.remedy}"
