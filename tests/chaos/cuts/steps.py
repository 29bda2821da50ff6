"""The named steps at which the current fails, and how a process of the product is made to end there."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.chaos.cuts.trigger import Trigger

ROOM: Final = "orchestrator.replicator."
_DEPTH: Final = 12
"""How many callers are looked at for the one that makes a call the step's own."""


@dataclass(frozen=True)
class Step:
    """A moment in the code: before or after a call of `target`, `inside` a function of that name if given."""

    name: str
    during: Literal["promotion", "resync"]
    node: Literal["heir", "primary", "joiner"]
    target: str
    when: Literal["before", "after"]
    inside: str = ""
    many: int = 1
    """It comes often: the cut falls at one of the first so many times."""
    half: bool = False
    """The joiner's copy is half: after its cut it must say so."""


def _of_promotion(name: str, target: str, when: Literal["before", "after"], inside: str = "") -> Step:
    return Step(name, "promotion", "heir", target, when, inside)


def _of_source(
    name: str, target: str, when: Literal["before", "after"], inside: str = "", many: int = 1
) -> Step:
    return Step(name, "resync", "primary", target, when, inside, many)


def _of_joiner(
    name: str,
    target: str,
    when: Literal["before", "after"],
    inside: str = "",
    many: int = 1,
    half: bool = False,
) -> Step:
    return Step(name, "resync", "joiner", target, when, inside, many, half)


STEPS: Final = (
    _of_promotion("following ended", "follower:Follower.stop_following", "after"),
    _of_promotion("volume synced", "files:Files.sync_volume", "after"),
    _of_promotion("facts changed", "facts:FactsFile.change", "after", "_take_reign"),
    _of_promotion("lineage half written", "/host.store:_overwrite_at", "after", "add_reign"),
    _of_promotion("lineage written", "history:History.add_reign", "after", "take_reign"),
    _of_promotion("stream begun", "stream:Primary._begin_stream", "after"),
    _of_promotion("gate serves", "/mirror.gate:Gate.serve", "after"),
    _of_promotion("gate opened", "files:Files.open_writes", "after"),
    _of_promotion("reign told", "main:Replicator._open", "after"),
    _of_promotion("other node dialled", "outgoing:PeerLink._open", "after"),
    _of_source("copy prepared", "outgoing:PeerLink._prepare_copy", "after"),
    _of_source("logs united", "copy:Copier._unite", "after"),
    _of_source("block queued", "sender:Sender.send_block", "after", many=4),
    _of_source("pass done", "copy:Copier._pass", "after"),
    _of_source("own disk flushed", "stream:Primary.flush", "after", "_copied"),
    _of_source("COPY_DONE queued", "outgoing:PeerLink._copied", "after"),
    _of_source("log retired", "logs:ChangeLog.confirmed", "after", "_flushed_to"),
    _of_source("member told ready", "outgoing:PeerLink._tell_ready_if_joining", "after"),
    _of_source("required widened", "main:Replicator.widen_required", "after"),
    _of_source("joint reign in the lineage", "history:History.add_reign", "after", "take_reign"),
    _of_joiner("COPY_BEGIN arrived", "incoming:Session._copy_begin", "before"),
    _of_joiner("marked as half a copy", "incoming:Session._copy_begin", "after", half=True),
    _of_joiner("entry not yet written", "logs:ChangeLog._write_queue", "before", many=3),
    _of_joiner("entry written, not synced", "os:fdatasync", "before", "_write_queue", many=3),
    _of_joiner("entry logged", "logs:ChangeLog._write_queue", "after", many=3),
    _of_joiner("operation applied", "apply:Applier.apply", "after", many=12),
    _of_joiner("COPY_DONE arrived", "incoming:Session._copy_done", "before", half=True),
    _of_joiner("copy flushed", "apply:Applier.sync_all", "after", "_copy_done", half=True),
    _of_joiner("lineage adopted", "history:History.adopt", "after", "_copy_done"),
    _of_joiner("its log retired", "logs:ChangeLog.confirmed", "after", "_copy_done"),
    _of_joiner("copy ended", "incoming:Session._copy_done", "after"),
    _of_joiner("joint reign admitted", "incoming:Session._new_record", "after"),
    _of_joiner("position kept", "history:History.advance", "after", "_flushed"),
    _of_joiner("log confirmed by a flush", "logs:ChangeLog.confirmed", "after", "_flushed"),
)
NUMBERS: Final = {step.name: number for number, step in enumerate(STEPS, 1)}
"""0 stands for none."""


def install(trigger: Trigger, node: int, steps: Sequence[Step] = STEPS) -> None:
    """From now on this process ends at whatever step is armed for its node."""
    by_target: dict[str, list[tuple[int, Step]]] = defaultdict(list)
    for step in steps:
        by_target[step.target].append((NUMBERS[step.name], step))
    for target, of_it in by_target.items():
        owner, name = _found(target)
        setattr(owner, name, _wrapped(getattr(owner, name), of_it, trigger, node))


def _found(target: str) -> tuple[Any, str]:
    """`room:Class.method`, in the replicator; `/room.file:` elsewhere in the product; `os:` itself."""
    module, _, path = target.partition(":")
    if module != "os":
        module = f"orchestrator.{module[1:]}" if module.startswith("/") else ROOM + module
    owner: Any = importlib.import_module(module)
    *above, name = path.split(".")
    for word in above:
        owner = getattr(owner, word)
    return owner, name


def _wrapped(
    function: Callable[..., Any], steps: Sequence[tuple[int, Step]], trigger: Trigger, node: int
) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        _end_at(steps, "before", trigger, node)
        result = function(*arguments, **named)
        _end_at(steps, "after", trigger, node)
        return result

    return wrapper


def _end_at(steps: Sequence[tuple[int, Step]], when: str, trigger: Trigger, node: int) -> None:
    for number, step in steps:
        is_here = step.when == when and trigger.is_armed(number, node) and _is_inside(step.inside)
        if is_here and trigger.reached(number, node):
            trigger.cut(number)
            threading.Event().wait()  # the signal comes first


def _is_inside(name: str) -> bool:
    frame = sys._getframe(2)
    for _ in range(_DEPTH):
        if not name or frame.f_code.co_name == name:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
