"""What lives as long as the node, beside every module of it, holds nothing in memory that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.replicator import watch

SERVERS = ("aiohttp", "asyncio", "email", "http", "msgspec", "pydantic", "pyroute2", "yaml")
"""What the agent and the command are made of."""


@pytest.mark.parametrize(
    ("process", "unused"),
    [
        ("orchestrator.pulse.process", (*SERVERS, "ssl", "hashlib", "logging")),
        (
            "orchestrator.replicator.main",
            (*SERVERS, "cryptography", "subprocess", "orchestrator.replicator.keeper"),
        ),
        (
            "orchestrator.agent.agent",
            ("pydantic", "pydantic_settings", "yaml", "cryptography", "pyroute2", "click", "rich"),
        ),
    ],
    ids=["pulse", "replicator", "agent"],
)
def test_a_process_imports_nothing_that_only_others_need(process: str, unused: tuple[str, ...]) -> None:
    code = (
        f"import {process}, sys\nsys.exit(' '.join(name for name in {unused!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_of_the_netlink_library_only_what_is_spoken_is_loaded() -> None:
    code = (
        "import asyncio, sys\nfrom orchestrator.host.netlink import Netlink\n"
        "async def look():\n kernel = Netlink()\n await kernel.open()\n print(sorted(await kernel.links()))\n"
        "asyncio.run(look())\nprint([name for name in sys.modules if 'sqlite' in name or '.ndb' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    links, extra = done.stdout.splitlines()
    assert "lo" in links
    assert extra == "[]"


def test_a_keeper_that_watches_imports_nothing_more() -> None:
    folder = str(Path(watch.__file__).parent)
    code = (
        f"import os, sys\nsys.path.insert(0, {folder!r})\nbefore = set(sys.modules)\n"
        "import watch\nprint(*sorted(set(sys.modules) - before))"
    )
    words = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["__future__", "watch"]
