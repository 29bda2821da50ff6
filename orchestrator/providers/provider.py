"""Who moves a module's virtual IPs: the one contract that every place to run in keeps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from orchestrator.model.events import LinkLost, LinkRestored
from orchestrator.model.names import Epoch, ModuleName


class Owner(Enum):
    """Who answers for a module's addresses."""

    MINE = "mine"
    NOBODY = "nobody"
    FOREIGN = "foreign"


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

    async def observe(self) -> Owner:
        """Who has the addresses now, as far as can be seen from here."""
        ...

    async def claim(self, epoch: Epoch) -> None:
        """Idempotent; the addresses are here when it returns; else AddressRefused. `announce` comes next."""
        ...

    async def release(self) -> None:
        """Idempotent; returns when the addresses are gone from here."""
        ...

    async def announce(self) -> None:
        """Tell the network again where held addresses are."""
        ...

    def held(self) -> list[HeldAddress]: ...

    async def preflight(self) -> list[Finding]: ...

    async def close(self) -> None:
        """Watch no more; the addresses stay as they are."""
        ...
