"""AWS: which way each address is moved here, and the rights that this needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from orchestrator.model.names import NodeName
from orchestrator.providers.aws import instances
from orchestrator.providers.aws.account import NAME
from orchestrator.providers.aws.balancer import Probe, Register
from orchestrator.providers.aws.dns import Dns
from orchestrator.providers.aws.elastic import Elastic
from orchestrator.providers.aws.ground import Ground
from orchestrator.providers.aws.mode import POLICY_HINT, AwsMode, statement
from orchestrator.providers.aws.routes import Routes
from orchestrator.providers.aws.secondary import Secondary
from orchestrator.providers.faults import PlaceWrong, ProviderFault
from orchestrator.providers.fencing import ByMachines
from orchestrator.providers.modes import ByMode, lies_in
from orchestrator.providers.mover import Leave, Place, Vip
from orchestrator.providers.provider import Finding

MODES: Final[Mapping[str, type[AwsMode]]] = {
    mode.name: mode for mode in (Secondary, Routes, Elastic, Probe, Register, Dns)
}


class Aws(ByMode[Ground], ByMachines):
    """Keeps `providers.mover.Mover`, and `providers.fencing.Fencer`."""

    name = "aws"
    cloud = NAME
    modes: ClassVar[Mapping[str, type[AwsMode]]] = MODES

    def _learn(self) -> Ground:
        return Ground(self._place)

    def _by_place(self, vip: Vip, ground: Ground) -> tuple[str, str]:
        """Subnets are compared by what they are called in AWS."""
        if vip.setting("record"):
            return Dns.name, "the settings name a record"
        me = ground.me
        nics = {node: nic for node in vip.nodes if (nic := ground.nic(node)) is not None}
        told = ", ".join(f"{node} in {nic.subnet}" for node, nic in sorted(nics.items()))
        if vip.setting("allocation"):
            return Elastic.name, "the settings name an Elastic IP"
        inside = not ground.subnet_range or ":" in vip.address or lies_in(vip.address, ground.subnet_range)
        if {nic.subnet for nic in nics.values()} == {me.subnet} and inside:
            return Secondary.name, f"all nodes are in one subnet ({told})"
        many = {nic.subnet for nic in nics.values()} != {me.subnet}
        which = (
            f"the nodes are in several subnets ({told})"
            if many
            else f"it is no address of {me.subnet} ({told})"
        )
        if vip.settings.get("target_groups"):
            return Probe.name, f"{which}, and the settings name target groups"
        if vip.settings.get("route_tables"):
            return Routes.name, f"{which}, and the settings name route tables"
        raise PlaceWrong(
            vip.address,
            f"no way leads it from node to node: {which}",
            "name `target_groups` of a load balancer, or `route_tables` for an address outside of the VPC",
        )

    def preflight(self, repair: bool, leave: Leave) -> list[Finding]:
        found = super().preflight(repair, leave)
        if self._place.fence is None:
            return found
        try:
            return found + self._machines().findings(self._place.fence.verb == "reset")
        except ProviderFault as fault:
            return [*found, Finding("fencing", str(fault), POLICY_HINT)]

    def _machines(self) -> instances.Instances:
        return instances.Instances(self._prepared())

    def _mine(self) -> NodeName:
        return self._place.me

    @staticmethod
    def policy(place: Place) -> Mapping[str, Any]:
        return policy(place)


# --- rights ---------------------------------------------------------------------------------------------


def policy(place: Place) -> Mapping[str, Any]:
    """Documents by the role that needs them; needs nothing but the configuration."""
    region = next((one.setting("region") for one in place.told if one.setting("region")), "")
    own = [statement("LookAtNodes", ["ec2:DescribeNetworkInterfaces"])]
    roles: dict[str, list[dict[str, Any]]] = {}
    by_mode: dict[tuple[str, str], list[Vip]] = defaultdict(list)
    for vip in place.vips:
        for name in _possible(vip):
            by_mode[name, vip.setting("role") if name == Routes.name else ""].append(vip)
    for (name, role), vips in by_mode.items():
        rights = MODES[name].rights(vips, region)
        if role:
            roles.setdefault(role, []).extend(rights)
        else:
            own += rights
    if any(name == Routes.name for name, _ in by_mode):
        own += Routes.own_rights(region)
    if place.fence is not None:
        own += instances.rights(region, place.fence.verb == "reset")
    if roles:
        own.append(statement("TakeOnRoles", ["sts:AssumeRole"], sorted(roles)))
    documents = {"this node's role": own, **roles}
    return {
        whose: {"Version": "2012-10-17", "Statement": _once(rights)} for whose, rights in documents.items()
    }


def _possible(vip: Vip) -> Iterable[str]:
    """The modes that an address may be moved by, as far as the configuration tells."""
    if vip.mode:
        return [vip.mode] if vip.mode in MODES else []
    told = [
        name
        for name, mode in MODES.items()
        if mode.settings and all(vip.settings.get(s) for s in mode.settings)
    ]
    return [name for name in told if name != Register.name] or [Secondary.name]


def _once(rights: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same statement once."""
    found: list[dict[str, Any]] = []
    for each in rights:
        if each not in found:
            found.append(each)
    return found
