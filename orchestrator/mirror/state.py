"""One mirror as this node sees it: the frozen value that `machine.step` turns into the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Literal

from orchestrator.cluster.application import Budget
from orchestrator.model.names import (
    NEVER,
    ClusterName,
    Epoch,
    Instant,
    ModuleName,
    NodeName,
    Nonce,
    RequestId,
)
from orchestrator.model.orders import Order
from orchestrator.model.record import Record
from orchestrator.model.report import ModuleState, Phase, Role
from orchestrator.model.timings import Timings

MOVES: Final[Mapping[Role, frozenset[Role]]] = {
    Role.STOP: frozenset({Role.WAIT}),
    Role.WAIT: frozenset({Role.SECOND, Role.ALONE, Role.PRIM, Role.STOP}),
    Role.SECOND: frozenset({Role.WAIT, Role.ALONE, Role.PRIM, Role.STOP}),
    Role.ALONE: frozenset({Role.PRIM, Role.WAIT, Role.STOP}),
    Role.PRIM: frozenset({Role.ALONE, Role.WAIT, Role.STOP}),
}
"""From each role, the roles that may follow; the manual's picture is drawn from this table."""


class Stage(Enum):
    """How far a node is on the way to serving, or away from it."""

    IDLE = "idle"
    OPENING = "opening"
    """`TakeReign` is under way and the gate was closed before."""
    OVERLAP = "overlap"
    """With `overlap: none`: the old side is given its time to be killed."""
    CLAIMING = "claiming"
    STARTING = "starting"
    SERVING = "serving"
    RESTARTING = "restarting"
    """The application is being stopped to be started again here."""
    RESTING = "resting"
    """The application is down; it is tried again at `again_at`."""
    ENDING = "ending"
    """The application is being stopped for good: `ending` says what comes then."""
    DRAINING = "draining"
    HANDING = "handing"
    """The gate is closed and equal; the bid that names another primary is out."""


class Reach(Enum):
    """What the pulse says of a peer."""

    UNKNOWN = "unknown"
    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"
    LEFT = "left"


class Register(Enum):
    """What is known of the register."""

    UNKNOWN = "unknown"
    ANSWERS = "answers"
    EMPTY = "empty"
    SILENT = "silent"
    RESTORED = "restored"
    """It answers with less than this node knows: lost or restored from an old copy. Nobody bids."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node of this mirror."""

    reach: Reach = Reach.UNKNOWN
    said: ModuleState | None = None
    stream: bool = False
    broken: bool = False
    """The replicator gave the member up: silent, stalled, or its disk refused."""
    ready: Nonce | None = None
    """The life of a joiner that holds everything and gets each live write."""
    stopped_since: Instant | None = None
    """Since when it says that it is stopped."""

    @property
    def gone(self) -> bool:
        """Nothing is to be expected from it: a secondary may act."""
        return self.reach in (Reach.LOST, Reach.LEFT)


@dataclass(frozen=True, slots=True)
class Asked:
    """An operator's order that waits for the register's answer before anything stops."""

    request: RequestId
    order: Order


Ending = Literal["", "swap", "stop", "leave"]


