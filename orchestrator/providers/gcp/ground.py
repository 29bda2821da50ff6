"""Where the cluster's nodes are in GCP: each one's instance, network interface and subnetwork."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from google.cloud import compute_v1

from orchestrator.model.names import NodeName
from orchestrator.providers.faults import MetadataSilent, PlaceWrong
from orchestrator.providers.gcp.account import Account, last, path_of, project_of
from orchestrator.providers.gcp.metadata import Machine, Metadata
from orchestrator.providers.modes import lies_in, sight, the_one
from orchestrator.providers.mover import Place
from orchestrator.providers.provider import Sight


@dataclass(frozen=True, slots=True)
class Nic:
    """One network interface of a node."""

    node: NodeName
    instance: str
    """Its path: projects/P/zones/Z/instances/NAME."""
    name: str
    """Such as nic0."""
    address: str
    """The node's own, by which it was found."""
    subnet: str
    network: str
    forwards: bool
    """It takes packets for others: the instance was made with canIpForward."""
    tags: frozenset[str]
    accounts: frozenset[str]

    @property
    def zone(self) -> str:
        return self.instance.split("/")[3]

    @property
    def machine(self) -> str:
        """The instance's name alone."""
        return last(self.instance)


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnetwork of the nodes' network, with its ranges; the first one has no name."""

    path: str
    ranges: Mapping[str, str]

    def range_of(self, address: str) -> str | None:
        """The name of the range that an address lies in; None: of none."""
        return next((name for name, one in self.ranges.items() if lies_in(address, one)), None)


