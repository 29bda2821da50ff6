"""What the operator asks: accepted or refused at once, with the reason, before anything stops."""

from __future__ import annotations

from orchestrator.mirror import bids, serving
from orchestrator.mirror.state import Asked, Mirror, Register, Stage
from orchestrator.mirror.turn import Turn
from orchestrator.model.effects import AdoptCopy, CompareInFull
from orchestrator.model.names import NEVER, RequestId
from orchestrator.model.orders import (
    Drain,
    Leave,
    Order,
    Promote,
    Restart,
    Resync,
    Start,
    Stop,
    Swap,
    Undrain,
    Weigh,
)
from orchestrator.model.report import Role

ORDER_S = 30.0
"""What an operator saw when a promotion was ordered holds for about so long; mostly it takes one second."""


def asked(turn: Turn, request: RequestId, order: Order) -> None:
    """Exactly one answer to each request."""
    if not turn.mirror.loaded:
        turn.refuse(
            request, "HF1001", "this module's state on this node's disk cannot be read: no role on doubt"
        )
        return
    match order:
        case Start():
            _start(turn, request, order)
        case Stop():
            _stop(turn, request)
        case Leave():
            _leave(turn, request, order)
        case Restart():
            _restart(turn, request)
        case Swap():
            _swap(turn, request, order)
        case Promote():
            _promote(turn, request, order)
        case Resync():
            _resync(turn, request, order)
        case Drain() | Undrain() | Weigh():
            turn.refuse(
                request, "HF6029", f"{type(order).__name__.lower()} is for farms: one node of a mirror serves"
            )


def _start(turn: Turn, request: RequestId, order: Start) -> None:
    mirror = turn.mirror
    if order.first:
        if mirror.epoch > NEVER:
            turn.refuse(request, "HF1201", "this module has a record already: start it without --first")
            return
        turn.set(first=True)
        if not bids.may_create(turn.mirror):
            turn.set(first=False)
            turn.refuse(
                request,
                "HF1202",
                "the first start needs every node of the module in reach and none that ever knew a record",
            )
            return
    turn.set(wanted=True, leaving=False, worn=False)
    if mirror.held is None:
        turn.set(again_at=None)
    if mirror.role is Role.STOP:
        turn.become(Role.WAIT)
    bids.store(turn)
    if mirror.failed:
        serving.halt(turn)
    turn.accept(request)


def _stop(turn: Turn, request: RequestId) -> None:
    mirror = turn.mirror
    if not mirror.wanted:
        turn.accept(request, "stopped already")
        return
    source = mirror.peers.get(mirror.record.primary) if mirror.record else None
    if (
        mirror.held is None
        and mirror.member
        and source
        and not source.gone
        and source.said
        and source.said.serving
    ):
        turn.refuse(
            request,
            "HF1203",
            "the primary serves and counts on this node: stop the module, or this node alone",
        )
        return
    if mirror.stage in (Stage.ENDING, Stage.DRAINING, Stage.HANDING):
        turn.refuse(request, "HF1204", "a planned end is already under way; ask again when it is done")
        return
    turn.set(wanted=False, first=False)
    bids.store(turn)
    turn.accept(request)
    if mirror.held is not None:
        serving.end(turn, "stop")
    elif mirror.life is not None:
        serving.halt(turn)
    elif not mirror.launched:
        turn.become(Role.STOP)


def _leave(turn: Turn, request: RequestId, order: Leave) -> None:
    mirror = turn.mirror
    if mirror.held is not None:
        _depart(turn, request, order)
        return
    if not mirror.member or order.force:
        turn.set(wanted=False)
        bids.store(turn)
        turn.accept(request)
        if mirror.life is not None:
            serving.halt(turn)
        else:
            turn.become(Role.STOP)
        return
    _depart(turn, request, order)


def _restart(turn: Turn, request: RequestId) -> None:
    mirror = turn.mirror
    if mirror.held is None or mirror.stage not in (Stage.SERVING, Stage.RESTING):
        turn.refuse(request, "HF1205", f"the application does not run here (role {mirror.role.value})")
        return
    turn.accept(request)
    turn.set(worn=False)
    serving.restart(turn)


def _swap(turn: Turn, request: RequestId, order: Swap) -> None:
    _depart(turn, request, order)


def _depart(turn: Turn, request: RequestId, order: Swap | Leave) -> None:
    """R8: ask the register first; only when it answers may anything stop."""
    reason = cannot_depart(turn.mirror, order)
    if reason:
        turn.refuse(request, *reason)
        return
    turn.set(asked=Asked(request, order))
    bids.read(turn)


