"""What the operator asks of a farm: accepted or refused at once, with the reason, before anything stops."""

from __future__ import annotations

from orchestrator.farm import serving
from orchestrator.farm.state import Stage
from orchestrator.farm.turn import Turn
from orchestrator.model.names import RequestId
from orchestrator.model.orders import Drain, Leave, Order, Restart, Start, Stop, Undrain, Weigh
from orchestrator.model.report import PERCENT_MAX, FarmRole


def asked(turn: Turn, request: RequestId, order: Order) -> None:
    """Exactly one answer to each request."""
    farm = turn.farm
    if not farm.loaded:
        turn.refuse(
            request, "HF1001", "this module's state on this node's disk cannot be read: no role on doubt"
        )
        return
    match order:
        case Start(first=False) | Undrain():
            turn.accept(request)
            _start(turn)
        case Stop():
            turn.accept(request)
            _stop(turn)
        case Leave(force):
            turn.accept(request)
            if force or farm.role is not FarmRole.UP or not farm.others_take:
                _stop(turn)
            else:
                serving.drain(turn, "stop", farm.drain_s)
        case Drain(limit_s, force):
            _drain(turn, request, limit_s, force)
        case Restart():
            _restart(turn, request)
        case Weigh(percent):
            _weigh(turn, request, percent)
        case _:
            name = type(order).__name__.lower()
            turn.refuse(
                request, "HF6029", f"{name} is for mirrors: all nodes of a farm serve, and it has no files"
            )


def _start(turn: Turn) -> None:
    """Also of a node that drains: it takes new connections again."""
    farm = turn.farm
    turn.set(wanted=True, worn=False)
    if farm.draining == "stop":
        turn.set(draining="", drain_until=None, count_at=None, connections=None)
    if farm.stage is Stage.ENDING:
        turn.set(ending="restart")
    elif farm.stage is Stage.RESTING:
        turn.set(again_at=turn.now)
    serving.store(turn)


def _stop(turn: Turn) -> None:
    turn.set(wanted=False, draining="")
    serving.store(turn)
    if turn.farm.role is not FarmRole.STOP or turn.farm.stage is not Stage.IDLE:
        serving.end(turn, "stop")


def _drain(turn: Turn, request: RequestId, limit_s: float | None, force: bool) -> None:
    farm = turn.farm
    if farm.role is not FarmRole.UP:
        turn.refuse(request, "HF6028", "this node takes no traffic: there is nothing to drain")
    elif not farm.others_take and not force:
        turn.refuse(
            request, "HF6027", "no other node takes traffic: new connections would find nobody (--force)"
        )
    else:
        turn.accept(request)
        serving.drain(turn, "stop", farm.drain_s if limit_s is None else limit_s)


def _restart(turn: Turn, request: RequestId) -> None:
    farm = turn.farm
    if not farm.wanted:
        turn.refuse(request, "HF6028", "the module is stopped on this node: start it")
    elif farm.draining == "stop":
        turn.refuse(request, "HF6028", "this node drains, and stops then: undrain it first")
    else:
        turn.accept(request)
        turn.set(worn=False)
        if farm.role is FarmRole.UP and farm.others_take:
            serving.drain(turn, "restart", farm.drain_s)
        elif farm.stage is not Stage.ENDING:
            serving.end(turn, "restart")


def _weigh(turn: Turn, request: RequestId, percent: int) -> None:
    if not 0 <= percent <= PERCENT_MAX:
        turn.refuse(request, "HF6030", f"{percent} is not between 0 and {PERCENT_MAX} per cent")
        return
    turn.accept(request)
    turn.set(percent=percent)
    serving.store(turn)
