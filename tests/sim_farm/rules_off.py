"""Each rule of a farm can be switched off here; without it the simulator must find the harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from orchestrator.farm import buckets, history, learning, members, serving, sharing
from orchestrator.farm import view as view_room
from orchestrator.farm.state import Farm, Stage
from orchestrator.farm.turn import Turn
from orchestrator.farm.view import View
from orchestrator.model.effects import StopApplication

Switch = Callable[[], AbstractContextManager[Any]]


def _nobody_is_waited_for(farm: Farm, target: View) -> frozenset[str]:
    return frozenset()


def _ready_at_once(turn: Turn) -> None:
    if turn.farm.stage is Stage.STARTING:
        turn.set(stage=Stage.READY)


def _end_first(turn: Turn, ending: Any) -> None:
    module = turn.farm.module
    turn.do(StopApplication(module, force=False))
    serving.close(turn)
    turn.set(stage=Stage.ENDING, ending=ending, again_at=None, trouble="")


def _no_history(former: Any, before: Any, after: Any) -> Any:
    return tuple({} for _ in after)


def _no_other_side(farm: Farm, target: View) -> None:
    return None


def _old_word(turn: Turn, name: Any, state: Any) -> None:
    """What a former life said counts for the new one."""
    if state is not None:
        _said(turn, name, state)


_said = members.said


def _silence_of_one_way(turn: Turn, name: Any, reach: Any) -> None:
    _reached(turn, name, reach)
    if name in turn.farm.peers:
        turn.peer(name, silent_at=None)


_reached = members.reached


def _never(farm: Farm, target: View) -> float:
    return 1e9


def _gone_at_once(turn: Turn, then: Any, limit_s: float) -> None:
    """A drain that ends before the others know of it."""
    turn.set(draining=then)
    serving.store(turn)
    serving.end(turn, then)


def _lost_by_plan(farm: Farm) -> Any:
    """A draining node is treated as a lost one."""
    return frozenset(
        {name for name, peer in farm.peers.items() if peer.takes} | ({farm.me} if farm.takes else set())
    )


def _nothing_recalled(turn: Turn, shares: Any) -> None:
    return None


def _taught_by_nobody(turn: Turn) -> None:
    turn.set(taught=True, meeting=None, ask_at=None)


def _meets_nobody(turn: Turn, other: View) -> None:
    return None


def _nobody_forgotten(former: Any, lost: Any) -> Any:
    return former


def _nobody_at_all(rules: Any, view: Any) -> Any:
    """Where all have the weight 0, nobody owns a bucket, although somebody gets its packets."""
    zero = {member.name for member in view.members if not member.percent}
    if zero >= view.names:
        return (buckets.NOBODY,) * len(rules.groups)
    return _maps(rules, view)


_maps = view_room.maps


def _new_order_at_once(turn: Turn) -> bool:
    done = _commit(turn)
    turn.set(fading=(), fading_until=None)
    return done


_commit = sharing._commit


@contextmanager
def _maps_as(rule: Any) -> Iterator[None]:
    with mock.patch.object(view_room, "maps", rule), mock.patch.object(sharing, "maps", rule):
        yield


@contextmanager
def _serving_as(rule: Any) -> Iterator[None]:
    with mock.patch.object(Farm, "serving", property(rule)):
        yield


RULES_OFF: dict[str, Switch] = {
    "phase one is skipped": lambda: mock.patch.object(sharing, "_unprepared", _nobody_is_waited_for),
    "no history is kept": lambda: mock.patch.object(history, "moved", _no_history),
    "a side of a split is not asked": lambda: mock.patch.object(sharing, "_other_side", _no_other_side),
    "traffic opens before the checks": lambda: mock.patch.object(
        serving, "application_started", _ready_at_once
    ),
    "the application stops first": lambda: mock.patch.object(serving, "end", _end_first),
    "a former life's word counts": lambda: mock.patch.object(members, "said", _old_word),
    "who hears nothing still counts": lambda: mock.patch.object(members, "reached", _silence_of_one_way),
    "who is not heard serves on": lambda: mock.patch.object(Farm, "stands_back", False),
    "a change waits for ever": lambda: mock.patch.object(sharing, "prepare_max_s", _never),
    "a drain waits for nobody": lambda: mock.patch.object(serving, "drain", _gone_at_once),
    "a restarted agent knows nothing": lambda: mock.patch.object(sharing, "recall", _nothing_recalled),
    "a node that joins asks nobody": lambda: mock.patch.object(learning, "ask", _taught_by_nobody),
    "sides that meet tell each other nothing": lambda: mock.patch.object(learning, "meet", _meets_nobody),
    "the lost are asked still": lambda: mock.patch.object(history, "without", _nobody_forgotten),
    "nobody has what nobody wants": lambda: _maps_as(_nobody_at_all),
    "the old order ends at once": lambda: mock.patch.object(sharing, "_commit", _new_order_at_once),
    "who drains counts as lost": lambda: _serving_as(_lost_by_plan),
}
