"""One farm as this node sees it: the frozen value that `machine.step` turns into the next one."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Literal

from orchestrator.cluster.application import Budget
from orchestrator.farm.history import Chances, Former
from orchestrator.farm.view import FULL, NOBODY, Rules, View
from orchestrator.model.effects import Traffic
from orchestrator.model.names import Instant, ModuleName, NodeName
from orchestrator.model.report import FarmRole, FarmState, Phase
from orchestrator.model.timings import Timings

MOVES: Final[Mapping[FarmRole, frozenset[FarmRole]]] = {
    FarmRole.STOP: frozenset({FarmRole.WAIT}),
    FarmRole.WAIT: frozenset({FarmRole.UP, FarmRole.STOP}),
    FarmRole.UP: frozenset({FarmRole.WAIT}),
}
"""From each role, the roles that may follow; the manual's picture is drawn from this table."""


class Stage(Enum):
    """How far the application is."""

    IDLE = "idle"
    STARTING = "starting"
    CHECKING = "checking"
    """It was started, and its checks have not been good yet."""
    READY = "ready"
    RESTING = "resting"
    """It is down, or its traffic is refused here; tried again at `again_at`."""
    ENDING = "ending"
    """It is being stopped: `ending` says what comes then."""


class Reach(Enum):
    """What the pulse says of a peer."""

    UNKNOWN = "unknown"
    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"
    LEFT = "left"


