"""`nlb-probe`, `nlb-register`: a network load balancer sends to who answers well, or is registered."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from orchestrator.model.names import NodeName
from orchestrator.providers.aws.mode import AwsMode, statement
from orchestrator.providers.faults import PlaceWrong, ProviderFault
from orchestrator.providers.modes import sight
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Sight
from orchestrator.providers.sending import side_by_side

GONE: Final = frozenset({"draining"})
"""States of a target that gets nothing new."""
WELL: Final = frozenset({"healthy", "unhealthy.draining"})
Target = tuple[str, int]


class Balancer(AwsMode):
    """What both have in common: target groups, whose targets are instances or addresses of the nodes."""

    local = False
    settings = ("target_groups",)

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request per target group: AWS has no wider one."""
        groups = {group for vip in vips for group in vip.settings["target_groups"]}
        seen: dict[str, Mapping[Target, str] | ProviderFault] = {}
        for group in sorted(groups):
            try:
                seen[group] = self._targets(group)
            except ProviderFault as fault:
                seen[group] = fault
        return {vip.address: self._seen(vip, seen) for vip in vips}

    def _seen(self, vip: Vip, seen: Mapping[str, Mapping[Target, str] | ProviderFault]) -> Sight | Exception:
        parts: dict[str, frozenset[str]] = {}
        for group in vip.settings["target_groups"]:
            found = seen[group]
            if isinstance(found, ProviderFault):
                return found
            parts[_short(group)] = frozenset(
                target for (target, _), state in found.items() if self._counts(state)
            )
        nodes: dict[str, NodeName | None] = {
            one: self._ground.node_of_target(one) for owners in parts.values() for one in owners
        }
        return sight(parts, nodes, self._ground.place.me)

    @abstractmethod
    def _counts(self, state: str) -> bool:
        """Whether a target in this state has the address."""

    def _targets(self, group: str) -> Mapping[Target, str]:
        elb = self._ground.account.client("elbv2")
        answer = self._call(
            lambda: elb.describe_target_health(TargetGroupArn=group),
            f"DescribeTargetHealth of {_short(group)}",
        )
        return {
            (each["Target"]["Id"], int(each["Target"].get("Port", 0))): str(each["TargetHealth"]["State"])
            for each in answer["TargetHealthDescriptions"]
        }

    def _groups(self, vip: Vip) -> Mapping[str, Mapping[str, Any]]:
        elb = self._ground.account.client("elbv2")
        names = list(vip.settings["target_groups"])
        answer = self._call(lambda: elb.describe_target_groups(TargetGroupArns=names), "DescribeTargetGroups")
        return {each["TargetGroupArn"]: each for each in answer["TargetGroups"]}

    def check(self, vip: Vip) -> None:
        """The groups are of this VPC, and take instances or addresses."""
        me = self._ground.me
        for name, group in self._groups(vip).items():
            if group.get("VpcId") and group["VpcId"] != me.vpc:
                text = f"belongs to {group['VpcId']}, and this node to {me.vpc}"
                raise PlaceWrong(f"target group {_short(name)}", text, "name groups of the nodes' own VPC")
            if group["TargetType"] not in ("instance", "ip"):
                text = f"has targets of type {group['TargetType']}"
                raise PlaceWrong(f"target group {_short(name)}", text, "use type instance or ip")

    def _mine(self, group: Mapping[str, Any]) -> dict[str, Any]:
        me = self._ground.me
        return {"Id": me.instance if group["TargetType"] == "instance" else me.address, "Port": group["Port"]}


class Probe(Balancer):
    """A move asks nothing of AWS: all are registered, and the health port says who serves."""

    name = "nlb-probe"
    by_probe = True

    def _counts(self, state: str) -> bool:
        return state in WELL

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        return {}

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        found = []
        health = self._ground.place.health_port
        path = f"/m/{vip.module}/primary"
        for name, group in self._groups(vip).items():
            short = f"target group {_short(name)}"
            if group.get("HealthCheckProtocol") != "HTTP" or group.get("HealthCheckPath") != path:
                found.append(Finding(short, "its health check is not this module's", f"HTTP, path {path}"))
            if str(group.get("HealthCheckPort")) != str(health):
                asked = f"its health check asks port {group.get('HealthCheckPort')}"
                found.append(Finding(short, asked, f"port {health}, which is `ports: {{health}}`"))
            there = {self._ground.node_of_target(target) for target, _ in self._targets(name)}
            for node in sorted(set(vip.nodes) - there):
                text = f"{node} is not registered: the first registration takes minutes"
                found.append(Finding(short, text, "register every node, for ever"))
            if None in there:
                text = "a target is no node of this cluster, and would be sent to as well"
                found.append(Finding(short, text, "deregister it"))
        return found

    @staticmethod
    def rights(vips: Sequence[Vip], region: str) -> list[dict[str, Any]]:
        return [statement("LookAtTargets", [f"elasticloadbalancing:{each}" for each in LOOKS])]


class Register(Balancer):
    """The successor is registered before the former is taken off: an empty group fails open."""

    name = "nlb-register"

    def _counts(self, state: str) -> bool:
        return state not in GONE

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        groups = self._groups(vip)

        def lead(name: str) -> Callable[[], None]:
            return lambda: self._lead(name, groups[name])

        return {
            _short(name): fault for name, fault in side_by_side({name: lead(name) for name in groups}).items()
        }

    def _lead(self, name: str, group: Mapping[str, Any]) -> None:
        elb = self._ground.account.client("elbv2")
        there = {target for target, state in self._targets(name).items() if state not in GONE}
        mine = self._mine(group)
        if (mine["Id"], mine["Port"]) not in there:
            self._call(
                lambda: elb.register_targets(TargetGroupArn=name, Targets=[mine]),
                f"RegisterTargets in {_short(name)}",
            )
        me = self._ground.place.me
        others = [
            {"Id": target, "Port": port}
            for target, port in sorted(there)
            if self._ground.node_of_target(target) not in (me, None)
        ]
        if others:
            self._call(
                lambda: elb.deregister_targets(TargetGroupArn=name, Targets=others),
                f"DeregisterTargets in {_short(name)}",
            )

    def release(self, vip: Vip) -> None:
        """Only where somebody else is registered."""
        elb, me = self._ground.account.client("elbv2"), self._ground.place.me
        for name, group in self._groups(vip).items():
            there = {target for target, state in self._targets(name).items() if state not in GONE}
            mine = self._mine(group)
            others = [target for target, _ in there if self._ground.node_of_target(target) != me]
            if others and (mine["Id"], mine["Port"]) in there:
                words = {"TargetGroupArn": name, "Targets": [mine]}
                self._call(
                    lambda words=words: elb.deregister_targets(**words),  # type: ignore[misc]
                    f"DeregisterTargets in {_short(name)}",
                )

    @staticmethod
    def rights(vips: Sequence[Vip], region: str) -> list[dict[str, Any]]:
        groups = sorted({group for vip in vips for group in vip.settings["target_groups"]})
        moves = ["elasticloadbalancing:DeregisterTargets", "elasticloadbalancing:RegisterTargets"]
        return [
            statement("LookAtTargets", [f"elasticloadbalancing:{each}" for each in LOOKS]),
            statement("MoveTargets", moves, groups),
        ]


LOOKS: Final = ("DescribeTargetGroups", "DescribeTargetHealth")


def _short(group: str) -> str:
    """An ARN's readable part."""
    return group.rpartition("targetgroup/")[2].partition("/")[0] or group
