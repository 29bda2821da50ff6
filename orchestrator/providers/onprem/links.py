"""Which interface an address belongs on, and which routes take it as their source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_interface, ip_network

from orchestrator.host.netlink import Interface, Link, Placed, Route
from orchestrator.model.config import VipConfig
from orchestrator.model.errors import AddressRefused


def address_of(vip: VipConfig) -> Interface:
    """The configured address; the file was checked when it was read."""
    return ip_interface(vip.address)


def place(
    vip: VipConfig, links: dict[str, Link], addresses: Iterable[Placed], ours: frozenset[Interface]
) -> Link:
    """The interface that a virtual IP belongs on; AddressRefused when none fits.

    `ours` are virtual IPs: they say nothing of where a subnet is.
    """
    if vip.interface:
        if vip.interface not in links:
            raise AddressRefused(vip.address, f"no interface {vip.interface} on this node; see `ip link`")
        return links[vip.interface]
    wanted = address_of(vip).ip
    by_index = {link.index: link for link in links.values()}
    fitting = [
        (placed.address.network.prefixlen, by_index[placed.index])
        for placed in addresses
        if placed.address not in ours and wanted in placed.address.network and placed.index in by_index
    ]
    if not fitting:
        raise AddressRefused(
            vip.address, "no interface of this node has an address in its subnet; name one with `interface:`"
        )
    # The most specific subnet, as routing would choose.
    return max(fitting, key=lambda fit: (fit[0], -fit[1].index))[1]


def sourced(address: Interface, routes: Iterable[Route]) -> list[tuple[Route, Route]]:
    """The routes of the address's own interface that shall name it: as they are, as they shall be."""
    text = str(address.ip)
    return [
        (route, replace(route, source=text))
        # Connected routes first: the kernel takes a gateway only when it can be reached.
        for route in sorted(routes, key=lambda route: route.gateway is not None)
        if route.source != text and (not route.destination or address.ip in ip_network(route.destination))
    ]


def restored(
    address: Interface, routes: Iterable[Route], known: Iterable[Route], own: Iterable[Placed]
) -> list[Route]:
    """The routes that take the address as their source, as they were before.

    `known` were seen before this agent changed them. What an earlier agent changed gets what the kernel
    would have given: the interface's own address in that subnet, none on the default route.
    """
    before = {(route.destination, route.priority): route.source for route in known}
    result = []
    for route in routes:
        if route.source != str(address.ip):
            continue
        fallback = None
        if route.destination:
            subnet = ip_network(route.destination)
            fallback = next(
                (
                    str(placed.address.ip)
                    for placed in own
                    if placed.index == route.index and placed.address.ip in subnet and address.version == 4
                ),
                None,
            )
        result.append(replace(route, source=before.get((route.destination, route.priority), fallback)))
    return result
