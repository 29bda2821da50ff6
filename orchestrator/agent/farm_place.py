"""Where a farm is on this node: its interface, the others as they are met there, an order's plane."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Final

from orchestrator.farm.plane import Affinity, Member, Mode, Plane, Protocol, Service
from orchestrator.host.farm_check import in_the_file, own_pair
from orchestrator.host.farm_plane import macs
from orchestrator.host.netlink import Netlink
from orchestrator.model.config import ClusterConfig, FarmConfig, VipConfig
from orchestrator.model.effects import Steer
from orchestrator.model.names import NodeName
from orchestrator.providers.onprem.links import place

SEED_BYTES: Final = 4  # as many as the kernel's hash takes


@dataclass(frozen=True, slots=True)
class Place:
    """What of a farm's plane does not change from order to order."""

    farm: FarmConfig
    me: Member
    interface: str
    seed: int
    addresses_of: Mapping[NodeName, tuple[str, str]]
    """Of each other node what it has in the farm's network: IPv4 and IPv6."""

    def plane(self, order: Steer, known: Mapping[str, str]) -> Plane:
        """The order for the kernel. `known`: hardware addresses of the others, as far as they were found."""
        farm = self.farm
        services = []
        groups = [(vip, group) for vip in farm.vip for group in vip.groups]
        for number, ((vip, group), traffic) in enumerate(zip(groups, order.groups, strict=True)):
            for protocol in group.protocols:
                services.append(
                    Service(
                        name=f"g{number}_{protocol}",
                        address=_bare(vip.address),
                        protocol=Protocol(protocol),
                        ports=group.ports,
                        affinity=Affinity(group.affinity),
                        owners=traffic.owners,
                        previous=traffic.previous,
                        lost=traffic.lost,
                    )
                )
        return Plane(
            farm=farm.name,
            me=self.me,
            mode=Mode(farm.mode),
            interface=self.interface,
            seed=self.seed,
            peers=tuple(
                Member(name, known.get(v4) or known.get(v6) or "", v4, v6)
                for name, (v4, v6) in self.addresses_of.items()
            ),
            addresses=tuple(_bare(vip.address) for vip in farm.vip),
            answers=frozenset(_bare(address) for address in order.directs),
            services=tuple(services),
            reset_on_loss=farm.reset_on_loss,
        )

    async def neighbours(self) -> Mapping[str, str]:
        """The others' hardware addresses, of those who answer now."""
        own = [address for pair in self.addresses_of.values() for address in pair if address]
        return await macs(self.interface, own)


async def find(config: ClusterConfig, farm: FarmConfig, me: NodeName, seed: int) -> Place:
    """AddressRefused where no interface of this node is in the farm's network."""
    net = Netlink()
    await net.open()
    try:
        links, addresses = await net.links(), await net.addresses()
    finally:
        net.close()
    # What an earlier life of this farm left says nothing of where its subnet is.
    ours = {ip_interface(vip.address).ip for vip in farm.vip}
    others = [each for each in addresses if each.address.ip not in ours]
    link = place(VipConfig(farm.vip[0].address, farm.interface), links, others, frozenset())
    own = own_pair(config, farm, me, link, others)
    pairs = {name: in_the_file(config, farm, name) for name in farm.nodes if name != me}
    return Place(farm, Member(me, link.mac.hex(":"), *own), link.name, seed, pairs)


def seed_of(bundle: str, farm: FarmConfig) -> int:
    """The same on all nodes, and nobody outside can aim at one of them."""
    key = Path(bundle, "heartbeat.key").read_bytes()
    digest = hashlib.blake2b(farm.name.encode(), key=hashlib.sha256(key.strip()).digest())
    return int.from_bytes(digest.digest()[:SEED_BYTES], "big")


def _bare(address: str) -> str:
    """As the kernel writes it, without the prefix."""
    return str(ip_interface(address).ip)
