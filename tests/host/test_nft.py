"""The dead-man lease against a real kernel, in a network namespace of its own."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.host.netns import Network, run
from orchestrator.host.nfnetlink import Kind, Nfnetlink, RulesRefused
from orchestrator.host.nft import DeadMan, Library, is_silenced
from orchestrator.host.nft_lease import Holding, Orders
from tests.support.netns import Switch, inside, ip
from tests.support.waiting import eventually

SCRIPT = """
import time
from orchestrator.host.nft import {kind}, DeadMan
nft = {kind}()
man = DeadMan(nft, ["198.18.9.1", "2001:2::91"])
def held():
    return nft.run("list set inet hafarm_lease held4") + nft.run("list set inet hafarm_lease held6")
assert "elements" not in held()
man.renew(time.time(), {{"198.18.9.1": 0.3, "2001:2::91": 0.3}})
assert "198.18.9.1" in held() and "2001:2::91" in held()
man.renew(time.time(), {{"198.18.9.1": 30.0, "2001:2::91": 0.2}})
assert not man.remove()
deadline = time.monotonic() + 10
while "2001:2::91" in held():
    assert time.monotonic() < deadline
assert "198.18.9.1" in held()
man.renew(time.time(), {{}})
assert "elements" not in held()
assert man.remove()
"""


@pytest.mark.parametrize("kind", ["Library", "Command"])
def test_an_address_is_held_no_longer_than_it_was_renewed_for(kind: str) -> None:
    script = SCRIPT.format(kind=kind)
    subprocess.run(["unshare", "--net", sys.executable, "-c", script], check=True, timeout=60)


HOLD = """
import sys, time
from orchestrator.host.nft import DeadMan, Library
address, seconds, wall = sys.argv[1:]
DeadMan(Library(), [address]).renew(time.time() + float(wall), {address: float(seconds)})
"""
"""Seconds that the address is held for, and how wrong the process is about the time."""


@pytest.mark.parametrize(("held", "asker"), [("198.18.9.1", "198.18.9.9"), ("2001:2::91", "2001:2::9")])
def test_the_question_for_an_address_is_answered_only_while_it_is_held(held: str, asker: str) -> None:
    bits = 64 if ":" in held else 24
    net = Network(f"hn{os.getpid()}", {"node": (f"{held}/{bits}",), "client": (f"{asker}/{bits}",)})
    try:
        net.create()
        for seconds, wall, answered in (("0", "0", False), ("60", "0", True), ("60", "-100", False)):
            run(*net.inside("node", sys.executable, "-c", HOLD, held, seconds, wall))
            run("ip", "-n", net.namespace("client"), "neigh", "flush", "all")
            ask = f"import socket; socket.socket({10 if ':' in held else 2}, 2).sendto(b'', ('{held}', 9))"
            run(*net.inside("client", sys.executable, "-c", ask))
            assert _resolved(net, held) == answered
    finally:
        net.destroy()


def _resolved(net: Network, address: str) -> bool:
    """Wait until the kernel knows or gave up: three solicitations, a second apart."""
    found = ""

    def decided() -> bool:
        nonlocal found
        found = run("ip", "-n", net.namespace("client"), "neigh", "show", address)
        return "lladdr" in found or "FAILED" in found

    eventually(decided, 20)
    return "lladdr" in found


class Transactions:
    """Takes every transaction, and keeps it."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def run(self, commands: str) -> str:
        self.taken.append(commands)
        return ""


def test_what_a_dead_pulse_left_is_silent_from_the_first_transaction_on() -> None:
    nft = Transactions()
    DeadMan(nft, ["198.18.9.1", "2001:2::91"])
    (only,) = nft.taken
    assert "delete table" in only
    for element in ("inet hafarm_lease guarded4 { 198.18.9.1 }", "arp hafarm_lease guarded { 198.18.9.1 }"):
        assert f"add element {element}" in only
    assert "add element inet hafarm_lease guarded6 { 2001:2::91 }" in only


def test_an_address_whose_guarding_was_refused_is_guarded_when_it_is_asked_for_again() -> None:
    class Refusing(Transactions):
        def run(self, commands: str) -> str:
            super().run(commands)
            if len(self.taken) == 2:
                raise RulesRefused("busy")
            return ""

    nft = Refusing()
    man = DeadMan(nft, [])
    with pytest.raises(RulesRefused):
        man.guard([V4, V6])
    man.guard([V4, V6])
    man.guard([V4, V6])
    _, refused, taken = nft.taken
    assert refused == taken


