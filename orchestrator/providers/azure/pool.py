"""`lb-pool`: a load balancer sends to the node that is in its pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from azure.mgmt.network.models import (
    LoadBalancerBackendAddress,
    LoadBalancerBackendAddressPropertiesFormat,
    SubResource,
)

from orchestrator.providers.azure.ground import Part
from orchestrator.providers.azure.mode import AzureMode, called, is_wanted, only_as_seen, state_of
from orchestrator.providers.azure.names import NAMESPACE, Resource, holder
from orchestrator.providers.azure.rights import ASK, Right, Where, by_scope
from orchestrator.providers.faults import PlaceWrong, ProviderFault
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Sight
from orchestrator.providers.sending import side_by_side

POOL: Final = f"{NAMESPACE}/loadBalancers/backendAddressPools"
JOIN: Final = f"{NAMESPACE}/virtualNetworks/joinLoadBalancer/action"


class Pool(AzureMode):
    """One request puts the successor in and the former out, under the pool's ETag: it is never empty."""

    name = "lb-pool"
    settings = ("backend_pools",)

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request per pool: Azure has none for several balancers."""
        seen: dict[str, Any] = {}
        for vip in vips:
            for one in self._named(vip):
                if one.key not in seen:
                    try:
                        seen[one.key] = self._found(one)
                    except ProviderFault as fault:
                        seen[one.key] = fault
        return {vip.address: self._seen(vip, seen) for vip in vips}

    def _seen(self, vip: Vip, seen: Mapping[str, Any]) -> Sight | ProviderFault:
        parts = {}
        for one in self._named(vip):
            found = seen[one.key]
            if isinstance(found, ProviderFault):
                return found
            parts[one.short] = Part(_addresses(found), state_of(found))
        self._looked.things[vip.address] = seen
        return self.judged(vip, parts, by_address=True)

    def _named(self, vip: Vip) -> list[Resource]:
        pools = [
            self._ground.names.find("loadBalancers/backendAddressPools", text)
            for text in vip.settings["backend_pools"]
        ]
        return list({one.key: one for one in pools}.values())

    def _found(self, one: Resource) -> Any:
        client = self._client(one)
        return self._call(
            lambda: client.load_balancer_backend_address_pools.get(one.group, *one.names),
            f"backend pool {one.short}",
        )

    def check(self, vip: Vip) -> None:
        """Its pools have addresses as members: interfaces are members by their own configuration."""
        for one in self._named(vip):
            found = self._found(one)
            if found.backend_ip_configurations or any(not each.ip_address for each in _members(found)):
                text = "its members are network interfaces"
                raise PlaceWrong(f"backend pool {one.short}", text, "make it IP based, or use ilb-probe")

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        """All pools side by side; one that refuses does not keep the others."""
        mine, pools = self._ground.me.address, self._looked.things[vip.address]

        def lead(one: Resource, seen: Any) -> Callable[[], None]:
            return lambda: self.write(
                one,
                seen,
                see=lambda: self._found(one),
                owners=_addresses,
                send=lambda found: self._lead(one, found, mine),
                leave=leave,
            )

        deeds = {
            one.short: lead(one, pools[one.key])
            for one in self._named(vip)
            if _addresses(pools[one.key]) != {mine} or not is_wanted(pools[one.key])
        }
        return self.ended(vip, side_by_side(deeds), leave)

    def _lead(self, one: Resource, found: Any, mine: str) -> None:
        kept = [each for each in _members(found) if each.ip_address == mine]
        self._put(one, found, kept or [self._member(mine, found)])

    def _member(self, address: str, pool: Any) -> LoadBalancerBackendAddress:
        """The network is said once, of the pool or of each member."""
        made = LoadBalancerBackendAddressPropertiesFormat(ip_address=address)
        if pool.virtual_network is None:
            made.virtual_network = SubResource(id=self._ground.me.network)
        return LoadBalancerBackendAddress(name=called(self._ground.place.me), properties=made)

    def _put(self, one: Resource, found: Any, members: Sequence[Any]) -> None:
        client = self._client(one)
        found.load_balancer_backend_addresses = list(members)
        self._call(
            lambda: client.load_balancer_backend_address_pools.begin_create_or_update(
                one.group, *one.names, found, headers=only_as_seen(found), polling=False
            ).result(),
            f"the change of backend pool {one.short}",
        )

    def release(self, vip: Vip) -> None:
        """Only where somebody else is in it: it is never left empty."""
        mine = self._ground.me.address
        for one in self._named(vip):
            with self._ground.turn(holder(one.id)):
                found = self._found(one)
                others = [each for each in _members(found) if each.ip_address != mine]
                if others and len(others) < len(_members(found)):
                    self._put(one, found, others)

    @staticmethod
    def rights(vip: Vip, where: Where) -> list[Right]:
        pools = [
            where.names.find("loadBalancers/backendAddressPools", text).id
            for text in vip.settings["backend_pools"]
        ]
        return [*by_scope(pools, f"{POOL}/read", f"{POOL}/write", ASK), Right(where.network, (JOIN, ASK))]


def _members(found: Any) -> list[Any]:
    return list(found.load_balancer_backend_addresses or ())


def _addresses(found: Any) -> frozenset[str]:
    return frozenset(str(each.ip_address) for each in _members(found))
