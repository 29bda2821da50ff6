"""Everything a node can do, as orders.

The hands carry out one module's effects one after another, in the order given. Those marked *waited for* are
finished before the next begins, and a failure drops the deeds in the rest of the decision and comes back as
`EffectFailed` (words are said and addresses let go all the same: `Announce`, `Answer`, `Tell`,
`ReleaseAddresses`). Those marked *started* are begun in their turn and go on beside what follows; what came
of them returns as the event that is named. A farm's deeds do not hang on one another: a failure drops none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.model.names import Epoch, ModuleName, NodeName, RequestId
from orchestrator.model.record import Record
from orchestrator.model.report import AnyState, Shares


@dataclass(frozen=True, slots=True)
class StoreModule:
    """Waited for: make this durable (file and directory synced) before anything that follows."""

    module: ModuleName
    epoch: Epoch
    wanted: bool


@dataclass(frozen=True, slots=True)
class ReadRegister:
    """Started: `RegisterAnswered` or `RegisterSilent`."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class Bid:
    """Started: compare-and-swap `expected` (None: no record at all) to `record`; `BidAnswered`."""

    module: ModuleName
    expected: Record | None
    record: Record


@dataclass(frozen=True, slots=True)
class StartReplicator:
    """Started: `ReplicatorUp`, or `ReplicatorLost` when it cannot be."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class StopReplicator:
    """Started: unmount and end keeper and replicator; `ReplicatorStopped`."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class WidenRequired:
    """Waited for: the gate's `required` and the lease take these members in, before a bid leaves (R1).

    Fails, so that the bid behind it is not sent, for a newcomer that is not ready any more: its stream is
    down, or it has not confirmed every point that was acknowledged so far. From `MemberReady` on the gate
    waits for the joiner's disk as for a member's, as long as its stream stands.
    """

    module: ModuleName
    members: frozenset[NodeName]


@dataclass(frozen=True, slots=True)
class TakeReign:
    """Started: serve under this proved record; `ReignTaken` or `VolumeFailed`.

    A gate that was not open drops what it has not applied, syncs the whole volume and opens read-write
    (R10); an open one takes over epoch, nonce and `required` = the record's in-sync set. In both cases the
    reign is durable in the lineage before the first acknowledgement under it (G1). A node that streams, lacks
    nothing and is not in the record's set is told again with `MemberReady`: it was dropped and is still here.
    """

    module: ModuleName
    record: Record


@dataclass(frozen=True, slots=True)
class CloseGate:
    """Acknowledge nothing more.

    With `drain` started: no new write is taken, everything queued is made durable on every member in reach,
    then `GateClosed` names those that are equal. Without it waited for: every held request is answered with
    EIO, then `GateClosed`.
    """

    module: ModuleName
    drain: bool


@dataclass(frozen=True, slots=True)
class Follow:
    """Waited for: accept the stream of `record.primary`, at this epoch or a later admitted one; read-only."""

    module: ModuleName
    record: Record


@dataclass(frozen=True, slots=True)
class AdmitReign:
    """Waited for: the answer to `ReignOffered`, after the epoch is durable: go on under this record."""

    module: ModuleName
    record: Record


@dataclass(frozen=True, slots=True)
class AdoptCopy:
    """Waited for: the next handshake may overwrite files of unknown history here (they are set aside)."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class CompareInFull:
    """Waited for: drop what the logs know and compare every file with each connected peer."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class Announce:
    """Waited for: say this in every heartbeat from now on."""

    module: ModuleName
    state: AnyState


@dataclass(frozen=True, slots=True)
class Lease:
    """Waited for: addresses of the module are answered while each of `members` echoes (none: always)."""

    module: ModuleName
    epoch: Epoch
    members: frozenset[NodeName]


@dataclass(frozen=True, slots=True)
class Mute:
    """Waited for: echo nothing for this module: a take-over bid is about to leave (T4)."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class Unmute:
    """Waited for: echo again, the bid is resolved."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class ClaimAddresses:
    """Started: put the addresses here and announce them; `AddressesClaimed` or `AddressesRefused`."""

    module: ModuleName
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ReleaseAddresses:
    """Waited for: end the lease, take the addresses away, reset the clients' connections."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class StartApplication:
    """Started: `ApplicationStarted` or `ApplicationFailed`; it also begins the checks."""

    module: ModuleName
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class StopApplication:
    """Ends the checks, then the application; `ApplicationStopped`.

    Started, gently and then by force, within the configured time. With `force` waited for: SIGKILL of its
    cgroup at once, and it overtakes a gentle stop that is under way.
    """

    module: ModuleName
    force: bool


@dataclass(frozen=True, slots=True)
class StoreFarm:
    """Waited for: make this durable."""

    module: ModuleName
    wanted: bool
    percent: int
    draining: bool


@dataclass(frozen=True, slots=True)
class KeepShares:
    """Waited for, and never failed: the next agent of this boot finds it, unless it could not be written."""

    module: ModuleName
    shares: Shares


@dataclass(frozen=True, slots=True)
class AskShares:
    """Started: what this node knows of who had the buckets; `SharesLearned`, or nothing."""

    module: ModuleName
    node: NodeName


@dataclass(frozen=True, slots=True)
class Traffic:
    """How the buckets of one group of ports are shared out."""

    owners: tuple[NodeName | None, ...]
    previous: Mapping[int, NodeName]
    """Buckets that are this node's, or soon will be, and whose connections may still be another's."""
    lost: frozenset[int]
    """Buckets that went from here to another node while this one goes on with its connections."""


@dataclass(frozen=True, slots=True)
class Steer:
    """Started: let the kernel share out the farm's traffic so; `Steered` or `SteeringFailed`.

    It is one change: no packet sees half of it. The first brings the addresses here.
    """

    module: ModuleName
    number: int
    groups: tuple[Traffic, ...]
    """One for each group of ports, in the file's order."""
    directs: frozenset[str]
    """The addresses for which this node answers."""
    announce: bool
    """Others may have answered for them until now: tell the network again where they are."""


@dataclass(frozen=True, slots=True)
class Unsteer:
    """Waited for: end the lease; addresses and rules of the farm go, and clients are reset."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class CountConnections:
    """Started: `ConnectionsCounted`."""

    module: ModuleName


@dataclass(frozen=True, slots=True)
class Answer:
    """Waited for: tell the operator. `code` empty: accepted; else the HF code of the refusal."""

    request: RequestId
    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Tell:
    """Waited for: one line for the event log, with its HF code."""

    module: ModuleName
    code: str
    text: str


Effect = (
    StoreModule
    | ReadRegister
    | Bid
    | StartReplicator
    | StopReplicator
    | WidenRequired
    | TakeReign
    | CloseGate
    | Follow
    | AdmitReign
    | AdoptCopy
    | CompareInFull
    | Announce
    | Lease
    | Mute
    | Unmute
    | ClaimAddresses
    | ReleaseAddresses
    | StartApplication
    | StopApplication
    | StoreFarm
    | KeepShares
    | AskShares
    | Steer
    | Unsteer
    | CountConnections
    | Answer
    | Tell
)
