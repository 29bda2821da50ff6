"""Virtual IPs in a real kernel: two nodes and a client on one switch."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from orchestrator.host.nft import DeadMan, open_nft
from orchestrator.model.config import VipConfig
from orchestrator.model.errors import AddressRefused
from orchestrator.model.events import LinkLost, LinkRestored
from orchestrator.model.names import Epoch, ModuleName
from orchestrator.providers.onprem.vip import OnPrem
from orchestrator.providers.provider import AddressConflict, AddressPutBack, Owner, ProviderEvent
from tests.support.netns import Switch, inside, ip
from tests.support.waiting import until

SHOP = ModuleName("shop")
V4, V6 = "198.18.7.100/24", "2001:2:0:7::100/64"
BOTH = (VipConfig(V4), VipConfig(V6))


@pytest.fixture
def net() -> Iterator[Switch]:
    with Switch(
        a=("198.18.7.1/24", "2001:2:0:7::1/64"),
        b=("198.18.7.2/24", "2001:2:0:7::2/64"),
        client=("198.18.7.9/24", "2001:2:0:7::9/64"),
    ) as switch:
        yield switch


class Node:
    """One node's provider, living in that node's network."""

    def __init__(self, net: Switch, name: str, vips: tuple[VipConfig, ...] = BOTH) -> None:
        self.events: list[ProviderEvent] = []
        self.namespace = net[name]
        self.provider = OnPrem(SHOP, vips, self.events.append)

    async def do(self, order: Callable[[], Awaitable[object]]) -> object:
        """Sockets that the order opens belong to the node."""
        with inside(self.namespace):
            return await order()

    async def start(self, held: bool = False) -> None:
        await self.do(lambda: self.provider.start(held))

    async def claim(self) -> None:
        await self.do(lambda: self.provider.claim(frozenset(), Epoch(1)))
        await self.do(self.provider.announce)

    def addresses(self) -> str:
        return ip("-o", "addr", "show", "dev", "eth0", within=self.namespace)

    def has_both(self) -> bool:
        return V4 in self.addresses() and V6 in self.addresses()

    def saw(self, kind: type[ProviderEvent]) -> bool:
        return any(isinstance(event, kind) for event in self.events)


def mac(namespace: str) -> str:
    return ip("-o", "link", "show", "dev", "eth0", within=namespace).split("link/ether ")[1].split()[0]


def cached(net: Switch, address: str) -> str:
    """The MAC that the client has in mind for an address."""
    words = ip("neigh", "show", address, "dev", "eth0", within=net["client"]).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def ping(net: Switch, address: str) -> None:
    """Fill the client's neighbour cache."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(net["client"]), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.sendto(b"x", (address, 9))


def test_clients_follow_both_addresses_to_the_other_node(net: Switch) -> None:
    async def story() -> None:
        a, b = Node(net, "a"), Node(net, "b")
        await a.start()
        await b.start()
        await a.claim()
        assert a.has_both()
        for address in (V4, V6):
            bare = address.partition("/")[0]
            ping(net, bare)
            await until(lambda bare=bare: cached(net, bare) == mac(net["a"]))  # type: ignore[misc]
        await a.provider.release(Epoch(1))
        assert V4 not in a.addresses()
        assert V6 not in a.addresses()
        await b.claim()
        # No packet of the client in between: only what the node announced can have told it.
        for address in (V4, V6):
            bare = address.partition("/")[0]
            await until(lambda bare=bare: cached(net, bare) == mac(net["b"]))  # type: ignore[misc]
        assert b.provider.held()[0].interface == "eth0"
        await a.provider.close()
        await b.provider.close()

    asyncio.run(story())


def test_an_address_that_vanished_is_put_back(net: Switch) -> None:
    async def story() -> None:
        a = Node(net, "a")
        await a.start()
        await a.claim()
        for address in (V4, V6):
            ip("addr", "del", address, "dev", "eth0", within=net["a"])
        await until(lambda: sum(isinstance(event, AddressPutBack) for event in a.events) >= 2)
        assert a.has_both()
        await a.provider.close()

    asyncio.run(story())


