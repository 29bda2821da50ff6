"""An order goes to the node that it is for, and to nobody else who answers at its address."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.agent.control import Neighbours
from orchestrator.config.load import load_text
from orchestrator.model.errors import ProcessUnreachable
from orchestrator.model.names import NodeName, PathName
from orchestrator.setup.bundle import init
from tests.config.words import RIGHT
from tests.support.answering import answering

LYON = NodeName("lyon")


def _order(
    work: Path, bundle: str, name: str = "node", said: object = None, status: str = "200 OK"
) -> tuple[object, int]:
    """What paris learns when it gives lyon an order, and how many requests arrived at all."""

    async def story() -> tuple[object, int]:
        answer = {"code": "", "text": "done"} if said is None else said
        async with answering(work / bundle, answer, name, status) as served:
            config = load_text(RIGHT, "hafarm.yaml")
            nodes = tuple(replace(node, addresses={PathName("lan"): "127.0.0.1"}) for node in config.nodes)
            config = replace(config, nodes=nodes, control_port=served.port)
            neighbours = Neighbours(config, str(work / "keys" / "paris"))
            try:
                learned = await neighbours.call(LYON, "POST", "/api/v1/modules/orders/orders", {})
            except ProcessUnreachable as fault:
                learned = str(fault)
            finally:
                await neighbours.close()
            return learned, served.requests

    return asyncio.run(story())


@pytest.fixture
def work(tmp_path: Path) -> Path:
    init("shop", ["paris", "lyon", "rome"], str(tmp_path / "keys"))
    init("prod", ["paris", "lyon"], str(tmp_path / "prod"))
    return tmp_path


def test_the_node_itself_is_asked(work: Path) -> None:
    assert _order(work, "keys/lyon") == ({"code": "", "text": "done"}, 1)


@pytest.mark.parametrize(
    ("bundle", "name", "why"),
    [
        ("keys/rome", "node", "node rome of cluster shop, not node lyon"),
        ("keys/paris", "node", "node paris of cluster shop, not node lyon"),
        ("keys/witness", "witness", "witness witness of cluster shop, not node lyon"),
        ("prod/lyon", "node", "certificate verify failed"),
    ],
)
def test_whoever_else_answers_there_is_sent_nothing(work: Path, bundle: str, name: str, why: str) -> None:
    answer, requests = _order(work, bundle, name)
    assert why in str(answer)
    assert requests == 0


def test_an_agent_of_another_release_is_told_as_that(work: Path) -> None:
    learned, _ = _order(work, "keys/lyon", said="404: Not Found", status="404 Not Found")
    assert "it runs another release" in str(learned)
    assert "HTTP 404" in str(learned)
