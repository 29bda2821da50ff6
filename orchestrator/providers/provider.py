"""Who moves a module's virtual IPs: the one contract that every place to run in keeps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from orchestrator.model.events import LinkLost, LinkRestored
from orchestrator.model.names import Epoch, ModuleName, NodeName


class Owner(Enum):
    """Who answers for a module's addresses."""

    MINE = "mine"
    NOBODY = "nobody"
    NODE = "node"
    """Another node of this cluster."""
    FOREIGN = "foreign"
    """Something that is no node of this cluster."""
    AMBIGUOUS = "ambiguous"
    """Several at once, or only some of what belongs to the address."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of who has an address."""

    owner: Owner
    nodes: frozenset[NodeName] = frozenset()
    """Which nodes of this cluster have it, or a part of it."""
    detail: str = ""
    """For people: what was seen where."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that will not work on the day it is needed, found beforehand."""

    subject: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """One address that this node holds now."""

    address: str
    """With its prefix length."""
    interface: str


@dataclass(frozen=True, slots=True)
class AddressConflict:
    """Somebody else says that an address which we hold is theirs."""

    module: ModuleName
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class AddressPutBack:
    """An address that we hold had vanished, and is there again."""

    module: ModuleName
    address: str
    interface: str


ProviderEvent = LinkLost | LinkRestored | AddressConflict | AddressPutBack


class Provider(Protocol):
    """One instance per module."""

    async def start(self, held: bool) -> None:
        """Watch. `held`: an earlier agent claimed the addresses; else left-overs are removed."""
        ...

    async def observe(self) -> Sight:
        """Who has the addresses now, as far as can be seen from here."""
        ...

    async def claim(self, expected: frozenset[NodeName], epoch: Epoch) -> None:
        """Idempotent; the addresses are here when it returns; else a HafarmError. `announce` comes next.

        `expected`: the nodes from which they may be taken. A provider that can see who has an address takes
        it from nobody else.
        """
        ...

    async def release(self, epoch: Epoch) -> None:
        """Idempotent; returns when the addresses are gone from this machine. `epoch`: the reign that ends."""
        ...

    async def announce(self) -> None:
        """Tell the network again where held addresses are."""
        ...

    def held(self) -> list[HeldAddress]: ...

    async def preflight(self) -> list[Finding]: ...

    async def close(self) -> None:
        """Watch no more; the addresses stay as they are."""
        ...
