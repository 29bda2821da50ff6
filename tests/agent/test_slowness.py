"""A slow copy is told on every node, by the one that sees it, and forgotten when that one says no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.agent.care import Care
from orchestrator.agent.lines import Refused
from orchestrator.agent.slowness import HEARD_S, Slowness
from orchestrator.model.errors import ProcessUnreachable
from orchestrator.model.names import ModuleName, NodeName

PARIS, LYON, ROME = NodeName("paris"), NodeName("lyon"), NodeName("rome")
ORDERS = ModuleName("orders")
SEEN = {"event": "peer_slow", "peer": LYON, "took_s": 1.5, "usual_s": 0.01}


class Copy:
    """What `Care` needs of one node's replicator here."""

    def __init__(self) -> None:
        self.slow: dict[str, Any] = {}
        self.slowness = Slowness()


class Wires:
    """The agents of all nodes; who is not here is not reached."""

    def __init__(self) -> None:
        self.cares: dict[NodeName, Care] = {}

    async def call(self, node: NodeName, method: str, path: str, body: Any, timeout_s: float) -> Any:
        if node not in self.cares:
            raise ProcessUnreachable(f"the agent of {node}", "no route")
        return {"result": await self.cares[node].here(ORDERS, body)}


def test_what_is_told_is_believed_until_it_is_not_said_again() -> None:
    slowness = Slowness()
    assert slowness.of(LYON, 0.0) is None
    slowness.hear({LYON: {"took_s": 1.5, "usual_s": 0.01}}, 100.0)
    assert slowness.of(LYON, 100.0 + HEARD_S - 0.1) == {"took_s": 1.5, "usual_s": 0.01}
    assert slowness.of(ROME, 100.0) is None
    assert slowness.of(LYON, 100.0 + HEARD_S) is None
    slowness.hear({ROME: {"took_s": 1.0, "usual_s": 0.0}}, 101.0)
    assert slowness.of(LYON, 101.0) is None, "it is fast again, and another one is not"


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {LYON: None},
        {LYON: {"took_s": 1}},
        {LYON: {"took_s": "x", "usual_s": 0}},
        {LYON: {"took_s": -1, "usual_s": 0}},
        {LYON: {"took_s": float("nan"), "usual_s": 0}},
        {str(number): {"took_s": 1, "usual_s": 0} for number in range(100)},
    ],
)
def test_what_no_primary_says_is_refused_and_changes_nothing(told: Any) -> None:
    slowness = Slowness()
    slowness.hear({LYON: {"took_s": 1.5, "usual_s": 0.01}}, 0.0)
    with pytest.raises(Refused):
        slowness.hear(told, 1.0)
    assert slowness.of(LYON, 1.0) is not None


def test_the_primary_says_it_on_every_node_that_it_reaches() -> None:
    wires, copies = Wires(), {node: Copy() for node in (PARIS, LYON)}
    for node, copy in copies.items():
        wires.cares[node] = Care(
            node,
            {ORDERS: copy},  # type: ignore[dict-item]
            lambda module: (PARIS, ROME, LYON),
            lambda module: {},
            wires,  # type: ignore[arg-type]
        )

    async def say() -> float:
        await wires.cares[PARIS].tell_slow(ORDERS)
        return asyncio.get_running_loop().time()

    assert copies[LYON].slowness.of(LYON, asyncio.run(say())) is None, "nobody is slow"
    copies[PARIS].slow[LYON] = SEEN
    now = asyncio.run(say())
    assert copies[LYON].slowness.of(LYON, now) == {"took_s": 1.5, "usual_s": 0.01}
