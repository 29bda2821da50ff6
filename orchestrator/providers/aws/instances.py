"""EC2 instances of the cluster's nodes: off, and on again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from orchestrator.model.names import NodeName
from orchestrator.providers.aws.account import NAME, call
from orchestrator.providers.aws.ground import Ground
from orchestrator.providers.aws.mode import POLICY_HINT, arn, permitted, statement
from orchestrator.providers.faults import PlaceWrong, ProviderFault
from orchestrator.providers.fencing import Machines, Power
from orchestrator.providers.provider import Finding

POWER: Final[Mapping[str, Power]] = {
    "pending": Power.ON,
    "running": Power.ON,
    "stopping": Power.GOING,
    "shutting-down": Power.GOING,
    "stopped": Power.OFF,
    "terminated": Power.OFF,
}


class Instances(Machines):
    """Found by the nodes' addresses each time: an instance that was replaced has another name."""

    cloud = NAME

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def find(self, *nodes: NodeName) -> Mapping[NodeName, str]:
        self._ground.learn()
        return {node: self._one(node) for node in nodes}

    def _one(self, node: NodeName) -> str:
        found = self._ground.instances(node)
        if not found:
            own = ", ".join(self._ground.place.addresses.get(node, ()))
            raise PlaceWrong(node, f"no instance has any of its addresses ({own})", "look at it in AWS")
        if len(found) > 1:
            text = f"several instances have its addresses: {', '.join(sorted(found))}"
            raise PlaceWrong(node, text, "look at them in AWS: which of them is the node is not guessed")
        return found.pop()

    def power(self, machine: str) -> tuple[Power, str]:
        ec2 = self._ground.account.client("ec2")
        answer = self._call(lambda: ec2.describe_instances(InstanceIds=[machine]), "DescribeInstances")
        (state,) = [str(one["State"]["Name"]) for each in answer["Reservations"] for one in each["Instances"]]
        # A state of which nothing is known is not off.
        return POWER.get(state, Power.GOING), state

    def stop(self, machine: str, gently: bool) -> None:
        """Forced either way: a system that does not end would keep what runs on it for ever."""
        ec2 = self._ground.account.client("ec2")
        words: dict[str, Any] = {"InstanceIds": [machine], "Force": True}
        if not gently:
            words["SkipOsShutdown"] = True
        self._call(lambda: ec2.stop_instances(**words), f"StopInstances of {machine}")

    def start(self, machine: str) -> None:
        ec2 = self._ground.account.client("ec2")
        self._call(lambda: ec2.start_instances(InstanceIds=[machine]), f"StartInstances of {machine}")

    def findings(self, starts: bool) -> list[Finding]:
        """What would refuse it, of every other node; nothing is changed to learn it."""
        found = []
        for node in self._ground.place.addresses:
            if node == self._ground.place.me:
                continue
            try:
                machine = self.find(node)[node]
                self.power(machine)
            except ProviderFault as fault:
                found.append(Finding(f"fencing of {node}", str(fault), POLICY_HINT))
                continue
            for action, request in self._trials(machine, starts):
                if why := permitted(request):
                    found.append(Finding(f"fencing of {node}", f"{action}: {why}", POLICY_HINT))
        return found

    def _trials(self, machine: str, starts: bool) -> Iterable[tuple[str, Callable[[], Any]]]:
        ec2 = self._ground.account.client("ec2")
        words: dict[str, Any] = {"InstanceIds": [machine], "DryRun": True}
        yield "StopInstances", lambda: ec2.stop_instances(**words, Force=True)
        if starts:
            yield "StartInstances", lambda: ec2.start_instances(**words)

    def _call(self, request: Callable[[], Any], what: str) -> Any:
        return call(request, what, self._ground.account)


def rights(region: str, starts: bool) -> list[dict[str, Any]]:
    """Statements of the least policy; which instances the nodes are is not known to the configuration."""
    actions = ["ec2:StopInstances", *(["ec2:StartInstances"] if starts else [])]
    return [
        statement("LookAtInstances", ["ec2:DescribeInstances"]),
        statement("SwitchNodes", actions, [arn(region, "instance/*")]),
    ]
