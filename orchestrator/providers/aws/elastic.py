"""`elastic-ip`: a public address that AWS translates to the own address of one node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.providers.aws.mode import AwsMode, arn, statement
from orchestrator.providers.faults import PlaceWrong, ProviderFault
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Sight


class Elastic(AwsMode):
    """A compare-and-swap: taken away by the association that was seen, associated without force."""

    name = "elastic-ip"
    local = False
    settings = ("allocation",)

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        names = sorted({vip.setting("allocation") for vip in vips})
        try:
            found = self._found(names)
        except ProviderFault as fault:
            if isinstance(fault, PlaceWrong) and len(vips) > 1:
                return {vip.address: self.look([vip])[vip.address] for vip in vips}
            return dict.fromkeys([vip.address for vip in vips], fault)
        return {vip.address: self._ground.sight({vip.address: _owner(found, vip)}) for vip in vips}

    def _found(self, names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        ec2 = self._ground.account.client("ec2")
        answer = self._call(lambda: ec2.describe_addresses(AllocationIds=names), "DescribeAddresses")
        return {each["AllocationId"]: each for each in answer["Addresses"]}

    def _one(self, vip: Vip) -> Mapping[str, Any]:
        return self._found([vip.setting("allocation")])[vip.setting("allocation")]

    def check(self, vip: Vip) -> None:
        """The allocation is that address."""
        public = self._one(vip).get("PublicIp", "")
        if public != vip.address:
            text = f"is {public}, and the virtual IP {vip.address}"
            raise PlaceWrong(f"allocation {vip.setting('allocation')}", text, "correct one of them")

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        ec2, one, me = self._ground.account.client("ec2"), self._one(vip), self._ground.me
        if one.get("AssociationId"):
            self._leave_off(one)
        words = {
            "AllocationId": vip.setting("allocation"),
            "NetworkInterfaceId": me.eni,
            "PrivateIpAddress": me.address,
            "AllowReassociation": False,
        }
        self._call(lambda: ec2.associate_address(**words), f"AssociateAddress of {vip.address}")
        return {}

    def release(self, vip: Vip) -> None:
        """By the association that was seen: a successor's is another."""
        one = self._one(vip)
        if one.get("NetworkInterfaceId") == self._ground.me.eni:
            self._leave_off(one)

    def _leave_off(self, one: Mapping[str, Any]) -> None:
        ec2 = self._ground.account.client("ec2")
        self._call(
            lambda: ec2.disassociate_address(AssociationId=one["AssociationId"]),
            f"DisassociateAddress of {one.get('PublicIp', '')}",
        )

    def trials(self, vip: Vip) -> Iterable[tuple[str, Callable[[], Any]]]:
        ec2, me = self._ground.account.client("ec2"), self._ground.me
        words = {"AllocationId": vip.setting("allocation"), "NetworkInterfaceId": me.eni, "DryRun": True}
        yield "AssociateAddress", lambda: ec2.associate_address(**words)
        association = str(self._one(vip).get("AssociationId") or "")
        if association:
            words = {"AssociationId": association, "DryRun": True}
            yield "DisassociateAddress", lambda: ec2.disassociate_address(**words)

    @staticmethod
    def rights(vips: Sequence[Vip], region: str) -> list[dict[str, Any]]:
        addresses = [arn(region, f"elastic-ip/{vip.setting('allocation')}") for vip in vips]
        # The action is judged on both ends: the address, and the interface of either node.
        ends = [*addresses, arn(region, "network-interface/*"), arn(region, "instance/*")]
        return [
            statement("LookAtElastic", ["ec2:DescribeAddresses"]),
            statement("MoveElastic", ["ec2:AssociateAddress", "ec2:DisassociateAddress"], ends),
        ]


def _owner(found: Mapping[str, Mapping[str, Any]], vip: Vip) -> frozenset[str]:
    one = found[vip.setting("allocation")]
    if not one.get("AssociationId"):
        return frozenset()
    return frozenset({str(one.get("NetworkInterfaceId") or one.get("InstanceId"))})
