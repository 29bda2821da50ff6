"""What a cloud's provider has to be: it lives in a worker process, may block, and changes nothing unasked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.model.config import ClusterConfig, FenceConfig, VipConfig
from orchestrator.model.names import ClusterName, Epoch, ModuleName, NodeName
from orchestrator.providers.provider import Finding, Sight


@dataclass(frozen=True, slots=True)
class Vip:
    """One virtual IP that the provider moves."""

    module: ModuleName
    address: str
    """Without its prefix length."""
    mode: str
    """Empty: the provider chooses."""
    settings: Mapping[str, tuple[str, ...]]
    nodes: tuple[NodeName, ...]
    """Who may have it."""

    def setting(self, name: str) -> str:
        """The one value of a setting, or nothing."""
        values = self.settings.get(name, ())
        return values[0] if values else ""


@dataclass(frozen=True, slots=True)
class Place:
    """Everything that a provider knows of the cluster."""

    cluster: ClusterName
    me: NodeName
    addresses: Mapping[NodeName, tuple[str, ...]]
    """Each node's own."""
    vips: tuple[Vip, ...]
    health_port: int = 0
    """Where the agents answer a load balancer's probes; 0: nowhere."""
    fence: FenceConfig | None = None
    """Where the nodes are switched off by this provider."""

    @property
    def told(self) -> tuple[Vip | FenceConfig, ...]:
        """All that has settings."""
        return (*self.vips, *([self.fence] if self.fence is not None else []))


@dataclass(frozen=True, slots=True)
class Choice:
    """How one address is moved here."""

    mode: str
    local: bool
    """The address is put on an interface of whoever has it."""
    why: str


@dataclass(frozen=True, slots=True)
class Moved:
    """What a claim came to: nothing is missing, or these parts still lead elsewhere, each with its reason."""

    missing: Mapping[str, str] = field(default_factory=dict)
    changes: int = 0
    """Requests that were sent to change something."""
    again: bool = False
    """Of what is missing something may be there already, or soon: it is looked at again at once."""


class Leave(Protocol):
    """Leave to change something. Asked directly before each request that does, and never kept."""

    @property
    def epoch(self) -> Epoch:
        """The reign under which it is ordered: what a later one did is newer. 0 where no reign orders it."""
        ...

    def check(self, what: str) -> None:
        """Raises Superseded when the node must not send it any more."""
        ...

    def left_s(self) -> float:
        """How much of the order's time is left; nothing may be begun below zero."""
        ...


class Mover(Protocol):
    """One cloud. Its methods block, may be called from several threads, and raise ProviderFaults only."""

    def choices(self) -> Mapping[str, Choice | Exception]:
        """Address to the way in which it is moved, or to the fault that says why it cannot be."""
        ...

    def observe(self) -> Mapping[str, Sight | Exception]:
        """Who has each address, in as few requests as the cloud allows; what cannot be seen as its fault."""
        ...

    def claim(self, address: str, expected: frozenset[NodeName], leave: Leave) -> Moved:
        """Look, change what must be changed, and look until it is true.

        Already here: no request that changes anything. Taken from nobody but `expected`. A request that
        changes something is never sent twice: who ordered it asks again, and that looks first.
        """
        ...

    def release(self, address: str, leave: Leave) -> None:
        """Let go, only of what is still here; nothing where letting go could hit a successor."""
        ...

    def preflight(self, repair: bool, leave: Leave) -> list[Finding]:
        """What would refuse or disturb a claim. `repair`: mend what the provider may mend on this node."""
        ...


class Make(Protocol):
    """What the entry point of a provider names, most simply its Mover's class."""

    def __call__(self, place: Place, /) -> Mover:
        """Called once, when the worker starts; it may be slow, and asks what it needs to know."""
        ...

    def policy(self, place: Place, /) -> Mapping[str, Any]:
        """By the role that needs them the least rights for these addresses, in the cloud's own form.

        Called without a Mover: the cloud need not be there.
        """
        ...


def place_of(
    config: ClusterConfig, me: NodeName, provider: str, taken: Callable[[VipConfig], str], health_port: int
) -> Place:
    """The part of the configuration that one provider has to know; `taken`: who moves an address."""
    return Place(
        config.name,
        me,
        {node.name: tuple(node.addresses.values()) for node in config.nodes},
        tuple(
            Vip(module.name, bare(vip.address), vip.mode, vip.settings, module.nodes)
            for module in config.mirrors
            if me in module.nodes
            for vip in module.vip
            if taken(vip) == provider
        ),
        health_port,
        config.fence if config.fence is not None and config.fence.provider == provider else None,
    )


def bare(address: str) -> str:
    """As the kernel writes it, without the prefix."""
    from ipaddress import ip_interface

    return str(ip_interface(address).ip)


def place_as_dict(place: Place) -> dict[str, Any]:
    """As it travels to a worker."""
    return {
        "cluster": place.cluster,
        "me": place.me,
        "addresses": {name: list(addresses) for name, addresses in place.addresses.items()},
        "vips": [
            {
                "module": vip.module,
                "address": vip.address,
                "mode": vip.mode,
                "settings": {key: list(values) for key, values in vip.settings.items()},
                "nodes": list(vip.nodes),
            }
            for vip in place.vips
        ],
        "health_port": place.health_port,
        "fence": fence_as_dict(place.fence),
    }


def fence_as_dict(fence: FenceConfig | None) -> dict[str, Any] | None:
    """As it travels with a place."""
    if fence is None:
        return None
    settings = {key: list(values) for key, values in fence.settings.items()}
    return {"provider": fence.provider, "when": fence.when, "verb": fence.verb, "settings": settings}


def place_from_dict(data: Mapping[str, Any]) -> Place:
    """The other way round."""
    return Place(
        ClusterName(data["cluster"]),
        NodeName(data["me"]),
        {NodeName(name): tuple(addresses) for name, addresses in data["addresses"].items()},
        tuple(
            Vip(
                ModuleName(vip["module"]),
                vip["address"],
                vip["mode"],
                {key: tuple(values) for key, values in vip["settings"].items()},
                tuple(NodeName(name) for name in vip["nodes"]),
            )
            for vip in data["vips"]
        ),
        int(data["health_port"]),
        _fence_from_dict(data["fence"]) if data.get("fence") else None,
    )


def _fence_from_dict(data: Mapping[str, Any]) -> FenceConfig:
    settings = {key: tuple(values) for key, values in data["settings"].items()}
    return FenceConfig(data["provider"], data["when"], data["verb"], settings)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a node wants of the cloud for one module: the newest such wish alone is carried out."""

    verb: str
    epoch: Epoch
