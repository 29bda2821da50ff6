"""Each rule can be switched off here, in the machine or in the simulated gate where it lives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from orchestrator.cluster.heart import Heart
from orchestrator.mirror import bids, following
from orchestrator.model.names import Epoch, NodeName, Nonce
from orchestrator.model.record import Outcome, Record
from tests.sim import cluster, host, replica
from tests.sim.replica import Frame, Keeper, Session, Volume

Switch = Callable[[], Iterator[None]]


def _patched(*patches: Any) -> Switch:
    @contextmanager
    def switch() -> Iterator[None]:
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()

    return switch  # type: ignore[return-value]


# --- R1: the gate counts on itself alone -----


def _settle_alone(self: Keeper) -> None:
    for point in [point for point in self.points if self.open and point.local]:
        self.points.remove(point)
        self.host.ghost.acknowledge(self.host.name, point.extent, point.value)
        self.host.cluster.told(self.host)


def _widen_nothing(self: Keeper, members: frozenset[NodeName]) -> bool:
    return True


# --- R2: anybody bids -----


def _successor_of_any(turn: Any, record: Record) -> bool:
    peer = turn.mirror.peers.get(record.primary)
    return peer is not None and peer.gone


# --- R3: an unanswered bid is taken for lost -----

_bid_answered = bids.bid_answered


def _unanswered_is_lost(turn: Any, bid: Record, outcome: Outcome, current: Record | None) -> None:
    _bid_answered(turn, bid, outcome, current)
    held = turn.mirror.held
    if outcome is Outcome.UNKNOWN and held is not None:
        turn.set(bids=(), bid_since=None, required=held.in_sync)
        turn.do(bids.TakeReign(turn.mirror.module, held))


# --- R4: the epoch is known and never on disk -----


def _store_no_epoch(self: host.Host, epoch: Epoch, wanted: bool) -> bool:
    self.stored = (self.stored[0], wanted)
    return True


# --- R5: any life of the gate will do -----


def _former_life(self: host.Host) -> Nonce:
    return Nonce(self.name * 32)


# --- R6: whatever arrives is applied -----


def _fits_always(self: Keeper, frame: Frame, epoch: int) -> bool:
    return True


# --- R7: the joiner is ready before its disk is -----

_copy = Keeper._copy


def _ready_when_sent(self: Keeper, session: Session) -> None:
    _copy(self, session)
    if session.alive and session.ready_at and not session.ready:
        session.ready = True
        session.durable = self.seq
        self.tell_ready()


# --- R8: a swap does not wait until both are equal -----


def _drain_nothing(self: Keeper, turn: int, until: float) -> None:
    if self.alive and turn == self.turn:
        self.open = False
        self.points.clear()
        everybody = frozenset(self.sessions) | {self.host.name}
        self.host.tell(replica.GateClosed(self.host.module, frozenset(map(NodeName, everybody))))


# --- R9: an empty register is a reason to create -----


def _may_create_whenever_empty(turn: Any) -> None:
    mirror = turn.mirror
    if mirror.life is not None and mirror.held is None and not mirror.bidding:
        first = Record(
            mirror.cluster, mirror.module, Epoch(mirror.epoch + 1), mirror.me, frozenset({mirror.me}),
            mirror.nodes, mirror.life,
        )  # fmt: skip
        bids.bid(turn, None, first)


# --- R10: no sync before the application starts -----


def _no_flush(self: Keeper) -> None:
    return


# --- the lease outlasts the detection -----


def _lease_too_long(self: cluster.Cluster, heart: Heart) -> None:
    heart._timings = replace(heart._timings, lease_s=1.6 * heart._timings.detection_s)


# --- the copies: write-ahead, set aside -----


def _put_unlogged(self: Volume, extent: int, value: int) -> None:
    self.memory[extent] = value
    self.touched = True
    self.version += 1
    self.dirty[extent] = self.version


def _keep_nothing(self: Volume, extents: Iterable[int]) -> None:
    return


# --- canaries: a disk that is believed before it has anything -----


def _nothing_reaches_the_disk(self: Volume, memory: list[int], dirty: list[int]) -> None:
    self.touched = True


def _applied_is_enough(self: Keeper, session: Session) -> int:
    return session.applied


RULES_OFF: dict[str, Switch] = {
    "R1 the gate counts on nobody": _patched(mock.patch.object(Keeper, "settle", _settle_alone)),
    "R1 the gate is not widened": _patched(mock.patch.object(Keeper, "widen", _widen_nothing)),
    "R2 anybody may bid": _patched(
        mock.patch.object(bids, "may_bid", return_value=True),
        mock.patch.object(following, "_successor", _successor_of_any),
    ),
    "R3 silence is taken for a loss": _patched(mock.patch.object(bids, "bid_answered", _unanswered_is_lost)),
    "R4 the epoch is not durable": _patched(mock.patch.object(host.Host, "_store", _store_no_epoch)),
    "R5 a gate takes the nonce of its former life": _patched(
        mock.patch.object(host.Host, "new_life", _former_life)
    ),
    "R6 any position is applied": _patched(mock.patch.object(Keeper, "fits", _fits_always)),
    "R7 the joiner does not flush": _patched(mock.patch.object(Keeper, "_copy", _ready_when_sent)),
    "R8 a swap does not drain": _patched(mock.patch.object(Keeper, "_drain", _drain_nothing)),
    "R9 an empty register is created": _patched(
        mock.patch.object(bids, "_found_empty", _may_create_whenever_empty)
    ),
    "R10 no sync before the start": _patched(mock.patch.object(Keeper, "flush", _no_flush)),
    "the lease outlasts the detection": _patched(
        mock.patch.object(cluster.Cluster, "adjust", _lease_too_long)
    ),
    "S1 a write goes before its log entry": _patched(mock.patch.object(Volume, "put", _put_unlogged)),
    "G4 nothing is set aside": _patched(mock.patch.object(Volume, "keep_aside", _keep_nothing)),
    "canary: an fsync reaches no disk": _patched(
        mock.patch.object(Volume, "persist", _nothing_reaches_the_disk)
    ),
    "canary: a member's memory is taken for its disk": _patched(
        mock.patch.object(Keeper, "_reached", _applied_is_enough)
    ),
}
