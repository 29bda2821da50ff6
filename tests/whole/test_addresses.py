"""Virtual addresses of both families on two interfaces: where the role is, and nowhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.networks import CLIENT4, VIP4, VIP6, TwoNetworks

VIP = "198.18.0.100"
ALL = (VIP, VIP4, VIP6)
SHOUT = """
import ipaddress, socket, sys
from orchestrator.host.announce import frames
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth1", 0))
for frame in frames(ipaddress.ip_address(sys.argv[1]), bytes.fromhex(sys.argv[2].replace(":", ""))):
    wire.send(frame)
"""
"""Says to have an address."""


class Addressed(Bare):
    """Words about who has which address."""

    cluster: TwoNetworks

    def primary(self) -> str:
        found = [node for node in self.cluster.names if self.role(node)[0] in ("PRIM", "ALONE")]
        return found[0] if len(found) == 1 else ""

    def other(self, node: str) -> str:
        return next(name for name in self.cluster.names if name != node)

    def has(self, node: str) -> set[str]:
        """The virtual addresses on a node's interfaces."""
        shown = self.cluster.ip(node, "-o", "address", "show")
        return {address for address in ALL if f" {address}/" in shown}

    def answers(self, address: str) -> bool:
        words = ["ping", "-c1", "-W1", *(["-6"] if ":" in address else []), address]
        return self.cluster.machines["client"].call(*words).returncode == 0

    def known_mac(self, address: str) -> str:
        """Whose hardware address the client's kernel believes in, without asking anybody now."""
        interface = "eth0" if address == VIP else "eth1"
        line = self.cluster.ip("client", "neigh", "show", address, "dev", interface).split()
        return line[line.index("lladdr") + 1] if "lladdr" in line else ""

    def led_to(self, node: str) -> bool:
        """The client was told: it knows the node's own hardware address for each virtual one."""
        macs = {VIP: self.cluster.mac(node, "eth0")} | dict.fromkeys(
            (VIP4, VIP6), self.cluster.mac(node, "eth1")
        )
        return all(self.known_mac(address) == mac for address, mac in macs.items())

    def serves_from(self, node: str) -> None:
        """Exactly this node has the addresses, and answers."""
        eventually(lambda: self.has(node) == set(ALL), 60)
        eventually(lambda: self.has(self.other(node)) == set(), 60)
        for address in ALL:
            eventually(lambda address=address: self.answers(address), 30)

    def redundant(self) -> bool:
        return {self.role(node) for node in self.cluster.names} == {("PRIM", "ready"), ("SECOND", "ready")}


@contextmanager
def addressed(**module: Any) -> Iterator[Addressed]:
    vip = [
        {"address": f"{VIP}/24"},
        {"address": f"{VIP4}/24", "interface": "eth1", "source": True},
        {"address": "FD00:2:0::100/64"},
    ]
    with bare(kind=TwoNetworks, module={"run": None, "checks": [], "vip": vip, **module}) as made:
        found = Addressed(made.cluster)
        found.begin()
        yield found


def test_addresses_of_both_families_follow_the_role_and_clients_are_told() -> None:
    with addressed() as found:
        cluster = found.cluster
        node = found.primary()
        other = found.other(node)
        found.serves_from(node)
        eventually(lambda: found.led_to(node), 20)
        assert all(vip["here"] for vip in found.module(node)["vip"])
        # `source`: what the application dials out with, where the role is and nowhere else.
        assert f"src {VIP4}" in cluster.ip(node, "route", "get", CLIENT4)
        assert f"src {VIP4}" not in cluster.ip(other, "route", "get", CLIENT4)

        # Taken away behind our back: put back, and told.
        cluster.ip(node, "address", "del", f"{VIP4}/24", "dev", "eth1")
        cluster.ip(node, "address", "del", f"{VIP6}/64", "dev", "eth1")
        found.serves_from(node)
        assert f"src {VIP4}" in cluster.ip(node, "route", "get", CLIENT4)
        assert sum("HF3004" in event for event in found.events(node)) == 2

        # Somebody else says to have it: named, and contradicted.
        mac = cluster.mac("client", "eth1")
        for address in (VIP4, VIP6):
            done = cluster.machines["client"].call(sys.executable, "-c", SHOUT, address, mac)
            assert done.returncode == 0, done.stderr
        eventually(lambda: any("HF3003" in event for event in found.events(node)), 20)
        conflicts = {vip["address"]: vip["conflict"] for vip in found.module(node)["vip"]}
        assert conflicts == {f"{VIP}/24": "", f"{VIP4}/24": mac, "FD00:2:0::100/64": mac}
        eventually(lambda: found.led_to(node), 20)

        # The current fails: the other one takes all of them, and clients need not ask.
        found.serves_from(node)
        cluster.lose(node)
        eventually(lambda: found.role(other)[0] == "ALONE", 60)
        eventually(lambda: found.led_to(other), 20)
        for address in ALL:
            eventually(lambda address=address: found.answers(address), 20)

        # A left-over of the dead node's is taken away when its agent starts; nobody was led astray by it.
        cluster.ip(node, "address", "replace", f"{VIP}/24", "dev", "eth0")
        cluster.ip(node, "address", "replace", f"{VIP6}/64", "dev", "eth1", "nodad")
        cluster.bring_back(node)
        eventually(found.redundant, 60)
        found.serves_from(other)


def test_a_lost_carrier_releases_the_addresses_and_moves_the_module() -> None:
    with addressed(on_link_loss="move") as found:
        node = found.primary()
        other = found.other(node)
        found.serves_from(node)
        eventually(found.redundant, 60)
        found.cluster.carrier(node, "down")
        eventually(lambda: found.primary() == other, 60)
        found.serves_from(other)
        assert any("HF3002" in event and "eth1" in event for event in found.events(node))
        # Its own link is dead: the role does not come back, not even when it is asked to.
        eventually(found.redundant, 60)
        found.cluster.carrier(node, "up")
        eventually(lambda: found.answers(VIP4), 20)
        found.serves_from(other)


def test_a_lost_carrier_moves_nothing_where_it_is_to_stay_and_is_announced_when_it_heals() -> None:
    with addressed(on_link_loss="stay") as found:
        node = found.primary()
        found.serves_from(node)
        found.cluster.carrier(node, "down")
        eventually(lambda: any("HF3002" in event for event in found.events(node)), 20)
        end = time.monotonic() + 4  # longer than any take-over: the time itself is the test
        while time.monotonic() < end:
            assert found.primary() == node
            assert found.answers(VIP)
        found.cluster.ip("client", "neigh", "flush", "dev", "eth1")
        found.cluster.ip(
            "client", "neigh", "add", VIP4, "lladdr", "02:00:00:00:00:01", "dev", "eth1", "nud", "stale"
        )
        found.cluster.carrier(node, "up")
        # The burst after the heal corrects what the client believes.
        eventually(lambda: found.known_mac(VIP4) == found.cluster.mac(node, "eth1"), 20)
        found.serves_from(node)