def test_a_released_address_is_not_put_back_and_release_may_be_repeated(net: Switch) -> None:
    async def story() -> None:
        a = Node(net, "a")
        await a.start()
        await a.claim()
        await a.claim()
        await a.provider.release(Epoch(1))
        await a.provider.release(Epoch(1))
        ip("link", "set", "eth0", "alias", "touched", within=net["a"])
        net.unplug("a")
        await until(lambda: a.saw(LinkLost))
        assert V4 not in a.addresses()
        assert a.provider.held() == []
        await a.provider.close()

    asyncio.run(story())


def test_left_overs_are_removed_at_start_and_adopted_addresses_stay(net: Switch) -> None:
    async def story() -> None:
        before = Node(net, "a")
        await before.start()
        await before.claim()
        await before.provider.close()
        adopting = Node(net, "a")
        await adopting.start(held=True)
        assert adopting.has_both()
        assert len(adopting.provider.held()) == 2
        assert not adopting.saw(AddressPutBack)
        await adopting.provider.close()
        cleaning = Node(net, "a")
        await cleaning.start(held=False)
        assert V4 not in cleaning.addresses()
        assert V6 not in cleaning.addresses()
        assert "198.18.7.1/24" in cleaning.addresses()
        await cleaning.provider.close()

    asyncio.run(story())


def test_a_lost_carrier_is_told_and_a_healed_one_announced_again(net: Switch) -> None:
    async def story() -> None:
        a = Node(net, "a")
        await a.start()
        await a.claim()
        net.unplug("a")
        await until(lambda: a.events == [LinkLost(SHOP, "eth0")])
        await asyncio.sleep(1.2)  # Past the first burst: what is heard next follows from the healing.
        with inside(net["client"]):
            ear = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(0x0806)
            )
        with ear:
            net.plug("a")
            await until(lambda: a.events == [LinkLost(SHOP, "eth0"), LinkRestored(SHOP, "eth0")])
            await until(lambda: socket.inet_aton("198.18.7.100") in _heard_sender(ear))
        await a.provider.close()

    asyncio.run(story())


def _heard_sender(ear: socket.socket) -> bytes:
    try:
        return ear.recv(2048)[28:32]
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("vip", [V4, V6])
def test_somebody_who_claims_our_address_is_named_and_answered(net: Switch, vip: str) -> None:
    async def story() -> None:
        a, b = Node(net, "a", (VipConfig(vip),)), Node(net, "b", (VipConfig(vip),))
        await a.start()
        await b.start()
        await a.claim()
        await b.claim()
        await until(lambda: a.saw(AddressConflict))
        assert AddressConflict(SHOP, vip.partition("/")[0], mac(net["b"])) in a.events
        assert a.provider.conflicts == {vip.partition("/")[0]: mac(net["b"])}
        await a.provider.close()
        await b.provider.close()

    asyncio.run(story())


@pytest.mark.parametrize("vip", [V4, V6])
def test_a_node_whose_lease_ended_never_shouts_its_successor_down(net: Switch, vip: str) -> None:
    bare = vip.partition("/")[0]

    async def story() -> None:
        a, b = Node(net, "a", (VipConfig(vip),)), Node(net, "b", (VipConfig(vip),))
        await a.start()
        await a.claim()
        with inside(net["a"]):
            DeadMan(open_nft(), [bare])  # guarded, and held by nobody any more
        await b.start()
        ping(net, bare)
        await b.claim()
        await until(lambda: a.saw(AddressConflict))
        await a.provider.announce()
        again = Node(net, "a", (VipConfig(vip),))
        await again.start(held=True)
        # Past both bursts, told by the last frame of the successor's: the client never learnt another MAC.
        for _ in range(20):
            await until(lambda: cached(net, bare) == mac(net["b"]))
            await asyncio.sleep(0.06)
            assert cached(net, bare) == mac(net["b"])
        assert not b.saw(AddressConflict)
        for node in (a, again, b):
            await node.provider.close()

    asyncio.run(story())


@pytest.mark.parametrize("vip", [V4, V6])
def test_observe_sees_whose_the_address_is(net: Switch, vip: str) -> None:
    async def story() -> None:
        a, b = Node(net, "a", (VipConfig(vip),)), Node(net, "b", (VipConfig(vip),))
        await a.start()
        await b.start()
        assert (await b.do(b.provider.observe)).owner is Owner.NOBODY
        await a.claim()
        assert (await a.do(a.provider.observe)).owner is Owner.MINE
        assert (await b.do(b.provider.observe)).owner is Owner.FOREIGN
        await a.provider.close()
        await b.provider.close()

    asyncio.run(story())


