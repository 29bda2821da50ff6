"""The shape of a farm in hafarm.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from orchestrator.config.shape import Check, Name, Restarts, Run, Seconds, address_with_prefix
from orchestrator.config.shape_base import Shape
from orchestrator.model.names import NODES_MAX

WEIGHT_MAX = 1000  # of two nodes one may do a thousand times as much: more is a mistake
GROUPS_MAX = 16  # each has a map of its own in the kernel, which is changed in some milliseconds
PORTS_MAX = 64  # of a group; a range counts once


def _ports(value: object) -> tuple[int, int]:
    """`80`, or `8000-8010`."""
    first, dash, last = str(value).partition("-")
    if first.isdecimal() and (last.isdecimal() or not dash):
        low, high = int(first), int(last if dash else first)
        if 1 <= low <= high <= 65535:
            return low, high
    raise ValueError("a port, or a range of them such as 8000-8010")


PortRange = Annotated[
    tuple[int, int],
    BeforeValidator(_ports),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+-[0-9]+$"}]}),
]
Weight = Annotated[int, Field(ge=0, le=WEIGHT_MAX, strict=True)]


class Group(Shape):
    """Ports that are shared out together."""

    ports: Annotated[list[PortRange], Field(min_length=1, max_length=PORTS_MAX)]
    protocols: Annotated[list[Literal["tcp", "udp"]], Field(min_length=1)] = ["tcp"]
    affinity: Literal["source", "source-port"] = "source"
    weights: dict[Name, Weight] = {}
    chain: list[list[str]] = []

    @field_validator("chain", mode="before")
    @classmethod
    def _single_names(cls, value: Any) -> Any:
        return [[one] if isinstance(one, str) else one for one in value] if isinstance(value, list) else value


class FarmVip(Shape):
    address: str
    ports: list[PortRange] | None = None
    protocols: list[Literal["tcp", "udp"]] | None = None
    affinity: Literal["source", "source-port"] | None = None
    weights: dict[Name, Weight] | None = None
    chain: list[list[str] | str] | None = None
    groups: Annotated[list[Group], Field(min_length=1, max_length=GROUPS_MAX)] | None = None

    @field_validator("address")
    @classmethod
    def _cidr(cls, value: str) -> str:
        return address_with_prefix(value)

    @model_validator(mode="after")
    def _one_way(self) -> FarmVip:
        if (self.ports is None) == (self.groups is None):
            raise ValueError("either ports, or groups of them, and not both")
        if self.groups is None:
            self.shared()
        elif any(each is not None for each in (self.protocols, self.affinity, self.weights, self.chain)):
            raise ValueError("protocols, affinity, weights and chain belong into the groups")
        return self

    def shared(self) -> list[Group]:
        """Its groups; what stands beside the address is one."""
        if self.groups is not None:
            return self.groups
        keys = ("ports", "protocols", "affinity", "weights", "chain")
        given = {key: found for key in keys if (found := getattr(self, key)) is not None}
        given["ports"] = [f"{low}-{high}" for low, high in given["ports"]]
        return [Group.model_validate(given)]


class Farm(Shape):
    name: Name
    kind: Literal["farm"]
    nodes: Annotated[list[str], Field(min_length=2, max_length=NODES_MAX)]
    run: Run | None = None
    vip: Annotated[list[FarmVip], Field(min_length=1)]
    interface: Annotated[str, Field(max_length=15)] = ""
    mode: Literal["directed", "spread", "invisible"] = "directed"
    checks: list[Check] = []
    drain: Seconds = 30.0
    reset_on_loss: bool = True
    restarts: Restarts = Restarts()
