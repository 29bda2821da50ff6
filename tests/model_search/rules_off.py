"""Each rule can be switched off here: in the machine, the register, or the modelled replicator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from orchestrator.cluster.register import Judgement, judge
from orchestrator.mirror import bids, following, lineage
from orchestrator.mirror.gate import Gate
from orchestrator.mirror.lineage import Joiner, Ruling, Standing
from orchestrator.model.names import Epoch, NodeName, Nonce
from orchestrator.model.orders import Promote, Swap
from orchestrator.model.record import Record, Reign
from tests.model_search import begin, hands, replica, search
from tests.model_search.moves import Bounds
from tests.model_search.plans import TWO
from tests.model_search.search import Search
from tests.model_search.values import Frame, Keeper, Node, World
from tests.support.rules_off import ANYBODY_BIDS, EMPTY_IS_CREATED, SILENCE_IS_A_LOSS, Switch, patched

Begin = Callable[[Search], World]


@dataclass(frozen=True)
class Off:
    """One rule's switch, and the smallest search in which its absence does harm."""

    rule: str
    switch: Switch
    starts: Begin
    bounds: Bounds
    ignored: tuple[str, ...] = ()
    """Claims that would find the fault before it has done harm."""
    nodes: int = 2


def _widen_nothing(turn: Any, members: frozenset[NodeName]) -> bool:
    return True


def _widen_always(turn: Any, members: frozenset[NodeName]) -> bool:
    turn.change(required=turn.keeper.required | members)
    return True


def _ask_no_member(
    stored: Record | None, expected: Record | None, record: Record, bidder: NodeName
) -> Judgement:
    return judge(stored, expected, record, stored.primary if stored is not None else bidder)


def _first_at_any_epoch(
    stored: Record | None, expected: Record | None, record: Record, bidder: NodeName
) -> Judgement:
    return Judgement(record, won=True) if stored is None else judge(stored, expected, record, bidder)


_bid = bids.bid


def _bid_for_the_old_set(turn: Any, expected: Record | None, record: Record) -> None:
    if expected is not None and record.reason in ("restart", "take-over"):
        record = replace(record, in_sync=expected.in_sync | {record.primary})
    _bid(turn, expected, record)


def _store_no_epoch(turn: Any, epoch: Epoch, wanted: bool) -> None:
    turn.node = turn.node._replace(wanted=wanted)


_meet_as_primary = replica.meet_as_primary


def _ready_when_sent(turn: Any, name: NodeName, how: str) -> None:
    _meet_as_primary(turn, name, how)
    if how.startswith("copy"):
        durable = {**dict(turn.keeper.durable), name: turn.keeper.seq}
        turn.change(sessions=((name, True),), durable=tuple(sorted(durable.items())))


def _everybody_is_equal(node: Node) -> frozenset[NodeName]:
    assert node.keeper is not None
    return frozenset(name for name, _ in node.keeper.sessions)


def _fits_always(keeper: Keeper, frame: Frame, source_epoch: int) -> bool:
    return keeper.source is not None and frame.stream == keeper.stream


def _never_forgotten(keeper: Keeper | None, frame: Frame) -> bool:
    return True


_with_reign = Standing.with_reign


def _forget_the_order(
    standing: Standing, reign: Reign, forced: bool = False, unheard: bool = False
) -> Standing:
    return _with_reign(standing, reign, unheard=unheard)


def _take_the_last_reign_for_unheard(
    record: Record, primary: Standing, joiner: Joiner, log_fits: bool, log_why: str
) -> Ruling:
    if joiner.standing.reigns:
        joiner = replace(joiner, standing=replace(joiner.standing, unheard=joiner.standing.reigns[-1]))
    return lineage.judge(record, primary, joiner, log_fits, log_why)


_known = lineage._known


def _compare_numbers(
    left: tuple[Reign, ...], right: tuple[Reign, ...]
) -> tuple[tuple[Reign, ...], tuple[Reign, ...]]:
    ours, theirs = _known(left, right)
    return _numbers(ours), _numbers(theirs)


def _numbers(reigns: tuple[Reign, ...]) -> tuple[Reign, ...]:
    return tuple(replace(reign, nonce=Nonce("any")) for reign in reigns)


def _compare_no_member(
    record: Record, primary: Standing, joiner: Joiner, log_fits: bool, log_why: str
) -> Ruling:
    if joiner.node in record.in_sync:
        joiner = replace(joiner, standing=replace(joiner.standing, reigns=primary.reigns))
        record = replace(record, in_sync=record.in_sync - {joiner.node})
    return lineage.judge(record, primary, joiner, log_fits, log_why)


