"""The shape of hafarm.yaml, key by key, as pydantic models; unknown keys are errors."""

from __future__ import annotations

import ipaddress
import os.path
import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from orchestrator.config import units
from orchestrator.config.shape_base import TEXT, Directory, Shape
from orchestrator.config.shape_witness import Witness
from orchestrator.model.choice import Choice
from orchestrator.model.config import CONTROL_PORT, HANGS_S, HEARTBEAT_PORT, PRESETS
from orchestrator.model.names import NAME_PATTERN
from orchestrator.model.patterns import PATTERN_MAX, Patterns


def _name(value: object) -> str:
    if not isinstance(value, str) or NAME_PATTERN.fullmatch(value) is None:
        raise ValueError("a name has small letters, digits and inner hyphens, at most 63")
    return value


def _command(value: object) -> list[str]:
    if isinstance(value, str):
        value = shlex.split(value)
    if not isinstance(value, list) or not value or not all(isinstance(word, str | int) for word in value):
        raise ValueError("a command is a list of words, or one line that is split as a shell would")
    return [str(word) for word in value]


def _below(value: object) -> str:
    if (
        not isinstance(value, str)
        or not value
        or value.startswith("/")
        or os.path.normpath(value) != value
        or value.split("/")[0] in (".", "..", ".hafarm")
    ):
        raise ValueError("a path below the directory is needed, without / at either end, and without . or ..")
    return value


def _pattern(value: str) -> str:
    Patterns((value,))  # PatternFault is a ValueError, told at its own line and column
    return value


def address_with_prefix(value: str) -> str:
    """As it is, or ValueError."""
    try:
        if "/" not in value:
            raise ValueError
        ipaddress.ip_interface(value)
    except ValueError as fault:
        raise ValueError("an address with its prefix length is needed, such as 198.18.0.100/24") from fault
    return value


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _variable(value: object) -> str:
    if not isinstance(value, str) or _VARIABLE.fullmatch(value) is None:
        raise ValueError("a variable's name has letters, digits and underscores, and begins with no digit")
    return value


Variable = Annotated[
    str, BeforeValidator(_variable), WithJsonSchema({**TEXT, "pattern": f"^{_VARIABLE.pattern}$"})
]
Name = Annotated[
    str, BeforeValidator(_name), WithJsonSchema({**TEXT, "pattern": f"^{NAME_PATTERN.pattern}$"})
]
Seconds = Annotated[
    float, BeforeValidator(units.seconds), WithJsonSchema({**TEXT, "examples": ["200ms", "5s"]})
]
Rate = Annotated[
    int, BeforeValidator(units.bytes_per_second), WithJsonSchema({**TEXT, "examples": ["100MiB/s"]})
]
Command = Annotated[
    list[str],
    BeforeValidator(_command),
    WithJsonSchema({"anyOf": [{"type": "array", "items": TEXT}, TEXT]}),
]
Below = Annotated[str, BeforeValidator(_below), WithJsonSchema({**TEXT, "pattern": "^[^/]"})]
Pattern = Annotated[
    str,
    AfterValidator(_pattern),
    WithJsonSchema({**TEXT, "maxLength": PATTERN_MAX, "examples": ["*.tmp", "logs/**", "re:cache/[0-9]+"]}),
]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]


class Ports(Shape):
    heartbeat: Port = HEARTBEAT_PORT
    control: Port = CONTROL_PORT
    health: Port | None = None


class Fence(Shape):
    provider: Name
    when: Literal["takeover", "never"] = "never"
    verb: Literal["off", "stop", "reset"] = "off"
    settings: dict[str, str | int | list[str | int]] = {}


class Cluster(Shape):
    name: Name
    preset: Literal["fast", "lan", "cloud", "wan"] = "lan"
    detection: Seconds | None = None
    period: Seconds | None = None
    witness: Witness | None = None
    ports: Ports = Ports()
    fence: Fence | None = None
    scheduled_events: Literal["swap", "tell"] | None = None

    @model_validator(mode="after")
    def _sane(self) -> Cluster:
        base = PRESETS[self.preset]
        detection, period = self.detection or base.detection_s, self.period or base.period_s
        if not 0.01 <= period <= detection / 4:
            raise ValueError("period must be at least 10ms and at most a quarter of detection")
        if not 0.2 <= detection <= 60:
            raise ValueError("detection must lie between 200ms and 60s")
        return self


