"""What of farms fits alone and not together; and their values for the model."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator

from orchestrator.config import shape
from orchestrator.config.marks import Marked, Path, Problem
from orchestrator.config.shape_farm import Farm, FarmVip, Group
from orchestrator.config.shape_file import File
from orchestrator.model.config import CheckConfig, FarmConfig, FarmVipConfig, PortsConfig, RunConfig
from orchestrator.model.names import ModuleName, NodeName


def contradictions(marked: Marked, file: File, index: int, farm: Farm) -> Iterator[Problem]:
    """Of one farm."""
    here: Path = ("modules", index)
    for place, check in enumerate(farm.checks):
        if check.action == "swap":
            yield marked.problem(
                (*here, "checks", place, "action"), "swap is for mirrors: restart, stop, none"
            )
    networks: dict[int, object] = {}
    for place, vip in enumerate(farm.vip):
        network = ipaddress.ip_interface(vip.address).network
        if networks.setdefault(network.version, network) != network:
            text = f"all addresses of a farm lie in one network: this is not in {networks[network.version]}"
            yield marked.problem((*here, "vip", place, "address"), text)
        if farm.mode != "invisible":
            yield from _unreachable(marked, file, farm, (*here, "vip", place, "address"), vip)
        yield from _groups(marked, farm, (*here, "vip", place), vip)


def _unreachable(marked: Marked, file: File, farm: Farm, where: Path, vip: FarmVip) -> Iterator[Problem]:
    """Whoever answers hands the others their part on: to an address of theirs in the same network."""
    network = ipaddress.ip_interface(vip.address).network
    lacking = [
        node.name
        for node in file.nodes
        if node.name in farm.nodes
        and not any(ipaddress.ip_address(address) in network for address in node.addresses.values())
    ]
    if lacking:
        text = f"no address of {', '.join(lacking)} lies in {network}: nobody could hand its part on to it"
        yield marked.problem(where, text)


def _groups(marked: Marked, farm: Farm, here: Path, vip: FarmVip) -> Iterator[Problem]:
    taken: list[tuple[str, tuple[int, int]]] = []
    for number, group in enumerate(vip.shared()):
        where = here if vip.groups is None else (*here, "groups", number)
        yield from _group(marked, farm, where, group)
        for protocol in group.protocols:
            for place, (low, high) in enumerate(group.ports):
                if any(low <= end and begin <= high for kind, (begin, end) in taken if kind == protocol):
                    text = f"{protocol} port {low if low == high else f'{low}-{high}'} is in two groups"
                    yield marked.problem((*where, "ports", place), text)
                taken.append((protocol, (low, high)))


def _group(marked: Marked, farm: Farm, where: Path, group: Group) -> Iterator[Problem]:
    for name in group.weights:
        if name not in farm.nodes:
            yield marked.problem((*where, "weights", name), _no_node(name, farm))
    if not any(group.weights.get(name, 1) for name in farm.nodes):
        yield marked.problem((*where, "weights"), "all weights are zero: nobody would serve")
    seen: list[str] = []
    for place, names in enumerate(group.chain):
        for name in names:
            if name not in farm.nodes:
                yield marked.problem((*where, "chain", place), _no_node(name, farm))
            if name in seen:
                yield marked.problem((*where, "chain", place), f"{name} is given twice")
            seen.append(name)
    missing = [name for name in farm.nodes if name not in seen]
    if group.chain and missing:
        text = f"{', '.join(missing)} is in no group of the chain: whoever is never to serve has weight 0"
        yield marked.problem((*where, "chain"), text)


def _no_node(name: str, farm: Farm) -> str:
    near = difflib.get_close_matches(name, farm.nodes, n=1)
    return f"no node of this farm is named {name}" + (f", did you mean '{near[0]}'?" if near else "")


def shared_addresses(marked: Marked, file: File) -> Iterator[Problem]:
    """One address belongs to one module: two would each decide which node answers for it."""
    owners: dict[str, tuple[str, set[int]]] = {}
    for index, module in enumerate(file.modules):
        vips: list[shape.Vip | FarmVip] = [*module.vip]
        for place, vip in enumerate(vips):
            address = str(ipaddress.ip_interface(vip.address).ip)
            ports = _ports(vip) if isinstance(vip, FarmVip) else set()
            owner, others = owners.setdefault(address, (module.name, ports))
            if owner == module.name:
                continue
            both = sorted(ports & others)
            text = f"port {both[0]} of {address} is" if both else f"{address} is"
            where = ("modules", index, "vip", place, "address")
            yield marked.problem(
                where, f"{text} module {owner}'s: one module, with a group for each kind of port"
            )


def _ports(vip: FarmVip) -> set[int]:
    return {port for group in vip.shared() for low, high in group.ports for port in range(low, high + 1)}


def value(farm: Farm, run: RunConfig, checks: tuple[CheckConfig, ...]) -> FarmConfig:
    """The model's."""
    nodes = tuple(NodeName(name) for name in farm.nodes)
    return FarmConfig(
        name=ModuleName(farm.name),
        nodes=nodes,
        vip=tuple(
            FarmVipConfig(vip.address, tuple(_ports_value(group, nodes) for group in vip.shared()))
            for vip in farm.vip
        ),
        run=run,
        checks=checks,
        interface=farm.interface,
        mode=farm.mode,
        drain_s=farm.drain,
        reset_on_loss=farm.reset_on_loss,
        restarts_max=farm.restarts.max,
        restarts_window_s=farm.restarts.window,
    )


def _ports_value(group: Group, nodes: tuple[NodeName, ...]) -> PortsConfig:
    chain = tuple(tuple(NodeName(name) for name in names) for names in group.chain)
    return PortsConfig(
        ports=tuple(group.ports),
        weights={name: group.weights.get(name, 1) for name in nodes},
        chain=chain or (nodes,),
        protocols=tuple(dict.fromkeys(group.protocols)),
        affinity=group.affinity,
    )
