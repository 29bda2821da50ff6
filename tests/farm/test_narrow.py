"""Behind a router whose other link is narrow: its errors find the node whose packets were too big."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from orchestrator.farm.plane import Affinity, Mode
from tests.farm.rig import TCP, V4, V6, Farm, await_addresses, begin, enter, owner_of, shared
from tests.support.netns import Switch, inside, ip

OWNERS = shared("n1", "n2", "n3")
FAR = {V4: "198.18.1.2", V6: "2001:2:0:2::2"}
NEAR = {V4: "198.18.1.1", V6: "2001:2:0:2::1"}
ROUTER = {V4: "198.18.0.200", V6: "2001:2::200"}
LENGTH = {V4: 24, V6: 64}
NARROW_BYTES = 1300
BULK_BYTES = 20_000
"""Some segments of a connection that has just begun."""


@pytest.fixture(scope="module")
def far() -> Iterator[str]:
    with Switch(far=()) as beyond:
        yield beyond["far"]


@pytest.fixture(scope="module")
def farm(far: str) -> Iterator[Farm]:
    """The clients' machine is a router now; what it passes on to the far one must be smaller."""
    with Farm(3) as made:
        router = made.net["client"]
        ip("link", "add", "narrow", "type", "veth", "peer", "name", "wide", "netns", far, within=router)
        ip("link", "set", "narrow", "up", within=router)
        ip("link", "set", "wide", "up", within=far)
        for address, length in LENGTH.items():
            v6 = ["nodad"] if address == V6 else []
            ip("address", "add", f"{NEAR[address]}/{length}", "dev", "narrow", *v6, within=router)
            ip("address", "add", f"{FAR[address]}/{length}", "dev", "wide", *v6, within=far)
            # The link is wide enough, so that its ends ask for segments that are too big for the way.
            mtu = ("mtu", "lock", str(NARROW_BYTES))
            ip("route", "add", FAR[address], "dev", "narrow", *mtu, within=router)
            ip("route", "add", address, "via", NEAR[address], within=far)
            for name in made.names:
                ip("route", "add", f"{FAR[address]}", "via", ROUTER[address], within=made.net[name])
        await_addresses(router, far)
        for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            subprocess.run([*enter(router), "sysctl", "-qw", setting], check=True)
        yield made


@pytest.mark.parametrize(
    ("mode", "affinity"),
    [
        (Mode.DIRECTED, Affinity.SOURCE_PORT),
        (Mode.DIRECTED, Affinity.SOURCE),
        (Mode.INVISIBLE, Affinity.SOURCE_PORT),
    ],
)
def test_each_node_hears_that_its_packets_are_too_big(
    farm: Farm, far: str, mode: Mode, affinity: Affinity
) -> None:
    # The director has the fewest: what it hears by mistake is not for it.
    owners = OWNERS if affinity is Affinity.SOURCE_PORT else shared("n2")
    farm.apply(owners, "n1", mode=mode, affinity=affinity)
    try:
        for address, client in FAR.items():
            _forget(farm)
            asked = [(client, 3000 + number) for number in range(24)]
            expected = [owner_of(owners, *each) for each in asked]
            assert set(expected) == set(owners)
            assert farm.ask(address, "tcp", asked, BULK_BYTES, at=far) == expected
    finally:
        farm.clean()


@pytest.mark.parametrize("address", [V4, V6])
def test_a_connection_whose_bucket_moved_hears_it_too(farm: Farm, far: str, address: str) -> None:
    farm.apply(shared("n1"), "n3")
    _forget(farm)
    try:
        with inside(far):
            client = socket.create_connection((address, TCP), timeout=10)
        with client:
            assert client.recv(100) == b"n1\n"
            farm.move(begin(shared("n1")), shared("n2"), "n3")
            client.sendall(b"x" * BULK_BYTES)
            heard = b""
            while len(heard) < BULK_BYTES:  # a socket with a time-out waits for some of it only
                heard += (came := client.recv(BULK_BYTES))
                assert came, f"it ended after {len(heard)} bytes"
            assert heard == b"x" * BULK_BYTES
    finally:
        farm.clean()


def _forget(farm: Farm) -> None:
    """What the nodes learned of this path before."""
    for node in farm.nodes.values():
        for version in ("-4", "-6"):
            ip(version, "route", "flush", "cache", within=node.namespace)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
