"""The rules of Microsoft.Network that are in no interface data: references, and who has which address."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

from tests.clouds.azure.shapes import Json
from tests.clouds.azure.store import CHILDREN, Address, ArmError, Store, find_child

JOINS: Final[Mapping[str, str | None]] = {
    "subnet": "Microsoft.Network/virtualNetworks/subnets/join/action",
    "publicIPAddress": "Microsoft.Network/publicIPAddresses/join/action",
    "networkSecurityGroup": "Microsoft.Network/networkSecurityGroups/join/action",
    "routeTable": "Microsoft.Network/routeTables/join/action",
    "loadBalancerBackendAddressPools": "Microsoft.Network/loadBalancers/backendAddressPools/join/action",
    "virtualNetwork": "Microsoft.Network/virtualNetworks/joinLoadBalancer/action",
    "networkInterfaces": "Microsoft.Network/networkInterfaces/join/action",
    # Within one load balancer nothing is joined.
    "frontendIPConfiguration": None,
    "backendAddressPool": None,
    "backendAddressPools": None,
    "probe": None,
}
"""A property that refers to another resource: what whoever writes it needs to be allowed there."""

RESERVED_FIRST: Final = 4
"""Azure keeps the network's address and the next three of each subnet, and its last."""


def references(body: object) -> Iterator[tuple[str, str, Json]]:
    """Each reference in a body: the property, the identifier, and the object that holds it."""
    if isinstance(body, list):
        for each in body:
            yield from references(each)
    elif isinstance(body, dict):
        for name, inner in body.items():
            for each in inner if isinstance(inner, list) else [inner]:
                if isinstance(each, dict) and _refers(name, each):
                    yield name, each["id"], each
                else:
                    yield from references(each)


def _refers(name: str, held: Json) -> bool:
    # In its own load balancer a pool is no reference but the thing itself, and has a name.
    return (
        name in JOINS
        and isinstance(held.get("id"), str)
        and (name != "backendAddressPools" or "name" not in held)
    )


def joins(body: object) -> tuple[str, ...]:
    """The permissions that a body needs beside the right to write it."""
    found = dict.fromkeys(JOINS[name] for name, _, _ in references(body))
    return tuple(action for action in found if action is not None)


def made(store: Store, address: Address, body: Json, current: Json | None) -> Json:
    """The resource that the body asks for, with what the service adds to it."""
    resource = {name: copy.deepcopy(value) for name, value in body.items() if value is not None}
    resource |= {"id": str(address), "name": address.name, "type": address.type}
    properties = resource.setdefault("properties", {})
    for name in CHILDREN.get(address.type.lower(), ()):
        for child in properties.get(name, []):
            if not child.get("name"):
                raise ArmError(400, "InvalidRequestFormat", f"A member of {name} has no name.")
            child["id"] = f"{address}/{name}/{child['name']}"
            child["type"] = f"{address.type}/{name}"
            child.setdefault("properties", {})
    for _, target, holder in list(references(resource)):
        found = _found(store, target, resource)
        holder.clear()
        holder["id"] = found["id"]
    if address.type.lower() == "microsoft.network/networkinterfaces" and current:
        properties["macAddress"] = current["properties"]["macAddress"]
    return resource


def _found(store: Store, target: str, resource: Json) -> Json:
    """The resource that is referred to; one that is written in the same request counts."""
    address = Address.of(target)
    if address.is_child and address.top.key == str(resource["id"]).lower():
        found = find_child(resource, address)
    else:
        found = store.find(address)
    if found is None:
        raise ArmError(
            400,
            "InvalidResourceReference",
            f"Resource {target} referenced by resource {resource['id']} was not found. Please make sure that "
            "the referenced resource exists, and that both resources are in the same region.",
        )
    return found


def check(store: Store, resource: Json) -> None:
    """Refuse what would make the network contradict itself; give addresses that were left to it."""
    kind = resource["type"].lower()
    rules = {
        "microsoft.network/routetables": _check_routes,
        "microsoft.network/networkinterfaces": _check_interface,
        "microsoft.network/virtualnetworks": _check_network,
        "microsoft.network/loadbalancers": _check_balancer,
        "microsoft.network/publicipaddresses": _check_public,
    }
    if kind in rules:
        rules[kind](store, resource)


