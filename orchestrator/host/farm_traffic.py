"""What the kernel counted of a farm's services, and how many connections it knows."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from orchestrator.farm.plane import Protocol, Service, Traffic
from orchestrator.host.conntrack import connections
from orchestrator.host.nft import Nft

_NUMBERS: Final = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}
_COUNTER: Final = re.compile(r"counter (\w+) \{\s*packets (\d+) bytes (\d+)")


def read_counters(
    nft: Nft, tables: Iterable[tuple[str, str]], services: Iterable[Service]
) -> dict[str, Traffic]:
    """By service; counted since its rules were loaded. How many connections there are is left out."""
    counts: dict[str, tuple[int, int]] = {}
    for family, name in tables:
        text = nft.run(f"list counters table {family} {name}")
        counts |= {what: (int(packets), int(size)) for what, packets, size in _COUNTER.findall(text)}
    return {service.name: _traffic(service, counts) for service in services}


async def count_connections(services: Collection[Service]) -> dict[str, int]:
    """By service, how many the kernel knows now."""
    known: dict[tuple[str, Protocol], Counter[int]] = {}
    for address, protocol in {(service.address, service.protocol) for service in services}:
        # Elsewhere: the list of a busy node is long.
        known[address, protocol] = await asyncio.to_thread(connections, address, _NUMBERS[protocol])
    return {
        service.name: sum(
            number
            for port, number in known[service.address, service.protocol].items()
            if any(low <= port <= high for low, high in service.ports)
        )
        for service in services
    }


def _traffic(service: Service, counts: dict[str, tuple[int, int]]) -> Traffic:
    def count(what: str) -> tuple[int, int]:
        return counts.get(f"{what}_{service.name}", (0, 0))

    (seen, seen_bytes), (kept, kept_bytes) = count("seen"), count("kept")
    (taken, taken_bytes) = count("taken")
    return Traffic(
        taken_packets=taken,
        taken_bytes=taken_bytes,
        taken_connections=count("new")[0],
        passed_packets=seen - kept,
        passed_bytes=seen_bytes - kept_bytes,
        passed_connections=count("seennew")[0] - count("keptnew")[0],
    )
