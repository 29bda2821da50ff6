"""What the kernel counted of a farm's services, and how many connections it knows."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from orchestrator.farm.plane import Protocol, Service, Traffic
from orchestrator.farm.ruleset import Ruleset
from orchestrator.host.conntrack import connections
from orchestrator.host.counters import counters
from orchestrator.host.nfnetlink import RulesRefused

_NUMBERS: Final = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}


def read_counters(tables: Ruleset, services: Iterable[Service]) -> dict[str, Traffic]:
    """By service; counted since its rules were loaded. How many connections there are is left out.

    Raises RulesRefused where rules are missing: somebody took them away, and no count means anything.
    """
    counts: dict[str, tuple[int, int]] = {}
    for (family, name), table in tables.items():
        if table.counters:
            found = counters(family, name)
            if not found.keys() >= set(table.counters):
                raise RulesRefused(f"counters of table {family} {name} are missing")
            counts |= found
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
