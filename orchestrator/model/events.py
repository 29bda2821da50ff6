"""Everything a node can learn, in the past tense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.model.names import Epoch, ModuleName, NodeName, Nonce, RequestId
from orchestrator.model.orders import Order
from orchestrator.model.record import Outcome, Record
from orchestrator.model.report import AnyState, Shares

# --- time and the other nodes (from the pulse) ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The instant is an argument of `step`; something may be due."""


@dataclass(frozen=True, slots=True)
class Paused:
    """This node's processes did not run for `seconds`; what was believed before may be old."""

    seconds: float


@dataclass(frozen=True, slots=True)
class PeerAlive:
    """A peer is heard and echoes us again on at least one path."""

    peer: NodeName


@dataclass(frozen=True, slots=True)
class PeerSuspected:
    """A peer echoed none of our beats for half of T: a primary gives it up."""

    peer: NodeName


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A peer was silent on all paths for T: a secondary may bid."""

    peer: NodeName


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """A peer announced its clean stop; no time-out is waited for."""

    peer: NodeName


@dataclass(frozen=True, slots=True)
class PeerSaid:
    """What a peer tells of its modules, whenever it changed."""

    peer: NodeName
    states: Mapping[str, AnyState]


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The interface that carries a module's addresses has no carrier."""

    module: ModuleName
    interface: str


@dataclass(frozen=True, slots=True)
class LinkRestored:
    """The carrier is back."""

    module: ModuleName
    interface: str


# --- the register ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegisterAnswered:
    """A linearizable read; None: the register works and holds no record of this module."""

    module: ModuleName
    record: Record | None


@dataclass(frozen=True, slots=True)
class RegisterSilent:
    """A read got no answer in its time."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class BidAnswered:
    """What became of one bid. LOST carries the record that stands instead, where the register said it."""

    module: ModuleName
    bid: Record
    outcome: Outcome
    current: Record | None = None


# --- the replicator and its gate ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplicatorUp:
    """A gate exists on this node: a new life, or one that is found again after the agent restarted.

    `record`, `required` and `open` are what the keeper holds; `following` is the record whose primary it
    follows as a secondary.
    """

    module: ModuleName
    life: Nonce
    record: Record | None = None
    required: frozenset[NodeName] = frozenset()
    open: bool = False
    following: Record | None = None
    application: bool = False
    """The application was found running."""
    addresses: bool = False
    """The addresses were found claimed."""


@dataclass(frozen=True, slots=True)
class ReplicatorLost:
    """The gate's life is over (its keeper died), or it could not be started; `why` is for people."""

    module: ModuleName
    why: str


@dataclass(frozen=True, slots=True)
class ReplicatorStopped:
    """The mount is gone, the directory is plain files again."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class ReignTaken:
    """The reign is durable in the lineage, the whole volume is synced, and the gate is open under it."""

    module: ModuleName
    record: Record


@dataclass(frozen=True, slots=True)
class GateClosed:
    """No write is acknowledged any more. `equal`: members whose disks hold everything ours holds."""

    module: ModuleName
    equal: frozenset[NodeName] = frozenset()


@dataclass(frozen=True, slots=True)
class ReignOffered:
    """The primary that we follow has a newer record; nothing is applied until it is admitted."""

    module: ModuleName
    record: Record


@dataclass(frozen=True, slots=True)
class StreamUp:
    """The stream with a peer stands, on either side."""

    module: ModuleName
    peer: NodeName


@dataclass(frozen=True, slots=True)
class StreamDown:
    """The stream with a peer ended; it is dialled again by itself."""

    module: ModuleName
    peer: NodeName
    why: str


@dataclass(frozen=True, slots=True)
class MemberLost:
    """A member was silent on its stream for T, or acknowledged nothing for 5 s, or its disk refused."""

    module: ModuleName
    peer: NodeName
    why: str


@dataclass(frozen=True, slots=True)
class MemberReady:
    """A joiner holds everything, flushed, and gets each live write: the expanding bid may go."""

    module: ModuleName
    peer: NodeName
    life: Nonce


@dataclass(frozen=True, slots=True)
class HandshakeRefused:
    """Two replicators did not agree to talk: `verdict` is a name of the verdict table, or of frames."""

    module: ModuleName
    peer: NodeName
    """Empty where the other side could not be believed to be anybody."""
    verdict: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class SetAside:
    """This node keeps files of so many divergences, until an operator releases them."""

    module: ModuleName
    count: int


@dataclass(frozen=True, slots=True)
class VolumeFailed:
    """This node's disk failed under the tree: EIO, EROFS, a dead file system. It costs the role at once."""

    module: ModuleName
    why: str


