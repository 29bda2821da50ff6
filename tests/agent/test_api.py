"""The door between agents: for nodes of this cluster alone, whatever else knocks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from orchestrator.agent import api
from orchestrator.host.tls import client_context, server_context
from orchestrator.setup.bundle import init
from orchestrator.setup.ca import Issued, issue
from tests.cli.served import Played


async def knock(work: Path, bundle: str, path: str, body: object) -> tuple[int, str]:
    """Status and text of one request with this bundle; 0 when TLS itself refuses."""
    runner = web.AppRunner(api.neighbourly(Played(work), "shop"), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(str(work / "keys" / "paris")))
    await site.start()
    port = runner.addresses[0][1]
    context = client_context(str(work / bundle))
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"https://127.0.0.1:{port}{path}", json=body, ssl=context) as answer,
        ):
            return answer.status, await answer.text()
    except aiohttp.ClientError as fault:
        return 0, str(fault)
    finally:
        await runner.cleanup()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    init("shop", ["paris", "lyon"], str(tmp_path / "keys"))
    init("prod", ["paris", "lyon"], str(tmp_path / "prod"))
    authority = tmp_path / "keys" / "ca"
    ca = Issued((authority / "ca.crt").read_bytes(), (authority / "ca.key").read_bytes())
    for name, made in {
        "asked-as-witness": issue(ca, "shop", "lyon", witness=True),
        "of-another-cluster": issue(ca, "prod", "lyon"),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.crt").write_bytes(ca.certificate)
        (tmp_path / name / "node.crt").write_bytes(made.certificate)
        (tmp_path / name / "node.key").write_bytes(made.key)
    return tmp_path


VERIFY = "/api/v1/modules/orders/verify"


def test_a_node_of_the_cluster_is_heard(work: Path) -> None:
    status, text = asyncio.run(knock(work, "keys/lyon", VERIFY, {}))
    assert (status, "differing" in text) == (200, True)


@pytest.mark.parametrize("bundle", ["asked-as-witness", "of-another-cluster"])
def test_what_our_own_ca_made_for_somebody_else_is_refused(work: Path, bundle: str) -> None:
    status, text = asyncio.run(knock(work, bundle, VERIFY, {}))
    assert status == 403
    assert "not node (any) of cluster shop" in text


def test_another_ca_is_refused_before_a_word_is_said(work: Path) -> None:
    assert asyncio.run(knock(work, "prod/lyon", VERIFY, {}))[0] == 0


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/v1/status", {}, 404),  # an operator's page: not for other machines
        ("/api/v1/modules/orders/actions", {"action": "stop"}, 404),
        ("/api/v2/modules/orders/orders", {}, 404),
        ("/api/v1/modules/nonsense/orders", {}, 404),
        ("/api/v1/modules/orders/orders", {"order": "nonsense"}, 400),
        ("/api/v1/modules/orders/orders", ["not", "an", "object"], 400),
    ],
)
def test_unknown_pages_and_orders_are_denied(work: Path, path: str, body: object, status: int) -> None:
    assert asyncio.run(knock(work, "keys/lyon", path, body))[0] == status
