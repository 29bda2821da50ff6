"""What a plane leaves alone, puts back, counts, refuses and takes away."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from orchestrator.farm.buckets import BUCKETS
from orchestrator.farm.plane import Mode, Plane
from orchestrator.farm.rules import HOPS_MAX, rules
from orchestrator.host import farm_plane
from orchestrator.host.announce import Wire, probe
from orchestrator.host.farm_plane import FarmPlane
from orchestrator.host.nfnetlink import RulesRefused
from orchestrator.host.nftables_seen import digest
from orchestrator.model.errors import HafarmError
from tests.farm.capture import ACK, captured
from tests.farm.clients import bound, source
from tests.farm.rig import TCP, V4, V6, Farm, Node, Order, as_json, begin, end, enter, owner_of, shared
from tests.support.netns import inside, ip
from tests.support.waiting import eventually, until

OWNERS = shared("n1", "n2")
CLIENTS = [(source(4, n), 4000 + n) for n in range(60)]
CLIENTS6 = [(source(6, n), 4000 + n) for n in range(60)]
FOREIGN = """
table inet somebody {
	chain in {
		type filter hook input priority filter; policy accept;
		tcp dport 22 accept
	}
}
table netdev else {
	chain in {
		type filter hook ingress device "eth0" priority 0; policy accept;
	}
}
table arp hafarm_not_ours {
	chain in {
		type filter hook input priority filter; policy accept;
	}
}
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Farm]:
    with Farm(2) as farm:
        yield farm


@pytest.fixture
def farm(made: Farm) -> Iterator[Farm]:
    yield made
    made.clean()
    for node in made.nodes.values():
        assert left(node) == []


def left(node: Node) -> list[str]:
    """What of a farm is in a node's kernel."""
    links = json.loads(ip("-j", "address", within=node.namespace))
    addresses = [each["local"] for link in links for each in link["addr_info"]]
    tables = [line for line in node.nft("list", "tables").splitlines() if "hafarm_farm" in line]
    devices = [link["ifname"] for link in links if link["ifname"].startswith("haf-")]
    return [*tables, *devices, *(address for address in addresses if address in (V4, V6, "198.18.0.99"))]


@pytest.mark.parametrize("mode", Mode)
def test_a_plane_whose_process_was_killed_serves_on_and_the_next_life_takes_it_away(
    farm: Farm, mode: Mode
) -> None:
    node = farm.nodes["n1"]
    farm.apply(OWNERS, "n1", mode=mode)
    end(node.driver)
    assert farm.ask(V4, "udp", CLIENTS) == [owner_of(OWNERS, *client) for client in CLIENTS]
    assert left(node) != []
    node.driver = node.drive()
    if mode is Mode.SPREAD:
        words = [*enter(node.namespace), sys.executable, "-m", "orchestrator.agent", "--clean"]
        subprocess.run(words, check=True)
    else:
        node.do("clean")
    assert left(node) == []


def test_the_next_life_takes_a_plane_back_without_breaking_a_connection(farm: Farm) -> None:
    chain = farm.move(begin(OWNERS), shared("n1", "n2", "n2"), "n1")
    with farm.moving(V4, 40) as moving:
        for node in farm.nodes.values():
            before = node.nft("-s", "list", "ruleset")
            end(node.driver)
            node.driver = node.drive()
            assert node.do("found") is True
            assert node.nft("-s", "list", "ruleset") == before
        farm.move(chain, OWNERS, "n1")
        begun = moving.report()["turns"]
        eventually(lambda: all(now > then for now, then in zip(moving.report()["turns"], begun, strict=True)))
        assert moving.report()["broken"] == {}


def test_other_peoples_tables_stay_as_they_are(farm: Farm) -> None:
    node = farm.nodes["n1"]
    subprocess.run([*enter(node.namespace), "nft", "-f", "-"], input=FOREIGN.encode(), check=True)
    before = node.nft("list", "ruleset")
    for mode in Mode:
        node.apply(farm.plane("n1", OWNERS, "n1", mode=mode))
    node.do("clean")
    assert node.nft("list", "ruleset") == before
    node.nft("flush", "ruleset")


def test_one_mode_follows_the_other_without_anything_left_of_it(farm: Farm) -> None:
    for mode in (Mode.INVISIBLE, Mode.SPREAD, Mode.DIRECTED, Mode.INVISIBLE, Mode.DIRECTED):
        farm.apply(OWNERS, "n2", mode=mode)
        for address, clients in ((V4, CLIENTS), (V6, CLIENTS6)):
            assert farm.ask(address, "udp", clients) == [owner_of(OWNERS, *client) for client in clients]
    assert not any(line.startswith("haf-") for line in left(farm.nodes["n1"]))


