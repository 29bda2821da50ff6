"""Which permissions each method of Compute Engine needs, and what its requests may not say."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Final

from tests.clouds.gcp.errors import GoogleError, not_found
from tests.clouds.gcp.schemas import Json
from tests.clouds.gcp.store import LINK, Store, path_of

_VERBS: Final[Mapping[str, str]] = {
    "insert": "create",
    "patch": "update",
    "aggregatedList": "list",
    "wait": "get",
    "getHealth": "get",
    "addInstances": "update",
    "removeInstances": "update",
    "listInstances": "list",
}
"""Methods whose permission has another name than they."""

NEXT_HOPS: Final = ("nextHopInstance", "nextHopIp", "nextHopIlb", "nextHopGateway", "nextHopVpnTunnel")
_MORE: Final[Mapping[str, tuple[str, ...]]] = {
    "compute.routes.insert": ("compute.networks.updatePolicy",),
    "compute.routes.delete": ("compute.networks.updatePolicy",),
    "compute.forwardingRules.setTarget": ("compute.targetInstances.use",),
    "compute.instanceGroups.addInstances": ("compute.instances.use",),
    "compute.firewalls.insert": ("compute.networks.updatePolicy",),
    "compute.firewalls.patch": ("compute.networks.updatePolicy",),
    "compute.firewalls.delete": ("compute.networks.updatePolicy",),
}


def needs(method: str, body: Json) -> tuple[str, ...]:
    """The method's own permission first, then those on what the request refers to."""
    service, resource, verb = method.split(".")
    own = f"{service}.{resource}.{_VERBS.get(verb, verb)}"
    more = list(_MORE.get(method, ()))
    if method == "compute.routes.insert" and "nextHopInstance" in body:
        more.append("compute.instances.use")
    if method == "compute.instances.updateNetworkInterface" and body.get("aliasIpRanges"):
        more.append("compute.subnetworks.use")
    if method == "compute.instances.addAccessConfig":
        more += ["compute.subnetworks.useExternalIp"] + ["compute.addresses.use"] * ("natIP" in body)
    return (own, *more)


def link(store: Store, reference: str, project: str) -> str:
    """The service's own link to what a request refers to; it must be there."""
    path = path_of(reference, project)
    if path not in store.resources:
        raise not_found(path)
    return LINK + path


def check_route(store: Store, project: str, route: Json) -> None:
    hops = [name for name in NEXT_HOPS if name in route]
    if len(hops) != 1:
        raise _invalid("nextHop", f"exactly one next hop must be specified, not {len(hops)}")
    route["network"] = link(store, route["network"], project)
    if "nextHopInstance" in route:
        route["nextHopInstance"] = link(store, route["nextHopInstance"], project)
    route.setdefault("priority", 1000)
    if not 0 <= route["priority"] <= 65535:
        raise _invalid("priority", f"{route['priority']} is not between 0 and 65535")
    try:
        wanted = ipaddress.ip_network(route["destRange"])
    except ValueError:
        raise _invalid("destRange", f"'{route['destRange']}' is no CIDR range") from None
    route["destRange"] = str(wanted)
    for subnet in of_kind(store, "subnetworks"):
        own = ipaddress.ip_network(subnet["ipCidrRange"])
        if subnet["network"] == route["network"] and own.version == wanted.version and wanted.subnet_of(own):  # type: ignore[arg-type]
            raise _invalid("destRange", f"{wanted} hides the address space of the network")


def of_kind(store: Store, collection: str) -> Iterator[Json]:
    """All resources that are called so in their paths."""
    for path, each in store.resources.items():
        if path.rsplit("/", 2)[1] == collection:
            yield each


