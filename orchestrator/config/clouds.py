"""What a virtual IP says of the cloud that moves it: known modes, known settings, and what they need."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Final

from orchestrator.config import shape
from orchestrator.config.marks import Marked, Path, Problem
from orchestrator.config.shape_file import File
from orchestrator.model.config import FenceConfig, VipConfig

GROUP: Final = "hafarm.providers"
"""The entry point by which other packages bring a provider."""


@dataclass(frozen=True, slots=True)
class Mode:
    """What one way of moving an address may and must be told."""

    needed: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    alone: bool = False
    """The address is a route of its own: its prefix covers it and nothing else."""
    probed: bool = False
    """A load balancer asks the agents who serves."""


AWS_ALWAYS: Final = frozenset({"region", "vpc"})
AZURE_ALWAYS: Final = frozenset({"subscription", "resource_group", "network", "endpoint"})
MODES: Final[Mapping[str, Mapping[str, Mode]]] = {
    "aws": {
        "secondary-ip": Mode(),
        "overlay-route": Mode(frozenset({"route_tables"}), frozenset({"role"}), alone=True),
        "elastic-ip": Mode(frozenset({"allocation"})),
        "nlb-probe": Mode(frozenset({"target_groups"}), probed=True),
        "nlb-register": Mode(frozenset({"target_groups"})),
        "dns": Mode(frozenset({"zone", "record"}), frozenset({"ttl", "values"})),
    },
    "gcp": {
        "ilb-probe": Mode(frozenset({"forwarding_rules"}), probed=True),
        "route": Mode(alone=True),
        "alias-ip": Mode(),
        "forwarding-rule": Mode(frozenset({"forwarding_rules"})),
    },
    "azure": {
        "ilb-probe": Mode(frozenset({"load_balancer"}), frozenset({"frontend"}), probed=True),
        "udr": Mode(frozenset({"route_tables"}), alone=True),
        "nic-ipconfig": Mode(),
        "public-ip": Mode(frozenset({"public_ip"})),
        "lb-pool": Mode(frozenset({"backend_pools"})),
    },
}
"""Of the providers in this package; those of other packages check their own when they start."""
FENCERS: Final[Mapping[str, frozenset[str]]] = {"aws": frozenset({"region", "vpc"})}
"""Which of the providers in this package switch nodes off, and what each may be told for it."""
ALWAYS: Final[Mapping[str, frozenset[str]]] = {
    "aws": AWS_ALWAYS,
    "azure": AZURE_ALWAYS,
    "gcp": frozenset({"project", "network", "region", "zones"}),
}
LISTS: Final = frozenset(
    {
        *("route_tables", "target_groups", "values"),
        *("backend_pools", "resource_group"),
        *("forwarding_rules", "zones"),
    }
)
"""Settings that take several values."""


def contradictions(marked: Marked, file: File, index: int, module: shape.Module) -> Iterator[Problem]:
    """Of one mirror's virtual IPs."""
    for place, vip in enumerate(module.vip):
        here: Path = ("modules", index, "vip", place)
        if vip.provider in ("auto", "onprem"):
            if vip.mode:
                yield marked.problem((*here, "mode"), f"provider {vip.provider} has no modes: name a cloud's")
            yield from _automatic(marked, here, vip)
        elif vip.provider in MODES:
            yield from _of_ours(marked, file, here, vip)
        elif vip.provider not in _installed():
            yield marked.problem((*here, "provider"), _unknown(vip.provider))


def fence_contradictions(marked: Marked, file: File) -> Iterator[Problem]:
    """Of who switches nodes off."""
    fence, here = file.cluster.fence, ("cluster", "fence")
    if fence is None:
        return
    if fence.provider in FENCERS:
        yield from _settings(marked, here, fence, FENCERS[fence.provider])
    elif fence.provider not in _installed():
        known = ", ".join([*FENCERS, *sorted(_installed())])
        yield marked.problem((*here, "provider"), f"{fence.provider} switches no node off; these do: {known}")
    mirrors = [module for module in file.modules if module.kind == "mirror"]
    if not mirrors:
        text = "only who holds a mirror's record may switch another node off, and there is no mirror"
        yield marked.problem(here, text)


def _automatic(marked: Marked, here: Path, vip: shape.Vip) -> Iterator[Problem]:
    """With `auto` the settings of every mode may stand there: which is used depends on where a node is."""
    if vip.provider == "onprem" and vip.settings:
        yield marked.problem((*here, "settings"), "provider onprem has no settings")
        return
    modes = [mode for of_cloud in MODES.values() for mode in of_cloud.values()]
    known = set().union(*ALWAYS.values(), *(mode.needed | mode.known for mode in modes))
    yield from _settings(marked, here, vip, known)


def _of_ours(marked: Marked, file: File, here: Path, vip: shape.Vip) -> Iterator[Problem]:
    modes = MODES[vip.provider]
    if not vip.mode:
        known = set().union(*(mode.needed | mode.known for mode in modes.values()))
        yield from _settings(marked, here, vip, known | ALWAYS[vip.provider])
        return
    if vip.mode not in modes:
        near = difflib.get_close_matches(vip.mode, modes, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(modes)}"
        yield marked.problem((*here, "mode"), f"{vip.provider} has no mode {vip.mode}, {hint}")
        return
    mode = modes[vip.mode]
    for name in sorted(mode.needed - vip.settings.keys()):
        yield marked.problem((*here, "settings"), f"{vip.mode} needs {name}")
    yield from _settings(marked, here, vip, mode.needed | mode.known | ALWAYS[vip.provider])
    address = ipaddress.ip_interface(vip.address)
    if mode.alone and address.network.prefixlen != address.max_prefixlen:
        text = f"an address that is routed stands alone: {address.ip}/{address.max_prefixlen}"
        yield marked.problem((*here, "address"), text)
    if mode.probed and file.cluster.ports.health is None:
        text = f"{vip.mode} needs `ports: {{health: PORT}}` of the cluster, where the load balancer asks"
        yield marked.problem((*here, "mode"), text)


def _settings(
    marked: Marked, here: Path, told: shape.Vip | shape.Fence, known: set[str] | frozenset[str]
) -> Iterator[Problem]:
    for name, value in told.settings.items():
        where = (*here, "settings", name)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
            yield marked.problem(where, f"unknown setting, {hint}")
        elif isinstance(value, list) and name not in LISTS:
            yield marked.problem(where, "one value, not a list")
        elif not value:
            yield marked.problem(where, "is empty")


def _installed() -> set[str]:
    return {point.name for point in entry_points(group=GROUP)}


def _unknown(name: str) -> str:
    known = ["auto", "onprem", *MODES, *sorted(_installed())]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return f"no provider is named {name}, {hint} A package with the entry point {GROUP} adds others"


def value(vip: shape.Vip) -> VipConfig:
    """The model's."""
    return VipConfig(vip.address, vip.interface, vip.source, vip.provider, vip.mode, _as_lists(vip.settings))


def fence_value(fence: shape.Fence | None) -> FenceConfig | None:
    """The model's."""
    if fence is None:
        return None
    return FenceConfig(fence.provider, fence.when, fence.verb, _as_lists(fence.settings))


def _as_lists(settings: Mapping[str, str | int | list[str | int]]) -> Mapping[str, tuple[str, ...]]:
    return {
        name: tuple(str(each) for each in (value if isinstance(value, list) else [value]))
        for name, value in settings.items()
    }
