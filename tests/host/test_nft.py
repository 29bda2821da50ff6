"""The dead-man lease against a real kernel, in a network namespace of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