def _check_routes(store: Store, table: Json) -> None:
    prefixes: set[str] = set()
    for route in table["properties"].get("routes", []):
        properties = route["properties"]
        prefix = _prefix(properties.get("addressPrefix"), route["id"])
        if prefix in prefixes:
            raise ArmError(
                400,
                "RouteConflict",
                f"Route {route['id']} has the address prefix {prefix} of another route of the table.",
            )
        prefixes.add(prefix)
        appliance = properties["nextHopType"].lower() == "virtualappliance"
        if appliance != ("nextHopIpAddress" in properties):
            raise ArmError(
                400,
                "InvalidNextHopIpAddress" if appliance else "NextHopIpAddressNotAllowed",
                f"Route {route['id']}: a next hop IP address belongs to VirtualAppliance alone.",
            )
        if appliance:
            hop = _ip(properties["nextHopIpAddress"], route["id"])
            if hop.version != ipaddress.ip_network(prefix).version:
                raise ArmError(
                    400,
                    "InvalidNextHopIpAddress",
                    f"Route {route['id']}: {hop} is not of its prefix's family.",
                )


def _check_network(store: Store, network: Json) -> None:
    ranges = [ipaddress.ip_network(each) for each in network["properties"]["addressSpace"]["addressPrefixes"]]
    for subnet in network["properties"].get("subnets", []):
        for own in prefixes(subnet):
            if not any(own.version == each.version and own.subnet_of(each) for each in ranges):  # type: ignore[arg-type]
                raise ArmError(
                    400, "NetcfgInvalidSubnet", f"Subnet '{subnet['name']}' is not valid in virtual network."
                )


