"""What Azure calls things: an identifier, or a plain name within the nodes' own resource group."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from orchestrator.providers.faults import PlaceWrong

NAMESPACE: Final = "Microsoft.Network"
ID: Final = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/(?P<namespace>[^/]+)/(?P<tail>[^/]+/[^/]+(/[^/]+/[^/]+)*)/?",
    re.IGNORECASE,
)
NAME: Final = re.compile(r"[\w.()-]{1,90}(/[\w.()-]{1,90})*")
KINDS: Final = {
    "routeTables": "route table",
    "loadBalancers": "load balancer",
    "loadBalancers/backendAddressPools": "backend pool",
    "publicIPAddresses": "public IP address",
    "virtualNetworks": "virtual network",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource; Azure compares names without regard to case, and so does `key`."""

    subscription: str
    group: str
    kind: str
    """Without the namespace, such as `loadBalancers/backendAddressPools`."""
    names: tuple[str, ...]

    @property
    def id(self) -> str:
        tail = "/".join(word for pair in zip(self.kind.split("/"), self.names, strict=True) for word in pair)
        return f"{group_id(self.subscription, self.group)}/providers/{NAMESPACE}/{tail}"

    @property
    def key(self) -> str:
        return self.id.lower()

    @property
    def short(self) -> str:
        """For people, who know their resource groups."""
        return "/".join(self.names)

    @property
    def group_id(self) -> str:
        return group_id(self.subscription, self.group)


@dataclass(frozen=True, slots=True)
class Names:
    """How names of hafarm.yaml are understood."""

    subscription: str
    groups: tuple[str, ...]
    """Where the nodes' network interfaces are; plain names are of the first."""

    def find(self, kind: str, text: str) -> Resource:
        """PlaceWrong where it cannot be one of this kind."""
        what = KINDS[kind]
        if text.startswith("/"):
            found = resource(text)
            if found is None or found.kind.lower() != kind.lower():
                raise PlaceWrong(f"{what} {text}", "this is no identifier of one", f"as in {_example(kind)}")
            return found
        words = tuple(text.split("/"))
        if len(words) != len(kind.split("/")) or not NAME.fullmatch(text):
            form = "LOAD-BALANCER/POOL, or " if "/" in kind else "a name, or "
            raise PlaceWrong(f"{what} {text}", "this is no name of one", f"write {form}{_example(kind)}")
        if not self.subscription or not self.groups:
            raise PlaceWrong(
                f"{what} {text}",
                "it is not known in which resource group it is",
                "say `settings: {subscription: ..., resource_group: ...}`, or name it by its identifier",
            )
        return Resource(self.subscription, self.groups[0], kind, words)

    @property
    def group_ids(self) -> tuple[str, ...]:
        return tuple(group_id(self.subscription, group) for group in self.groups)


def resource(text: str) -> Resource | None:
    """An identifier of Microsoft.Network taken apart; None where it is none."""
    found = ID.fullmatch(text)
    if found is None or found["namespace"].lower() != NAMESPACE.lower():
        return None
    words = found["tail"].split("/")
    return Resource(found["subscription"], found["group"], "/".join(words[::2]), tuple(words[1::2]))


def holder(text: str) -> str:
    """The identifier of the resource that a part belongs to: an interface, a virtual network, a balancer."""
    found = resource(text)
    if found is None:
        return text
    return Resource(found.subscription, found.group, found.kind.split("/")[0], found.names[:1]).id


def group_id(subscription: str, group: str) -> str:
    return f"/subscriptions/{subscription}/resourceGroups/{group}"


def _example(kind: str) -> str:
    tail = "/".join(f"{word}/NAME" for word in kind.split("/"))
    return f"/subscriptions/ID/resourceGroups/GROUP/providers/{NAMESPACE}/{tail}"
