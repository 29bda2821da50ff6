"""Where the cluster's nodes are in Azure: each one's network interface, subnet and virtual network."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from orchestrator.model.names import NodeName
from orchestrator.providers.azure import metadata
from orchestrator.providers.azure.account import Account, call
from orchestrator.providers.azure.names import Names, Resource, holder, resource
from orchestrator.providers.azure.rights import Where, linked
from orchestrator.providers.faults import MetadataSilent, PlaceWrong
from orchestrator.providers.modes import lies_in, sight, the_one
from orchestrator.providers.mover import Place, Vip
from orchestrator.providers.provider import Owner, Sight

DONE: Final = "Succeeded"
UNDER_WAY: Final = frozenset({"Updating", "Creating", "Deleting"})
"""Of the states that Azure gives whatever can be changed; the rest went wrong."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that leads an address: to whom, and whether that is already so."""

    owners: frozenset[str]
    state: str = DONE


@dataclass(frozen=True, slots=True)
class Nic:
    """One network interface of a node."""

    node: NodeName
    resource: Resource
    address: str
    """The node's own, by which it was found."""
    subnet: str
    """Of that address; its identifier."""
    addresses: tuple[str, ...]
    mac: str
    public: str
    """The public address that is translated to its own, by identifier; empty: none."""
    forwards: bool
    """It takes packets for addresses that are not its own."""
    links: tuple[tuple[str, str], ...]
    """What its configuration refers to, each with the right that whoever writes it needs there."""

    @property
    def key(self) -> str:
        return self.resource.key

    @property
    def network(self) -> str:
        return holder(self.subnet)

    def address_like(self, address: str) -> str:
        """Its own address of the same family, or nothing."""
        return next((own for own in self.addresses if (":" in own) == (":" in address)), "")


