"""Which operation of the SDK's list an HTTP request is, and the permission that it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.clouds.azure.shapes import specification
from tests.clouds.azure.store import Address, ArmError

VERBS: Final[Mapping[str, str]] = {"GET": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the interface data."""

    service: str
    group: str
    name: str
    method: str
    api_version: str
    path: str
    pattern: re.Pattern[str]
    query: frozenset[str]


def _operations() -> Iterator[Operation]:
    for service, groups in specification("sdk-operations").items():
        for group, operations in groups.items():
            for name, told in operations.items():
                # Names are matched whole; literal words without regard to case, as ARM does.
                pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(told["path"]))
                yield Operation(
                    service,
                    group,
                    name,
                    told["method"],
                    told["apiVersion"],
                    told["path"],
                    re.compile(pattern, re.IGNORECASE),
                    frozenset(told["query"]),
                )


OPERATIONS: Final = tuple(_operations())


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood."""

    operation: Operation
    words: Mapping[str, str]
    path: str

    @property
    def verb(self) -> str:
        """What follows the resource in the address of an action, or of a view of it."""
        last = self.path.rstrip("/").rsplit("/", 1)[1]
        is_verb = self.operation.method == "POST" or last.lower() == "instanceview"
        return last if is_verb else ""

    @property
    def is_list(self) -> bool:
        return self.operation.method == "GET" and self.operation.name.startswith("list")

    @property
    def address(self) -> Address:
        """The resource that it is about; a list is about no single one."""
        return Address.of(self.path.removesuffix(f"/{self.verb}") if self.verb else self.path)

    @property
    def kind(self) -> str:
        """The type that it is about, as the interface data spell it."""
        tail = self.operation.path.split("/providers/")[1]
        words = [word for word in tail.split("/") if not word.startswith("{")]
        if self.verb:
            words.pop()
        if "recordType" in self.words:
            words.append(self.words["recordType"].upper())
        return "/".join(words)

    @property
    def action(self) -> str:
        if self.operation.method == "POST":
            return f"{self.kind}/{self.verb}/action"
        middle = f"/{self.verb}" if self.verb else ""
        return f"{self.kind}{middle}/{VERBS[self.operation.method]}"


def understood(method: str, path: str, query: Mapping[str, str]) -> Asked:
    """The operation that it is; refused as Resource Manager refuses what it does not know."""
    fitting = [
        (each, found)
        for each in OPERATIONS
        if (found := each.pattern.fullmatch(path.rstrip("/"))) is not None
    ]
    if not fitting:
        raise ArmError(404, "InvalidResourceType", f"The resource type could not be found for '{path}'.")
    mine = [(each, found) for each, found in fitting if each.method == method]
    if not mine:
        raise ArmError(405, "MethodNotAllowed", f"The requested method {method} is not allowed for '{path}'.")
    # A name that is also a word (…/subnets/list) cannot be told apart, and no address here has such a word.
    operation, found = max(mine, key=lambda pair: len(pair[0].pattern.pattern))
    version = query.get("api-version")
    if version is None:
        raise ArmError(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
    if version != operation.api_version:
        raise ArmError(
            400,
            "InvalidResourceType"
            if not re.fullmatch(r"\d{4}-\d\d-\d\d(-preview)?", version)
            else "NoRegisteredProviderFound",
            f"The api-version '{version}' is invalid. The supported versions are '{operation.api_version}'.",
        )
    unknown = set(query) - operation.query
    if unknown:
        raise ArmError(
            400, "InvalidQueryParameter", f"Unknown query parameters: {', '.join(sorted(unknown))}."
        )
    return Asked(operation, found.groupdict(), path.rstrip("/"))
