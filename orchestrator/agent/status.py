"""What `hafarm status` shows: this node's own knowledge, and what the others say of themselves."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from ipaddress import ip_interface
from typing import Any

from orchestrator.agent.hands import Hands
from orchestrator.agent.heard import of_a_slow_peer
from orchestrator.mirror.state import Mirror, Reach, Register, Stage
from orchestrator.model.config import ClusterConfig, MirrorConfig
from orchestrator.model.names import NEVER, NodeName
from orchestrator.model.report import ModuleState, Phase, Role

SERVING = (Role.PRIM, Role.ALONE)


def states(mirror: Mirror) -> dict[NodeName, ModuleState | None]:
    """Each node of the module as it was last heard; None: out of reach."""
    told: dict[NodeName, ModuleState | None] = {}
    for name in mirror.nodes:
        if name == mirror.me:
            told[name] = mirror.state()
        else:
            peer = mirror.peers[name]
            told[name] = None if peer.gone or peer.reach is Reach.UNKNOWN else peer.said
    return told


def module_status(mirror: Mirror, config: MirrorConfig, hands: Hands) -> dict[str, Any]:
    """One module, as this node sees it."""
    told = states(mirror)
    record = mirror.held or mirror.record
    return {
        "name": mirror.module,
        "kind": "mirror",
        "headline": headline(mirror, told),
        "nodes": [node_entry(mirror, name, state, hands) for name, state in told.items()],
        "record": record.as_dict() if record else None,
        "register": mirror.register.value,
        "vip": vip_status(mirror, config, hands),
        "application": application_status(mirror, hands),
        "ack": config.ack,
        "divergences": divergences(mirror, told, hands),
        "hint": hint(mirror, told),
    }


def divergences(
    mirror: Mirror, told: Mapping[NodeName, ModuleState | None], hands: Hands
) -> list[dict[str, Any]]:
    """What is kept aside until the operator releases it: in full of this node, as a count of the others."""
    found = [{"node": mirror.me, **each} for each in hands.replicator.aside]
    others = [(name, state) for name, state in told.items() if name != mirror.me and state is not None]
    return found + [{"node": name, "count": state.aside} for name, state in others if state.aside]


def node_entry(mirror: Mirror, name: NodeName, state: ModuleState | None, hands: Hands) -> dict[str, Any]:
    """One node's part in the module."""
    record = mirror.held or mirror.record
    entry: dict[str, Any] = {
        "node": name,
        "role": "?",
        "phase": "",
        "epoch": 0,
        "in_sync": False,
        "serving": False,
    }
    if state is None:
        return {**entry, "reason": "out of reach", "resync": None, "slow": None}
    slow = _slow(mirror, hands, name)
    in_sync = record is not None and name in record.in_sync
    return {
        **entry,
        "role": state.role.value,
        "phase": state.phase.value,
        "epoch": state.epoch,
        "in_sync": in_sync,
        "serving": state.serving and state.role in SERVING,
        "reason": (_own_reason(mirror, hands) if name == mirror.me else "")
        or (of_a_slow_peer(slow) if slow else ""),
        "resync": _resync(hands, name),
        "slow": slow,
    }


def _own_reason(mirror: Mirror, hands: Hands) -> str:
    return reason(mirror) or ("its disk does not answer" if hands.replicator.hangs else "")


def _resync(hands: Hands, name: NodeName) -> Mapping[str, Any] | None:
    progress = hands.replicator.progress.get(name)
    if progress is None:
        return None
    return {key: value for key, value in progress.items() if key not in ("event", "module", "peer")}


def _slow(mirror: Mirror, hands: Hands, name: NodeName) -> Mapping[str, Any] | None:
    """How slow a copy is, as the primary sees it, or says; None: it is not, or this node cannot know."""
    replicator = hands.replicator
    facts: Mapping[str, Any] | None
    if mirror.held is not None:
        facts = replicator.slow.get(name)
    else:
        facts = replicator.slowness.of(name, asyncio.get_running_loop().time())
    return facts and {key: facts[key] for key in ("took_s", "usual_s")}


def reason(mirror: Mirror) -> str:
    """Why this node is where it is, in words; nothing when all is well."""
    if not mirror.loaded:
        return "its state on disk cannot be read: no role is taken on doubt"
    if mirror.failed:
        return f"the volume failed: {mirror.failed}"
    if mirror.life is None and mirror.wanted and mirror.trouble:
        return f"no replicator: {mirror.trouble}"
    if not mirror.stored:
        return "its state cannot be made durable"
    if mirror.register is Register.RESTORED:
        return "the register was lost or restored from an old copy"
    if mirror.held is not None:
        return _reason_of_a_primary(mirror)
    if mirror.role is Role.WAIT and mirror.record is None:
        return "no record yet" if mirror.register is Register.EMPTY else "the register does not answer"
    if mirror.role is Role.WAIT and mirror.record is not None and not mirror.member:
        return f"not in sync (in sync: {', '.join(sorted(mirror.record.in_sync))})"
    return ""