V4, V6 = "198.18.9.1", "2001:2::91"


@pytest.fixture
def alone() -> Iterator[None]:
    """A network of our own, for what this thread opens and starts."""
    with Switch(node=()) as net, inside(net["node"]):
        yield


def nft(*words: str) -> str:
    """What nft prints, in universal time and without what is left of time-outs."""
    env = {**os.environ, "TZ": "UTC"}
    done = subprocess.run(["nft", *words], env=env, check=True, capture_output=True, text=True, timeout=20)
    return re.sub(r" expires \w+", "", done.stdout)


def holding(wall: float | None = None, **left: float) -> DeadMan:
    """Both addresses guarded, and held for so long."""
    man = DeadMan(Library(), [V4, V6])
    renew(man, wall, **left)
    return man


def renew(man: DeadMan, wall: float | None = None, v4: float = 0.0, v6: float = 0.0) -> None:
    man.renew(time.time() if wall is None else wall, {V4: v4, V6: v6})


def timeouts() -> list[str]:
    """Of the elements in the sets that hold: address for address, first the packets', then the question's."""
    places = ("inet", "held4"), ("arp", "held"), ("inet", "held6"), ("inet", "asked1")
    sets = (nft("list", "set", family, "hafarm_lease", name) for family, name in places)
    return [match[1] if (match := re.search(r"timeout (\w+) }", each)) else "" for each in sets]


SOLICITED = "icmpv6 type nd-neighbor-solicit @th,64,128 0x20010002000000000000000000000091"
RENEWED = """\
table inet hafarm_lease {
	set guarded4 {
		type ipv4_addr
		elements = { 198.18.9.1 }
	}

	set shared4 {
		type ipv4_addr
	}

	set held4 {
		type ipv4_addr
		flags timeout
		elements = { 198.18.9.1 timeout 30s }
	}

	set guarded6 {
		type ipv6_addr
		elements = { 2001:2::91 }
	}

	set shared6 {
		type ipv6_addr
	}

	set held6 {
		type ipv6_addr
		flags timeout
		elements = { 2001:2::91 timeout 31s }
	}

	set asked1 {
		type icmpv6_type
		flags timeout
		elements = { nd-neighbor-solicit timeout 31s }
	}

	chain late {
		ip daddr 198.18.9.1 meta time >= "2026-09-21 14:13:51" drop
		ip6 daddr 2001:2::91 meta time >= "2026-09-21 14:13:52" drop
		SOLICITED meta time >= "2026-09-21 14:13:52" drop
	}

	chain in {
		type filter hook prerouting priority -350; policy accept;
		ip daddr @guarded4 ip daddr != @held4 drop
		ip6 daddr @guarded6 ip6 daddr != @held6 drop
		jump late
		SOLICITED icmpv6 type != @asked1 drop
	}
}
table arp hafarm_lease {
	set guarded {
		type ipv4_addr
		elements = { 198.18.9.1 }
	}

	set held {
		type ipv4_addr
		flags timeout
		elements = { 198.18.9.1 timeout 30s }
	}

	chain late {
		arp daddr ip 198.18.9.1 meta time >= "2026-09-21 14:13:51" drop
	}

	chain in {
		type filter hook input priority filter; policy accept;
		arp daddr ip @guarded arp daddr ip != @held drop
		jump late
	}
}
""".replace("SOLICITED", SOLICITED)

LATE = f"""
flush chain inet hafarm_lease late
flush chain arp hafarm_lease late
add rule inet hafarm_lease late ip daddr 198.18.9.1 meta time >= 1790000031 drop
add rule arp hafarm_lease late arp daddr ip 198.18.9.1 meta time >= 1790000031 drop
add rule inet hafarm_lease late ip6 daddr 2001:2::91 meta time >= 1790000032 drop
add rule inet hafarm_lease late {SOLICITED} meta time >= 1790000032 drop
"""


