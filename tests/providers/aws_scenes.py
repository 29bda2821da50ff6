"""The scenes of AWS."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar

from orchestrator.model.config import VipConfig
from orchestrator.model.names import NodeName
from tests.providers.nodes import LYON, PARIS
from tests.providers.scenes import STRANGER, Scene
from tests.support.clouds.aws import REGION, Simulated, Vpc, backend, simulated


class AwsScene(Scene):
    """A VPC."""

    def __init__(self, aws: Simulated) -> None:
        self.aws, self.knobs = aws, aws.knobs
        self.vpc = self.build()
        subnet_of = {PARIS: "a", LYON: "b" if "b" in self.vpc.subnets else "a"}
        for name, address in self.own.items():
            self.vpc.node(name, subnet_of[name], address)
        self.vpc.node(STRANGER, "a", "10.0.1.99")
        self.vip = self.make()
        self._metadata = dict(aws.metadata.nodes)

    @staticmethod
    def cloud() -> AbstractContextManager[Simulated]:
        return simulated()

    def environment(self, node: NodeName) -> dict[str, str]:
        return self.aws.environment(node)

    def reset(self) -> None:
        """Nobody has it, every interface lets it pass, and the metadata service tells of this scene."""
        self.aws.metadata.dead, self.aws.metadata.nodes = False, dict(self._metadata)
        for eni in self.vpc.enis.values():
            words: Any = {"NetworkInterfaceId": eni, "SourceDestCheck": {"Value": False}}
            self.vpc.ec2.modify_network_interface_attribute(**words)
        super().reset()

    def build(self) -> Vpc:
        ranges = {"a": "10.0.1.0/24", "b": "10.0.2.0/24"}
        return Vpc(self.aws, "10.0.0.0/16", ranges, tables=3)

    def make(self) -> VipConfig:
        """What hafarm.yaml says."""
        raise NotImplementedError(self.mode)


class Overlay(AwsScene):
    mode, change, look, parts = "overlay-route", "ReplaceRoute", "DescribeRouteTables", 3
    address = "198.18.50.1"

    def make(self) -> VipConfig:
        settings = {"route_tables": tuple(self.vpc.tables), "region": (REGION,)}
        return VipConfig(f"{self.address}/32", provider="aws", mode=self.mode, settings=settings)

    def second_part(self) -> tuple[str, str]:
        return self.vpc.tables[1], self.vpc.tables[1]

    def give(self, *owners: str) -> None:
        for number, table in enumerate(self.vpc.tables):
            words: Any = {"RouteTableId": table, "DestinationCidrBlock": f"{self.address}/32"}
            if self.vpc.led_to(self.address, table):
                self.vpc.ec2.delete_route(**words)
            if owners:
                eni = self.vpc.enis[owners[number % len(owners)]]
                self.vpc.ec2.create_route(**words, NetworkInterfaceId=eni)

    def owners(self) -> set[str]:
        return {self.vpc.led_to(self.address, table) for table in self.vpc.tables} - {""}


class SecondaryIp(AwsScene):
    mode, change, look = "secondary-ip", "AssignPrivateIpAddresses", "DescribeNetworkInterfaces"
    address = "10.0.1.100"
    own: ClassVar[dict[NodeName, str]] = {PARIS: "10.0.1.11", LYON: "10.0.1.12"}

    def build(self) -> Vpc:
        return Vpc(self.aws, "10.0.0.0/16", {"a": "10.0.1.0/24"})

    def make(self) -> VipConfig:
        return VipConfig(f"{self.address}/24", provider="aws", mode=self.mode, settings={"region": (REGION,)})

    def give(self, *owners: str) -> None:
        for name in self.owners():
            words = {"NetworkInterfaceId": self.vpc.enis[name], "PrivateIpAddresses": [self.address]}
            self.vpc.ec2.unassign_private_ip_addresses(**words)
        for name in owners:
            self.plant(name)

    def plant(self, name: str) -> None:
        """Without a look at who else has it, as AWS may show it while an address moves."""
        eni = backend().get_network_interface(self.vpc.enis[name])
        eni.private_ip_addresses.append({"Primary": False, "PrivateIpAddress": self.address})

    def owners(self) -> set[str]:
        names = {eni: name for name, eni in self.vpc.enis.items()}
        found = self.vpc.ec2.describe_network_interfaces(NetworkInterfaceIds=list(names))["NetworkInterfaces"]
        return {
            names[one["NetworkInterfaceId"]]
            for one in found
            if any(each["PrivateIpAddress"] == self.address for each in one["PrivateIpAddresses"])
        }


class ElasticIp(AwsScene):
    mode, change, look = "elastic-ip", "AssociateAddress", "DescribeAddresses"
    shared = False  # by AWS' own word

    def make(self) -> VipConfig:
        made = self.vpc.ec2.allocate_address(Domain="vpc")
        self.allocation = made["AllocationId"]
        settings = {"allocation": (self.allocation,), "region": (REGION,)}
        return VipConfig(f"{made['PublicIp']}/32", provider="aws", mode=self.mode, settings=settings)

    def _found(self) -> dict[str, Any]:
        found: dict[str, Any] = self.vpc.ec2.describe_addresses(AllocationIds=[self.allocation])["Addresses"][
            0
        ]
        return found

    def give(self, *owners: str) -> None:
        if self._found().get("AssociationId"):
            self.vpc.ec2.disassociate_address(AssociationId=self._found()["AssociationId"])
        for name in owners[:1]:
            self.vpc.ec2.associate_address(
                AllocationId=self.allocation, NetworkInterfaceId=self.vpc.enis[name]
            )

    def owners(self) -> set[str]:
        eni = self._found().get("NetworkInterfaceId") if self._found().get("AssociationId") else None
        return {name for name, own in self.vpc.enis.items() if own == eni}


class NlbRegister(AwsScene):
    mode, change, look, parts = "nlb-register", "RegisterTargets", "DescribeTargetHealth", 2

    def make(self) -> VipConfig:
        self.elb = self.aws.client("elbv2")
        self.groups = [self._group(number) for number in range(self.parts)]
        settings = {"target_groups": tuple(self.groups), "region": (REGION,)}
        return VipConfig("198.18.60.1/32", provider="aws", mode=self.mode, settings=settings)

    def _group(self, number: int) -> str:
        made = self.elb.create_target_group(
            Name=f"shop-{number}",
            Protocol="TCP",
            Port=8080 + number,
            VpcId=self.vpc.id,
            TargetType="instance",
        )
        return str(made["TargetGroups"][0]["TargetGroupArn"])

    def second_part(self) -> tuple[str, str]:
        return self.groups[1], "shop-1"

    def give(self, *owners: str) -> None:
        for group in self.groups:
            there = [{"Id": self.vpc.instances[name]} for name in self._in(group)]
            if there:
                self.elb.deregister_targets(TargetGroupArn=group, Targets=there)
            if owners:
                targets = [{"Id": self.vpc.instances[name]} for name in owners]
                self.elb.register_targets(TargetGroupArn=group, Targets=targets)

    def _in(self, group: str) -> set[str]:
        health = self.elb.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
        ids = {each["Target"]["Id"] for each in health if each["TargetHealth"]["State"] != "draining"}
        return {name for name, own in self.vpc.instances.items() if own in ids}

    def owners(self) -> set[str]:
        return set().union(*(self._in(group) for group in self.groups))


class Dns(AwsScene):
    mode, change, look = "dns", "ChangeResourceRecordSets", "ListResourceRecordSets"
    record = "shop.example.com."

    def make(self) -> VipConfig:
        self.route53 = self.aws.client("route53")
        made = self.route53.create_hosted_zone(Name="example.com.", CallerReference=self.vpc.id)
        self.zone = made["HostedZone"]["Id"].rpartition("/")[2]
        settings = {
            "zone": (self.zone,),
            "record": ("shop.example.com",),
            "ttl": ("5",),
            "region": (REGION,),
        }
        return VipConfig("198.18.70.1/32", provider="aws", mode=self.mode, settings=settings)

    def _found(self) -> dict[str, Any] | None:
        words = {"HostedZoneId": self.zone, "StartRecordName": self.record, "StartRecordType": "A"}
        found = self.route53.list_resource_record_sets(**words)["ResourceRecordSets"]
        return next((each for each in found if (each["Name"], each["Type"]) == (self.record, "A")), None)

    def put(self, ttl: int, *values: str) -> None:
        """The record, as somebody else may write it; without values there is none."""
        found = self._found()
        changes = [{"Action": "DELETE", "ResourceRecordSet": found}] if found else []
        if values:
            records = [{"Value": value} for value in values]
            made = {"Name": self.record, "Type": "A", "TTL": ttl, "ResourceRecords": records}
            changes.append({"Action": "CREATE", "ResourceRecordSet": made})
        if changes:
            self.route53.change_resource_record_sets(HostedZoneId=self.zone, ChangeBatch={"Changes": changes})

    @property
    def _values(self) -> dict[str, str]:
        return {**self.own, STRANGER: "10.0.1.99"}

    def give(self, *owners: str) -> None:
        self.put(5, *(self._values[name] for name in owners))

    def owners(self) -> set[str]:
        found = self._found()
        values = {each["Value"] for each in found["ResourceRecords"]} if found else set()
        return {name for name, own in self._values.items() if own in values}


AWS_SCENES: dict[str, type[AwsScene]] = {
    scene.mode: scene for scene in (Overlay, SecondaryIp, ElasticIp, NlbRegister, Dns)
}
