"""Who may switch off whom: by right of the record alone, and nobody who holds one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from orchestrator.mirror.serving import PROMOTED, TAKEOVER
from orchestrator.mirror.state import Mirror, Reach
from orchestrator.model.names import NEVER, Epoch, ModuleName, NodeName
from orchestrator.model.record import Record
from orchestrator.model.report import Role

WITHOUT_ITS_CONSENT: Final = frozenset({TAKEOVER, PROMOTED})
"""Reasons of records by which a role was taken from a node that did not give it away."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node is not switched off. `passes`: it may change by itself soon."""

    code: str
    text: str
    passes: bool = False


def right(mirrors: Iterable[Mirror], target: NodeName) -> Mirror | None:
    """A mirror of both whose record this node holds, granted by the register; None: it has no right."""
    return next((each for each in mirrors if target in each.nodes and _holds(each)), None)


def refusal(
    me: NodeName, target: NodeName, nodes: Collection[NodeName], mirrors: Collection[Mirror]
) -> Refusal | None:
    """Why this node must not switch the target off, whoever wishes it; None: it may."""
    if target not in nodes:
        return Refusal("HF7065", f"{target} is no node of this cluster; these are: {', '.join(nodes)}")
    if target == me:
        return Refusal("HF7065", "a node does not switch itself off: order it on another one")
    shared = [each for each in mirrors if target in each.nodes]
    for mirror in shared:
        if not _holds(mirror) and _is_primary(mirror, target):
            text = f"{target} holds the record of {mirror.module}: its service would end with it"
            return Refusal("HF7065", text, passes=True)
    if right(shared, target) is None:
        where = sorted({each.record.primary for each in shared if each.record is not None} - {me, target})
        there = f": order it on {', '.join(where)}" if where else ""
        return Refusal("HF7064", f"this node holds the record of no mirror of {target}'s{there}", passes=True)
    return None


def has_let_go(mirrors: Iterable[Mirror], target: NodeName, module: ModuleName) -> bool:
    """It is heard, and says of the module that it does not serve: its application has ended by itself."""
    for mirror in mirrors:
        peer = mirror.peers.get(target)
        if mirror.module == module and peer is not None and peer.said is not None:
            said = peer.said
            here = peer.reach in (Reach.ALIVE, Reach.SUSPECT) and not said.serving
            # An orderly goodbye comes after everything here has ended.
            return peer.reach is Reach.LEFT or (here and said.role not in (Role.PRIM, Role.ALONE))
    return False


def taken_from(before: Record | None, mirror: Mirror) -> NodeName | None:
    """Who held the role that this node has taken without its consent; `before`: the record until then."""
    held = mirror.held
    if held is None or before is None or held.reason not in WITHOUT_ITS_CONSENT or mirror.offline:
        return None
    return before.primary if before.epoch < held.epoch and before.primary != mirror.me else None


def epoch_of(mirrors: Iterable[Mirror], module: ModuleName) -> Epoch:
    """Under which this node holds the module's record; NEVER: it does not."""
    held = next((each.held for each in mirrors if each.module == module and _holds(each)), None)
    return held.epoch if held is not None else NEVER


def _holds(mirror: Mirror) -> bool:
    """By the register's grant: who serves by order without it has no right over others."""
    return mirror.held is not None and not mirror.offline


def _is_primary(mirror: Mirror, node: NodeName) -> bool:
    """As far as is known here: the record says so, or the node does and is heard."""
    peer = mirror.peers.get(node)
    serves = peer is not None and peer.said is not None and peer.said.serving and not peer.gone
    return serves or (mirror.record is not None and mirror.record.primary == node)
