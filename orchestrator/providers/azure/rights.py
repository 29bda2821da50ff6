"""Rights in Azure: which action is needed where, which of them an identity has, and roles that grant them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from orchestrator.providers.azure.names import NAMESPACE, Names, resource

ASK: Final = "Microsoft.Authorization/permissions/read"
"""To ask what one may do: Azure has no trial of a request."""
WRITE_NIC: Final = f"{NAMESPACE}/networkInterfaces/write"
READ_NICS: Final = f"{NAMESPACE}/networkInterfaces/read"
READ_NETWORK: Final = f"{NAMESPACE}/virtualNetworks/read"
JOINS: Final = {
    "subnet": f"{NAMESPACE}/virtualNetworks/subnets/join/action",
    "group": f"{NAMESPACE}/networkSecurityGroups/join/action",
    "public": f"{NAMESPACE}/publicIPAddresses/join/action",
    "pool": f"{NAMESPACE}/loadBalancers/backendAddressPools/join/action",
    "rule": f"{NAMESPACE}/loadBalancers/inboundNatRules/join/action",
    "gateway": f"{NAMESPACE}/applicationGateways/backendAddressPools/join/action",
    "application": f"{NAMESPACE}/applicationSecurityGroups/joinIpConfiguration/action",
}
"""An interface is written whole, so whoever writes it needs the right to join all that it refers to."""


@dataclass(frozen=True, slots=True)
class Right:
    """Actions on one scope: a resource, or a resource group for all that is in it."""

    scope: str
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Where:
    """The scopes of the nodes' surroundings; of a policy, which is written unseen, whole resource groups."""

    names: Names
    own: tuple[str, ...]
    """This node's interface."""
    interfaces: tuple[str, ...]
    """Those of all nodes."""
    network: str
    own_links: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    """What this node's interface refers to, or those of all, with the right to join it."""

    @classmethod
    def unseen(cls, names: Names, network: str, balanced: bool) -> Where:
        """`balanced`: the nodes' interfaces may be in a pool of a load balancer."""
        kinds = ["subnet", "group", *(["pool"] if balanced else [])]
        links = tuple((scope, JOINS[kind]) for scope in names.group_ids for kind in kinds)
        return cls(names, names.group_ids, names.group_ids, network or names.group_ids[0], links, links)


def linked(found: Any) -> Iterable[tuple[str, str]]:
    """What an interface refers to, each with the right that whoever writes it needs there."""
    if found.network_security_group is not None:
        yield str(found.network_security_group.id), JOINS["group"]
    for each in found.ip_configurations or ():
        if each.subnet is not None:
            yield str(each.subnet.id), JOINS["subnet"]
        if each.public_ip_address is not None:
            yield str(each.public_ip_address.id), JOINS["public"]
        for pool in each.load_balancer_backend_address_pools or ():
            yield str(pool.id), JOINS["pool"]
        for rule in each.load_balancer_inbound_nat_rules or ():
            yield str(rule.id), JOINS["rule"]
        for pool in each.application_gateway_backend_address_pools or ():
            yield str(pool.id), JOINS["gateway"]
        for group in each.application_security_groups or ():
            yield str(group.id), JOINS["application"]


def by_scope(scopes: Iterable[str], *actions: str) -> list[Right]:
    """The same actions on each."""
    return [Right(scope, actions) for scope in dict.fromkeys(scopes)]


def joined(links: Iterable[tuple[str, str]]) -> list[Right]:
    return [Right(scope, (action,)) for scope, action in links]


def permitted(action: str, held: Iterable[Mapping[str, Any]]) -> bool:
    """By what Azure lists: each entry allows its actions but those that it excepts."""
    return any(
        _any_fits(entry.get("actions"), action) and not _any_fits(entry.get("notActions"), action)
        for entry in held
    )


def _any_fits(patterns: Sequence[str] | None, action: str) -> bool:
    return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns or ())


# --- roles ----------------------------------------------------------------------------------------------


def roles(cluster: str, rights: Iterable[Right]) -> Mapping[str, Any]:
    """Custom roles by where the nodes' identities are to have them: the same actions are one role."""
    on: dict[str, set[str]] = defaultdict(set)
    for right in rights:
        on[_cased(right.scope, on)] |= set(right.actions)
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for scope, actions in on.items():
        alike[tuple(sorted(actions))].append(scope)
    found = {}
    for number, (granted, scopes) in enumerate(alike.items(), 1):
        found[f"a role to assign to the nodes' identities at {', '.join(scopes)}"] = {
            "Name": f"hafarm {cluster} {number}",
            "IsCustom": True,
            "Description": f"What hafarm's cluster {cluster} needs there to move its virtual IPs.",
            "Actions": list(granted),
            "NotActions": [],
            "DataActions": [],
            "NotDataActions": [],
            # Azure takes no single resource here; where it is assigned is said above.
            "AssignableScopes": sorted({_group_of(scope) for scope in scopes}),
        }
    return found


def _cased(scope: str, known: Iterable[str]) -> str:
    """As it was written first: Azure compares without regard to case."""
    return next((each for each in known if each.lower() == scope.lower()), scope)


def _group_of(scope: str) -> str:
    found = resource(scope)
    return found.group_id if found is not None else scope