def cannot_depart(mirror: Mirror, order: Swap | Leave) -> tuple[str, str] | None:
    """Why a planned departure is refused, if it is."""
    if mirror.asked is not None:
        return "HF1204", "another planned change is under way; ask again when it is done"
    if mirror.held is None:
        if isinstance(order, Leave):
            return None
        return "HF1205", f"only the primary can give its role away (role here: {mirror.role.value})"
    if mirror.stage not in (Stage.SERVING, Stage.RESTING) or not serving.can_end_now(mirror):
        return "HF1204", "a change is under way; ask again when the module is ready"
    if not mirror.heirs():
        return "HF1206", "no other node is in sync: the service would stop and the only good copy with it"
    if isinstance(order, Swap) and order.to is not None and order.to not in mirror.heirs():
        return "HF1206", f"{order.to} is not in sync and ready; these are: {', '.join(mirror.heirs())}"
    return None


def departure_answered(turn: Turn) -> None:
    """The register was asked for a planned departure: go, or refuse before anything stopped."""
    mirror = turn.mirror
    waiting = mirror.asked
    if waiting is None or mirror.reading:
        return
    turn.set(asked=None)
    assert isinstance(waiting.order, Swap | Leave)
    if mirror.register is not Register.ANSWERS:
        turn.refuse(
            waiting.request,
            "HF1207",
            "the register does not answer: a planned change would be stuck half-way",
        )
        return
    reason = cannot_depart(turn.mirror, waiting.order)
    if reason:
        turn.refuse(waiting.request, *reason)
        return
    turn.accept(waiting.request)
    if isinstance(waiting.order, Leave):
        turn.set(leaving=True)
    if mirror.held is not None:
        wished = waiting.order.to if isinstance(waiting.order, Swap) else None
        turn.set(heir=wished or mirror.fit_heir() or mirror.heirs()[0])
        serving.end(turn, "swap")


def _promote(turn: Turn, request: RequestId, order: Promote) -> None:
    mirror = turn.mirror
    reason = _cannot_promote(mirror, order)
    if reason:
        turn.refuse(request, *reason)
        return
    turn.set(force=True, accept_loss=order.accept_data_loss, wanted=True, retry_at=None)
    turn.set(order_ends_at=turn.at_the_latest(ORDER_S))
    bids.store(turn)
    if not mirror.member and mirror.held is None:
        turn.tell("HF1210", "promoted by the operator: what the other side acknowledged since is set aside")
    turn.accept(request)
    bids.read(turn)


def _cannot_promote(mirror: Mirror, order: Promote) -> tuple[str, str] | None:
    lost = mirror.register is Register.RESTORED
    if mirror.held is not None and not mirror.offline and not lost:
        return "HF1211", "this node serves already"
    if mirror.life is None or mirror.failed:
        return "HF1212", f"this node's volume is not ready: {mirror.failed or 'start the module here first'}"
    if lost and not order.accept_data_loss:
        return "HF1218", (
            f"the register was lost or restored: it knows less than this node (epoch {mirror.epoch}); with "
            "--accept-data-loss this node's copy becomes the record"
        )
    if mirror.record is None and not lost:
        return "HF1213", "no record is known: a first start is `hafarm start MODULE --first NODE`"
    if mirror.register is Register.SILENT and not order.accept_data_loss and not mirror.offline:
        return "HF1217", (
            "the register does not answer: another node may be granted the role meanwhile, and what is "
            "written here would be lost; bring it back, or accept that with --accept-data-loss"
        )
    if serving.another_serves(mirror):
        return "HF1214", "another node serves: use swap"
    if mirror.record is not None and not mirror.member and not order.accept_data_loss:
        return "HF1215", (
            f"this copy is not in sync (epoch {mirror.record.epoch}, in sync: "
            f"{', '.join(sorted(mirror.record.in_sync))}): start one of those nodes, or accept losing what "
            "was written since with --accept-data-loss"
        )
    return None


def give_up_promotion(turn: Turn) -> None:
    """What would be refused now is not carried out because it was ordered in another situation.

    A bid of it that is out stays the register's to decide.
    """
    mirror = turn.mirror
    if not mirror.force:
        return
    late = mirror.order_ends_at is None or mirror.order_ends_at <= turn.now
    if not late and not serving.another_serves(mirror):
        return
    why = f"it was not possible within {ORDER_S:g} s" if late else "another node serves now"
    turn.set(force=False, accept_loss=False, order_ends_at=None)
    turn.tell("HF1219", f"the promotion is given up: {why}")


def _resync(turn: Turn, request: RequestId, order: Resync) -> None:
    mirror = turn.mirror
    if mirror.life is None:
        turn.refuse(request, "HF1212", "this node's replicator does not run: start the module here first")
        return
    turn.accept(request)
    turn.do(AdoptCopy(mirror.module) if order.adopt else CompareInFull(mirror.module))
