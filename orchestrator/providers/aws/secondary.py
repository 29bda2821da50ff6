"""`secondary-ip`: an address of the subnet that the nodes share, on the network interface of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.providers.aws.account import NAME, code_of
from orchestrator.providers.aws.mode import AwsMode, arn, statement
from orchestrator.providers.faults import (
    MetadataSilent,
    PlaceWrong,
    ProviderFault,
    ProviderRefused,
    ProviderUnreachable,
)
from orchestrator.providers.modes import lies_in
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Sight


class Secondary(AwsMode):
    """Taken from who was seen to have it, then assigned without force: who is late is refused."""

    name = "secondary-ip"

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        seen: dict[str, Sight | Exception] = {}
        for version in (4, 6):
            some = [vip for vip in vips if (":" in vip.address) == (version == 6)]
            if some:
                try:
                    owners = self._owners(some, version)
                except ProviderFault as fault:
                    seen |= dict.fromkeys([vip.address for vip in some], fault)
                else:
                    seen |= {
                        vip.address: self._ground.sight({vip.address: owners[vip.address]}) for vip in some
                    }
        return seen

    def _owners(self, vips: Sequence[Vip], version: int) -> Mapping[str, frozenset[str]]:
        key = "addresses.private-ip-address" if version == 4 else "ipv6-addresses.ipv6-address"
        filters = [
            {"Name": key, "Values": [vip.address for vip in vips]},
            {"Name": "subnet-id", "Values": [self._ground.me.subnet]},
        ]
        ec2 = self._ground.account.client("ec2")
        answer = self._call(
            lambda: ec2.describe_network_interfaces(Filters=filters), "DescribeNetworkInterfaces"
        )
        owners: dict[str, set[str]] = {vip.address: set() for vip in vips}
        for found in answer["NetworkInterfaces"]:
            # Compared exactly: a filter may be generous.
            for address in _addresses(found):
                if address in owners:
                    owners[address].add(found["NetworkInterfaceId"])
        return {address: frozenset(enis) for address, enis in owners.items()}

    def check(self, vip: Vip) -> None:
        """All its nodes are in one subnet, and so is it."""
        me = self._ground.me
        subnets = {node: nic.subnet for node in vip.nodes if (nic := self._ground.nic(node)) is not None}
        if set(subnets.values()) - {me.subnet}:
            told = ", ".join(f"{node} in {subnet}" for node, subnet in sorted(subnets.items()))
            raise PlaceWrong(
                vip.address,
                f"a secondary address stays in its subnet, and the nodes lie in several ({told})",
                "use overlay-route or nlb-probe",
            )
        subnet = self._ground.subnet_range
        if subnet and ":" not in vip.address and not lies_in(vip.address, subnet):
            text = f"does not lie in {me.subnet} ({subnet})"
            raise PlaceWrong(vip.address, text, "choose an address of the subnet")

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        version = 6 if ":" in vip.address else 4
        owners = self._owners([vip], version)[vip.address]
        me = self._ground.me.eni
        for eni in sorted(owners - {me}):
            self._change("unassign", vip, eni)
        if me not in owners:
            self._change("assign", vip, me)
        return {}

    def settled(self, vip: Vip) -> bool:
        """It moves asynchronously: the instance is told when it is there."""
        if not self._ground.has_metadata or ":" in vip.address:
            return True
        metadata = self._ground.metadata
        try:
            mac = metadata.get("mac")
            return vip.address in metadata.get(f"network/interfaces/macs/{mac}/local-ipv4s").split()
        except MetadataSilent:
            return True

    def release(self, vip: Vip) -> None:
        """By this node's own interface: where it has moved on, nothing is hit."""
        version = 6 if ":" in vip.address else 4
        me = self._ground.me.eni
        if me in self._owners([vip], version)[vip.address]:
            self._change("unassign", vip, me)

    def _change(self, verb: str, vip: Vip, eni: str) -> None:
        request, what, words = self._request(verb, vip, eni)
        try:
            self._call(lambda: request(**words), f"{what} of {vip.address}")
        except ProviderRefused as fault:
            if code_of(fault).startswith("InvalidParameter"):
                # It is not where it was a moment ago: AWS has no other word for that.
                raise ProviderUnreachable(NAME, what, fault.why) from fault
            raise

    def _request(self, verb: str, vip: Vip, eni: str) -> tuple[Callable[..., Any], str, dict[str, Any]]:
        ec2 = self._ground.account.client("ec2")
        if ":" in vip.address:
            words: dict[str, Any] = {"NetworkInterfaceId": eni, "Ipv6Addresses": [vip.address]}
            if verb == "assign":
                return ec2.assign_ipv6_addresses, "AssignIpv6Addresses", words
            return ec2.unassign_ipv6_addresses, "UnassignIpv6Addresses", words
        words = {"NetworkInterfaceId": eni, "PrivateIpAddresses": [vip.address]}
        if verb == "assign":
            return (
                ec2.assign_private_ip_addresses,
                "AssignPrivateIpAddresses",
                words | {"AllowReassignment": False},
            )
        return ec2.unassign_private_ip_addresses, "UnassignPrivateIpAddresses", words

    def trials(self, vip: Vip) -> Iterable[tuple[str, Callable[[], Any]]]:
        """AWS has no trial of these two."""
        return ()

    @staticmethod
    def rights(vips: Sequence[Vip], region: str) -> list[dict[str, Any]]:
        actions = set()
        for vip in vips:
            kind = "Ipv6Addresses" if ":" in vip.address else "PrivateIpAddresses"
            actions |= {f"ec2:Assign{kind}", f"ec2:Unassign{kind}"}
        return [statement("MoveSecondary", sorted(actions), [arn(region, "network-interface/*")])]


def _addresses(found: Mapping[str, Any]) -> list[str]:
    v4 = [str(each["PrivateIpAddress"]) for each in found.get("PrivateIpAddresses", ())]
    return v4 + [str(each["Ipv6Address"]) for each in found.get("Ipv6Addresses", ())]