def prefixes(subnet: Json) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The ranges of a subnet: one, or one of each family."""
    properties = subnet["properties"]
    told = properties.get("addressPrefixes") or [properties.get("addressPrefix")]
    return [ipaddress.ip_network(_prefix(each, subnet["id"])) for each in told]


def _check_interface(store: Store, interface: Json) -> None:
    properties = interface["properties"]
    configurations = properties.get("ipConfigurations", [])
    if not configurations:
        raise ArmError(
            400,
            "NetworkInterfaceMustHaveIpConfiguration",
            f"Network interface {interface['id']} must have one or more IP configurations.",
        )
    if len(configurations) == 1:
        configurations[0]["properties"]["primary"] = True
    if sum(bool(each["properties"].get("primary")) for each in configurations) != 1:
        raise ArmError(
            400,
            "NetworkInterfaceMustHaveExactlyOnePrimaryIpConfiguration",
            f"Network interface {interface['id']} must have exactly one primary IP configuration.",
        )
    properties.setdefault(
        "macAddress", f"00-0D-3A-00-{len(store.resources) // 256:02X}-{len(store.resources) % 256:02X}"
    )
    properties.setdefault("enableIPForwarding", False)
    for configuration in configurations:
        _give_address(store, interface, configuration)
        _check_public_use(store, configuration)


def _give_address(store: Store, interface: Json, holder: Json) -> None:
    properties = holder["properties"]
    if "subnet" not in properties:
        raise ArmError(400, "SubnetIsRequired", f"Resource {holder['id']} must reference a subnet.")
    subnet = store.find(Address.of(properties["subnet"]["id"]))
    assert subnet is not None, "references were looked up before"
    wanted = 6 if properties.get("privateIPAddressVersion", "").lower() == "ipv6" else 4
    within = next((each for each in prefixes(subnet) if each.version == wanted), None)
    if within is None:
        raise ArmError(400, "SubnetHasNoSuchFamily", f"{holder['id']}: its subnet has no IPv{wanted} range.")
    taken = dict(_taken(store, subnet["id"], besides=interface["id"]))
    for other in interface["properties"].get(_list_with_addresses(interface), []):
        if other is not holder and "privateIPAddress" in other["properties"]:
            taken[other["properties"]["privateIPAddress"]] = other["id"]
    dynamic = properties.setdefault("privateIPAllocationMethod", "Dynamic").lower() == "dynamic"
    if "privateIPAddress" not in properties:
        if not dynamic:
            raise ArmError(
                400, "StaticPrivateIPAddressMissing", f"{holder['id']} is static and has no address."
            )
        properties["privateIPAddress"] = next(str(each) for each in _usable(within) if str(each) not in taken)
    address = _ip(properties["privateIPAddress"], holder["id"])
    properties.setdefault("privateIPAddressVersion", f"IPv{address.version}")
    if address.version != within.version or address not in within:
        raise ArmError(
            400,
            "PrivateIPAddressNotInSubnet",
            f"Private static IP address {address} does not belong to the range of subnet prefix {within}.",
        )
    if address not in _usable(within):
        raise ArmError(
            400, "PrivateIPAddressInReservedRange", f"Private static IP address {address} is reserved."
        )
    if str(address) in taken:
        raise ArmError(
            400,
            "PrivateIPAddressIsAllocated",
            f"IP configuration {holder['id']} is using the private IP address {address} which is already "
            f"allocated to resource {taken[str(address)]}.",
        )


class _usable:  # noqa: N801 - it reads as a function of the subnet
    """The addresses of a subnet that a machine can have, without making a list of them."""

    def __init__(self, within: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
        self._within = within

    def __contains__(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        first = int(self._within.network_address)
        return RESERVED_FIRST <= int(address) - first < self._within.num_addresses - 1

    def __iter__(self) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        for place in range(RESERVED_FIRST, self._within.num_addresses - 1):
            yield self._within[place]


def _list_with_addresses(resource: Json) -> str:
    is_balancer = resource["type"].lower().endswith("loadbalancers")
    return "frontendIPConfigurations" if is_balancer else "ipConfigurations"


def _taken(store: Store, subnet: str, besides: str) -> Iterator[tuple[str, str]]:
    """Addresses of the subnet that a resource holds, other than this one."""
    for resource in store.resources.values():
        if resource["id"].lower() == besides.lower():
            continue
        for name in ("ipConfigurations", "frontendIPConfigurations"):
            for each in resource["properties"].get(name, []):
                if each["properties"].get("subnet", {}).get("id", "").lower() == subnet.lower():
                    yield each["properties"]["privateIPAddress"], each["id"]


def _check_public_use(store: Store, holder: Json) -> None:
    public = holder["properties"].get("publicIPAddress")
    if public is None:
        return
    user = user_of(store, public["id"], besides=holder["id"])
    if user is not None:
        raise ArmError(
            400,
            "PublicIPAddressInUse",
            f"Resource {holder['id']} is referencing public IP address {public['id']} that is already "
            f"allocated to resource {user}.",
        )


def user_of(store: Store, public: str, besides: str = "") -> str | None:
    """Which configuration has this public address."""
    for resource in store.resources.values():
        for name in ("ipConfigurations", "frontendIPConfigurations"):
            for each in resource["properties"].get(name, []):
                held = each["properties"].get("publicIPAddress", {}).get("id", "")
                if held.lower() == public.lower() and each["id"].lower() != besides.lower():
                    found: str = each["id"]
                    return found
    return None


def _check_balancer(store: Store, balancer: Json) -> None:
    properties = balancer["properties"]
    for frontend in properties.get("frontendIPConfigurations", []):
        if "publicIPAddress" in frontend["properties"]:
            _check_public_use(store, frontend)
        else:
            _give_address(store, balancer, frontend)
    for rule in properties.get("loadBalancingRules", []):
        own = rule["properties"]
        ports = (own["frontendPort"], own.get("backendPort", 0))
        if (own["protocol"].lower() == "all") != (ports == (0, 0)):
            raise ArmError(
                400,
                "LoadBalancingRuleInvalidProtocolPort",
                f"Rule {rule['id']}: protocol All goes with ports 0, and ports 0 with protocol All.",
            )
    for probe in properties.get("probes", []):
        own = probe["properties"]
        if own["protocol"].lower() == "tcp" and own.get("requestPath"):
            raise ArmError(400, "ProbeRequestPathNotAllowed", f"Probe {probe['id']} is TCP and has a path.")
        if own["protocol"].lower() != "tcp" and not own.get("requestPath"):
            raise ArmError(400, "ProbeRequestPathRequired", f"Probe {probe['id']} has no path.")
        if own.get("intervalInSeconds", 15) < 5:
            raise ArmError(400, "ProbeIntervalTooSmall", f"Probe {probe['id']}: the least interval is 5 s.")
    for pool in properties.get("backendAddressPools", []):
        for each in pool["properties"].get("loadBalancerBackendAddresses", []):
            if "ipAddress" in each.get("properties", {}):
                _ip(each["properties"]["ipAddress"], pool["id"])


def _check_public(store: Store, public: Json) -> None:
    properties = public["properties"]
    properties.setdefault("publicIPAllocationMethod", "Dynamic")
    if "ipAddress" not in properties:
        # Of the range that is kept for measurements, which no real network announces.
        properties["ipAddress"] = f"198.19.255.{len(store.resources) % 254 + 1}"


def _prefix(text: object, where: str) -> str:
    try:
        return str(ipaddress.ip_network(str(text)))
    except ValueError:
        raise ArmError(
            400, "InvalidCIDRNotation", f"The address prefix {text} in resource {where} is no CIDR."
        ) from None


def _ip(text: object, where: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(str(text))
    except ValueError:
        raise ArmError(
            400, "InvalidIPAddressFormat", f"The IP address {text} in resource {where} is invalid."
        ) from None


def check_unused(store: Store, address: Address) -> None:
    """A resource that another one refers to cannot go."""
    for resource in store.resources.values():
        for _, target, _ in references(resource):
            same = resource["id"].lower() == address.top.key and address.is_child is False
            if target.lower() == address.key and not same:
                raise ArmError(
                    400,
                    "InUseResourceCannotBeDeleted",
                    f"Resource {address} is in use by {resource['id']} and cannot be deleted.",
                )


def presented(store: Store, resource: Json) -> Json:
    """The resource as it is answered, with what refers to it."""
    shown = copy.deepcopy(resource)
    properties, kind = shown["properties"], shown["type"].lower()
    if kind == "microsoft.network/routetables":
        users = _users(store, "microsoft.network/virtualnetworks", "subnets", "routeTable", shown["id"])
        properties.setdefault("routes", [])
        if users:
            properties["subnets"] = [{"id": each} for each in users]
    elif kind == "microsoft.network/publicipaddresses":
        user = user_of(store, shown["id"])
        if user:
            properties["ipConfiguration"] = {"id": user}
    elif kind == "microsoft.network/networkinterfaces":
        for machine in store.resources.values():
            for each in machine["properties"].get("networkProfile", {}).get("networkInterfaces", []):
                if each["id"].lower() == shown["id"].lower():
                    properties["virtualMachine"] = {"id": machine["id"]}
    elif kind == "microsoft.network/loadbalancers":
        for pool in properties.get("backendAddressPools", []):
            _present_pool(store, pool)
    elif kind == "microsoft.network/loadbalancers/backendaddresspools":
        _present_pool(store, shown)
    return shown


def _present_pool(store: Store, pool: Json) -> None:
    users = _users(
        store,
        "microsoft.network/networkinterfaces",
        "ipConfigurations",
        "loadBalancerBackendAddressPools",
        pool["id"],
    )
    if users:
        pool["properties"]["backendIPConfigurations"] = [{"id": each} for each in users]


def _users(store: Store, kind: str, list_: str, reference: str, target: str) -> list[str]:
    """Members of resources of this kind that refer to the target."""
    found = []
    for resource in store.resources.values():
        if resource["type"].lower() != kind:
            continue
        for child in resource["properties"].get(list_, []):
            held = child["properties"].get(reference, [])
            for each in held if isinstance(held, list) else [held]:
                if each["id"].lower() == target.lower():
                    found.append(child["id"])
    return found
