"""Azure: which way each address is moved here, and the rights that this needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from orchestrator.providers.azure.account import NAME
from orchestrator.providers.azure.balancer import Probe
from orchestrator.providers.azure.ground import Ground
from orchestrator.providers.azure.ipconfig import IpConfiguration
from orchestrator.providers.azure.mode import AzureMode
from orchestrator.providers.azure.names import Names
from orchestrator.providers.azure.pool import Pool
from orchestrator.providers.azure.public import PublicIp
from orchestrator.providers.azure.rights import READ_NICS, Right, Where, by_scope, roles
from orchestrator.providers.azure.routes import Routes
from orchestrator.providers.faults import PlaceWrong
from orchestrator.providers.modes import ByMode, the_one
from orchestrator.providers.mover import Place, Vip

MODES: Final[Mapping[str, type[AzureMode]]] = {
    mode.name: mode for mode in (Probe, Routes, IpConfiguration, PublicIp, Pool)
}
UNSEEN: Final = Names("SUBSCRIPTION", ("RESOURCE-GROUP",))
"""Of a policy for a file that leaves them to the metadata service."""


class Azure(ByMode[Ground]):
    """Keeps `providers.mover.Mover`."""

    name = "azure"
    cloud = NAME
    modes: ClassVar[Mapping[str, type[AzureMode]]] = MODES

    def _learn(self) -> Ground:
        return Ground(self._place)

    def _by_place(self, vip: Vip, ground: Ground) -> tuple[str, str]:
        """Subnets are compared by their identifiers in Azure."""
        if vip.setting("public_ip"):
            return PublicIp.name, "the settings name a public IP address"
        me, nics = ground.me, ground.nics(vip)
        told = ", ".join(
            f"{nic.node} in {_short(nic.subnet)}" for nic in sorted(nics, key=lambda nic: nic.node)
        )
        many = {nic.subnet.lower() for nic in nics} != {me.subnet.lower()}
        which = (
            f"the nodes are in several subnets ({told})" if many else f"all nodes are in one subnet ({told})"
        )
        if vip.setting("load_balancer"):
            return (
                Probe.name,
                f"{which}, and the settings name a load balancer: no move asks anything of Azure",
            )
        if not many and ground.in_subnet(vip.address):
            return IpConfiguration.name, which
        if not many:
            which = f"it is no address of {_short(me.subnet)} ({told})"
        if vip.settings.get("backend_pools"):
            return Pool.name, f"{which}, and the settings name backend pools"
        if vip.settings.get("route_tables"):
            return Routes.name, f"{which}, and the settings name route tables"
        raise PlaceWrong(
            vip.address,
            f"no way leads it from node to node: {which}",
            "name a `load_balancer`, or `route_tables` for an address outside of the virtual network",
        )

    @staticmethod
    def policy(place: Place) -> Mapping[str, Any]:
        return policy(place)


def _short(subnet: str) -> str:
    """NETWORK/SUBNET."""
    words = subnet.split("/")
    return f"{words[-3]}/{words[-1]}" if len(words) > 3 else subnet


# --- rights ---------------------------------------------------------------------------------------------


def policy(place: Place) -> Mapping[str, Any]:
    """Custom roles by where they are to be assigned; needs nothing but the configuration."""
    return roles(place.cluster, needed(place))


def needed(place: Place) -> list[Right]:
    """The least rights of a node, whichever of them it is."""
    groups = tuple({group: None for vip in place.vips for group in vip.settings.get("resource_group", ())})
    names = Names(the_one(place.vips, "subscription") or UNSEEN.subscription, groups or UNSEEN.groups)
    network = the_one(place.vips, "network")
    where = Where.unseen(
        names,
        names.find("virtualNetworks", network).id if network else "",
        any(vip.settings.get(name) for vip in place.vips for name in ("load_balancer", "backend_pools")),
    )
    rights = by_scope(names.group_ids, READ_NICS)
    for vip in place.vips:
        for name in _possible(vip):
            rights += MODES[name].rights(vip, where)
            if name == Routes.name:
                rights += Routes.own_rights(where)
    return rights


def _possible(vip: Vip) -> Iterable[str]:
    """The modes that an address may be moved by, as far as the configuration tells."""
    if vip.mode:
        return [vip.mode] if vip.mode in MODES else []
    told = [
        name
        for name, mode in MODES.items()
        if mode.settings and all(vip.settings.get(setting) for setting in mode.settings)
    ]
    for first in (PublicIp.name, Probe.name):
        if first in told:
            return [first]
    return [*told, IpConfiguration.name]