_take_over = following._take_over


def _ask_nobody(turn: Any, record: Record) -> None:
    if turn.mirror.accept_loss:
        following._serve_offline(turn, record)
    else:
        _take_over(turn, record)


A_LOSS = Bounds(epochs=2, writes=1, crashes=0, losses=1)
A_CUT = Bounds(epochs=2, writes=1, crashes=1, losses=0, deaths=("power",))

RULES_OFF: tuple[Off, ...] = (
    Off(
        "R1 the gate counts on nobody",
        patched(mock.patch.object(Gate, "settled_to", property(lambda gate: float("inf")))),
        begin.healthy,
        Bounds(epochs=0, writes=1, crashes=0, losses=0),
    ),
    Off(
        "R1 the gate is not widened",
        patched(mock.patch.object(replica, "widen", _widen_nothing)),
        begin.joining,
        A_CUT,
        ("required",),
    ),
    Off(
        "R2 anybody may bid",
        patched(*ANYBODY_BIDS, mock.patch.object(search, "judge", _ask_no_member)),
        begin.joining,
        A_LOSS,
    ),
    Off(
        "R3 silence is taken for a loss",
        patched(*SILENCE_IS_A_LOSS),
        begin.joining,
        A_CUT,
        ("required",),
    ),
    Off(
        "R4 the epoch is not durable",
        patched(mock.patch.object(replica, "store", _store_no_epoch)),
        begin.joining,
        A_LOSS,
    ),
    Off(
        "R5 a gate takes the nonce of its former life",
        patched(mock.patch.object(hands, "name_life", lambda me, number: Nonce(f"{me}1"))),
        begin.joining,
        A_CUT,
        ("required",),
    ),
    Off(
        "R5 a take-over keeps the old set",
        patched(mock.patch.object(bids, "bid", _bid_for_the_old_set)),
        begin.healthy,
        replace(A_LOSS, crashes=1, deaths=("power",)),
    ),
    Off(
        "R6 any position is applied",
        patched(
            mock.patch.object(replica, "fits", _fits_always),
            mock.patch.object(replica, "still_fits", _never_forgotten),
        ),
        begin.healthy,
        Bounds(epochs=0, writes=2, crashes=0, losses=0),
    ),
    Off(
        "R7 the joiner does not flush",
        patched(mock.patch.object(replica, "meet_as_primary", _ready_when_sent)),
        begin.alone,
        A_CUT,
    ),
    Off(
        "R7 a joiner that lacks writes is named",
        patched(mock.patch.object(replica, "widen", _widen_always)),
        begin.joining,
        A_CUT,
    ),
    Off(
        "R8 a swap does not drain",
        patched(mock.patch.object(replica, "equal_members", _everybody_is_equal)),
        begin.healthy,
        Bounds(epochs=1, writes=1, crashes=0, losses=0, hints=1, orders=1, ordered=(Swap(),)),
    ),
    Off(
        "R9 an empty register is created",
        patched(*EMPTY_IS_CREATED, mock.patch.object(search, "judge", _first_at_any_epoch)),
        begin.joining,
        replace(A_LOSS, wipes=1),
    ),
    Off(
        "R10 no sync before the start",
        patched(mock.patch.object(replica, "flush_before_start")),
        begin.healthy,
        A_LOSS,
    ),
    Off(
        "G7 a forced promotion is not remembered",
        patched(mock.patch.object(Standing, "with_reign", _forget_the_order)),
        begin.joining,
        Bounds(epochs=1, writes=1, crashes=0, losses=1, hints=1, orders=1, ordered=(Promote(True),)),
    ),
    Off(
        "G2 reigns are compared by their numbers",
        patched(mock.patch.object(lineage, "_known", _compare_numbers)),
        begin.two_histories,
        TWO,
    ),
    Off(
        "G5 a member's lineage is not compared",
        patched(mock.patch.object(replica, "judge", _compare_no_member)),
        begin.two_histories,
        TWO,
        nodes=3,
    ),
    Off(
        "G8 a reign by an order is taken for unheard",
        patched(mock.patch.object(replica, "judge", _take_the_last_reign_for_unheard)),
        begin.two_histories,
        TWO,
    ),
    Off(
        "G6 a force asks no register",
        patched(mock.patch.object(following, "_take_over", _ask_nobody)),
        begin.healthy,
        replace(A_LOSS, orders=1, ordered=(Promote(True),)),
    ),
)