def _reason_of_a_primary(mirror: Mirror) -> str:
    if mirror.bids:
        return "a change of the in-sync set is not decided: writes are held until it is"
    if mirror.offline:
        return "serving by order without the register"
    if mirror.stage is not Stage.SERVING:
        return str(mirror.stage.value)
    return ""


def hint(mirror: Mirror, told: Mapping[NodeName, ModuleState | None]) -> str:
    """What to type next, where something has to be typed."""
    if mirror.loaded and mirror.epoch == NEVER and mirror.record is None:
        return f"hafarm start {mirror.module} --first NODE   (NODE holds the files to begin with)"
    if _rivals(told):
        return (
            f"hafarm stop {mirror.module}, then start the node to keep with --node (and, unless it serves by "
            "itself, promote it with --accept-data-loss), then the other: what only that one has is set aside"
        )
    if not mirror.wanted:
        return f"hafarm start {mirror.module}"
    if mirror.failed:
        return f"repair the disk, then hafarm start {mirror.module} --node {mirror.me}"
    record = mirror.record
    if (
        mirror.role is Role.WAIT
        and record is not None
        and not mirror.member
        and told.get(record.primary) is None
    ):
        return (
            f"start {record.primary}, or hafarm promote {mirror.module} --node {mirror.me} --accept-data-loss"
        )
    return ""


def _rivals(told: Mapping[NodeName, ModuleState | None]) -> list[NodeName]:
    """More than one node serves, one of them by order without the register: nothing mends itself."""
    serving = {
        name: state for name, state in told.items() if state and state.serving and state.role in SERVING
    }
    if len(serving) < 2 or not any(state.forced for state in serving.values()):
        return []
    return sorted(serving)


def headline(mirror: Mirror, told: Mapping[NodeName, ModuleState | None]) -> str:
    """One sentence: what is, and what a failure now would mean."""
    if rivals := _rivals(told):
        return f"{' and '.join(rivals)} both serve: two histories, and neither is overwritten (HF4016)"
    primary = next(
        (name for name, state in told.items() if state is not None and state.role in SERVING), None
    )
    if primary is None:
        return "stopped" if not mirror.wanted else "no node serves"
    state = told[primary]
    assert state is not None
    if state.role is Role.PRIM:
        others = ", ".join(sorted(state.in_sync - {primary}))
        ready = state.phase is Phase.READY
        return (
            f"{primary} serves; if it fails, {others} takes over"
            if ready
            else f"{primary} is becoming primary"
        )
    return f"{primary} serves alone: redundancy lost, if it fails now the service stops until it is back"


def vip_status(mirror: Mirror, config: MirrorConfig, hands: Hands) -> list[dict[str, Any]]:
    held = {held.address: held.interface for held in hands.provider.held()}
    conflicts = hands.provider.conflicts
    # The provider writes addresses as the kernel does, the file as its author likes.
    places = [(vip.address, ip_interface(vip.address)) for vip in config.vip]
    return [
        {
            "address": written,
            "here": str(address) in held,
            "interface": held.get(str(address), ""),
            "conflict": conflicts.get(str(address.ip), ""),
            **dataclasses.asdict(hands.provider.told(vip)),
        }
        for vip, (written, address) in zip(config.vip, places, strict=True)
    ]


def application_status(mirror: Mirror, hands: Hands) -> dict[str, Any]:
    return {
        "running": mirror.running,
        "checks": [
            {"name": name, "good": result.good, "text": result.text, "failures": result.failures}
            for name, result in hands.application.checks.results.items()
        ],
    }


def cluster_status(
    config: ClusterConfig,
    me: NodeName,
    modules: list[dict[str, Any]],
    pulse: Mapping[str, Any],
    witness: dict[str, Any],
) -> dict[str, Any]:
    """Everything for one screen."""
    peers = pulse.get("peers", {})
    nodes = [
        {
            "name": node.name,
            "alive": node.name == me or peers.get(node.name, {}).get("verdict") in ("alive", "suspected"),
            "here": node.name == me,
            "paths": [path for path in pulse.get("paths", []) if path.get("peer") == node.name],
            "strangers": peers.get(node.name, {}).get("strangers", 0),
        }
        for node in config.nodes
    ]
    return {"cluster": config.name, "node": me, "witness": witness, "nodes": nodes, "modules": modules}
