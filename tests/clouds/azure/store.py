"""What Resource Manager remembers: resources with ETags, operations that run, and how it was before."""

from __future__ import annotations

import asyncio
import copy
import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.clouds.azure.shapes import Json

REMEMBERED: Final = 256
"""So many past states; a test that looks back further should be shorter."""

CHILDREN: Final[Mapping[str, tuple[str, ...]]] = {
    "microsoft.network/routetables": ("routes",),
    "microsoft.network/virtualnetworks": ("subnets", "virtualNetworkPeerings"),
    "microsoft.network/networkinterfaces": ("ipConfigurations",),
    "microsoft.network/networksecuritygroups": ("securityRules",),
    "microsoft.network/loadbalancers": (
        "frontendIPConfigurations",
        "backendAddressPools",
        "loadBalancingRules",
        "probes",
        "inboundNatRules",
        "inboundNatPools",
        "outboundRules",
    ),
}
"""A type: its lists whose members are resources by themselves, with an address and an ETag each."""


class ArmError(Exception):
    """What Resource Manager answers instead of what was asked for."""

    def __init__(self, status: int, code: str, message: str, details: list[Json] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details or []

    def body(self) -> Json:
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}


@dataclass(frozen=True, slots=True)
class Address:
    """An identifier taken apart; names keep their case, and are compared without it."""

    subscription: str
    group: str
    namespace: str
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, text: str) -> Address:
        words = text.strip("/").split("/")
        fixed = [word.lower() for word in words[:5:2]]
        if fixed != ["subscriptions", "resourcegroups", "providers"] or len(words) < 8 or len(words) % 2:
            raise ArmError(400, "LinkedInvalidPropertyId", f"Property id '{text}' is invalid.")
        return cls(words[1], words[3], words[5], tuple(zip(words[6::2], words[7::2], strict=True)))

    def __str__(self) -> str:
        tail = "/".join(word for pair in self.pairs for word in pair)
        group = f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
        return f"{group}/providers/{self.namespace}/{tail}"

    @property
    def key(self) -> str:
        return str(self).lower()

    @property
    def type(self) -> str:
        return "/".join([self.namespace, *(kind for kind, _ in self.pairs)])

    @property
    def name(self) -> str:
        return self.pairs[-1][1]

    @property
    def top(self) -> Address:
        """The resource that its address begins with."""
        return Address(self.subscription, self.group, self.namespace, self.pairs[:1])

    @property
    def holder(self) -> Address:
        """The resource whose body and ETag it is part of, or itself."""
        return self.top if self.is_child else self

    @property
    def is_child(self) -> bool:
        return len(self.pairs) > 1 and self.top.type.lower() in CHILDREN


@dataclass
class Operation:
    """Something that was accepted and is not done yet, or how it ended."""

    id: str
    about: Address
    status: str = "InProgress"
    error: Json | None = None
    finish: Callable[[], None] = lambda: None
    fails_with: str | None = None
    signature: Mapping[str, str] = field(default_factory=dict)
    """What the address that the caller was given carries; it must come back as it was."""
    answers_with: Address | None = None

    @property
    def ended(self) -> bool:
        return self.status != "InProgress"