def warnings(store: Store, route: Json) -> list[Json]:
    """Why packets that follow the route do not arrive."""
    if "nextHopInstance" not in route:
        return []
    hop = store.resources.get(path_of(route["nextHopInstance"]))
    found = []
    if hop is None:
        found.append(("NEXT_HOP_INSTANCE_NOT_FOUND", "the instance is not there"))
    else:
        if hop["status"] != "RUNNING":
            found.append(("NEXT_HOP_NOT_RUNNING", "the instance is not running"))
        if not hop.get("canIpForward"):
            found.append(("NEXT_HOP_CANNOT_IP_FORWARD", "the instance may not forward"))
    return [
        {
            "code": code,
            "message": f"Next hop of route '{route['name']}': {text}.",
            "data": [{"key": "instance", "value": route["nextHopInstance"]}],
        }
        for code, text in found
    ]


def alias_range(store: Store, interface: Json, told: Json) -> Json:
    """An alias as the service writes it: a range of the subnet, with its length."""
    text = told.get("ipCidrRange", "")
    try:
        wanted = ipaddress.ip_network(text)
    except ValueError:
        raise _invalid("aliasIpRanges.ipCidrRange", f"'{text}' is no range that can be given") from None
    subnet = store.resources[path_of(interface["subnetwork"])]
    name = told.get("subnetworkRangeName")
    ranges = {None: subnet["ipCidrRange"]} | {
        each["rangeName"]: each["ipCidrRange"] for each in subnet.get("secondaryIpRanges", [])
    }
    if name not in ranges:
        raise _invalid("aliasIpRanges.subnetworkRangeName", f"the subnetwork has no range '{name}'")
    if not wanted.subnet_of(ipaddress.ip_network(ranges[name])):  # type: ignore[arg-type]
        raise _invalid("aliasIpRanges.ipCidrRange", f"{wanted} is not in the range {ranges[name]}")
    return {"ipCidrRange": str(wanted)} | ({"subnetworkRangeName": name} if name else {})


def holders(store: Store, subnetwork: str) -> Iterator[tuple[ipaddress.IPv4Network, str]]:
    """Every range of the subnet that somebody holds, and the path of who does."""
    for instance in of_kind(store, "instances"):
        for interface in instance["networkInterfaces"]:
            if interface["subnetwork"] == subnetwork:
                path = path_of(instance["selfLink"])
                yield ipaddress.IPv4Network(interface["networkIP"]), path
                for alias in interface.get("aliasIpRanges", []):
                    yield ipaddress.IPv4Network(alias["ipCidrRange"]), path
    for rule in of_kind(store, "forwardingRules"):
        if rule.get("subnetwork") == subnetwork:
            yield ipaddress.IPv4Network(rule["IPAddress"]), path_of(rule["selfLink"])


_TERM = re.compile(r'\(?\s*([\w.]+)\s*(=|!=|:|eq|ne)\s*(?:"([^"]*)"|([^\s()]+))\s*\)?')


def fits(resource: Json, expression: str) -> bool:
    """Whether a list's filter lets it pass; of the language, what clients of routes and operations use."""
    for term in re.split(r"\s+AND\s+|(?<=\))\s*(?=\()", expression.strip()):
        found = _TERM.fullmatch(term.strip())
        if found is None:
            raise GoogleError(400, "invalid", f"Invalid value for field 'filter': '{expression}'.")
        name, operator, quoted, bare = found.groups()
        value: object = resource
        for word in name.split("."):
            value = value.get(word) if isinstance(value, dict) else None
        text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        wanted = quoted if quoted is not None else bare
        same = {
            "=": text == wanted,
            "!=": text == wanted,
            ":": re.fullmatch(".*".join(map(re.escape, wanted.split("*"))), text) is not None,
            "eq": re.fullmatch(wanted, text) is not None,
            "ne": re.fullmatch(wanted, text) is not None,
        }[operator]
        if same == (operator in ("!=", "ne")):
            return False
    return True


def _invalid(field: str, text: str) -> GoogleError:
    return GoogleError(400, "invalid", f"Invalid value for field 'resource.{field}': {text}.")
