"""Where the cluster's nodes are in AWS: each one's network interface, subnet and VPC."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from orchestrator.model.names import NodeName
from orchestrator.providers.aws.account import Account, call
from orchestrator.providers.aws.metadata import Metadata
from orchestrator.providers.faults import MetadataSilent, PlaceWrong
from orchestrator.providers.modes import sight, the_one
from orchestrator.providers.mover import Place
from orchestrator.providers.provider import Sight


@dataclass(frozen=True, slots=True)
class Nic:
    """One network interface of a node."""

    node: NodeName
    eni: str
    address: str
    """The node's own, by which it was found."""
    subnet: str
    vpc: str
    instance: str
    checked: bool
    """It drops what is not for its own addresses: the source/destination check is on."""


class Ground:
    """Learned when the worker starts; what is missing is looked for again when it matters."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.metadata = Metadata()
        self.account = Account(self._region())
        self.subnet_range = ""
        """Of this node's own subnet; empty where the metadata service did not say."""
        self.has_metadata = False
        self._vpc = the_one(place.told, "vpc")
        self._learning = threading.Lock()
        self._nics: tuple[Nic, ...] = ()
        self._read_metadata()
        self.learn()

    def _region(self) -> str:
        region = the_one(self.place.told, "region")
        region = region or os.environ.get("AWS_REGION", "") or os.environ.get("AWS_DEFAULT_REGION", "")
        return region or self.metadata.get("placement/region")

    def _read_metadata(self) -> None:
        """What is good to know, and not needed where hafarm.yaml says the rest."""
        try:
            mac = self.metadata.get("mac")
            self.has_metadata = bool(mac)
            of_mine = f"network/interfaces/macs/{mac}"
            self.subnet_range = self.metadata.get(f"{of_mine}/subnet-ipv4-cidr-block") if mac else ""
            self._vpc = self._vpc or (self.metadata.get(f"{of_mine}/vpc-id") if mac else "")
        except MetadataSilent:
            self.has_metadata = False

    def learn(self) -> None:
        """Look for the nodes' interfaces; a node that is gone keeps what was known of it."""
        owners = {text: node for node, own in self.place.addresses.items() for text in own}
        found: list[Mapping[str, Any]] = []
        for version, name in ((4, "addresses.private-ip-address"), (6, "ipv6-addresses.ipv6-address")):
            wanted = [text for text in owners if ip_address(text).version == version]
            if wanted:
                found += self._interfaces([{"Name": name, "Values": wanted}])
        nics = [nic for one in found for nic in _nics(one, owners)]
        mine = {nic.vpc for nic in nics if nic.node == self.place.me}
        if len(mine) > 1:
            text = f"interfaces in several VPCs ({', '.join(sorted(mine))}) have this node's addresses"
            raise PlaceWrong(self.place.me, text, "say `settings: {vpc: ...}`")
        with self._learning:
            known = {nic.eni for nic in nics}
            kept = [nic for nic in self._nics if nic.eni not in known]
            self._nics = (*(nic for nic in nics if not mine or nic.vpc in mine), *kept)

    def _interfaces(self, filters: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
        if self._vpc:
            filters = [*filters, {"Name": "vpc-id", "Values": [self._vpc]}]
        ec2 = self.account.client("ec2")
        answer = call(
            lambda: ec2.describe_network_interfaces(Filters=filters),
            "DescribeNetworkInterfaces",
            self.account,
        )
        return list(answer["NetworkInterfaces"])

    @property
    def me(self) -> Nic:
        """This node's interface: that of the first of its addresses which has one."""
        found = self.nic(self.place.me)
        if found is None:
            own = ", ".join(self.place.addresses[self.place.me])
            where = f"in region {self.account.region}" + (f", {self._vpc}" if self._vpc else "")
            raise PlaceWrong(
                self.place.me,
                f"no network interface {where} has any of its addresses ({own})",
                "correct `addresses` of the node, or `settings: {region: ...}`",
            )
        return found

    def nic(self, node: NodeName) -> Nic | None:
        """The first in the order of the node's addresses; None where none was found."""
        order = list(self.place.addresses.get(node, ()))
        of_node = [nic for nic in self._nics if nic.node == node]
        return min(of_node, key=lambda nic: order.index(nic.address), default=None)

    def node_of(self, eni: str) -> NodeName | None:
        """Whose interface it is; None: no node's, as far as it is known."""
        return next((nic.node for nic in self._nics if nic.eni == eni), None)

    def node_of_target(self, target: str) -> NodeName | None:
        """Of a load balancer's target: an instance, or an address, also of a node that is gone."""
        for node, own in self.place.addresses.items():
            if target in own:
                return node
        return next((nic.node for nic in self._nics if target == nic.instance), None)

    def instances(self, node: NodeName) -> set[str]:
        """Those to which its interfaces are attached."""
        return {nic.instance for nic in self._nics if nic.node == node and nic.instance}

    def sight(self, parts: Mapping[str, frozenset[str]]) -> Sight:
        """Who has an address. `parts`: what belongs to it, with the interfaces that have it now."""
        enis = {eni for owners in parts.values() for eni in owners}
        if any(self.node_of(eni) is None for eni in enis):
            self.learn()
        return sight(parts, {eni: self.node_of(eni) for eni in enis}, self.place.me)


def _nics(found: Mapping[str, Any], owners: Mapping[str, NodeName]) -> Iterable[Nic]:
    own = [each["PrivateIpAddress"] for each in found.get("PrivateIpAddresses", ())]
    own += [each["Ipv6Address"] for each in found.get("Ipv6Addresses", ())]
    for text in own:
        if text in owners:
            yield Nic(
                owners[text],
                found["NetworkInterfaceId"],
                text,
                found["SubnetId"],
                found["VpcId"],
                str((found.get("Attachment") or {}).get("InstanceId", "")),
                bool(found.get("SourceDestCheck", True)),
            )
            return
