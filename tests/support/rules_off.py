"""Switching a rule off: what a switch is, and the rules that live in the product's own machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final
from unittest import mock

from orchestrator.mirror import bids, following
from orchestrator.model.effects import TakeReign
from orchestrator.model.names import Epoch
from orchestrator.model.record import Outcome, Record

Switch = Callable[[], AbstractContextManager[None]]


def patched(*patches: Any) -> Switch:
    """A switch that makes these patches, and takes them back."""

    @contextmanager
    def switch() -> Iterator[None]:
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()

    return switch


# --- R2: anybody bids -----


def _successor_of_any(turn: Any, record: Record) -> bool:
    peer = turn.mirror.peers.get(record.primary)
    return peer is not None and peer.gone


ANYBODY_BIDS: Final = (
    mock.patch.object(bids, "may_bid", return_value=True),
    mock.patch.object(following, "_successor", _successor_of_any),
)

# --- R3: an unanswered bid is taken for lost -----

_bid_answered = bids.bid_answered


def _unanswered_is_lost(turn: Any, bid: Record, outcome: Outcome, current: Record | None) -> None:
    _bid_answered(turn, bid, outcome, current)
    held = turn.mirror.held
    if outcome is Outcome.UNKNOWN and held is not None:
        turn.set(bids=(), bid_since=None, required=held.in_sync)
        turn.do(TakeReign(turn.mirror.module, held))


SILENCE_IS_A_LOSS: Final = (mock.patch.object(bids, "bid_answered", _unanswered_is_lost),)

# --- R9: an empty register is a reason to create -----


def _may_create_whenever_empty(turn: Any) -> None:
    mirror = turn.mirror
    if mirror.life is not None and mirror.held is None and not mirror.bidding:
        first = Record(
            mirror.cluster, mirror.module, Epoch(mirror.epoch + 1), mirror.me, frozenset({mirror.me}),
            mirror.nodes, mirror.life,
        )  # fmt: skip
        bids.bid(turn, None, first)


EMPTY_IS_CREATED: Final = (mock.patch.object(bids, "_found_empty", _may_create_whenever_empty),)