class Node(Shape):
    name: Name
    addresses: Annotated[dict[str, str], Field(min_length=1)]

    @field_validator("addresses")
    @classmethod
    def _addresses(cls, value: dict[str, str]) -> dict[str, str]:
        for path, address in value.items():
            _name(path)
            try:
                ipaddress.ip_address(address)
            except ValueError as fault:
                raise ValueError(f"{path}: {address!r} is no IP address") from fault
        return value


class Replicate(Shape):
    path: Directory
    exclude: list[Pattern] = []
    only: list[Pattern] = []
    must_exist: Below = ""

    @field_validator("only")
    @classmethod
    def _something(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("nothing would be replicated: name something, or leave it away for everything")
        return value

    @model_validator(mode="after")
    def _together(self) -> Replicate:
        Choice(self.exclude, self.only)  # all patterns of a directory have one bound
        return self


class Run(Shape):
    command: Command | None = None
    scripts: Directory | None = None
    user: str = ""
    environment: dict[Variable, str] = {}
    start_timeout: Seconds = 60.0
    stop_timeout: Seconds = 20.0

    @model_validator(mode="after")
    def _one_way(self) -> Run:
        if (self.command is None) == (self.scripts is None):
            raise ValueError("either command or scripts, and not both")
        return self


class Check(Shape):
    name: str = ""
    tcp: int | str | None = None
    http: str | None = None
    custom: Command | None = None
    every: Seconds = 1.0
    timeout: Seconds = 1.0
    fail_after: Annotated[int, Field(ge=1, le=1000, strict=True)] = 3
    action: Literal["restart", "swap", "stop", "none"] = "restart"

    @model_validator(mode="after")
    def _one_kind(self) -> Check:
        if sum(kind is not None for kind in (self.tcp, self.http, self.custom)) != 1:
            raise ValueError("a check is one of tcp, http and custom")
        if self.tcp is not None:
            port = str(self.tcp).rpartition(":")[2]
            if not port.isdecimal() or not 1 <= int(port) <= 65535:
                raise ValueError("tcp: PORT or HOST:PORT")
        if self.http is not None and not self.http.startswith(("http://", "https://")):
            raise ValueError("http: a URL that begins with http:// or https://")
        return self


class Vip(Shape):
    address: str
    interface: Annotated[str, Field(max_length=15)] = ""
    source: bool = False
    provider: Name = "auto"
    mode: str = ""
    settings: dict[str, str | int | list[str | int]] = {}

    @field_validator("address")
    @classmethod
    def _cidr(cls, value: str) -> str:
        return address_with_prefix(value)


class Restarts(Shape):
    max: Annotated[int, Field(ge=0, le=1000, strict=True)] = 3
    window: Seconds = 86400.0


class Resync(Shape):
    workers: Annotated[int, Field(ge=1, le=64, strict=True)] = 6
    rate: Rate = 0


class SlowPeer(Shape):
    after: Seconds = 5.0
    do: Literal["alert", "drop"] = "alert"

    @field_validator("after")
    @classmethod
    def _bearable(cls, value: float) -> float:
        if not 1 <= value <= 3600:
            raise ValueError("between 1s, which any disk may take, and 1h")
        return value


class HungDisk(Shape):
    after: Seconds = 30.0
    do: Literal["alert", "move"] = "alert"

    @field_validator("after")
    @classmethod
    def _told_before(cls, value: float) -> float:
        if not HANGS_S <= value <= 3600:
            raise ValueError(f"between {HANGS_S:g}s, when it is told, and 1h")
        return value


class Module(Shape):
    name: Name
    kind: Literal["mirror"]
    nodes: Annotated[list[str], Field(min_length=2, max_length=7)]
    replicate: Annotated[list[Replicate], Field(min_length=1)]
    run: Run | None = None
    vip: list[Vip] = []
    checks: list[Check] = []
    replication: list[str] = []
    replication_port: Port | None = None
    on_register_loss: Literal["hold", "stop"] = "hold"
    on_link_loss: Literal["move", "stay"] = "move"
    overlap: Literal["brief", "none"] = "brief"
    ack: Literal["disk", "memory"] = "disk"
    slow_peer: SlowPeer = SlowPeer()
    hung_disk: HungDisk = HungDisk()
    cache: Literal["through", "writeback"] = "through"
    restarts: Restarts = Restarts()
    resync: Resync = Resync()

    @field_validator("replicate", mode="before")
    @classmethod
    def _plain_paths(cls, value: Any) -> Any:
        return (
            [{"path": one} if isinstance(one, str) else one for one in value]
            if isinstance(value, list)
            else value
        )