@pytest.mark.parametrize("gone", [["nft", "flush", "ruleset"], ["ip", "address", "del", V4, "dev", "lo"]])
def test_what_somebody_takes_away_is_put_back_and_told(farm: Farm, gone: list[str]) -> None:
    farm.apply(OWNERS, "n1")
    node, code = farm.nodes["n2"], "HF6107" if gone[0] == "nft" else "HF6108"
    # Once it was looked at after the last change, every later one is somebody else's.
    ready = node.nft("-s", "list", "ruleset")
    told = [line for line in node.do("events") if line.startswith(code)]
    eventually(lambda: node.do("settled"))
    subprocess.run([*enter(node.namespace), *gone], check=True)
    eventually(lambda: len([line for line in node.do("events") if line.startswith(code)]) == len(told) + 1)
    assert node.nft("-s", "list", "ruleset") == ready
    assert farm.ask(V4, "udp", CLIENTS) == [owner_of(OWNERS, *client) for client in CLIENTS]


def test_what_others_change_in_their_own_rules_and_addresses_is_not_taken_for_ours(farm: Farm) -> None:
    farm.apply(OWNERS, "n1")
    node = farm.nodes["n2"]
    eventually(lambda: node.do("settled"))
    told = node.do("events")
    node.nft("add", "table", "inet", "somebody")
    with inside(node.namespace):
        before = digest(rules(farm.plane("n2", OWNERS, "n1")))
    # A change of addresses makes it look at its rules too.
    for verb in ("add", "del"):
        ip("address", verb, "198.18.0.77/24", "dev", "eth0", within=node.namespace)
        eventually(lambda: node.do("settled"))
    node.nft("delete", "table", "inet", "somebody")
    with inside(node.namespace):
        assert digest(rules(farm.plane("n2", OWNERS, "n1"))) == before is not None
    ip("address", "del", V4, "dev", "lo", within=node.namespace)
    eventually(lambda: len(node.do("events")) > len(told))
    assert [line[:6] for line in node.do("events")[len(told) :]] == ["HF6108"]


def test_what_was_taken_and_passed_on_is_counted(farm: Farm) -> None:
    farm.apply(OWNERS, "n1")
    before = {name: node.do("counters")["tcp4"] for name, node in farm.nodes.items()}
    with farm.moving(V4, 50) as moving:
        counts = {name: node.do("counters")["tcp4"] for name, node in farm.nodes.items()}
        there = {name: moving.nodes.count(name) for name in farm.nodes}
    for name, count in counts.items():
        assert count["taken_connections"] - before[name]["taken_connections"] == there[name]
        assert count["connections"] == there[name]
        assert count["taken_bytes"] > 40 * count["taken_packets"] > 0
    assert counts["n1"]["passed_connections"] == there["n2"]
    assert counts["n1"]["passed_packets"] == counts["n2"]["taken_packets"] or moving, "it goes on meanwhile"
    assert counts["n2"]["passed_packets"] == 0


def test_an_echo_request_is_answered_once_by_the_director(farm: Farm) -> None:
    for mode in Mode:
        farm.apply(OWNERS, "n2", mode=mode)
        for address in (V4, V6):
            words = [*enter(farm.net["client"]), "ping", "-c", "3", "-i", "0.05", "-W", "5", address]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert "3 received" in done.stdout, done.stdout
            assert "duplicates" not in done.stdout
        farm.clean()


def test_a_node_tells_its_own_hardware_address_alone_for_its_own_address(farm: Farm) -> None:
    farm.apply(OWNERS, "n1", mode=Mode.INVISIBLE)
    node = farm.nodes["n2"].member
    told: set[bytes] = set()

    async def ask() -> None:
        link = json.loads(ip("-j", "link", "show", "eth0", within=farm.net["client"]))[0]
        mac = bytes.fromhex(link["address"].replace(":", ""))
        wire = Wire("eth0", link["ifindex"], lambda _, address, owner: told.add(owner))
        wire.send(probe(ip_address(node.v4), mac))
        # Whoever answers this one has answered the other.
        wire.send(probe(ip_address(V4), mac))
        await until(lambda: len(told) > 1)
        wire.close()

    with inside(farm.net["client"]):
        asyncio.run(ask())
    virtual = farm.plane("n2", OWNERS, "n1", mode=Mode.INVISIBLE).virtual_mac
    assert {mac.hex(":") for mac in told} == {node.mac, virtual}
    own = farm.nodes["n1"].do("macs", addresses=[node.v4])
    assert own == {node.v4: node.mac}


