"""Is this machine's network ready for its farms? Looks and asks, changes nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_interface

from orchestrator.host.farm_check import refusals
from orchestrator.host.netlink import Link, Netlink, Placed
from orchestrator.model.config import ClusterConfig, FarmConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName

Seen = tuple[bool, str, str]
"""Whether it is good, what was looked at, what was found."""


def farm_findings(config: ClusterConfig, farm: FarmConfig, node: str) -> Iterator[Seen]:
    """First whether the network is there; then, as root, what neighbours and kernel say."""
    seen = list(networks(farm))
    yield from seen
    if os.geteuid() == 0 and all(good for good, _, _ in seen):
        yield from _asked(config, farm, NodeName(node))


def _asked(config: ClusterConfig, farm: FarmConfig, me: NodeName) -> Iterator[Seen]:
    what = f"{farm.name}: neighbours and kernel"
    try:
        found = asyncio.run(_refusals(config, farm, me))
    except (HafarmError, OSError) as fault:
        yield False, what, str(fault)
        return
    for each in found:
        yield False, what, f"{each} ({each.code})"
    if not found:
        yield True, what, "nobody else has an address of it, and the kernel takes its rules"


async def _refusals(config: ClusterConfig, farm: FarmConfig, me: NodeName) -> list[HafarmError]:
    links, placed = await _seen()
    names = {link.index: link.name for link in links.values()}
    return await refusals(config, farm, me, _interface(farm, names, placed, farm.vip[0].address))


def networks(farm: FarmConfig) -> Iterator[Seen]:
    """Of each address: whether this machine can serve it, what was looked at, and what was found."""
    links, placed = asyncio.run(_seen())
    names = {link.index: link.name for link in links.values()}
    for vip in farm.vip:
        what = f"{farm.name}: address {vip.address}"
        fitting = _fitting(farm, names, placed, vip.address)
        name = _interface(farm, names, placed, vip.address)
        if not name:
            yield False, what, "no interface of this machine has an address in its subnet"
        elif name not in links:
            yield False, what, f"this machine has no interface {name}"
        elif not links[name].up:
            yield False, what, f"interface {name} is down"
        elif name not in fitting:
            yield False, what, f"interface {name} has no address in its subnet"
        else:
            yield True, what, f"is in the subnet of {name}"


def _fitting(farm: FarmConfig, names: Mapping[int, str], placed: list[Placed], address: str) -> list[str]:
    """The interfaces in whose subnets it is, whatever a farm that runs has there."""
    own = {ip_interface(vip.address).ip for vip in farm.vip}
    wanted = ip_interface(address).ip
    return [
        names[each.index]
        for each in placed
        if each.index in names and each.address.ip not in own and wanted in each.address.network
    ]


def _interface(farm: FarmConfig, names: Mapping[int, str], placed: list[Placed], address: str) -> str:
    return farm.interface or next(iter(_fitting(farm, names, placed, address)), "")


async def _seen() -> tuple[dict[str, Link], list[Placed]]:
    net = Netlink()
    await net.open()
    try:
        return await net.links(), list(await net.addresses())
    finally:
        net.close()