@pytest.mark.parametrize("machine", ["a", "client"])
def test_outgoing_connections_take_the_address_until_it_is_released(net: Switch, machine: str) -> None:
    ip("route", "add", "default", "via", "198.18.7.9", within=net["a"])
    target = "198.18.7.9" if machine == "client" else "198.19.255.1"

    def source() -> str:
        return ip("route", "get", target, within=net["a"]).split(" src ")[1].split()[0]

    async def story() -> None:
        before = ip("route", "show", within=net["a"])
        a = Node(net, "a", (VipConfig(V4, source=True),))
        await a.start()
        assert source() == "198.18.7.1"
        await a.claim()
        assert source() == "198.18.7.100"
        ip("addr", "del", V4, "dev", "eth0", within=net["a"])
        await until(lambda: a.saw(AddressPutBack) and source() == "198.18.7.100")
        await a.provider.release(Epoch(1))
        assert ip("route", "show", within=net["a"]) == before
        await a.provider.close()

    asyncio.run(story())


def test_a_server_sees_the_virtual_address_as_the_source(net: Switch) -> None:
    async def story() -> None:
        for vip, server_at in ((V4, "198.18.7.9"), (V6, "2001:2:0:7::9")):
            a = Node(net, "a", (VipConfig(vip, source=True),))
            await a.start()
            await a.claim()
            family = socket.AF_INET6 if ":" in vip else socket.AF_INET
            with inside(net["client"]):
                server = socket.create_server((server_at, 0), family=family)
            with inside(net["a"]):
                client = socket.create_connection(server.getsockname()[:2], timeout=10)
            with server, client:
                assert server.accept()[1][0] == vip.partition("/")[0]
            await a.provider.release(Epoch(1))
            await a.provider.close()

    asyncio.run(story())


def test_sources_that_a_killed_agent_left_are_restored_at_the_next_start(net: Switch) -> None:
    ip("route", "add", "default", "via", "198.18.7.9", within=net["a"])

    async def story() -> None:
        before = set(ip("route", "show", within=net["a"]).splitlines())
        a = Node(net, "a", (VipConfig(V4, source=True),))
        await a.start()
        await a.claim()
        await a.provider.close()
        after = Node(net, "a", (VipConfig(V4, source=True),))
        await after.start(held=False)
        assert set(ip("route", "show", within=net["a"]).splitlines()) == before
        await after.provider.close()

    asyncio.run(story())


def test_an_address_that_fits_nowhere_is_refused_and_found_beforehand(net: Switch) -> None:
    async def story() -> None:
        lost = Node(net, "a", (VipConfig(V4), VipConfig("198.18.99.1/24")))
        await lost.start()
        assert [finding.subject for finding in await lost.provider.preflight()] == ["198.18.99.1/24"]
        with pytest.raises(AddressRefused, match="interface:"):
            await lost.claim()
        assert V4 not in lost.addresses()
        await lost.provider.close()

    asyncio.run(story())


def test_a_named_interface_that_is_down_or_missing_refuses(net: Switch) -> None:
    async def story() -> None:
        a = Node(net, "a", (VipConfig(V4, interface="eth9"),))
        await a.start()
        with pytest.raises(AddressRefused, match="no interface eth9"):
            await a.claim()
        await a.provider.close()
        ip("link", "set", "eth0", "down", within=net["a"])
        b = Node(net, "a", (VipConfig(V4, interface="eth0"),))
        await b.start()
        with pytest.raises(AddressRefused, match="is down"):
            await b.claim()
        await b.provider.close()

    asyncio.run(story())


def test_an_ipv6_address_can_be_used_at_once(net: Switch) -> None:
    async def story() -> None:
        a = Node(net, "a")
        await a.start()
        await a.claim()
        line = next(line for line in a.addresses().splitlines() if V6 in line)
        assert "tentative" not in line
        assert "nodad" in line
        with inside(net["a"]), socket.socket(socket.AF_INET6) as listener:
            listener.bind(("2001:2:0:7::100", 0))
        await a.provider.close()

    asyncio.run(story())
