"""One small model of a cloud's network, whichever cloud: who has which address, and where routes lead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.clouds.azure.arm import Arm
from tests.clouds.azure.store import Address, find_child
from tests.clouds.gcp import rules
from tests.clouds.gcp.compute import Compute
from tests.clouds.gcp.store import path_of

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    subnet: str
    addresses: tuple[str, ...]
    """Its own, which the cloud leads to it without any route."""
    runs: bool
    forwards: bool
    """Whether it may take packets for addresses that are not its own."""


@dataclass(frozen=True, slots=True)
class Route:
    prefix: str
    to: str | None
    """The machine; None where packets end: it is off, may not forward, or there is none."""


@dataclass(frozen=True, slots=True)
class View:
    """What packets meet at one moment."""

    machines: Mapping[str, Machine]
    subnets: Mapping[str, str]
    """Subnet to its range."""
    routes: Mapping[str, tuple[Route, ...]]
    """Subnet to the routes that its machines' packets follow, beside those to machines' own addresses."""
    balanced: Mapping[str, str | None]
    """Address of a load balancer to the machine that it leads to, or to none."""

    def hop(self, subnet: str, address: str) -> str | None:
        """The machine that a packet from this subnet to this single address comes to."""
        for machine in self.machines.values():
            if address in machine.addresses:
                return machine.name if machine.runs else None
        if address in self.balanced:
            return self.balanced[address]
        wanted = {f"{address}/32", f"{address}/128"}
        return next((each.to for each in self.routes.get(subnet, ()) if each.prefix in wanted), None)


def usable(machine: Machine | None) -> str | None:
    """Where a route to it leads."""
    return machine.name if machine is not None and machine.runs and machine.forwards else None


def _by_address(machines: Mapping[str, Machine]) -> dict[str, Machine]:
    return {address: machine for machine in machines.values() for address in machine.addresses}


# --- Azure ---


def of_arm(arm: Arm) -> View:
    """As operations that are over left it."""
    state = arm.store.effective
    machines = {each.name: each for each in _arm_machines(arm)}
    holders = _by_address(machines)
    subnets: dict[str, str] = {}
    routes: dict[str, tuple[Route, ...]] = {}
    for network in _of_type(state, "Microsoft.Network/virtualNetworks"):
        for subnet in network["properties"].get("subnets", []):
            subnets[subnet["id"]] = subnet["properties"]["addressPrefix"]
            table = state.get(subnet["properties"].get("routeTable", {}).get("id", "").lower())
            found = table["properties"].get("routes", []) if table else []
            routes[subnet["id"]] = tuple(
                Route(
                    each["properties"]["addressPrefix"],
                    usable(holders.get(each["properties"].get("nextHopIpAddress", ""))),
                )
                for each in found
            )
    return View(machines, subnets, routes, dict(_arm_balanced(arm, machines)))


def _of_type(state: Mapping[str, Json], kind: str) -> list[Json]:
    return [each for each in state.values() if each["type"].lower() == kind.lower()]


def _arm_machines(arm: Arm) -> Iterator[Machine]:
    for machine in _of_type(arm.store.effective, "Microsoft.Compute/virtualMachines"):
        profile = machine["properties"].get("networkProfile", {})
        for attached in profile.get("networkInterfaces", [])[:1]:
            interface = arm.store.effective[attached["id"].lower()]["properties"]
            held = [each["properties"] for each in interface["ipConfigurations"]]
            held.sort(key=lambda each: not each.get("primary"))
            yield Machine(
                machine["name"],
                held[0]["subnet"]["id"],
                tuple(each["privateIPAddress"] for each in held),
                arm.machines.of(Address.of(machine["id"])) == "running",
                bool(interface.get("enableIPForwarding")),
            )


def _arm_balanced(arm: Arm, machines: Mapping[str, Machine]) -> Iterator[tuple[str, str | None]]:
    """Rules that leave the destination as it is; where all probes fail no new flow is let through."""
    for balancer in _of_type(arm.store.effective, "Microsoft.Network/loadBalancers"):
        parts = {
            each["id"].lower(): each["properties"]
            for each in balancer["properties"].get("frontendIPConfigurations", [])
        }
        for rule in balancer["properties"].get("loadBalancingRules", []):
            own = rule["properties"]
            pool = own["backendAddressPool"]["id"].lower()
            members = arm_members(arm, machines, pool)
            front = parts[own["frontendIPConfiguration"]["id"].lower()]
            alive = [each for each in members if machines[each].runs and arm.healthy.get(each)]
            if own.get("enableFloatingIP") and "privateIPAddress" in front:
                yield front["privateIPAddress"], alive[0] if alive else None


def arm_members(arm: Arm, machines: Mapping[str, Machine], pool: str) -> list[str]:
    """The machines of a pool, by their interfaces or by their addresses."""
    owners = {
        attached["id"].lower(): machine["name"]
        for machine in _of_type(arm.store.effective, "Microsoft.Compute/virtualMachines")
        for attached in machine["properties"].get("networkProfile", {}).get("networkInterfaces", [])
    }
    held = [
        owners[interface["id"].lower()]
        for interface in _of_type(arm.store.effective, "Microsoft.Network/networkInterfaces")
        for each in interface["properties"]["ipConfigurations"]
        for one in each["properties"].get("loadBalancerBackendAddressPools", [])
        if one["id"].lower() == pool.lower() and interface["id"].lower() in owners
    ]
    holders = _by_address(machines)
    balancer = arm.store.effective[Address.of(pool).top.key]
    named = find_child(balancer, Address.of(pool)) or {"properties": {}}
    return held + [
        holders[each["properties"]["ipAddress"]].name
        for each in named["properties"].get("loadBalancerBackendAddresses", [])
        if each["properties"].get("ipAddress") in holders
    ]


# --- GCP ---


def of_gcp(cloud: Compute) -> View:
    """Of the routes to one range the one with the lowest priority number that can be followed."""
    store = cloud.store
    machines = {}
    for each in rules.of_kind(store, "instances"):
        interface = each["networkInterfaces"][0]
        aliases = [one["ipCidrRange"].removesuffix("/32") for one in interface.get("aliasIpRanges", [])]
        machines[each["name"]] = Machine(
            each["name"],
            interface["subnetwork"],
            (interface["networkIP"], *aliases),
            each["status"] == "RUNNING",
            bool(each.get("canIpForward")),
        )
    subnets = {each["selfLink"]: each["ipCidrRange"] for each in rules.of_kind(store, "subnetworks")}
    best: dict[tuple[str, str], Route] = {}
    for route in sorted(rules.of_kind(store, "routes"), key=lambda each: each["priority"]):
        hop = machines.get(route.get("nextHopInstance", "").rsplit("/", 1)[-1])
        key = (route["network"], route["destRange"])
        if key not in best or best[key].to is None:
            best[key] = Route(route["destRange"], usable(hop))
    routes = {
        each["selfLink"]: tuple(route for (network, _), route in best.items() if network == each["network"])
        for each in rules.of_kind(store, "subnetworks")
    }
    return View(machines, subnets, routes, dict(_gcp_balanced(cloud, machines)))


def _gcp_balanced(cloud: Compute, machines: Mapping[str, Machine]) -> Iterator[tuple[str, str | None]]:
    store = cloud.store
    for rule in rules.of_kind(store, "forwardingRules"):
        if "target" in rule:
            target = store.resources[path_of(rule["target"])]["instance"].rsplit("/", 1)[1]
            yield rule["IPAddress"], target if machines[target].runs else None
        elif "backendService" in rule:
            service = store.resources[path_of(rule["backendService"])]
            members = [
                path
                for backend in service.get("backends", [])
                for path in cloud.changes.groups.get(path_of(backend["group"]), [])
                if store.resources[path]["status"] == "RUNNING"
            ]
            alive = [path for path in members if cloud.changes.healthy.get(path)]
            if not alive and not service.get("failoverPolicy", {}).get("dropTrafficIfUnhealthy"):
                # Where the operator did not forbid it, all get traffic when none is healthy.
                alive = members
            yield rule["IPAddress"], alive[0].rsplit("/", 1)[1] if alive else None


# --- AWS ---


def of_ec2(ec2: Any, vpc: str) -> View:
    """As EC2 describes it to whoever asks; `ec2` is boto3's client."""
    within = [{"Name": "vpc-id", "Values": [vpc]}]
    subnets = {
        each["SubnetId"]: each["CidrBlock"] for each in ec2.describe_subnets(Filters=within)["Subnets"]
    }
    machines, interfaces = {}, {}
    for reservation in ec2.describe_instances(Filters=within)["Reservations"]:
        for each in reservation["Instances"]:
            interface = each["NetworkInterfaces"][0]
            interfaces[interface["NetworkInterfaceId"]] = each["InstanceId"]
            held = sorted(interface["PrivateIpAddresses"], key=lambda one: not one["Primary"])
            machines[each["InstanceId"]] = Machine(
                each["InstanceId"],
                each["SubnetId"],
                tuple(one["PrivateIpAddress"] for one in held),
                each["State"]["Name"] == "running",
                not interface["SourceDestCheck"],
            )
    routes: dict[str, tuple[Route, ...]] = {}
    tables = ec2.describe_route_tables(Filters=within)["RouteTables"]
    for table in sorted(tables, key=lambda one: not any(a.get("Main") for a in one["Associations"])):
        found = tuple(
            Route(each["DestinationCidrBlock"], usable(machines.get(interfaces.get(hop, ""))))
            for each in table["Routes"]
            if "DestinationCidrBlock" in each and (hop := each.get("NetworkInterfaceId"))
        )
        for association in table["Associations"]:
            # The main table is for every subnet that has none of its own, which comes later.
            for subnet in [association["SubnetId"]] if "SubnetId" in association else subnets:
                routes[subnet] = found
    return View(machines, subnets, routes, {})
