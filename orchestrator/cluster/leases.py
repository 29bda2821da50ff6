"""Until when a module's addresses may be answered here (rules T1 and T4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.cluster.membership import LONG_AGO, Peer
from orchestrator.model.names import Epoch, Instant, ModuleName, NodeName
from orchestrator.model.report import ModuleState
from orchestrator.model.timings import CLOCK_RATE_BOUND, Timings


@dataclass(frozen=True, slots=True)
class Grant:
    """What the agent asked for: each of these must vouch."""

    epoch: Epoch
    members: frozenset[NodeName]
    tag: str
    """The module's, by which they vouch for it."""


@dataclass(frozen=True, slots=True)
class Told:
    """Until when the kernel answers each address, as it was told last."""

    until: Mapping[str, Instant] = field(default_factory=dict)

    def is_due(self, now: Instant, granted: Mapping[str, Instant], timings: Timings) -> bool:
        """Whether the kernel is to be told what is granted now: less of anything at once, more in time."""
        low = now + timings.renew_below_s
        return granted.keys() != self.until.keys() or any(
            end < self.until[address]
            or end - self.until[address] >= timings.renew_after_s
            or self.until[address] < min(end, low)
            for address, end in granted.items()
        )

    def next_look(self, timings: Timings) -> Instant:
        """Before it no lease that only grew is due."""
        left_s = max(timings.renew_below_s, timings.lease_s * (1 - CLOCK_RATE_BOUND) - timings.renew_after_s)
        return Instant(min(self.until.values(), default=math.inf) - left_s)


def deadline(
    grant: Grant, peers: Mapping[NodeName, Peer], now: Instant, floor: Instant, lease_s: float
) -> Instant | None:
    """The end of the lease; None: silent. `floor`: beats sent before it count for nothing (a pause)."""
    oldest = now  # no member: nobody else may bid, so living is enough
    for name in grant.members:
        peer = peers.get(name)
        oldest = min(oldest, LONG_AGO if peer is None else peer.vouched_at(grant.tag))
    if oldest < floor:
        return None
    until = Instant(oldest + lease_s * (1 - CLOCK_RATE_BOUND))
    return until if until > now else None


def overtaken(me: NodeName, module: ModuleName, epoch: Epoch, peers: Iterable[Peer]) -> bool:
    """Somebody knows that another node is primary under a higher epoch; it need not be that node itself."""
    for peer in peers:
        _, state = peer.states.get(module, (0, None))
        if isinstance(state, ModuleState) and state.epoch > epoch and state.primary not in (None, me):
            return True
    return False