@pytest.mark.usefixtures("alone")
def test_a_renewal_leaves_what_the_same_in_nfts_language_leaves() -> None:
    man = holding(1_790_000_000.5, v4=30.0, v6=31.0)
    assert nft("list", "ruleset") == RENEWED
    renew(man, 1_790_000_000.4, v4=30.0, v6=31.0)  # in the same second: the rules are good as they are
    assert nft("list", "ruleset") == RENEWED
    chains = [("list", "chain", family, "hafarm_lease", "late") for family in ("inet", "arp")]
    ours = [expressions(*chain) for chain in chains]
    Library().run(LATE)
    assert ours == [expressions(*chain) for chain in chains]


def expressions(*words: str) -> list[str]:
    """What the kernel has of rules."""
    return [line for line in nft("--debug=netlink", *words).splitlines() if line.startswith("  [")]


@pytest.mark.usefixtures("alone")
def test_a_renewal_moves_time_out_and_deadline() -> None:
    man = holding(1_790_000_000.0, v4=30.0, v6=31.0)
    renew(man, 1_790_000_005.0, v4=40.0, v6=20.0)
    assert timeouts() == ["40s", "40s", "20s", "20s"]
    left = sorted(int(each) for each in re.findall(r"expires (\d+)s", Library().run("list ruleset")))
    assert len(left) == 4
    assert all(10 < each <= 20 for each in left[:2])
    assert all(30 < each <= 40 for each in left[2:])
    late = nft("list", "ruleset")
    assert late.count('"2026-09-21 14:14:05"') == 2
    assert late.count('"2026-09-21 14:13:45"') == 2
    assert late.count("meta time") == 4


@pytest.mark.parametrize("address", [V4, V6])
def test_an_element_is_deleted_before_it_gets_another_time_out(address: str) -> None:
    # Since Linux 6.12 adding it would do, so a kernel of today does not show that this is missing.
    orders, kinds = Holding([Orders(address, 1)]).lasting([30.0]), []
    while orders:
        length, kind = struct.unpack_from("=IH", orders)
        kinds.append(Kind(kind))
        orders = orders[length:]
    added, deleted = Kind.NFT_MSG_NEWSETELEM, Kind.NFT_MSG_DELSETELEM
    assert kinds == [added, deleted, added] * 2


@pytest.mark.usefixtures("alone")
def test_an_address_that_is_renewed_no_more_is_silent_even_if_its_time_has_just_passed() -> None:
    man = holding(v4=60.0, v6=60.0)
    renew(man, v4=60.0)
    assert timeouts() == ["1m", "1m", "", ""]
    assert nft("list", "ruleset").count("meta time") == 2
    renew(man, v4=0.02, v6=60.0)
    eventually(lambda: timeouts()[:2] == ["", ""], 10)
    renew(man, v6=60.0)
    assert timeouts() == ["", "", "1m", "1m"]
    renew(man)
    assert timeouts() == ["", "", "", ""]
    assert "meta time" not in nft("list", "ruleset")
    assert man.remove()


@pytest.mark.usefixtures("alone")
def test_an_address_is_not_held_for_less_than_a_tick() -> None:
    # Before Linux 6.12 such an element would stay for ever.
    holding(v4=0.005, v6=0.009)
    assert timeouts() == ["", "", "", ""]


