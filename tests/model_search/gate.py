"""The product's gate, put together from a keeper's values, asked one thing, and taken apart again."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.mirror.gate import Gate
from orchestrator.model.names import NodeName
from tests.model_search.values import Keeper

Token = tuple[int, int]


def assemble(me: NodeName, keeper: Keeper) -> Gate[Token]:
    """A gate in exactly this keeper's state."""
    gate: Gate[Token] = Gate(me)
    gate.required = keeper.required
    gate.is_open = keeper.is_open
    gate._durable = dict(keeper.durable)
    gate._acknowledged = keeper.acknowledged
    for seq, value, settled, _ in keeper.points:
        if not settled:
            gate._count += 1
            gate._held.append((seq, gate._count, (seq, value)))
    return gate


def take_apart(keeper: Keeper, gate: Gate[Token], settled: Iterable[Token]) -> Keeper:
    """The keeper after the gate has settled these points."""
    done = set(settled)
    points = tuple(
        (seq, value, was or (seq, value) in done, local) for seq, value, was, local in keeper.points
    )
    durable = tuple(sorted(gate._durable.items()))
    return keeper._replace(
        required=gate.required,
        is_open=gate.is_open,
        durable=durable,
        points=points,
        acknowledged=gate._acknowledged,
    )
