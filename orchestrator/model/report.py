"""What a node says of itself: carried by heartbeats, shown by status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from orchestrator.model.errors import CorruptState
from orchestrator.model.names import NEVER, Epoch, NodeName, Nonce

FARM: Final = "farm"
PERCENT_MAX: Final = 1000
"""Ten times the configured weight: who needs more has a wrong file."""
DIGEST_MAX: Final = 8


class Role(Enum):
    """What a node is for one mirror."""

    STOP = "STOP"
    WAIT = "WAIT"
    ALONE = "ALONE"
    PRIM = "PRIM"
    SECOND = "SECOND"


class FarmRole(Enum):
    """What a node is for one farm."""

    STOP = "STOP"
    WAIT = "WAIT"
    UP = "UP"


class Phase(Enum):
    """How far the role is taken: SafeKit's three colours, plus serving without redundancy."""

    NOT_READY = "not-ready"
    TRANSIENT = "transient"
    READY = "ready"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class ModuleState:
    """One module as its node tells the others, in every heartbeat."""

    role: Role = Role.STOP
    phase: Phase = Phase.NOT_READY
    epoch: Epoch = NEVER
    """The highest epoch that the sender has accepted."""
    primary: NodeName | None = None
    in_sync: frozenset[NodeName] = frozenset()
    nonce: Nonce | None = None
    """The record's nonce, where the sender knows a record."""
    life: Nonce | None = None
    """The sender's own gate, when it has one."""
    serving: bool = False
    """The gate is open under `epoch` and `nonce`."""
    abandoned: Epoch = NEVER
    """The sender was primary under this epoch and will not serve under it again: no need to wait for T."""
    virgin: bool = True
    """The sender has never known a record for this module."""
    leaving: bool = False
    """The sender stops on its own: the primary bids it out."""
    forced: bool = False
    """The sender serves by an operator's order that accepted data loss, without the register's grant."""
    fit: bool = True
    """The sender would serve well: restarts left, disk good, links up."""
    aside: int = 0
    """How many divergences the sender keeps files of until an operator releases them."""

    def as_list(self) -> list[Any]:
        """Short, because eight modules share one datagram."""
        return [
            self.role.value,
            self.phase.value,
            self.epoch,
            self.primary,
            sorted(self.in_sync),
            self.nonce,
            self.life,
            int(self.serving),
            self.abandoned,
            int(self.virgin),
            int(self.leaving),
            int(self.forced),
            int(self.fit),
            self.aside,
        ]

    @classmethod
    def from_list(cls, data: Any) -> ModuleState:
        """CorruptState when it is not what `as_list` gives."""
        try:
            (
                role,
                phase,
                epoch,
                primary,
                in_sync,
                nonce,
                life,
                serving,
                abandoned,
                virgin,
                leaving,
                forced,
                fit,
                aside,
            ) = data
            return cls(
                role=Role(role),
                phase=Phase(phase),
                epoch=Epoch(int(epoch)),
                primary=None if primary is None else NodeName(str(primary)),
                in_sync=frozenset(NodeName(str(name)) for name in in_sync),
                nonce=None if nonce is None else Nonce(str(nonce)),
                life=None if life is None else Nonce(str(life)),
                serving=bool(serving),
                abandoned=Epoch(int(abandoned)),
                virgin=bool(virgin),
                leaving=bool(leaving),
                forced=bool(forced),
                fit=bool(fit),
                aside=int(aside),
            )
        except (TypeError, ValueError) as fault:
            raise CorruptState(what="a module state", why=str(fault)) from fault


@dataclass(frozen=True, slots=True)
class Shares:
    """What a node remembers of how a farm's traffic is shared out: its next agent goes on from there."""

    config: str
    """Of which configuration, as `FarmState.config`."""
    members: tuple[tuple[NodeName, int, bool], ...]
    """Name, per cent, and whether it is there still: the view."""
    former: tuple[Mapping[int, tuple[NodeName, ...]], ...]
    """Of each group of ports: bucket to those who had it before, newest first."""
    fading: tuple[Mapping[int, NodeName], ...] = ()
    """Of the change before, while somebody may send by it still: bucket to whom this node asked."""


@dataclass(frozen=True, slots=True)
class FarmState:
    """One farm as its node tells the others. Views travel as digests: 64 nodes need no more room than two."""

    role: FarmRole = FarmRole.STOP
    phase: Phase = Phase.NOT_READY
    open: bool = False
    """The application is ready here: connections that this node has go on."""
    draining: bool = False
    """It takes no new connections."""
    percent: int = 100
    """Of its configured weights."""
    config: str = ""
    """What the sender's file says of the farm, as eight digits: others share it out otherwise."""
    serial: int = 0
    """Grows with each change of what the sender takes, and from life to life."""
    view: str = ""
    """The nodes among which the sender shares the traffic out now."""
    prepared: str = ""
    """Whose words, up to which serial of each, the sender's kernel is prepared to follow."""
    done: str = ""
    """Those that it follows."""

    def as_list(self) -> list[Any]:
        """Begins with what no mirror's state begins with."""
        return [
            FARM,
            self.role.value,
            self.phase.value,
            int(self.open),
            int(self.draining),
            self.percent,
            self.config,
            self.serial,
            self.view,
            self.prepared,
            self.done,
        ]

    @classmethod
    def from_list(cls, data: Any) -> FarmState:
        """CorruptState when it is not what `as_list` gives."""
        try:
            _, role, phase, is_open, draining, percent, config, serial, view, prepared, done = data
            return cls(
                FarmRole(role),
                Phase(phase),
                bool(is_open),
                bool(draining),
                _percent(percent),
                _digest(config),
                int(serial),
                _digest(view),
                _digest(prepared),
                _digest(done),
            )
        except (TypeError, ValueError) as fault:
            raise CorruptState(what="a farm's state", why=str(fault)) from fault


def _percent(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= PERCENT_MAX:
        raise ValueError(f"{value!r:.40} is no percentage")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or len(value) > DIGEST_MAX:
        raise ValueError(f"{value!r:.40} is no digest")
    return value


AnyState = ModuleState | FarmState
ModuleStates = Mapping[str, AnyState]


def state_from_list(data: Any) -> AnyState:
    """One module of either kind; CorruptState when it is none."""
    if isinstance(data, list) and data[:1] == [FARM]:
        return FarmState.from_list(data)
    return ModuleState.from_list(data)
