"""GCP: which way each address is moved here, and the rights that this needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from orchestrator.providers.faults import PlaceWrong
from orchestrator.providers.gcp.account import NAME, last
from orchestrator.providers.gcp.alias import Alias
from orchestrator.providers.gcp.balancer import Probe
from orchestrator.providers.gcp.ground import Ground
from orchestrator.providers.gcp.mode import GcpMode
from orchestrator.providers.gcp.routes import Routes
from orchestrator.providers.gcp.rules import SETTING, Forwarding, all_rules, named
from orchestrator.providers.modes import ByMode
from orchestrator.providers.mover import Place, Vip

MODES: Final[Mapping[str, type[GcpMode]]] = {mode.name: mode for mode in (Probe, Routes, Alias, Forwarding)}


class Gcp(ByMode[Ground]):
    """Keeps `providers.mover.Mover`."""

    name = "gcp"
    cloud = NAME
    modes: ClassVar[Mapping[str, type[GcpMode]]] = MODES

    def __init__(self, place: Place) -> None:
        self._kinds: dict[str, str] = {}
        """By address, the mode that its forwarding rules are for: that does not change while they have it."""
        super().__init__(place)

    def _learn(self) -> Ground:
        return Ground(self._place)

    def _by_place(self, vip: Vip, ground: Ground) -> tuple[str, str]:
        """Subnetworks are compared by what they are called in GCP."""
        me = ground.me
        if vip.settings.get(SETTING):
            return self._by_rules(vip, ground)
        nics = {node: nic for node in vip.nodes if (nic := ground.nic(node)) is not None}
        told = ", ".join(f"{node} in {last(nic.subnet)}" for node, nic in sorted(nics.items()))
        is_one = {nic.subnet for nic in nics.values()} == {me.subnet}
        inside = next((one for one in ground.subnets() if one.range_of(vip.address) is not None), None)
        if inside is None:
            return Routes.name, f"it lies in no subnetwork of {last(me.network)} ({told})"
        if is_one and inside.path == me.subnet and ":" not in vip.address:
            return Alias.name, f"all nodes are in one subnetwork, and so is it ({told})"
        which = (
            f"it lies in {last(inside.path)} ({told})"
            if is_one
            else f"it lies in {last(inside.path)}, and the nodes are in several subnetworks ({told})"
        )
        raise PlaceWrong(
            vip.address,
            f"no way leads it from node to node: {which}",
            "name `forwarding_rules` of a load balancer, or choose an address outside of all subnetworks",
        )

    def _by_rules(self, vip: Vip, ground: Ground) -> tuple[str, str]:
        if vip.address not in self._kinds:
            rules = named(vip, all_rules(ground), ground)
            balanced = all(rule.backend_service for rule in rules)
            self._kinds[vip.address] = Probe.name if balanced else Forwarding.name
        name = self._kinds[vip.address]
        leads = "a backend service" if name == Probe.name else "a target instance"
        return name, f"the settings name forwarding rules, which lead to {leads}"

    @staticmethod
    def policy(place: Place) -> Mapping[str, Any]:
        return policy(place)


# --- rights ---------------------------------------------------------------------------------------------


def policy(place: Place) -> Mapping[str, Any]:
    """A custom role; needs nothing but the configuration."""
    rights = {"compute.instances.list"}
    for vip in place.vips:
        for name in _possible(vip):
            rights |= set(MODES[name].rights([vip]))
    role = {
        "title": f"hafarm {place.cluster}",
        "description": f"Moves the virtual IPs of the cluster {place.cluster}",
        "stage": "GA",
        "includedPermissions": sorted(rights),
    }
    return {"a custom role for the nodes' service account": role}


def _possible(vip: Vip) -> Iterable[str]:
    """The modes that an address may be moved by, as far as the configuration tells."""
    if vip.mode:
        return [vip.mode] if vip.mode in MODES else []
    return [Probe.name, Forwarding.name] if vip.settings.get(SETTING) else [Alias.name, Routes.name]