def test_a_peer_whose_hardware_address_is_not_known_yet_is_no_stranger(farm: Farm) -> None:
    farm.apply(OWNERS, "n2", ["n2"])
    value = farm.plane("n1", OWNERS, "n1")
    blind = replace(value, peers=tuple(replace(peer, mac="") for peer in value.peers))
    assert farm.nodes["n1"].do("preflight", plane=as_json(blind)) == []


def test_fragments_find_the_owner_of_the_whole(farm: Farm) -> None:
    for mode in Mode:
        farm.apply(OWNERS, "n1", mode=mode)
        for address, clients in ((V4, CLIENTS), (V6, CLIENTS6)):
            # More than so many wait for no neighbour's hardware address: the client's kernel drops them.
            expected = [owner_of(OWNERS, *client) for client in clients[:20]]
            assert farm.ask(address, "udp", clients[:20], size=4000) == expected
        farm.clean()


@pytest.mark.parametrize("address", [V4, V6])
def test_two_nodes_that_ask_each_other_end_it(farm: Farm, address: str) -> None:
    for name, other in (("n1", "n2"), ("n2", "n1")):
        farm.apply(OWNERS, "n1", [name], previous=dict.fromkeys(range(BUCKETS), other))
    with captured(farm.net["n1"]) as segments:
        with inside(farm.net["client"]):
            stranger = bound(
                address, socket.SOCK_RAW, source(6 if address == V6 else 4, 9), 0, socket.IPPROTO_TCP
            )
        with stranger:
            # An ACK of a connection that nobody has seen begin.
            stranger.sendto(struct.pack("!HHIIBBHHH", 5555, TCP, 1, 1, 0x50, ACK, 1024, 0, 0), (address, 0))
        # Nothing is on its way any more when a client was answered that asked after it.
        clients = CLIENTS6 if address == V6 else CLIENTS
        assert farm.ask(address, "udp", clients) == [owner_of(OWNERS, *client) for client in clients]
    hops = [segment for segment in segments if segment.target == address and segment.target_port == TCP]
    assert 2 <= len(hops) <= HOPS_MAX


def test_two_farms_of_a_node_do_not_disturb_each_other(farm: Farm) -> None:
    farm.apply(OWNERS, "n1")
    other = "198.18.0.99"
    drivers = {name: node.drive("api") for name, node in farm.nodes.items()}
    try:
        for name, node in farm.nodes.items():
            value = farm.plane(name, shared("n2"), "n2", mode=Mode.INVISIBLE, farm="api")
            node.apply(_at(value, other), drivers[name])
        for address, owners in ((other, shared("n2")), (V4, OWNERS)):
            assert farm.ask(address, "udp", CLIENTS) == [owner_of(owners, *client) for client in CLIENTS]
        for name, node in farm.nodes.items():
            node.do("clean", drivers[name])
        assert farm.ask(V4, "udp", CLIENTS) == [owner_of(OWNERS, *client) for client in CLIENTS]
    finally:
        for driver in drivers.values():
            end(driver)


def _at(value: Plane, address: str) -> Plane:
    services = tuple(replace(each, address=address) for each in value.services if each.address == V4)
    answers = frozenset({address} if value.answers else ())
    return replace(value, addresses=(address,), services=services, answers=answers)


def test_a_director_whose_pulse_died_is_silent_while_what_is_passed_on_to_it_is_served(farm: Farm) -> None:
    farm.apply(OWNERS, "n1")
    for node in farm.nodes.values():
        node.do("guard", addresses=[V4, V6])
    node = farm.nodes["n1"]
    node.do("hold", addresses=[V4, V6], seconds=0.3)

    def heard() -> bool:
        ip("neigh", "flush", "all", within=farm.net["client"])
        words = [*enter(farm.net["client"]), "ping", "-c", "1", "-W", "0.2", V4]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    eventually(lambda: not heard())
    # The heir answers; nobody holds a lease on n1 any more, and what is its own share is still its own.
    farm.apply(OWNERS, "n2")
    farm.nodes["n2"].do("hold", addresses=[V4, V6], seconds=60)
    farm.nodes["n2"].do("announce")
    eventually(heard)
    assert farm.ask(V4, "udp", CLIENTS) == [owner_of(OWNERS, *client) for client in CLIENTS]
    for each in farm.nodes.values():
        each.nft("delete", "table", "inet", "hafarm_lease")
        each.nft("delete", "table", "arp", "hafarm_lease")


