"""The dead-man lease against a real kernel, in a network namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.host.netns import Network, run
from orchestrator.host.nft import DeadMan
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
DeadMan(Library(), ["2001:2::91"]).renew(time.time(), {"2001:2::91": float(sys.argv[1])})
"""


def test_a_neighbour_solicitation_is_answered_only_while_the_address_is_held() -> None:
    net = Network(f"hn{os.getpid()}", {"node": ("2001:2::91/64",), "client": ("2001:2::9/64",)})
    try:
        net.create()
        for seconds, answered in (("0", False), ("60", True), ("0", False)):
            run(*net.inside("node", sys.executable, "-c", HOLD, seconds))
            run("ip", "-n", net.namespace("client"), "neigh", "flush", "all")
            ask = "import socket; socket.socket(10, 2).sendto(b'', ('2001:2::91', 9))"
            run(*net.inside("client", sys.executable, "-c", ask))
            assert _resolved(net) == answered
    finally:
        net.destroy()


def _resolved(net: Network) -> bool:
    """Wait until the kernel knows or gave up: three solicitations, a second apart."""
    found = ""

    def decided() -> bool:
        nonlocal found
        found = run("ip", "-n", net.namespace("client"), "-6", "neigh", "show", "2001:2::91")
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
