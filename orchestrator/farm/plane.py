"""What one node's kernel shall do for one farm: who serves whom, and who answers for the addresses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from orchestrator.farm.buckets import BUCKETS
from orchestrator.model.names import ModuleName, NodeName

SERVICE_NAME: Final = re.compile(r"[a-z0-9_]{1,32}")
"""A part of the names of counters and maps, which may have 127 letters, as may the name of a table."""
PRIVATE_MAC: Final = "02:00:5e"
"""Locally administered: no maker of network cards gives such an address."""


class Mode(StrEnum):
    """How packets of clients come to the node that serves them."""

    DIRECTED = "directed"
    """One node answers for the address and passes on what is not its own; replies leave directly."""
    SPREAD = "spread"
    """The same, but each node answers the ARP and neighbour questions of its own clients."""
    INVISIBLE = "invisible"
    """Every node receives everything, through a hardware address that no switch learns."""


class Affinity(StrEnum):
    """What of a client decides who serves it."""

    SOURCE = "source"
    SOURCE_PORT = "source-port"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the others meet it on the farm's interface."""

    name: NodeName
    mac: str
    """Empty: not known yet. What such a peer passes on to us may then be passed on once more."""
    v4: str = ""
    v6: str = ""
    """Its own addresses there; empty: none of this kind."""

    def own(self, version: int) -> str:
        return self.v4 if version == 4 else self.v6


@dataclass(frozen=True, slots=True)
class Service:
    """A group of ports of one address, with shares of its own."""

    name: str
    """Stable, and the farm's only one of this name."""
    address: str
    protocol: Protocol
    ports: tuple[tuple[int, int], ...]
    """Ranges, first and last port."""
    affinity: Affinity
    owners: tuple[NodeName | None, ...]
    """Who serves each bucket. None: nobody, so whoever answers for the address refuses."""
    previous: Mapping[int, NodeName] = field(default_factory=dict)
    """Buckets that this node gains or gained in a planned move, and who had them: packets of connections that
    this node does not know go there. Never a dead node. UDP has no connections and moves at once."""
    lost: frozenset[int] = frozenset()
    """Buckets that this node gave away in a planned move: its established connections stay."""

    def __post_init__(self) -> None:
        assert SERVICE_NAME.fullmatch(self.name), self.name
        assert len(self.owners) == BUCKETS, len(self.owners)
        assert self.ports, "a service has ports"
        assert all(0 < first <= last < 1 << 16 for first, last in self.ports), self.ports

    @property
    def version(self) -> int:
        return ip_address(self.address).version

    def own(self, node: NodeName) -> frozenset[int]:
        return frozenset(bucket for bucket, owner in enumerate(self.owners) if owner == node)


@dataclass(frozen=True, slots=True)
class Plane:
    """One farm on one node."""

    farm: ModuleName
    me: Member
    mode: Mode
    interface: str
    seed: int
    """Of the hash: chance, one per cluster. An outsider who knew it could aim at one node."""
    peers: tuple[Member, ...]
    addresses: tuple[str, ...]
    answers: frozenset[str]
    """The addresses for which this node is the director: to ARP and neighbour questions it answers, and to
    whatever belongs to no service, such as an echo request."""
    services: tuple[Service, ...]
    reset_on_loss: bool = True
    """Connections that nobody knows are reset: their node died, and its clients may as well know it."""

    def __post_init__(self) -> None:
        assert 0 <= self.seed < 1 << 32, self.seed
        assert self.answers <= set(self.addresses), self.answers
        assert {service.address for service in self.services} <= set(self.addresses)
        assert len({service.name for service in self.services}) == len(self.services), "one name, one service"
        assert all(str(ip_address(address)) == address for address in self.addresses), "as they are written"
        for version in self.versions:
            assert self.me.own(version), f"no IPv{version} address of this node on {self.interface}"

    @property
    def versions(self) -> frozenset[int]:
        return frozenset(ip_address(address).version for address in self.addresses)

    @property
    def claims(self) -> frozenset[str]:
        """The addresses that are to be on the interface, because the kernel answers only for those there."""
        return frozenset(self.addresses) if self.mode is Mode.SPREAD else self.answers

    @property
    def leased(self) -> tuple[str, ...]:
        """The addresses that this node may answer only while its pulse lives."""
        return tuple(a for a in self.addresses if self.mode is not Mode.DIRECTED or a in self.answers)

    @property
    def shares_lease(self) -> bool:
        """Whether the lease is about questions alone: what another node passes on is always taken. A node
        that receives everything must be deaf without it, because others have taken its share."""
        return self.mode is not Mode.INVISIBLE

    @property
    def virtual_mac(self) -> str:
        """The same on every node; of the mode `invisible` alone."""
        digest = hashlib.sha256(f"{self.seed} {self.farm}".encode()).digest()
        return f"{PRIVATE_MAC}:{digest[:3].hex(':')}"

    @property
    def device(self) -> str:
        """The interface that bears the virtual hardware address; names have at most 15 letters."""
        return device_of(self.farm)


def device_of(farm: ModuleName) -> str:
    return DEVICE + hashlib.sha256(farm.encode()).hexdigest()[:10]


DEVICE: Final = "haf-"
"""How the names of such interfaces begin, by which a later life knows them."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one service had since its rules were loaded."""

    taken_packets: int = 0
    taken_bytes: int = 0
    taken_connections: int = 0
    """Served by this node, however they came to it. Of UDP: packets of clients that had no reply before."""
    passed_packets: int = 0
    passed_bytes: int = 0
    passed_connections: int = 0
    """Passed on to others as director. Connections of TCP alone, which begin visibly."""
    connections: int = 0
    """That this node's kernel knows now."""