# --- addresses and application --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddressesClaimed:
    module: ModuleName


@dataclass(frozen=True, slots=True)
class AddressesRefused:
    module: ModuleName
    why: str


@dataclass(frozen=True, slots=True)
class ApplicationStarted:
    module: ModuleName


@dataclass(frozen=True, slots=True)
class ApplicationStopped:
    """Nothing of the application lives. `clean`: it ended in its time, without SIGKILL."""

    module: ModuleName
    clean: bool


@dataclass(frozen=True, slots=True)
class ApplicationFailed:
    """It ended by itself, or could not be started."""

    module: ModuleName
    why: str


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """A check failed `fail_after` times in a row."""

    module: ModuleName
    check: str
    action: Literal["restart", "swap", "stop", "none"]


@dataclass(frozen=True, slots=True)
class ChecksPassed:
    """Every check of a farm's application was good since it started."""

    module: ModuleName


# --- a farm's traffic -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FarmLoaded:
    """What this node's disk says of a farm at the start of the agent, and what was found running."""

    module: ModuleName
    wanted: bool
    percent: int = 100
    draining: bool = False
    serial: int = 0
    """Higher than any that a former agent told."""
    running: bool = False
    """Application and traffic go on as the former agent left them."""
    shares: Shares | None = None
    """What a former agent of this boot kept."""


@dataclass(frozen=True, slots=True)
class Steered:
    """The kernel shares the traffic out as that order said."""

    module: ModuleName
    number: int


@dataclass(frozen=True, slots=True)
class SteeringFailed:
    """It does not; it goes on as before, or refuses all."""

    module: ModuleName
    number: int
    why: str


@dataclass(frozen=True, slots=True)
class ConnectionsCounted:
    """How many clients' connections this node has, through the farm's addresses."""

    module: ModuleName
    count: int


@dataclass(frozen=True, slots=True)
class SharesLearned:
    """What another node knows of who shares the traffic, and who had it before; None: it does not know."""

    module: ModuleName
    shares: Shares | None


# --- the hands and the operator -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EffectFailed:
    """An effect could not be carried out; the effects after it in the same decision were not tried."""

    module: ModuleName
    effect: str
    why: str


@dataclass(frozen=True, slots=True)
class OperatorAsked:
    """Answered with exactly one `Answer`, at once: accepted or refused."""

    request: RequestId
    module: ModuleName
    order: Order


@dataclass(frozen=True, slots=True)
class ModuleLoaded:
    """What this node's disk says of a module at the start of the agent."""

    module: ModuleName
    epoch: Epoch
    wanted: bool


@dataclass(frozen=True, slots=True)
class ModuleStored:
    """A module's state is on this node's disk again, after a write of it had failed."""

    module: ModuleName


PeerEvent = PeerAlive | PeerSuspected | PeerLost | PeerLeft
ModuleEvent = (
    LinkLost
    | LinkRestored
    | RegisterAnswered
    | RegisterSilent
    | BidAnswered
    | ReplicatorUp
    | ReplicatorLost
    | ReplicatorStopped
    | ReignTaken
    | GateClosed
    | ReignOffered
    | StreamUp
    | StreamDown
    | MemberLost
    | MemberReady
    | HandshakeRefused
    | SetAside
    | VolumeFailed
    | AddressesClaimed
    | AddressesRefused
    | ApplicationStarted
    | ApplicationStopped
    | ApplicationFailed
    | CheckFailed
    | ChecksPassed
    | FarmLoaded
    | Steered
    | SteeringFailed
    | ConnectionsCounted
    | SharesLearned
    | EffectFailed
    | OperatorAsked
    | ModuleLoaded
    | ModuleStored
)
Event = TimePassed | Paused | PeerEvent | PeerSaid | ModuleEvent