@dataclass
class Store:
    """All resources of all subscriptions, by their identifiers in lower case."""

    resources: dict[str, Json] = field(default_factory=dict)
    effective: dict[str, Json] = field(default_factory=dict)
    """As packets meet them: an operation that runs or failed is not in it."""
    groups: set[tuple[str, str]] = field(default_factory=set)
    operations: dict[str, Operation] = field(default_factory=dict)
    past: deque[tuple[float, dict[str, Json]]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    changed: Callable[[], None] = lambda: None
    """Told when what packets meet may have changed."""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def remember(self) -> None:
        """Before a request changes anything."""
        self.past.append((time.monotonic(), copy.deepcopy(self.resources)))

    def before(self, changes: int, seconds: float) -> Mapping[str, Json]:
        """The resources so many accepted requests ago, or so long ago where a time is given."""
        if not self.past:
            return self.resources
        if not seconds:
            return self.past[-min(changes, len(self.past))][1]
        then = time.monotonic() - seconds
        return next((state for stamp, state in self.past if stamp > then), self.resources)

    def find(self, address: Address, among: Mapping[str, Json] | None = None) -> Json | None:
        """The resource or the member of one that has this address."""
        held = (self.resources if among is None else among).get(address.holder.key)
        if held is None or not address.is_child:
            return held
        return find_child(held, address)

    def new_etag(self) -> str:
        return f'W/"{uuid.UUID(int=next(self._numbers) << 64 | 0xE7A6)}"'

    def mark(self, address: Address, state: str) -> None:
        """A new provisioning state, and with it a new ETag, which the members of a resource share with it."""
        resource = self.resources[address.holder.key]
        etag = self.new_etag()
        properties = resource.setdefault("properties", {})
        if resource["type"].lower().startswith("microsoft.network/dnszones"):
            # Names have plain ETags, and zones no state.
            resource["etag"] = etag.removeprefix("W/").strip('"')
            return
        resource["etag"] = etag
        properties["provisioningState"] = state
        for name in CHILDREN.get(address.holder.type.lower(), ()):
            for child in properties.get(name, []):
                child["etag"] = etag
                child.setdefault("properties", {})["provisioningState"] = state

    def touch(self, address: Address) -> None:
        """What another writer does to whoever read before."""
        held = self.resources.get(address.holder.key)
        if held is not None:
            self.mark(address, held["properties"].get("provisioningState", ""))

    def begin(
        self, about: Address, finish: Callable[[], None], seconds: float, error: str | None
    ) -> Operation:
        """Start an operation; one that is under way on the same thing is superseded."""
        for other in self.operations.values():
            if other.about.key == about.key and not other.ended:
                other.status = "Canceled"
                other.error = _error(
                    "CanceledAndSupersededDueToAnotherOperation",
                    f"Operation was canceled and superseded by another on {about}.",
                )
        number = uuid.uuid4()
        operation = Operation(str(number), about, finish=finish, fails_with=error)
        operation.signature = {name: f"{name}{number.hex}" for name in ("t", "c", "s", "h")}
        self.operations[operation.id] = operation
        asyncio.get_running_loop().call_later(seconds, self._end, operation)
        return operation

    def busy_elsewhere(self, about: Address) -> bool:
        """Whether something is under way on another member of the same resource."""
        return any(
            not each.ended and each.about.holder.key == about.holder.key and each.about.key != about.key
            for each in self.operations.values()
        )

    def hasten(self) -> None:
        """Everything that runs is over now, as if its time had passed."""
        for operation in list(self.operations.values()):
            self._end(operation)

    def _end(self, operation: Operation) -> None:
        if operation.ended:
            return
        if operation.fails_with is None:
            operation.finish()
            operation.status = "Succeeded"
        else:
            operation.status = "Failed"
            operation.error = _error(operation.fails_with, f"The operation on {operation.about} failed.")
            if operation.about.holder.key in self.resources:
                self.mark(operation.about, "Failed")
        self.changed()

    def settle(self, address: Address) -> None:
        """What was asked for is so now."""
        key = address.holder.key
        if key not in self.resources:
            self.effective.pop(key, None)
            return
        self.mark(address, "Succeeded")
        now = copy.deepcopy(self.resources[key])
        if address.is_child and key in self.effective:
            # A sibling whose own operation runs or failed must not become so by this one.
            now["properties"] = self._with_member(self.effective[key]["properties"], address)
        self.effective[key] = now

    def _with_member(self, properties: Json, address: Address) -> Json:
        list_ = list_of(address)
        others = [each for each in properties.get(list_, []) if each["name"].lower() != address.name.lower()]
        member = self.find(address)
        return properties | {list_: [*others, *([copy.deepcopy(member)] if member else [])]}


def list_of(address: Address) -> str:
    """How the resource calls the list that this member is in."""
    for name in CHILDREN[address.top.type.lower()]:
        if name.lower() == address.pairs[1][0].lower():
            return name
    raise ArmError(400, "LinkedInvalidPropertyId", f"Property id '{address}' is invalid.")


def find_child(resource: Json, address: Address) -> Json | None:
    """A member of a resource that was found already."""
    if len(address.pairs) != 2:
        return None
    for child in resource.get("properties", {}).get(list_of(address), []):
        if child.get("name", "").lower() == address.name.lower():
            found: Json = child
            return found
    return None


def _error(code: str, message: str) -> Json:
    return {"code": code, "message": message}
