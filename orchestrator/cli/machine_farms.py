"""Is this machine's network ready for its farms? Looks only, changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_interface

from orchestrator.host.netlink import Link, Netlink, Placed
from orchestrator.model.config import FarmConfig


def networks(farm: FarmConfig) -> Iterator[tuple[bool, str, str]]:
    """Of each address: whether this machine can serve it, what was looked at, and what was found."""
    links, placed = asyncio.run(_seen())
    own = {ip_interface(vip.address).ip for vip in farm.vip}
    names = {link.index: link.name for link in links.values()}
    for vip in farm.vip:
        what = f"{farm.name}: address {vip.address}"
        wanted = ip_interface(vip.address)
        fitting = [
            names[each.index]
            for each in placed
            if each.index in names and each.address.ip not in own and wanted.ip in each.address.network
        ]
        name = farm.interface or next(iter(fitting), "")
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


async def _seen() -> tuple[dict[str, Link], list[Placed]]:
    net = Netlink()
    await net.open()
    try:
        return await net.links(), list(await net.addresses())
    finally:
        net.close()