class Ground:
    """Learned when the worker starts; what is missing is looked for again when it matters."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._told, self._silent = _instance()
        self.names = self._names()
        environment = str(self._told.get("compute", {}).get("azEnvironment", ""))
        self.account = Account(the_one(place.vips, "endpoint"), environment)
        network = the_one(place.vips, "network")
        self._network = self.names.find("virtualNetworks", network).key if network else ""
        self._learning = threading.Lock()
        self._nics: tuple[Nic, ...] = ()
        self._networks: dict[str, Any] = {}
        self._turns: dict[str, threading.Lock] = {}
        self.learn()

    def _names(self) -> Names:
        compute = self._told.get("compute", {})
        subscription = the_one(self.place.vips, "subscription") or str(compute.get("subscriptionId", ""))
        groups = {group: None for vip in self.place.vips for group in vip.settings.get("resource_group", ())}
        own = str(compute.get("resourceGroupName", ""))
        found = tuple(groups) or ((own,) if own else ())
        if not subscription or not found:
            if self._silent is not None:
                raise self._silent
            raise PlaceWrong(
                self.place.me,
                "it is not known in which subscription and resource group it is",
                "say `settings: {subscription: ..., resource_group: ...}`",
            )
        return Names(subscription, found)

    # --- interfaces -------------------------------------------------------------------------------------

    def learn(self) -> None:
        """Look for the nodes' interfaces; a node that is gone keeps what was known of it."""
        owners = {text: node for node, own in self.place.addresses.items() for text in own}
        found = [nic for one in self.listed() if (nic := _nic(one, owners)) is not None]
        mine = self._mine([nic for nic in found if nic.node == self.place.me])
        nics = [*mine, *_near([nic for nic in found if nic.node != self.place.me], mine)]
        with self._learning:
            known = {nic.key for nic in nics}
            self._nics = (*nics, *(nic for nic in self._nics if nic.key not in known))

    def listed(self) -> list[Any]:
        """All interfaces of the nodes' resource groups, in one request each."""
        client, found = self.account.network(self.names.subscription), list[Any]()
        for group in self.names.groups:
            what = f"the network interfaces of {group}"
            found += call(lambda group=group: list(client.network_interfaces.list(group)), what, self.account)  # type: ignore[misc]
        return found

    def _mine(self, nics: list[Nic]) -> list[Nic]:
        """Of those that have this node's addresses: several networks of one group may use the same range."""
        macs = {_mac(each.get("macAddress")) for each in self._told.get("network", {}).get("interface", ())}
        if self._network:
            nics = [nic for nic in nics if nic.network.lower() == self._network]
        elif any(nic.mac in macs for nic in nics):
            nics = [nic for nic in nics if nic.mac in macs]
        if len({nic.network.lower() for nic in nics}) > 1:
            told = ", ".join(sorted(nic.network.rpartition("/")[2] for nic in nics))
            text = f"interfaces in several virtual networks ({told}) have this node's addresses"
            raise PlaceWrong(self.place.me, text, "say `settings: {network: ...}`")
        return nics

    @property
    def me(self) -> Nic:
        """This node's interface: that of the first of its addresses which has one."""
        found = self.nic(self.place.me)
        if found is None:
            own = ", ".join(self.place.addresses[self.place.me])
            groups = ", ".join(self.names.groups)
            where = f"resource group {groups} of subscription {self.names.subscription}"
            raise PlaceWrong(
                self.place.me,
                f"no network interface in {where} has any of its addresses ({own})",
                "correct `addresses` of the node, or `settings: {resource_group: ...}`",
            )
        return found

    def nic(self, node: NodeName) -> Nic | None:
        """The first in the order of the node's addresses; None where none was found."""
        order = list(self.place.addresses.get(node, ()))
        of_node = [nic for nic in self._nics if nic.node == node]
        return min(of_node, key=lambda nic: order.index(nic.address), default=None)

    def nics(self, vip: Vip) -> list[Nic]:
        """Of the nodes that may have it."""
        return [nic for node in vip.nodes if (nic := self.nic(node)) is not None]

    def node_of_nic(self, text: str) -> NodeName | None:
        """Whose interface it is, by its identifier; None: no node's, as far as it is known."""
        return next((nic.node for nic in self._nics if nic.key == text.lower()), None)

    def node_of_address(self, text: str) -> NodeName | None:
        """Of a next hop or a member of a pool, also of a node that is gone."""
        for node, own in self.place.addresses.items():
            if text in own:
                return node
        return next((nic.node for nic in self._nics if text in nic.addresses), None)

    # --- networks ---------------------------------------------------------------------------------------

    def network(self) -> Any:
        """This node's virtual network, with its subnets; asked for once, and again after `forget_network`."""
        key = self.me.network.lower()
        if key not in self._networks:
            found = resource(self.me.network)
            assert found is not None
            client = self.account.network(found.subscription)
            self._networks[key] = call(
                lambda: client.virtual_networks.get(found.group, found.names[0]),
                f"virtual network {found.short}",
                self.account,
            )
        return self._networks[key]

    def forget_network(self) -> None:
        """It may have been changed."""
        self._networks.clear()

    def in_subnet(self, address: str) -> bool:
        """Whether it is an address of the subnet that this node is in."""
        return any(lies_in(address, prefix) for prefix in self.subnet_prefixes())

    def subnet_prefixes(self) -> list[str]:
        mine = self.me.subnet.lower()
        return [
            prefix
            for each in self.network().subnets or ()
            if str(each.id).lower() == mine
            for prefix in (each.address_prefixes or [each.address_prefix])
        ]

    # --- for the modes ----------------------------------------------------------------------------------

    def turn(self, key: str) -> threading.Lock:
        """One of ours writes a thing at a time: a second would find its ETag old, or cancel the first."""
        return self._turns.setdefault(key.lower(), threading.Lock())

    def where(self, vip: Vip) -> Where:
        """The very scopes that a claim of this node concerns."""
        nics, me = self.nics(vip), self.me
        return Where(
            self.names,
            own=(me.resource.id,),
            interfaces=tuple(nic.resource.id for nic in nics),
            network=me.network,
            own_links=me.links,
            links=tuple(dict.fromkeys(link for nic in nics for link in nic.links)),
        )

    def sight(self, parts: Mapping[str, Part], by_address: bool) -> Sight:
        """Who has an address. `by_address`: the parts' owners are addresses, else interfaces."""
        whose = self.node_of_address if by_address else self.node_of_nic
        owners = {one for part in parts.values() for one in part.owners}
        if any(whose(one) is None for one in owners):
            self.learn()
        seen = sight(
            {name: part.owners for name, part in parts.items()},
            {one: whose(one) for one in owners},
            self.place.me,
        )
        unsettled = [f"{name} is {part.state}" for name, part in sorted(parts.items()) if part.state != DONE]
        if seen.owner is Owner.MINE and unsettled:
            # Azure says at once what is wanted, and packets go the old way until it is done.
            return replace(seen, owner=Owner.AMBIGUOUS, detail=f"{seen.detail}; {', '.join(unsettled)}")
        return seen


def _near(nics: list[Nic], mine: list[Nic]) -> list[Nic]:
    """Of namesakes in other networks those in this node's own: ranges may be used twice."""
    if not mine:
        return nics
    network = mine[0].network.lower()
    near = {nic.node for nic in nics if nic.network.lower() == network}
    return [nic for nic in nics if nic.network.lower() == network or nic.node not in near]


def _instance() -> tuple[Mapping[str, Any], MetadataSilent | None]:
    """What the metadata service says, or why nothing: it is needed only where hafarm.yaml is silent."""
    try:
        return metadata.instance(), None
    except MetadataSilent as fault:
        return {}, fault


def _nic(found: Any, owners: Mapping[str, NodeName]) -> Nic | None:
    # A node's own address comes first where the interface has others of ours beside it.
    held = sorted(found.ip_configurations or (), key=lambda each: not each.primary)
    for each in held:
        if each.private_ip_address in owners and each.subnet is not None:
            named = resource(str(found.id))
            assert named is not None
            return Nic(
                owners[each.private_ip_address],
                named,
                each.private_ip_address,
                str(each.subnet.id),
                tuple(_addresses(held, owners)),
                _mac(found.mac_address),
                str(each.public_ip_address.id) if each.public_ip_address is not None else "",
                bool(found.enable_ip_forwarding),
                tuple(linked(found)),
            )
    return None


def _addresses(held: list[Any], owners: Mapping[str, NodeName]) -> Iterable[str]:
    """Those that hafarm.yaml names first: what leads to a node leads to one of them."""
    own = [each.private_ip_address for each in held if each.private_ip_address]
    return sorted(own, key=lambda text: text not in owners)


def _mac(text: object) -> str:
    return str(text or "").replace("-", "").replace(":", "").lower()
