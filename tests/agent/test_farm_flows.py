"""What the other nodes serve is asked when somebody looks, and nobody waits for one that is silent."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.agent.farm_flows import UNKNOWN, TheirFlows
from orchestrator.model.names import NodeName
from tests.support.waiting import until

LYON, NICE = NodeName("lyon"), NodeName("nice")
FLOW = {"connections": 7, "connections_per_s": 1.5, "packets_per_s": 20.0, "bytes_per_s": 900.0}


def test_one_question_serves_all_farms_and_everybody_who_looks_soon_after() -> None:
    asked: list[NodeName] = []

    async def ask(node: NodeName) -> Any:
        asked.append(node)
        return {"flows": {"web": FLOW, "dns": {**FLOW, "connections": 3}}}

    async def look() -> None:
        flows = TheirFlows(ask)
        for _ in range(3):
            told = await flows.of([LYON, NICE])
            assert told[LYON]["web"] == FLOW
            assert told[NICE]["dns"]["connections"] == 3
        flows.close()

    asyncio.run(look())
    assert sorted(asked) == [LYON, NICE]


def test_a_node_that_does_not_answer_in_time_is_told_of_once_it_did() -> None:
    answered = asyncio.Event()

    async def ask(node: NodeName) -> Any:
        if node == NICE:
            await answered.wait()
        return {"flows": {"web": FLOW}}

    async def look() -> None:
        flows = TheirFlows(ask)
        assert await flows.of([LYON, NICE]) == {LYON: {"web": FLOW}}
        answered.set()

        async def is_there() -> bool:
            return NICE in await flows.of([LYON, NICE])

        await until(lambda: flows._asked[NICE][1].done())
        assert await is_there()
        flows.close()

    asyncio.run(look())


def test_what_another_release_says_otherwise_is_not_known() -> None:
    async def ask(node: NodeName) -> Any:
        wrong = {"connections": "many", "connections_per_s": 1.0, "packets_per_s": 1.0, "bytes_per_s": 1.0}
        return {"flows": {"web": wrong, "dns": [], "ok": FLOW}} if node == LYON else ["nothing"]

    async def look() -> None:
        flows = TheirFlows(ask)
        assert await flows.of([LYON, NICE]) == {LYON: {"web": UNKNOWN, "dns": UNKNOWN, "ok": FLOW}}
        flows.close()

    asyncio.run(look())
