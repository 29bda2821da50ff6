"""`route`: an address outside of all subnetworks, led to a node by a route whose priority is its reign's.

The lowest number wins in GCP, and each reign has a lower one than those before it. So a successor's route
leads before the former is gone, and what a stale primary asks for late changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any, Final

from google.cloud import compute_v1

from orchestrator.model.names import NEVER, Epoch
from orchestrator.providers.faults import PlaceWrong, ProviderFault, Superseded
from orchestrator.providers.gcp.account import last, path_of, project_of
from orchestrator.providers.gcp.ground import Nic
from orchestrator.providers.gcp.mode import GcpMode, Trial
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Sight
from orchestrator.providers.sending import side_by_side

WORST: Final = 65535
"""GCP's priorities go from 0 to this. After so many reigns they begin anew, once with the lease alone."""
NEXT_HOPS: Final = (
    "next_hop_instance",
    "next_hop_ip",
    "next_hop_ilb",
    "next_hop_gateway",
    "next_hop_vpn_tunnel",
    "next_hop_peering",
    "next_hop_network",
)
CLIENT: Final = compute_v1.RoutesClient


class Routes(GcpMode):
    """Made before the former is deleted: at no time does the address lead nowhere."""

    name = "route"

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request for all."""
        try:
            routes = self._found(vips)
        except ProviderFault as fault:
            return dict.fromkeys([vip.address for vip in vips], fault)
        return {vip.address: self._sight(vip, [each for each in routes if _fits(each, vip)]) for vip in vips}

    def _found(self, vips: Sequence[Vip]) -> list[Any]:
        """Of the nodes' network; those of one IPv4 address are picked by the cloud, of several here."""
        network = self._ground.me.network
        is_narrow = len(vips) == 1 and ":" not in vips[0].address
        words = {"filter": f'destRange = "{destination(vips[0])}"'} if is_narrow else {}
        project = project_of(network, self._account.project)
        found = self._account.all_of("list", CLIENT, "the list of routes", project=project, **words)
        return [each for each in found if path_of(each.network) == network]

    def _of(self, vip: Vip) -> list[Any]:
        return [each for each in self._found([vip]) if _fits(each, vip)]

    def _sight(self, vip: Vip, routes: Sequence[Any]) -> Sight:
        """The best ones lead. What is not a node's counts at any priority: it leads when ours is gone."""
        best = min((each.priority for each in routes), default=None)
        leading = {each.name: self._led(vip, each) for each in routes if each.priority == best}
        rest = {each.name: self._led(vip, each) for each in routes if each.priority != best}
        foreign = {
            name: led for name, led in rest.items() if any(self._ground.node_of(one) is None for one in led)
        }
        if len(leading) > 1:
            # Equal ones share the traffic.
            leading = {"its routes": frozenset().union(*leading.values())}
        return self._ground.sight(leading | foreign)

    def _led(self, vip: Vip, route: Any) -> frozenset[str]:
        """Nowhere, if it is this cluster's own and the instance is no node's any more."""
        led = hop(route)
        is_left_over = self._is_made_by_us(vip, route) and self._ground.node_of(led) is None
        return frozenset() if is_left_over else frozenset({led})

    def check(self, vip: Vip) -> None:
        """It is in no subnetwork, the network is this project's, and this instance forwards."""
        me = self._ground.me
        owner = project_of(me.network, self._account.project)
        if owner != self._account.project:
            text = f"the network belongs to project {owner}, which has the routes of a shared network"
            raise PlaceWrong(vip.address, text, "use ilb-probe or forwarding-rule")
        for subnet in self._ground.subnets():
            name = subnet.range_of(vip.address)
            if name is not None:
                text = f"lies in {last(subnet.path)} ({subnet.ranges[name]}), where no route leads elsewhere"
                raise PlaceWrong(vip.address, text, "choose an address outside of all subnetworks")
        if not me.forwards:
            raise PlaceWrong(me.machine, *_deaf())

    # --- moving -----------------------------------------------------------------------------------------

    def whole(self, vip: Vip, leave: Leave) -> bool:
        """Under this reign or a later one, and nothing else is left."""
        if self._account.is_under_way(_insertion(vip), leave.epoch):
            return False
        routes = self._of(vip)
        return self._is_current(vip, routes, leave.epoch) and not self._others(vip, routes, leave.epoch)

    def _is_current(self, vip: Vip, routes: Sequence[Any], epoch: Epoch) -> bool:
        """A route of this node is of this reign, or of a later one."""
        return any(self._is_mine(each) and self._epoch_of(vip, each) >= epoch for each in routes)

    def _others(self, vip: Vip, routes: Sequence[Any], epoch: Epoch) -> list[Any]:
        """What is to be deleted: other nodes' routes, and this one's of former reigns; nobody else's."""
        return [
            each
            for each in routes
            if not (self._is_mine(each) and self._epoch_of(vip, each) >= epoch)
            and (self._ground.node_of(hop(each)) is not None or self._is_made_by_us(vip, each))
        ]

    def _is_mine(self, route: Any) -> bool:
        return hop(route) == self._ground.me.instance

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        routes = self._of(vip)
        self._require_latest(vip, routes, leave.epoch)
        # One that is not over yet may be shown already, and not lead yet.
        is_under_way = self._account.is_under_way(_insertion(vip), leave.epoch)
        if is_under_way or not self._is_current(vip, routes, leave.epoch):
            self._insert(vip, leave)
        # Looked at once more: what was inserted meanwhile is the former's too. Nobody waits for a deletion to
        # be over: a worse route is silent.
        others = self._others(vip, self._of(vip), leave.epoch)
        return side_by_side({each.name: self._deletion(each.name) for each in others})

    def _require_latest(self, vip: Vip, routes: Sequence[Any], epoch: Epoch) -> None:
        """Whoever finds the route of a later reign is stale, whatever his lease says."""
        for each in routes:
            if not self._is_mine(each) and self._epoch_of(vip, each) > epoch:
                why = f"route {each.name} is of a later reign than {epoch}; "
                remedy = "if the cluster was made anew since, delete that route"
                raise Superseded(f"the claim of {vip.address}", why + remedy)

    def _insert(self, vip: Vip, leave: Leave) -> None:
        me = self._ground.me
        route = compute_v1.Route(
            name=self._name(vip, leave.epoch),
            network=me.network,
            dest_range=destination(vip),
            priority=priority(leave.epoch),
            next_hop_instance=me.instance,
            description=self._description(vip, leave.epoch),
        )
        what, words = _insertion(vip), {"project": self._account.project, "route_resource": route}
        self._account.carry_out(what, lambda: self._begin("insert_unary", CLIENT, what, **words), leave)

    def _deletion(self, name: str) -> Any:
        words = {"project": self._account.project, "route": name}

        def delete() -> None:
            try:
                self._begin("delete_unary", CLIENT, f"the deletion of route {name}", **words)
            except PlaceWrong:
                pass  # somebody else deleted it: it is gone

        return delete

    def _prefix(self, vip: Vip) -> str:
        """Of all routes that this cluster makes for an address."""
        whose = "\0".join((self._ground.place.cluster, vip.module, vip.address))
        return f"hafarm-{_short(whose)}-"

    def _name(self, vip: Vip, epoch: Epoch) -> str:
        """The same for the same address, reign and node alone: a second one is refused."""
        return f"{self._prefix(vip)}{epoch}-{_short(self._ground.place.me)}"

    def _is_made_by_us(self, vip: Vip, route: Any) -> bool:
        return bool(route.name.startswith(self._prefix(vip)))

    def _epoch_of(self, vip: Vip, route: Any) -> Epoch:
        """By its name: priorities begin anew one day. What was not made by us is of no reign."""
        if not self._is_made_by_us(vip, route):
            return NEVER
        text = route.name.removeprefix(self._prefix(vip)).partition("-")[0]
        return Epoch(int(text)) if text.isdecimal() else NEVER

    def _description(self, vip: Vip, epoch: Epoch) -> str:
        """For people who look at the network's routes."""
        place = self._ground.place
        told = {"cluster": place.cluster, "module": vip.module, "node": place.me, "epoch": epoch}
        return "hafarm " + json.dumps(told)

    # --- beforehand -------------------------------------------------------------------------------------

    def trials(self, vip: Vip) -> Iterable[Trial]:
        """Of a route itself Compute Engine can be asked only once there is one."""
        yield instance_trial(self._ground.me, ("compute.instances.use",))
        for route in self._of(vip):
            words = {"project": self._account.project, "resource": route.name}
            yield Trial(CLIENT, words, ("compute.routes.delete",))

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        self._ground.learn()
        found = super().preflight(vip, repair, leave)
        for node in vip.nodes:
            nic = self._ground.nic(node)
            if nic is not None and not nic.forwards:
                found.append(Finding(nic.machine, *_deaf()))
        for route in self._of(vip):
            found += [
                Finding(f"route {route.name}", f"{each.code}: {each.message}", "mend what it leads to")
                for each in route.warnings
                if self._is_mine(route)
            ]
        return found

    @staticmethod
    def rights(vips: Sequence[Vip]) -> tuple[str, ...]:
        return (
            "compute.globalOperations.get",
            "compute.instances.use",
            "compute.networks.updatePolicy",
            "compute.routes.create",
            "compute.routes.delete",
            "compute.routes.list",
            "compute.subnetworks.list",
        )


