"""An agent is seen in its network, by everybody there and by nobody elsewhere, until it is dead."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from orchestrator.host.presence import present
from tests.support.netns import Switch, inside
from tests.support.waiting import eventually

LIVE = """
import sys
from orchestrator.host.presence import show
sign = show(sys.argv[1])
print("there", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def network() -> Iterator[str]:
    with Switch(one=(), other=()) as net:
        yield net["one"]


def test_it_is_seen_in_its_network_alone_and_gone_with_a_killed_process(network: str) -> None:
    def seen(name: str) -> list[str]:
        code = "from orchestrator.host.presence import present; print(*present())"
        words = ["nsenter", f"--net=/var/run/netns/{name}", sys.executable, "-c", code]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    with inside(network):
        agent = subprocess.Popen(
            [sys.executable, "-c", LIVE, "/run/somewhere"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "there\n"
        assert seen(network) == ["/run/somewhere"]
        assert seen(network.replace("one", "other")) == []
        assert "/run/somewhere" not in present()
    finally:
        agent.kill()
        agent.communicate()
    eventually(lambda: seen(network) == [])
