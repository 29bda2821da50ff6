"""The health port: yes only where traffic should go, from memory."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from orchestrator.agent.health import health, listeners, serves
from orchestrator.mirror.state import Mirror, Stage
from orchestrator.model.config import VipConfig
from orchestrator.model.names import ModuleName
from orchestrator.model.timings import derive
from orchestrator.node import Node
from tests.providers.nodes import PARIS, SHOP, cluster

SLOW_S = 0.25
"""Many times what an answer from memory takes, on a machine that does much else."""


def node() -> Node:
    config = cluster(VipConfig("198.18.0.100/24"))
    return Node.create(PARIS, config, derive(config.timing))


class Told:
    """What the health port looks at."""

    def __init__(self) -> None:
        self.node = node()
        self.ending = False

    def become(self, **state: Any) -> None:
        mirror = replace(self.node.mirrors[SHOP], **state)
        self.node = replace(self.node, mirrors={SHOP: mirror})


@asynccontextmanager
async def served(told: Told) -> AsyncIterator[str]:
    runner = web.AppRunner(health(lambda: told.node, lambda: told.ending), access_log=None)
    await runner.setup()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        await web.SockSite(runner, free).start()
        yield f"http://127.0.0.1:{free.getsockname()[1]}"
        await runner.cleanup()


async def ask(base: str, path: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{base}{path}") as answer:
        return answer.status


def record() -> Any:
    return object()


def test_only_who_serves_says_yes_and_a_planned_end_says_no_before_it_begins() -> None:
    async def story() -> None:
        told = Told()
        async with served(told) as base:
            page = f"/m/{SHOP}/primary"
            assert await ask(base, "/live") == 200
            assert await ask(base, "/ready") == 200
            assert await ask(base, page) == 503
            told.become(held=record(), claimed=True, stage=Stage.SERVING)
            assert await ask(base, page) == 200
            told.become(held=record(), claimed=False, stage=Stage.ENDING)
            assert await ask(base, page) == 503
            told.become(held=record(), claimed=True, stage=Stage.SERVING)
            told.ending = True
            assert await ask(base, page) == 503
            assert await ask(base, "/ready") == 503
            assert await ask(base, "/live") == 200
            assert await ask(base, "/m/nonsense/primary") == 503
            assert await ask(base, f"/m/{SHOP}/up") == 503
            assert await ask(base, "/api/v1/status") == 404

    asyncio.run(story())


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.SERVING])
def test_no_other_stage_takes_traffic(stage: Stage) -> None:
    mirror: Mirror = replace(node().mirrors[ModuleName(SHOP)], held=record(), claimed=True, stage=stage)
    assert not serves(mirror)


def test_an_answer_comes_from_memory() -> None:
    async def story() -> None:
        async with served(Told()) as base, aiohttp.ClientSession() as session:
            took = []
            for _ in range(20):
                begun = time.monotonic()
                async with session.get(f"{base}/m/{SHOP}/primary") as answer:
                    assert answer.status == 503
                took.append(time.monotonic() - begun)
            assert sorted(took)[10] < SLOW_S

    asyncio.run(story())


def test_it_is_asked_at_an_address_that_is_passed_on_before_that_is_here() -> None:
    """A passthrough load balancer's probe has the virtual IP as its destination, also at a standby."""
    passed = VipConfig("198.18.61.1/32", provider="gcp", settings={"forwarding_rules": ("shop",)})
    config = cluster(passed, {PARIS: "127.0.0.1"}, health_port=_free_port())
    sockets = list(listeners(config, PARIS))
    try:
        where = [one.getsockname() for one in sockets]
        assert where == [("127.0.0.1", config.health_port), ("198.18.61.1", config.health_port)]
    finally:
        for one in sockets:
            one.close()
    config = cluster(VipConfig("198.18.61.1/32"), {PARIS: "127.0.0.1"}, health_port=_free_port())
    (own,) = listeners(config, PARIS)
    own.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