def priority(epoch: Epoch) -> int:
    """Of a reign; the later, the lower, and the lowest wins."""
    return WORST - epoch % (WORST + 1)


def destination(vip: Vip) -> str:
    """The address alone, as a range."""
    return f"{vip.address}/{128 if ':' in vip.address else 32}"


def hop(route: Any) -> str:
    """What a route leads to."""
    found = next((str(getattr(route, each)) for each in NEXT_HOPS if getattr(route, each)), "nothing")
    return path_of(found)


def instance_trial(nic: Nic, permissions: tuple[str, ...]) -> Trial:
    """Permissions on an instance."""
    _, project, _, zone, _, name = nic.instance.split("/")
    return Trial(
        compute_v1.InstancesClient, {"project": project, "zone": zone, "resource": name}, permissions
    )


def _insertion(vip: Vip) -> str:
    return f"the insertion of a route for {vip.address}"


def _short(text: str) -> str:
    """Names of routes are short, and of few signs."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _fits(route: Any, vip: Vip) -> bool:
    return ip_network(route.dest_range) == ip_network(destination(vip))


def _deaf() -> tuple[str, str]:
    return (
        "it was made without canIpForward, so GCP drops what a route leads to it",
        "GCP changes that on a stopped instance only: stop it, set canIpForward, start it again",
    )