Ending = Literal["", "stop", "restart"]


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node of this farm."""

    reach: Reach = Reach.UNKNOWN
    said: FarmState | None = None
    silent_at: Instant | None = None
    """When a suspect that echoes nothing counts as lost: it may be heard, and not hear."""
    out: bool = True
    """Nothing is to be expected from it; so until it is heard."""
    lost_at: tuple[Instant, ...] = ()
    """The losses of the last time: who is lost again and again is waited for."""
    held_until: Instant | None = None
    """It is back, and left out until it has stayed for so long."""
    deaf_at: Instant | None = None
    """It counts as lost and is heard: when it is sure that it does not hear us."""
    deaf: bool = False
    """It is so, and has shared our part out."""

    @property
    def serves(self) -> bool:
        """Connections that it has go on."""
        return not self.out and self.said is not None and self.said.open

    @property
    def takes(self) -> bool:
        """New connections may go there."""
        return self.serves and self.said is not None and not self.said.draining


@dataclass(frozen=True)
class Farm:
    """One farm module on one node; without slots, for the sake of `changed`."""

    me: NodeName
    module: ModuleName
    nodes: tuple[NodeName, ...]
    timings: Timings
    budget: Budget
    rules: Rules
    checked: bool = False
    """The application has checks, and is ready when each was good once."""
    drain_s: float = 30.0

    # What this node's disk says.
    loaded: bool = False
    wanted: bool = False
    percent: int = FULL
    serial: int = 0

    role: FarmRole = FarmRole.STOP
    stage: Stage = Stage.IDLE
    ending: Ending = ""
    worn: bool = False
    """The restart budget was spent: it rests longer."""
    links_down: frozenset[str] = frozenset()
    trouble: str = ""
    """Why no traffic comes here although the application is ready; for people."""
    failed: frozenset[str] = frozenset()
    """Deeds that failed and are tried again at `again_at`."""

    # The others.
    peers: Mapping[NodeName, Peer] = field(default_factory=lambda: MappingProxyType({}))
    settled: bool = False
    """Enough was heard of the others to say who is there."""
    settle_at: Instant | None = None

    # Who shares the traffic.
    committed: View = NOBODY
    preparing: View | None = None
    """The view that comes next, once everybody who gains by it is prepared."""
    prepare_until: Instant | None = None
    former: Former = ()
    """Who had the buckets before."""
    coming: Former = ()
    """The same once `preparing` is committed."""

    fading: tuple[Chances, ...] = ()
    """What the kernel knew of this before the newest change: others may send here by the old one still."""
    fading_until: Instant | None = None
    kept: tuple[object, ...] = ()
    """Of these facts what an agent that follows this one would find."""
    recalled: bool = False
    """Of an agent before this one is known who shared the traffic."""
    taught: bool = False
    """Who had the buckets before is known as well as anybody knows it."""
    meeting: View | None = None
    """The other side of a split that is over, whose memory is asked for before both become one."""
    told_of: View | None = None
    """The other side that was asked."""
    theirs: Former = ()
    """What it told; nothing where it did not answer."""
    asks: int = 0
    ask_at: Instant | None = None
    """When the next of the others is asked for what is not known."""
    served: frozenset[NodeName] = frozenset()
    """Whose connections went on when that was looked at last."""
    rejoined: bool = False
    """Others came in who may have answered for the addresses until now."""

    # The kernel's rules.
    steering: int = 0
    """The number of the newest order."""
    ordered: tuple[tuple[Traffic, ...], frozenset[str]] | None = None
    """What it said."""
    considered: tuple[object, ...] = ()
    """The facts that it followed from."""
    steered: int = 0
    """The newest that is in force; 0: no traffic is let in here."""

    # Draining.
    draining: Ending = ""
    """It takes no new connections; what follows when those that are have ended."""
    drain_until: Instant | None = None
    count_at: Instant | None = None
    connections: int | None = None
    """As counted last."""

    announced: FarmState | None = None
    again_at: Instant | None = None

    def changed(self, **changes: Any) -> Farm:
        """This with other facts, as `dataclasses.replace` makes it, in a twentieth of its time."""
        facts = self.__dict__
        assert changes.keys() <= facts.keys(), "no such facts"
        copy = object.__new__(Farm)
        copy.__dict__.update(facts, **changes)
        return copy

    @property
    def open(self) -> bool:
        """Connections go on here."""
        return self.role is FarmRole.UP

    @property
    def deaf(self) -> frozenset[NodeName]:
        """Who serves, is heard, and has us for lost."""
        return frozenset(
            name
            for name, peer in self.peers.items()
            if peer.deaf and peer.said is not None and peer.said.open and not peer.said.draining
        )

    @property
    def stands_back(self) -> bool:
        """Where all receive everything, who is not heard would answer beside those that took its part."""
        return self.rules.all_receive and bool(self.deaf)

    @property
    def takes(self) -> bool:
        """This node is to take new connections."""
        return self.open and not self.draining and not self.stands_back

    @property
    def others_take(self) -> bool:
        """Somebody else would take what comes when this node does not."""
        return any(peer.takes for peer in self.peers.values())

    @property
    def serving(self) -> frozenset[NodeName]:
        """Everybody whose connections go on, as far as is heard."""
        others = {name for name, peer in self.peers.items() if peer.serves}
        return frozenset(others | ({self.me} if self.open else set()))

    @property
    def taking(self) -> View:
        """Everybody who takes new connections: what the view is to become."""
        percents = {
            name: peer.said.percent
            for name, peer in self.peers.items()
            if peer.takes and peer.said is not None
        }
        if self.takes:
            percents[self.me] = self.percent
        return View.of(percents)

    @property
    def shares(self) -> bool:
        """This node is among those to which the traffic goes, and its kernel knows."""
        return self.me in self.committed.names and self.steered == self.steering > 0

    def phase(self) -> Phase:
        """How far the role is taken."""
        match self.role:
            case FarmRole.STOP:
                return Phase.NOT_READY
            case FarmRole.WAIT:
                busy = self.stage in (Stage.STARTING, Stage.CHECKING, Stage.ENDING)
                return Phase.TRANSIENT if busy else Phase.NOT_READY
            case FarmRole.UP:
                if self.draining or not self.shares:
                    return Phase.TRANSIENT
                alone = len(self.committed.names) == 1 and len(self.nodes) > 1
                return Phase.DEGRADED if alone else Phase.READY

    @property
    def in_force(self) -> bool:
        """The kernel does as it was told last; where no traffic is let in, it has nothing to do."""
        return self.settled and (not self.open or self.steered == self.steering > 0)

    @property
    def is_prepared(self) -> bool:
        """It finds every connection of the buckets that it may get."""
        return self.in_force and self.taught and self.meeting is None

    @property
    def stamp(self) -> str:
        """Whose words this node goes by now, up to which of each.

        A view may come again, and what is heard of others may be older than that: the words never do.
        """
        heard = [(name, peer.said.serial) for name, peer in self.peers.items() if not peer.out and peer.said]
        words = f"{self.rules.digest}/{sorted([*heard, (self.me, self.serial)])}"
        return f"{zlib.crc32(words.encode()):08x}"

    def digest(self, view: View) -> str:
        """For the heartbeat."""
        return view.digest(self.rules.digest)

    def state(self) -> FarmState:
        """What is told to the others."""
        return FarmState(
            role=self.role,
            phase=self.phase(),
            open=self.open,
            draining=bool(self.draining) or self.stands_back,
            percent=self.percent,
            config=self.rules.digest,
            serial=self.serial,
            view=self.digest(self.committed),
            prepared=self.stamp if self.open and self.is_prepared else "",
            done=self.stamp if self.in_force and self.committed == self.taking else "",
        )

    def deadline(self) -> Instant | None:
        """When `TimePassed` is next worth a step."""
        dues = [
            self.settle_at,
            self.prepare_until,
            self.fading_until,
            self.drain_until,
            self.count_at,
            self.again_at,
            self.ask_at,
        ]
        for peer in self.peers.values():
            dues += [peer.silent_at, peer.held_until, peer.deaf_at]
        return min((due for due in dues if due is not None), default=None)