@contextmanager
def on_one_processor() -> Iterator[None]:
    """What is sent to oneself there is received in order."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("address", [V4, V6])
def test_what_arrives_behind_the_deadline_is_dropped(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ip("addr", "add", address, "dev", "lo", *(["nodad"] if address == V6 else []))
    with on_one_processor(), socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, 0))
        receiver.settimeout(10)
        man = holding(time.time() - 100, v4=60.0, v6=60.0)
        receiver.sendto(b"late", receiver.getsockname())
        with socket.socket(type=socket.SOCK_DGRAM) as behind:
            # It is in the same queue, and nothing filters it: when it is there the other one was dropped.
            behind.bind(("127.0.0.1", 0))
            behind.settimeout(10)
            behind.sendto(b"behind", behind.getsockname())
            assert behind.recv(16) == b"behind"
        renew(man, v4=60.0, v6=60.0)
        receiver.sendto(b"in time", receiver.getsockname())
        assert receiver.recv(16) == b"in time"


@pytest.mark.usefixtures("alone")
def test_a_refused_renewal_changes_nothing_and_the_next_one_is_whole() -> None:
    man = holding(v4=30.0, v6=30.0)
    Library().run("delete table arp hafarm_lease")
    before = nft("list", "ruleset")
    with pytest.raises(RulesRefused, match="NFT_MSG_NEWSETELEM: No such file or directory"):
        man.renew(time.time() + 50, {V4: 60.0, V6: 60.0})
    assert nft("list", "ruleset") == before
    assert not man.remove()
    DeadMan(Library(), [V4, V6])
    renew(man, 1_790_000_000.5, v4=30.0, v6=31.0)
    assert nft("list", "ruleset") == RENEWED


@pytest.mark.usefixtures("alone")
def test_hundreds_of_addresses_are_renewed_silenced_or_refused_at_once() -> None:
    addresses = [f"198.18.9.{n}" for n in range(200)] + [f"2001:2::{n}" for n in range(200)]
    man = DeadMan(Library(), addresses)
    for left in (30.0, 40.0):
        man.renew(time.time(), dict.fromkeys(addresses, left))
        assert nft("list", "ruleset").count(f"timeout {left:.0f}s") == 800
    assert nft("list", "ruleset").count("meta time") == 800
    man.renew(time.time(), {})
    assert "meta time" not in nft("list", "ruleset")
    Library().run("delete table inet hafarm_lease; delete table arp hafarm_lease")
    # More refusals than the socket has room for: the first ones tell why, and the next conversation is heard.
    with pytest.raises(RulesRefused, match="No such file or directory"):
        man.renew(time.time(), dict.fromkeys(addresses, 30.0))
    DeadMan(Library(), addresses)
    man.renew(time.time(), dict.fromkeys(addresses, 30.0))
    assert nft("list", "ruleset").count("timeout 30s") == 800


@pytest.mark.usefixtures("alone")
def test_silenced_is_what_is_guarded_and_not_held() -> None:
    kernel = Nfnetlink()

    def silenced() -> list[bool]:
        return [is_silenced(kernel, address) for address in (V4, V6)]

    assert silenced() == [False, False]  # no table
    Library().run("add table inet hafarm_lease")
    assert silenced() == [False, False]  # no sets
    man = DeadMan(Library(), [])
    assert silenced() == [False, False]  # others are guarded
    man.guard([V4, V6])
    assert silenced() == [True, True]
    renew(man, v4=60.0)
    assert silenced() == [False, True]
    renew(man, v4=0.02, v6=60.0)
    eventually(lambda: silenced() == [True, False], 10)  # its time passed, and nobody took it away
    renew(man)
    assert silenced() == [True, True]
    assert man.remove()
    assert silenced() == [False, False]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("address", [V4, V6])
def test_what_is_passed_on_to_a_shared_address_is_taken_whoever_answers_for_it(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ip("addr", "add", address, "dev", "lo", *(["nodad"] if address == V6 else []))
    kernel = Nfnetlink()
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(0.5)
        receiver.bind((address, 0))

        def is_taken() -> bool:
            receiver.sendto(b"passed on", receiver.getsockname())
            try:
                return receiver.recv(16) == b"passed on"
            except TimeoutError:
                return False

        eventually(is_taken)  # Linux loses what is sent to an address in the moment in which it is added
        man = DeadMan(Library(), [], [V4])
        man.guard([V6], shared=True)
        assert is_silenced(kernel, address)
        # Held by nobody, held too late, held: it is the question that the lease is about.
        for wall, left in ((None, 0.0), (time.time() - 100, 60.0), (None, 60.0)):
            renew(man, wall, v4=left, v6=left)
            assert is_taken()
        assert not is_silenced(kernel, address)


@pytest.mark.usefixtures("alone")
def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_its_bound() -> None:
    kernel = Nfnetlink()
    nlmsg_noop = struct.pack("=IHHII", 16, 1, 1, 0, 0)
    with pytest.raises(RulesRefused, match="no answer within"):
        kernel.ask(nlmsg_noop)


USER = """
import subprocess, time
from orchestrator.host.nft import DeadMan, Library
addresses = [f"198.18.9.{n}" for n in range(200)]
DeadMan(Library(), addresses).renew(time.time(), dict.fromkeys(addresses, 30.0))
assert Library().run("list ruleset").count("timeout 30s") == 400
"""


def test_to_be_the_administrator_of_the_own_network_is_enough() -> None:
    mine = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*mine, "true"], capture_output=True, timeout=20, check=False).returncode:
        pytest.skip("this machine has no user namespaces")
    subprocess.run([*mine, sys.executable, "-c", USER], check=True, timeout=60)
