"""Each rule can be switched off here, in the machine or in the simulated gate where it lives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from unittest import mock

from orchestrator.cluster.heart import Heart
from orchestrator.model.events import GateClosed
from orchestrator.model.names import Epoch, NodeName, Nonce
from tests.sim.cluster import Cluster
from tests.sim.follower import Follower
from tests.sim.gate import Gate
from tests.sim.host import Host
from tests.sim.keeper import Keeper
from tests.sim.launcher import Launcher
from tests.sim.rules_off_copies import COPIES_OFF
from tests.sim.rules_off_disks import DISKS_OFF
from tests.sim.session import Frame, Session
from tests.sim.streams import Streams
from tests.sim.volume import EVERYTHING, Volume
from tests.support.rules_off import ANYBODY_BIDS, EMPTY_IS_CREATED, SILENCE_IS_A_LOSS, Switch, patched

# --- R1: the gate counts on itself alone -----


def _settle_alone(self: Gate) -> None:
    for point in [point for point in self.points if self.open and point.local]:
        self.points.remove(point)
        for extent, value in point.safe.items():
            self.host.ghost.acknowledge(self.host.name, extent, value)
        self.host.cluster.told(self.host)


def _widen_nothing(self: Gate, members: frozenset[NodeName]) -> bool:
    return True


# --- R4: the epoch is known and never on disk -----


def _store_no_epoch(self: Host, epoch: Epoch, wanted: bool) -> bool:
    self.stored = (self.stored[0], wanted)
    return True


# --- R5: any life of the gate will do -----


def _former_life(self: Launcher) -> Nonce:
    return Nonce(self.host.name * 32)


# --- R6: whatever arrives is applied -----


def _fits_always(self: Follower, frame: Frame, epoch: int) -> bool:
    return True


# --- R7: the joiner is ready before its disk is -----

_copy = Streams._copy


def _ready_when_sent(self: Streams, session: Session) -> None:
    _copy(self, session)
    if session.alive and session.ready_at and not session.ready:
        session.ready = True
        session.durable = self.keeper.seq
        self.tell_ready()


# --- R8: a swap does not wait until both are equal -----


def _drain_nothing(self: Gate, turn: int, until: float) -> None:
    if self.keeper.alive and turn == self.turn:
        self.open = self.draining = False
        self.drained = turn
        self.points.clear()
        everybody = frozenset(self.keeper.streams.sessions) | {self.host.name}
        self.host.agent.tell(GateClosed(self.host.module, frozenset(map(NodeName, everybody))))


# --- R10: no sync before the application starts -----


def _no_flush(self: Keeper) -> None:
    return


# --- the lease outlasts the detection -----


def _lease_too_long(self: Cluster, heart: Heart) -> None:
    heart._timings = replace(heart._timings, lease_s=1.6 * heart._timings.detection_s)


# --- canaries: a disk that is believed before it has anything -----


def _nothing_reaches_the_disk(
    self: Volume, memory: list[int], dirty: list[int], places: Collection[int] = EVERYTHING
) -> None:
    self.touched = True


def _applied_is_enough(self: Gate, session: Session) -> int:
    return session.applied


RULES_OFF: dict[str, Switch] = {
    **COPIES_OFF,
    **DISKS_OFF,
    "R1 the gate counts on nobody": patched(mock.patch.object(Gate, "settle", _settle_alone)),
    "R1 the gate is not widened": patched(mock.patch.object(Gate, "widen", _widen_nothing)),
    "R2 anybody may bid": patched(*ANYBODY_BIDS),
    "R3 silence is taken for a loss": patched(*SILENCE_IS_A_LOSS),
    "R4 the epoch is not durable": patched(mock.patch.object(Host, "store", _store_no_epoch)),
    "R5 a gate takes the nonce of its former life": patched(
        mock.patch.object(Launcher, "new_life", _former_life)
    ),
    "R6 any position is applied": patched(mock.patch.object(Follower, "fits", _fits_always)),
    "R7 the joiner does not flush": patched(mock.patch.object(Streams, "_copy", _ready_when_sent)),
    "R8 a swap does not drain": patched(mock.patch.object(Gate, "_drain", _drain_nothing)),
    "R9 an empty register is created": patched(*EMPTY_IS_CREATED),
    "R10 no sync before the start": patched(mock.patch.object(Keeper, "flush", _no_flush)),
    "the lease outlasts the detection": patched(mock.patch.object(Cluster, "adjust", _lease_too_long)),
    "canary: an fsync reaches no disk": patched(
        mock.patch.object(Volume, "persist", _nothing_reaches_the_disk)
    ),
    "canary: a member's memory is taken for its disk": patched(
        mock.patch.object(Gate, "_reached", _applied_is_enough)
    ),
}
