"""What is told of a farm's plane: why it cannot be on this node, and what happened to it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.model.errors import HafarmError
from orchestrator.model.events import LinkLost, LinkRestored
from orchestrator.model.names import ModuleName


@dataclass(eq=False)
class InterfaceUnfit(HafarmError):
    """The farm's interface is missing or down."""

    code: ClassVar[str] = "HF6101"
    interface: str
    why: str

    def __str__(self) -> str:
        return f"interface {self.interface}: {self.why}; `ip link` lists those of this node"


@dataclass(eq=False)
class NoSuchSubnet(HafarmError):
    """Nobody on the interface's network would look for the address there."""

    code: ClassVar[str] = "HF6102"
    address: str
    interface: str

    def __str__(self) -> str:
        return (
            f"address {self.address} is in no subnet of interface {self.interface}: "
            "choose one that is, or name another interface"
        )


@dataclass(eq=False)
class AddressTaken(HafarmError):
    """A machine that is no node of the farm has its address."""

    code: ClassVar[str] = "HF6103"
    address: str
    mac: str

    def __str__(self) -> str:
        return (
            f"address {self.address} is answered for by {self.mac}, which is no node of this farm: "
            "take it away there, or choose another"
        )


@dataclass(eq=False)
class RulesImpossible(HafarmError):
    """nftables is not there, not permitted, or lacks what a farm needs."""

    code: ClassVar[str] = "HF6104"
    why: str

    def __str__(self) -> str:
        return f"this kernel does not take the farm's rules: {self.why}"


@dataclass(frozen=True, slots=True)
class RulesPutBack:
    """Somebody took rules of ours away, and they are there again."""

    code: ClassVar[str] = "HF6107"
    farm: ModuleName

    def __str__(self) -> str:
        return "packet rules of this farm had been taken away; they are there again"


@dataclass(frozen=True, slots=True)
class FarmAddressPutBack:
    """An address of the farm had vanished from an interface, and is there again."""

    code: ClassVar[str] = "HF6108"
    farm: ModuleName
    address: str
    interface: str

    def __str__(self) -> str:
        return f"address {self.address} had vanished from {self.interface}; it is there again"


@dataclass(frozen=True, slots=True)
class FarmAddressConflict:
    """Somebody who is no node of the farm says that its address is theirs."""

    code: ClassVar[str] = "HF6109"
    farm: ModuleName
    address: str
    mac: str

    def __str__(self) -> str:
        return f"{self.mac}, which is no node of this farm, says that it has {self.address}"


PlaneEvent = LinkLost | LinkRestored | RulesPutBack | FarmAddressPutBack | FarmAddressConflict