@dataclass(frozen=True)
class Mirror:
    """One mirror module on one node; without slots, for the sake of `changed`."""

    me: NodeName
    cluster: ClusterName
    module: ModuleName
    nodes: tuple[NodeName, ...]
    timings: Timings
    budget: Budget
    revision: int = 0
    on_register_loss: Literal["hold", "stop"] = "hold"
    on_link_loss: Literal["move", "stay"] = "move"
    overlap: Literal["brief", "none"] = "brief"
    ack: Literal["disk", "memory"] = "disk"
    """For the words about a role that is taken; the gate does the rest."""

    # What this node's disk says.
    loaded: bool = False
    epoch: Epoch = NEVER
    """R4: the highest epoch accepted; `StoreModule` goes before anything under it."""
    stored: bool = True
    """False from a failed write of this until `ModuleStored`: no role is taken on doubt."""
    storing: bool = False
    """A failed write of `epoch` is tried again, and that is not answered."""
    wanted: bool = False

    role: Role = Role.STOP
    stage: Stage = Stage.IDLE

    # The register.
    register: Register = Register.UNKNOWN
    record: Record | None = None
    """The newest record known, read or heard."""
    proved: bool = False
    """`record` came from the register itself; only then may a gate open under it."""
    reading: bool = False
    bids: tuple[Record, ...] = ()
    """Own bids that are not resolved (R3)."""
    bidding: bool = False
    """A bid is out and its answer has not come."""
    bid_since: Instant | None = None
    """Since when the record is to be changed without success."""
    first: bool = False
    """The operator chose this node's files to begin with."""
    force: bool = False
    """The operator promotes this node: the next bid need not wait for the primary's loss."""
    accept_loss: bool = False
    """With `force`: the operator accepted data loss, so it may pass R2, and do without the register."""
    order_ends_at: Instant | None = None
    """With `force`: it is not kept for a world that the operator has not seen."""
    offline: bool = False
    """Serving by that order without the register's grant: no role is given back by itself."""
    muted: bool | None = None
    """None: what a former agent told the pulse is not known, so it is said again."""

    # The gate.
    life: Nonce | None = None
    launched: bool = False
    """The replicator is being started."""
    halting: bool = False
    """The replicator is being stopped."""
    held: Record | None = None
    """The record that the gate serves under."""
    taking: bool = False
    shut: bool = False
    """A planned end that a former agent had begun closed the gate; the role goes on, so it opens again."""
    required: frozenset[NodeName] = frozenset()
    """R1: `held.in_sync` and the sets of all unresolved bids."""
    widening: frozenset[NodeName] = frozenset()
    """Members that `required` takes in for a bid that is on its way; the gate may still refuse them."""
    following: Record | None = None
    aside: int = 0
    """How many divergences this node keeps files of; told to the others and to people."""
    failed: str = ""
    """Why this node's volume cannot serve; cleared by the operator's start."""
    trouble: str = ""
    """Why there is no replicator although one is wanted; for people."""

    # Application and addresses.
    running: bool = False
    claimed: bool = False
    claiming: bool = False
    """The addresses were asked for, and that is not answered."""
    remains: bool = False
    """Application or addresses of a role that is over could not be ended yet; it is tried again."""
    worn: bool = False
    """The restart budget was spent: the other node is to get its chance."""
    ending: Ending = ""
    heir: NodeName | None = None
    heir_life: Nonce | None = None
    """The life of the heir's gate that this disk was compared with: another one may have other files."""
    refusals: int = 0
    """How often in a row the addresses were refused."""
    links_down: frozenset[str] = frozenset()

    # The operator.
    asked: Asked | None = None
    leaving: bool = False
    abandoned: Epoch = NEVER

    peers: Mapping[NodeName, Peer] = field(default_factory=lambda: MappingProxyType({}))
    announced: ModuleState | None = None
    leased: frozenset[NodeName] | None = None
    """The members that the pulse's lease depends on; None: no lease."""

    # When something is due.
    retry_at: Instant | None = None
    """The register is asked again."""
    again_at: Instant | None = None
    """Application, addresses or replicator are tried again."""
    follow_at: Instant | None = None
    """Following is ordered again, after it failed."""
    check_at: Instant | None = None
    """The register's health is looked at, though nothing needs it."""

    def changed(self, **changes: Any) -> Mirror:
        """This with other facts, as `dataclasses.replace` makes it, in a twentieth of its time.

        A step changes some twenty facts of sixty one after another, and a take-over waits for four steps.
        """
        facts = self.__dict__
        assert changes.keys() <= facts.keys(), "no such facts"
        copy = object.__new__(Mirror)
        copy.__dict__.update(facts, **changes)
        return copy

    @property
    def serving(self) -> bool:
        """The gate is open, and no planned end has begun to close it."""
        return self.held is not None and self.stage not in (Stage.OPENING, Stage.DRAINING, Stage.HANDING)

    @property
    def member(self) -> bool:
        """This node is in the in-sync set, as far as is known."""
        return self.record is not None and self.me in self.record.in_sync

    @property
    def primary_gone(self) -> bool:
        """Nothing is to be expected from the primary of the newest known record."""
        peer = self.peers.get(self.record.primary) if self.record is not None else None
        return peer is not None and peer.gone

    @property
    def fit(self) -> bool:
        """This node would serve well."""
        return not self.failed and not self.links_down and not self.worn and not self.leaving

    def heirs(self) -> list[NodeName]:
        """In-sync members to which the role could go, the first in the configured order first."""
        if self.held is None:
            return []
        return [name for name in self.nodes if name in self.held.in_sync and self.can_inherit(name)]

    def can_inherit(self, name: NodeName) -> bool:
        """Alive, streaming, in sync, with a gate of its own."""
        peer = self.peers.get(name)
        return (
            name != self.me
            and peer is not None
            and peer.reach is Reach.ALIVE
            and peer.stream
            and not peer.broken
            and peer.said is not None
            and peer.said.life is not None
            and not peer.said.leaving
        )

    def has_heir(self) -> bool:
        """The chosen heir can still be named: it is the gate that the planned end waited for."""
        if self.heir is None or self.heir not in self.heirs():
            return False
        said = self.peers[self.heir].said
        return said is not None and said.life == self.heir_life

    def fit_heir(self) -> NodeName | None:
        """The heir that would serve well, if there is one."""
        for name in self.heirs():
            said = self.peers[name].said
            if said is not None and said.fit:
                return name
        return None

    def phase(self) -> Phase:
        """How far the role is taken."""
        match self.role:
            case Role.STOP:
                return Phase.TRANSIENT if self.life is not None else Phase.NOT_READY
            case Role.WAIT:
                return Phase.TRANSIENT if self.bidding or self.launched else Phase.NOT_READY
            case Role.SECOND:
                return Phase.READY if self.member and not self.leaving else Phase.TRANSIENT
            case Role.ALONE:
                return Phase.DEGRADED if self.stage is Stage.SERVING else Phase.TRANSIENT
            case Role.PRIM:
                return Phase.READY if self.stage is Stage.SERVING else Phase.TRANSIENT

    def state(self) -> ModuleState:
        """What is told to the others."""
        known = self.held or self.record
        return ModuleState(
            role=self.role,
            phase=self.phase(),
            epoch=known.epoch if known else self.epoch,
            primary=known.primary if known else None,
            in_sync=known.in_sync if known else frozenset(),
            nonce=known.nonce if known else None,
            life=self.life,
            serving=self.serving,
            abandoned=self.abandoned,
            virgin=self.epoch == NEVER,
            leaving=self.leaving,
            forced=self.offline,
            fit=self.fit,
            aside=self.aside,
        )

    def deadline(self) -> Instant | None:
        """When `TimePassed` is next worth a step."""
        order_ends_at = self.order_ends_at if self.force else None
        dues = (self.retry_at, self.again_at, self.follow_at, self.check_at, order_ends_at)
        return min((due for due in dues if due is not None), default=None)
