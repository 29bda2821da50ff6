"""The kernel's lists, in a network of the test's own."""

from __future__ import annotations

import asyncio

from orchestrator.host.netlink import Netlink
from tests.support.netns import Switch, inside, ip


def test_lists_that_are_asked_for_at_once_are_all_answered_whole() -> None:
    async def ask(count: int) -> list[list[str]]:
        kernel = Netlink()
        await kernel.open()
        try:
            answers = await asyncio.gather(*(kernel.addresses() for _ in range(count)))
        finally:
            kernel.close()
        return [[str(placed.address) for placed in answer] for answer in answers]

    with Switch(a=("198.18.7.1/24",)) as net:
        for number in range(200):  # more than one reply of the kernel's holds
            ip("addr", "add", f"198.18.8.{number + 1}/32", "dev", "eth0", within=net["a"])
        with inside(net["a"]):
            lists = asyncio.run(ask(20))
    assert all(len([one for one in each if one.startswith("198.18.8.")]) == 200 for each in lists)
