"""Could this node serve a farm? Asks the network and the kernel, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_interface

from orchestrator.farm.buckets import BUCKETS
from orchestrator.farm.plane import PRIVATE_MAC, Affinity, Member, Mode, Plane, Protocol, Service
from orchestrator.host.farm_plane import FarmPlane, macs
from orchestrator.host.netlink import Link, Netlink, Placed
from orchestrator.host.plane_words import AddressTaken, InterfaceUnfit, NoSuchSubnet
from orchestrator.model.config import ClusterConfig, FarmConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName

Pair = tuple[str, str]
"""IPv4 and IPv6; empty: none of this kind."""


def in_the_file(config: ClusterConfig, farm: FarmConfig, name: NodeName) -> Pair:
    """What the file says of a node's addresses in the farm's networks."""
    return _first_of_each(farm, config.node(name).addresses.values())


def on_the_link(farm: FarmConfig, link: Link, placed: Iterable[Placed]) -> Pair:
    """The addresses of this machine's own there."""
    ours = {ip_interface(vip.address).ip for vip in farm.vip}
    here = (each.address.ip for each in placed if each.index == link.index)
    return _first_of_each(farm, (str(each) for each in here if each not in ours))


def _first_of_each(farm: FarmConfig, addresses: Iterable[str]) -> Pair:
    networks = [ip_interface(vip.address).network for vip in farm.vip]
    found = {4: "", 6: ""}
    for text in addresses:
        address = ip_address(text)
        if not found[address.version] and any(address in network for network in networks):
            found[address.version] = str(address)
    return found[4], found[6]


def own_pair(config: ClusterConfig, farm: FarmConfig, me: NodeName, link: Link, placed: list[Placed]) -> Pair:
    """This node's own addresses on the farm's interface; NoSuchSubnet where it has none of a kind needed.

    The file need not have them: in the mode `invisible` nobody hands anything on to them.
    """
    v4, v6 = in_the_file(config, farm, me)
    own4, own6 = on_the_link(farm, link, placed)
    pair = v4 or own4, v6 or own6
    for vip in farm.vip:
        if not pair[ip_interface(vip.address).version == 6]:
            raise NoSuchSubnet(str(ip_interface(vip.address).ip), link.name)
    return pair


async def refusals(
    config: ClusterConfig, farm: FarmConfig, me: NodeName, interface: str
) -> list[HafarmError]:
    """What would keep traffic from being let in: a stranger with an address, a kernel that takes no such
    rules. HafarmError where not even that can be asked."""
    net = Netlink()
    await net.open()
    try:
        links, placed = await net.links(), await net.addresses()
    finally:
        net.close()
    if interface not in links:
        return [InterfaceUnfit(interface, "there is none of this name on this node")]
    link = links[interface]
    try:
        own = own_pair(config, farm, me, link, placed)
    except NoSuchSubnet as fault:
        return [fault]
    others = {name: in_the_file(config, farm, name) for name in farm.nodes if name != me}
    known = await macs(interface, [each for pair in others.values() for each in pair if each])
    peers = [Member(name, known.get(v4) or known.get(v6) or "", v4, v6) for name, (v4, v6) in others.items()]
    plane = FarmPlane(farm.name, lambda event: None)
    try:
        await plane.start()
        found = await plane.preflight(_shape(farm, Member(me, link.mac.hex(":"), *own), peers, interface))
    finally:
        await plane.close()
    # The others' virtual hardware address hangs on a key that whoever checks a file need not have.
    return [fault for fault in found if not (farm.mode == "invisible" and _is_virtual(fault))]


def _is_virtual(fault: HafarmError) -> bool:
    return isinstance(fault, AddressTaken) and fault.mac.startswith(PRIVATE_MAC)


def _shape(farm: FarmConfig, me: Member, peers: list[Member], interface: str) -> Plane:
    """Rules of the kinds that the farm will have; who owns what makes no other kind."""
    addresses = tuple(str(ip_interface(vip.address).ip) for vip in farm.vip)
    groups = [(vip, group) for vip in farm.vip for group in vip.groups]
    return Plane(
        farm=farm.name,
        me=me,
        mode=Mode(farm.mode),
        interface=interface,
        seed=0,
        peers=tuple(peers),
        addresses=addresses,
        answers=frozenset(addresses),
        services=tuple(
            Service(
                name=f"g{number}_{protocol}",
                address=str(ip_interface(vip.address).ip),
                protocol=Protocol(protocol),
                ports=group.ports,
                affinity=Affinity(group.affinity),
                owners=(me.name,) * BUCKETS,
            )
            for number, (vip, group) in enumerate(groups)
            for protocol in group.protocols
        ),
        reset_on_loss=farm.reset_on_loss,
    )
