"""`udr`: an address outside of the virtual network's range, led to a node by a route in each of N tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any, Final

from azure.mgmt.network.models import Route, RoutePropertiesFormat

from orchestrator.providers.azure.ground import Part
from orchestrator.providers.azure.interfaces import rewrite
from orchestrator.providers.azure.mode import (
    ONLY_NEW,
    AzureMode,
    called,
    is_wanted,
    only_as_seen,
    plain,
    state_of,
)
from orchestrator.providers.azure.names import NAMESPACE, Resource, holder
from orchestrator.providers.azure.rights import (
    ASK,
    READ_NETWORK,
    WRITE_NIC,
    Right,
    Where,
    by_scope,
    joined,
)
from orchestrator.providers.faults import PlaceWrong, ProviderFault, ProviderRefused
from orchestrator.providers.modes import lies_in, policy_hint
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Sight
from orchestrator.providers.sending import side_by_side

APPLIANCE: Final = "VirtualAppliance"
READ: Final = f"{NAMESPACE}/routeTables/read"
WRITE: Final = f"{NAMESPACE}/routeTables/routes/write"


class Routes(AzureMode):
    """A route is written under the ETag that was seen: who is late is refused."""

    name = "udr"
    settings = ("route_tables",)

    # --- looking ----------------------------------------------------------------------------------------

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request for all tables of a resource group."""
        groups = {one.group_id.lower(): one for vip in vips for one in self._named(vip).values()}
        listed: dict[str, Mapping[str, Any] | ProviderFault] = {}
        for key, one in groups.items():
            try:
                listed[key] = self._beside(one)
            except ProviderFault as fault:
                listed[key] = fault
        return {vip.address: self._sight(vip, listed) for vip in vips}

    def _named(self, vip: Vip) -> Mapping[str, Resource]:
        """By what people are told: the name, with its resource group where there are two of it."""
        found = [self._ground.names.find("routeTables", text) for text in vip.settings["route_tables"]]
        found = list({one.key: one for one in found}.values())
        often = Counter(one.short for one in found)
        return {one.short if often[one.short] == 1 else f"{one.group}/{one.short}": one for one in found}

    def _beside(self, one: Resource) -> Mapping[str, Any]:
        """All tables of its resource group, by identifier."""
        client = self._client(one)
        found = self._call(
            lambda: list(client.route_tables.list(one.group)), f"the route tables of {one.group}"
        )
        return {str(table.id).lower(): table for table in found}

    def _sight(
        self, vip: Vip, listed: Mapping[str, Mapping[str, Any] | ProviderFault]
    ) -> Sight | ProviderFault:
        tables = {}
        for label, one in self._named(vip).items():
            found = listed[one.group_id.lower()]
            if isinstance(found, ProviderFault):
                return found
            if one.key not in found:
                text = f"is not in resource group {one.group} of subscription {one.subscription}"
                return PlaceWrong(f"route table {one.short}", text, "correct `route_tables`")
            tables[label] = found[one.key]
        self._looked.things[vip.address] = tables
        parts = {label: _part(_route(table, vip)) for label, table in tables.items()}
        return self.judged(vip, parts, by_address=True)

    # --- beforehand -------------------------------------------------------------------------------------

    def check(self, vip: Vip) -> None:
        """It is outside of the network's range, and the node and its tables can lead it."""
        me = self._ground.me
        if not me.address_like(vip.address):
            text = f"{vip.address} needs an address of its family on interface {me.resource.short}"
            raise PlaceWrong(self._ground.place.me, text, "add one to the interface")
        network = self._ground.network()
        for prefix in network.address_space.address_prefixes or ():
            if lies_in(vip.address, prefix):
                text = f"lies in the range {prefix} of virtual network {network.name}"
                raise PlaceWrong(vip.address, text, "choose an address outside of it")
        seen = self.look([vip])[vip.address]
        if isinstance(seen, Exception):
            raise seen
        within = {me.network.lower(), *_peers(network)}
        for label, table in self._looked.things[vip.address].items():
            used_in = {holder(str(subnet.id)) for subnet in table.subnets or ()}
            if used_in and not any(one.lower() in within for one in used_in):
                told = ", ".join(sorted(one.rpartition("/")[2] for one in used_in))
                text = f"is used in {told}, and this node is in {network.name}, which is no peer of it"
                raise PlaceWrong(
                    f"route table {label}", text, "name tables of the nodes' own network or of its peers"
                )

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        """IP forwarding, which is switched on with `repair`; and tables that lead nobody."""
        found = super().preflight(vip, repair, leave)
        for label, table in self._looked.things[vip.address].items():
            if not table.subnets:
                text = "no subnet uses it: it leads nobody"
                found.append(Finding(f"route table {label}", text, "associate it with its clients' subnets"))
        self._ground.forget_network()
        me = self._ground.me
        if not me.forwards and repair:
            self._let_pass(leave)
        elif not me.forwards:
            lacking = [action for action, _ in self._lacking(self.own_rights(self._ground.where(vip)))]
            hint = f"{policy_hint('azure')}, or switch it on"
            remedy = hint if lacking else "`hafarm provider test azure` switches it on"
            text = "its IP forwarding is off: it drops the address"
            found.append(Finding(f"interface {me.resource.short}", text, remedy))
        return found

    # --- moving -----------------------------------------------------------------------------------------

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        """All tables side by side; one that refuses does not keep the others."""
        self._let_pass(leave)
        mine = self._ground.me.address_like(vip.address)
        named = self._named(vip)

        def lead(label: str, route: Any) -> Callable[[], None]:
            return lambda: self._lead(named[label], vip, mine, route, leave)

        routes = {label: _route(table, vip) for label, table in self._looked.things[vip.address].items()}
        deeds = {label: lead(label, route) for label, route in routes.items() if not _is_led(route, mine)}
        return self.ended(vip, side_by_side(deeds), leave)

    def _lead(self, one: Resource, vip: Vip, mine: str, route: Any, leave: Leave) -> None:
        """The route's own hop says whose it is: another one of the table moves the ETag too."""
        self.write(
            one,
            route,
            see=lambda: _route(self._fresh(one), vip),
            owners=lambda found: _part(found).owners,
            send=lambda found: self._send(one, vip, mine, found),
            leave=leave,
        )

    def _fresh(self, one: Resource) -> Any:
        client = self._client(one)
        return self._call(
            lambda: client.route_tables.get(one.group, one.names[0]), f"route table {one.short}"
        )

    def _send(self, one: Resource, vip: Vip, mine: str, route: Any) -> None:
        client = self._client(one)
        name = route.name if route is not None else called(vip.address)
        body = Route(
            properties=RoutePropertiesFormat(
                address_prefix=_prefix(vip), next_hop_type=APPLIANCE, next_hop_ip_address=mine
            )
        )
        headers = only_as_seen(route) if route is not None else ONLY_NEW
        self._call(
            lambda: client.routes.begin_create_or_update(
                one.group, one.names[0], name, body, headers=headers, polling=False
            ).result(),
            f"the route in {one.short}",
        )

    def _let_pass(self, leave: Leave) -> None:
        """An interface drops what is not for its own addresses, unless it is told to forward."""
        me = self._ground.me
        if me.forwards:
            return

        def switch_on(found: Any) -> bool:
            changes = not found.enable_ip_forwarding
            found.enable_ip_forwarding = True
            return changes

        try:
            rewrite(self._ground, me.resource, switch_on, leave.left_s)
        except ProviderRefused as fault:
            remedy = "switch it on, or give this node the right to do so"
            raise PlaceWrong(
                f"interface {me.resource.short}", f"its IP forwarding is off ({fault.why})", remedy
            ) from fault
        self._ground.learn()

    # --- rights -----------------------------------------------------------------------------------------

    @staticmethod
    def rights(vip: Vip, where: Where) -> list[Right]:
        tables = [where.names.find("routeTables", text) for text in vip.settings["route_tables"]]
        return [
            *by_scope([table.group_id for table in tables], READ),
            *by_scope([table.id for table in tables], WRITE, ASK),
            Right(where.network, (READ_NETWORK,)),
        ]

    @staticmethod
    def own_rights(where: Where) -> list[Right]:
        """To switch IP forwarding on, which is needed only where it is off."""
        return [*by_scope(where.own, WRITE_NIC, ASK), *joined(where.own_links)]


def _prefix(vip: Vip) -> str:
    return f"{vip.address}/{128 if ':' in vip.address else 32}"


def _route(table: Any, vip: Vip) -> Any:
    """By its prefix, whatever it is called: who prepared the table may have made it."""
    wanted = ip_network(_prefix(vip))
    return next((route for route in table.routes or () if _network(route.address_prefix) == wanted), None)


def _network(prefix: str | None) -> Any:
    try:
        return ip_network(prefix or "", strict=False)
    except ValueError:
        return None  # a service's name


def _part(route: Any) -> Part:
    if route is None:
        return Part(frozenset())
    return Part(frozenset({route.next_hop_ip_address or plain(route.next_hop_type)}), state_of(route))


def _is_led(route: Any, mine: str) -> bool:
    return route is not None and route.next_hop_ip_address == mine and is_wanted(route)


def _peers(network: Any) -> Iterable[str]:
    for peering in network.virtual_network_peerings or ():
        if peering.remote_virtual_network is not None:
            yield str(peering.remote_virtual_network.id).lower()
