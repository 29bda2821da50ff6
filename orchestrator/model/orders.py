"""What an operator can ask of one module on one node; the agent spreads a cluster-wide wish into these."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.model.names import NodeName


@dataclass(frozen=True, slots=True)
class Start:
    """Take part. `first`: nothing was ever recorded, and this node's files are the ones to begin with."""

    first: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """End here as part of stopping the whole module: the in-sync set stays as it is."""


@dataclass(frozen=True, slots=True)
class Leave:
    """End here while the others go on: a member is bid out of the in-sync set before it stops."""

    force: bool = False


@dataclass(frozen=True, slots=True)
class Restart:
    """Stop and start the application in place, on the primary."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Give the primary's role to another in-sync member; both are healthy. None: the fittest."""

    to: NodeName | None = None


@dataclass(frozen=True, slots=True)
class Promote:
    """Serve here although this copy may be stale: what the other side acknowledged since is lost."""

    accept_data_loss: bool = False


@dataclass(frozen=True, slots=True)
class Resync:
    """Compare with the primary in full. `adopt`: also where this node's files have no known history."""

    adopt: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """Of a farm: take no new connections, let those that are go on until they end or the limit is over, then
    stop here. `force`: also where nobody else is there to take them."""

    limit_s: float | None = None
    """None: the module's own."""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Undrain:
    """Of a farm: take new connections again; starts it where it has stopped meanwhile."""


@dataclass(frozen=True, slots=True)
class Weigh:
    """Of a farm: take this much of what the file gives to this node."""

    percent: int


Order = Start | Stop | Leave | Restart | Swap | Promote | Resync | Drain | Undrain | Weigh
