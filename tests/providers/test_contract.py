"""The contract on the nodes' own network: the promises that clouds keep, kept by kernel and wire."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from orchestrator.model.names import Epoch
from orchestrator.providers.addresses import Addresses
from orchestrator.providers.clouds import Clouds, Standing
from orchestrator.providers.onprem.vip import OnPrem
from orchestrator.providers.provider import AddressConflict, Owner
from tests.providers.nodes import LYON, PARIS, SHOP, cluster
from tests.providers.test_onprem import V4, Node, VipConfig
from tests.support.netns import Switch, inside, ip
from tests.support.waiting import until

VIPS = (VipConfig(V4),)


@pytest.fixture
def net() -> Iterator[Switch]:
    with Switch(a=("198.18.7.1/24",), b=("198.18.7.2/24",), client=("198.18.7.9/24",)) as switch:
        yield switch


def test_a_claim_of_what_is_here_already_changes_nothing(net: Switch) -> None:
    async def story() -> None:
        a = Node(net, "a", VIPS)
        await a.start()
        await a.claim()
        before = ip("-o", "addr", "show", "dev", "eth0", within=net["a"])
        await a.claim()
        assert ip("-o", "addr", "show", "dev", "eth0", within=net["a"]) == before
        assert (await a.do(a.provider.observe)).owner is Owner.MINE
        await a.provider.close()

    asyncio.run(story())


def test_a_foreign_owner_is_seen_and_told(net: Switch) -> None:
    """A take-over has no time to ask the wire: the lease guards, and whoever else answers is told."""

    async def story() -> None:
        ip("addr", "add", V4, "dev", "eth0", within=net["client"])
        a = Node(net, "a", VIPS)
        await a.start()
        seen = await a.do(a.provider.observe)
        assert seen.owner is Owner.FOREIGN
        assert V4.partition("/")[0] in seen.detail
        await a.claim()
        ip("neigh", "flush", "all", within=net["client"])
        with inside(net["client"]):
            rival = OnPrem(SHOP, VIPS, lambda _: None)
            await rival.start(held=True)
            await rival.announce()
        await until(lambda: a.saw(AddressConflict))
        await rival.close()
        await a.provider.close()

    asyncio.run(story())


def test_a_primary_that_stood_still_lets_go_and_the_successor_keeps_it(net: Switch) -> None:
    async def story() -> None:
        a, b = Node(net, "a", VIPS), Node(net, "b", VIPS)
        await a.start()
        await b.start()
        await a.claim()
        await b.claim()
        await a.provider.release(Epoch(1))
        await a.provider.release(Epoch(1))
        assert V4 not in a.addresses()
        assert V4 in b.addresses()
        await a.provider.close()
        await b.provider.close()

    asyncio.run(story())


def test_without_a_cloud_no_worker_is_started_and_the_reason_is_told(net: Switch) -> None:
    async def story() -> None:
        config = cluster(VIPS[0], {PARIS: "198.18.7.1", LYON: "198.18.7.2"})
        told: list[str] = []

        async def standing(_: object) -> Standing:
            return Standing(None, 0.0)

        clouds = Clouds(config, PARIS, "/nonexistent", standing, lambda *words: told.append(words[1]))
        with inside(net["a"]):
            here = Addresses(config.mirrors[0], clouds, lambda _: None, lambda code, _: told.append(code))
            await here.start(held=False)
            await here.claim(frozenset({LYON}), Epoch(1))
            assert [one.address for one in here.held()] == [V4]
            assert await here.is_here()
            await here.release(Epoch(1))
        shown = here.told(VIPS[0])
        assert (shown.provider, shown.mode) == ("onprem", "arp")
        assert shown.why
        assert clouds._workers == {}
        assert told == []
        await here.close()
        await clouds.close()

    asyncio.run(story())