class Ground:
    """Learned when the worker starts; what is missing is looked for again when it matters."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.metadata = Metadata()
        self._machine: Machine | None = None
        self.account = Account(self._project())
        self._network = self._named_network()
        self._zones = sorted({zone for vip in place.vips for zone in vip.settings.get("zones", ())})
        self._learning = threading.Lock()
        self._nics: tuple[Nic, ...] = ()
        self._subnets: tuple[Subnet, ...] | None = None
        self.learn()

    def _project(self) -> str:
        named = the_one(self.place.vips, "project") or os.environ.get("GOOGLE_CLOUD_PROJECT", "")
        try:
            self._machine = self.metadata.machine()
        except MetadataSilent:
            # Good to know, and not needed where hafarm.yaml says the rest.
            if not named:
                raise
            return named
        if named and named != self._machine.project:
            self._machine = None
        return named or self.metadata.machine().project

    def _named_network(self) -> str:
        named = the_one(self.place.vips, "network")
        if not named:
            return ""
        return path_of(named) if "projects/" in named else self._own_network(named)

    def _own_network(self, named: str) -> str:
        return f"projects/{self.account.project}/global/networks/{last(named)}"

    @property
    def has_metadata(self) -> bool:
        """The metadata service tells of this node."""
        return self._machine is not None

    # --- learning ---------------------------------------------------------------------------------------

    def learn(self) -> None:
        """Look for the nodes' interfaces; a node that is gone keeps what was known of it."""
        owners = {_plain(text): node for node, own in self.place.addresses.items() for text in own}
        found = [nic for one in self.instances() for nic in _nics(one, owners)]
        if self._network:
            found = [nic for nic in found if nic.network == self._network]
        networks = {nic.network for nic in found if nic.node == self.place.me and self._may_be_me(nic)}
        if len(networks) > 1:
            told = ", ".join(sorted(last(each) for each in networks))
            text = f"interfaces in several networks ({told}) have this node's addresses"
            raise PlaceWrong(self.place.me, text, "say `settings: {network: ...}`")
        found = [nic for nic in found if not networks or nic.network in networks]
        with self._learning:
            known = {nic.instance for nic in found}
            again = {nic.node for nic in found}
            kept = [nic for nic in self._nics if nic.instance not in known and nic.node not in again]
            self._nics = (*found, *kept)
            self._subnets = None

    def _may_be_me(self, nic: Nic) -> bool:
        return self._machine is None or nic.instance == self._machine.path

    def instances(self) -> Iterable[Any]:
        """All of the project, or of the zones that are named: Compute Engine has no surer way from an address
        to its instance."""
        if self._zones:
            return [each for zone in self._zones for each in self._instances_in(zone)]
        scopes = self.account.all_of(
            "aggregated_list",
            compute_v1.InstancesClient,
            "the list of instances",
            project=self.account.project,
        )
        return [each for _, scope in scopes for each in scope.instances]

    def _instances_in(self, zone: str) -> Sequence[Any]:
        return self.account.all_of(
            "list",
            compute_v1.InstancesClient,
            f"the list of instances in {zone}",
            project=self.account.project,
            zone=zone,
        )

    def subnets(self) -> Sequence[Subnet]:
        """Of the nodes' network, in all regions; asked once for as long as the nodes stay where they are."""
        with self._learning:
            known = self._subnets
        if known is None:
            network = self.me.network
            scopes = self.account.all_of(
                "aggregated_list",
                compute_v1.SubnetworksClient,
                "the list of subnetworks",
                project=project_of(network, self.account.project),
            )
            found = [each for _, scope in scopes for each in scope.subnetworks]
            known = tuple(_subnet(each) for each in found if path_of(each.network) == network)
            with self._learning:
                self._subnets = known
        return known

    def subnet(self) -> Subnet:
        """This node's own."""
        mine = self.me.subnet
        return next((each for each in self.subnets() if each.path == mine), Subnet(mine, {}))

    # --- knowing ----------------------------------------------------------------------------------------

    @property
    def me(self) -> Nic:
        """This node's interface: that of the first of its addresses which has one."""
        found = self.nic(self.place.me)
        if found is None:
            own = ", ".join(self.place.addresses[self.place.me])
            where = f"in project {self.account.project}"
            where += f", network {last(self._network)}" if self._network else ""
            raise PlaceWrong(
                self.place.me,
                f"no network interface {where} has any of its addresses ({own})",
                "correct `addresses` of the node, or `settings: {project: ..., network: ...}`",
            )
        return found

    @property
    def region(self) -> str:
        """Where regional things are looked for."""
        return the_one(self.place.vips, "region") or self.me.zone.rpartition("-")[0]

    def nic(self, node: NodeName) -> Nic | None:
        """The first in the order of the node's addresses; None where none was found."""
        order = [_plain(text) for text in self.place.addresses.get(node, ())]
        of_node = [nic for nic in self._nics if nic.node == node]
        return min(of_node, key=lambda nic: order.index(nic.address), default=None)

    def nics(self) -> Sequence[Nic]:
        """One of each node that is known."""
        found = (self.nic(node) for node in self.place.addresses)
        return [nic for nic in found if nic is not None]

    def node_of(self, instance: str) -> NodeName | None:
        """Whose instance it is; None: no node's, as far as it is known."""
        return next((nic.node for nic in self._nics if nic.instance == instance), None)

    def sight(self, parts: Mapping[str, frozenset[str]]) -> Sight:
        """Who has an address. `parts`: what belongs to it, with the instances that have it now."""
        owners = {one for own in parts.values() for one in own}
        if any(self.node_of(one) is None for one in owners):
            self.learn()
        return sight(parts, {one: self.node_of(one) for one in owners}, self.place.me)


def _nics(found: Any, owners: Mapping[str, NodeName]) -> Iterable[Nic]:
    """Those that have an address of a node; the instance of the cloud's library is read here alone."""
    for interface in found.network_interfaces:
        own = [_plain(text) for text in (interface.network_i_p, interface.ipv6_address) if text]
        for text in own:
            if text in owners:
                yield Nic(
                    owners[text],
                    path_of(found.self_link),
                    interface.name,
                    text,
                    path_of(interface.subnetwork),
                    path_of(interface.network),
                    bool(found.can_ip_forward),
                    frozenset(found.tags.items),
                    frozenset(each.email for each in found.service_accounts),
                )
                break


def _subnet(found: Any) -> Subnet:
    ranges = {"": found.ip_cidr_range}
    ranges |= {each.range_name: each.ip_cidr_range for each in found.secondary_ip_ranges}
    for number, text in enumerate((found.internal_ipv6_prefix, found.external_ipv6_prefix)):
        ranges |= {f"ipv6-{number}": text} if text else {}
    return Subnet(path_of(found.self_link), {name: one for name, one in ranges.items() if one})


def _plain(text: str) -> str:
    """As the kernel writes it."""
    return str(ip_address(text))