def test_nodes_find_each_others_hardware_addresses(farm: Farm) -> None:
    other = farm.nodes["n2"].member
    asked = [other.v4, other.v6, "198.18.0.77"]
    assert farm.nodes["n1"].do("macs", addresses=asked) == {other.v4: other.mac, other.v6: other.mac}


# --- refused before anything is changed ---------------------------------------------------------------------


def test_a_sound_plane_has_nothing_against_it_also_while_its_peers_serve(farm: Farm) -> None:
    farm.apply(OWNERS, "n2", ["n2"])
    assert farm.nodes["n1"].do("preflight", plane=as_json(farm.plane("n1", OWNERS, "n1"))) == []
    assert left(farm.nodes["n1"]) == []


def test_an_interface_that_is_missing_or_down_is_named(farm: Farm) -> None:
    node = farm.nodes["n1"]
    value = replace(farm.plane("n1", OWNERS, "n1"), interface="eth7")
    (told,) = node.do("preflight", plane=as_json(value))
    assert told.startswith("HF6101 interface eth7: there is none of this name")
    with pytest.raises(Order, match="HF6101"):
        node.apply(value)
    ip("link", "add", "eth7", "type", "bridge", within=node.namespace)
    (told,) = node.do("preflight", plane=as_json(value))
    ip("link", "del", "eth7", within=node.namespace)
    assert told.startswith("HF6101 interface eth7: it is down")
    assert left(node) == []


def test_an_address_of_no_subnet_here_is_refused(farm: Farm) -> None:
    value = _at(farm.plane("n1", OWNERS, "n1"), "198.18.7.1")
    (told,) = farm.nodes["n1"].do("preflight", plane=as_json(value))
    assert told.startswith("HF6102 address 198.18.7.1 is in no subnet of interface eth0")


def test_an_address_that_a_stranger_answers_for_is_refused_with_who_it_is(farm: Farm) -> None:
    for address in (V4, V6):
        ip("address", "add", address, "dev", "eth0", *_nodad(address), within=farm.net["client"])
    told = farm.nodes["n1"].do("preflight", plane=as_json(farm.plane("n1", OWNERS, "n1")))
    for address in (V4, V6):
        ip("address", "del", address, "dev", "eth0", within=farm.net["client"])
    mac = json.loads(ip("-j", "link", "show", "eth0", within=farm.net["client"]))[0]["address"]
    assert sorted(line[:28] for line in told) == [
        f"HF6103 address {V4} is"[:28],
        f"HF6103 address {V6} is"[:28],
    ]
    assert all(mac in line for line in told)


def test_a_stranger_that_takes_the_address_later_is_told_of(farm: Farm) -> None:
    farm.apply(OWNERS, "n1")
    ip("address", "add", V4, "dev", "eth0", within=farm.net["client"])
    try:
        code = "import socket; s=socket.socket(17,3); s.bind(('eth0',0x806)); s.send(bytes.fromhex(input()))"
        mac = json.loads(ip("-j", "link", "show", "eth0", within=farm.net["client"]))[0]["address"]
        gratuitous = f"ffffffffffff{mac}08060001080006040002{mac}c6120064ffffffffffffc6120064".replace(
            ":", ""
        )
        words = [*enter(farm.net["client"]), sys.executable, "-c", code]
        subprocess.run(words, input=gratuitous.encode(), check=True)
        told = f"HF6109 {mac}, which is no node of this farm, says that it has {V4}"
        eventually(lambda: told in farm.nodes["n1"].do("events"))
    finally:
        ip("address", "del", V4, "dev", "eth0", within=farm.net["client"])


def test_a_kernel_that_takes_no_such_rules_is_told_of(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def run(self, commands: str) -> str:
            raise RulesRefused("Operation not supported")

    async def look() -> list[HafarmError]:
        plane = FarmPlane(value.farm, lambda event: None)
        await plane.start()
        try:
            monkeypatch.setattr(farm_plane, "open_nft", lambda **_: Refusing())
            return await plane.preflight(value)
        finally:
            await plane.close()

    value = farm.plane("n1", OWNERS, "n1")
    with inside(farm.net["n1"]):
        (told,) = asyncio.run(look())
    assert str(told) == "this kernel does not take the farm's rules: Operation not supported"
    assert told.code == "HF6104"


def test_without_the_right_to_nftables_it_says_so() -> None:
    words = ["unshare", "--user", sys.executable, "-m", "tests.farm.driver", "web"]
    done = subprocess.run(words, input="", capture_output=True, text=True, check=False)
    assert "RulesRefused" in done.stderr
    assert "Operation not permitted" in done.stderr


def _nodad(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []
