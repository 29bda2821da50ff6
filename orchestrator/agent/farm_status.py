"""What `hafarm status` shows of a farm: who takes which part of the traffic, and what this node had of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from orchestrator.agent.farm_flows import UNKNOWN, Flow, Flows
from orchestrator.agent.farm_hands import FarmHands
from orchestrator.farm.buckets import BUCKETS
from orchestrator.farm.state import Farm, Stage
from orchestrator.farm.view import directors, maps
from orchestrator.model.config import FarmConfig
from orchestrator.model.names import NodeName
from orchestrator.model.report import FarmRole, FarmState


def states(farm: Farm) -> dict[NodeName, FarmState | None]:
    """Each node of the farm as it was last heard; None: out of reach."""
    told: dict[NodeName, FarmState | None] = {}
    for name in farm.nodes:
        peer = farm.peers.get(name)
        told[name] = farm.state() if peer is None else None if peer.out else peer.said
    return told


async def module_status(
    farm: Farm, config: FarmConfig, hands: FarmHands, flows: Flows, others: Mapping[NodeName, Flow]
) -> dict[str, Any]:
    """One farm, as this node sees it; what the others serve they say themselves."""
    told = states(farm)
    flow = {**others, farm.me: await flows.here()}
    owners = maps(farm.rules, farm.committed)
    shares = [Counter(name for name in group if name is not None) for group in owners]
    return {
        "name": farm.module,
        "kind": "farm",
        "headline": headline(farm, told),
        "nodes": [
            {**_node(farm, name, state, shares), **flow.get(name, UNKNOWN)} for name, state in told.items()
        ],
        "vip": _addresses(farm, config),
        "groups": await _groups(farm, config, flows, shares),
        "application": {
            "running": farm.stage in (Stage.CHECKING, Stage.READY),
            "checks": [
                {"name": name, "good": result.good, "text": result.text, "failures": result.failures}
                for name, result in hands.application.checks.results.items()
            ],
        },
        "hint": hint(farm),
    }


def _node(
    farm: Farm, name: NodeName, state: FarmState | None, shares: list[Counter[NodeName]]
) -> dict[str, Any]:
    share = max((each[name] for each in shares), default=0) / BUCKETS
    if state is None:
        return {"node": name, "role": "?", "phase": "", "serving": False, "share": 0.0, "percent": 100,
                "draining": False, "reason": _why_out(farm, name)}  # fmt: skip
    return {
        "node": name,
        "role": state.role.value,
        "phase": state.phase.value,
        "serving": name in farm.committed.names,
        "share": round(share, 4),
        "percent": state.percent,
        "draining": state.draining,
        "reason": reason(farm) if name == farm.me else "",
    }


def _why_out(farm: Farm, name: NodeName) -> str:
    held = farm.peers[name].held_until is not None
    return "comes and goes: left out for a while (HF6023)" if held else "out of reach"


def reason(farm: Farm) -> str:
    """Why this node is where it is, in words; nothing when all is well."""
    if not farm.loaded:
        return "its state on disk cannot be read: no role is taken on doubt"
    if farm.trouble:
        return f"no traffic is let in: {farm.trouble}"
    if farm.links_down:
        return f"no carrier on {', '.join(sorted(farm.links_down))}"
    if farm.stands_back:
        return f"not heard by {', '.join(sorted(farm.deaf))}: its part is served there (HF6032)"
    if farm.draining:
        left = "" if farm.connections is None else f", {farm.connections} connections left"
        return f"draining, then {farm.draining}{left}"
    if farm.role is FarmRole.WAIT and farm.stage is not Stage.READY:
        return str(farm.stage.value)
    if farm.preparing is not None:
        return "shares are changing"
    return ""


def headline(farm: Farm, told: Mapping[NodeName, FarmState | None]) -> str:
    """One sentence: what is, and what a failure now would mean."""
    names = sorted(farm.committed.names)
    if not names:
        return "nobody takes traffic" if farm.wanted else "stopped"
    if len(names) == 1:
        return f"{names[0]} takes everything alone: redundancy lost, if it fails now the service stops"
    missing = [name for name in farm.nodes if name not in names]
    rest = f"; {', '.join(missing)} takes none" if missing else ""
    return f"{', '.join(names)} share the traffic{rest}; if one fails, the others take its part"


def hint(farm: Farm) -> str:
    """What to type next, where something has to be typed."""
    if farm.loaded and not farm.wanted:
        return f"hafarm start {farm.module}" + (f" --node {farm.me}" if farm.committed.names else "")
    return ""


def _addresses(farm: Farm, config: FarmConfig) -> list[dict[str, Any]]:
    answering = directors(farm.rules, farm.committed)
    return [
        {
            "address": vip.address,
            "here": answering.get(vip.address) == farm.me,
            "interface": config.interface,
            "director": answering.get(vip.address, ""),
            "conflict": "",
        }
        for vip in config.vip
    ]


async def _groups(
    farm: Farm, config: FarmConfig, flows: Flows, shares: list[Counter[NodeName]]
) -> list[dict[str, Any]]:
    """Of each group of ports the shares, and what went through this node's kernel."""
    had = await flows.counted() if farm.open else {}
    groups = [(vip, group) for vip in config.vip for group in vip.groups]
    found = []
    for number, ((vip, group), share) in enumerate(zip(groups, shares, strict=True)):
        names = [name for each in group.protocols if (name := f"g{number}_{each}") in had]
        traffic = [had[name] for name in names]
        found.append(
            {
                "address": vip.address,
                "ports": [f"{low}" if low == high else f"{low}-{high}" for low, high in group.ports],
                "protocols": list(group.protocols),
                "affinity": group.affinity,
                "shares": {name: round(share[name] / BUCKETS, 4) for name in config.nodes},
                **(flows.rates(names) if names else UNKNOWN),
                "connections": sum(each.connections for each in traffic),
                "taken_bytes": sum(each.taken_bytes for each in traffic),
                "taken_connections": sum(each.taken_connections for each in traffic),
                "passed_bytes": sum(each.passed_bytes for each in traffic),
                "passed_connections": sum(each.passed_connections for each in traffic),
            }
        )
    return found
