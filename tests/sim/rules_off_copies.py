"""The rules of the copies that can be switched off here: logs, resync, lineage, and what others changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from unittest import mock

from orchestrator.mirror.lineage import Joiner, Ruling, Standing
from orchestrator.model.record import Record
from tests.sim import streams
from tests.sim.edits import SEALED
from tests.sim.follower import Follower
from tests.sim.gate import Gate
from tests.sim.keeper import Keeper
from tests.sim.launcher import Launcher
from tests.sim.session import Frame, Session
from tests.sim.streams import Streams
from tests.sim.volume import EXTENTS, Volume
from tests.support.rules_off import Switch, patched

# --- S1: a write goes before its log entry -----


def _put_unlogged(self: Volume, extent: int, value: int) -> None:
    self._set(extent, value)


# --- S2: an entry leaves when the other side has applied, S3: when the other side is complete -----

_retire = Streams._retire


def _retire_what_is_applied(self: Streams, session: Session) -> None:
    durable, named = session.durable, session.named
    session.durable = session.named = session.applied
    _retire(self, session)
    session.durable, session.named = durable, named


_confirmed = Streams.confirmed


def _clear_when_ready(self: Streams, session: Session, applied: int, durable: int, named: int) -> None:
    was_ready, target = session.ready, session.target.host
    _confirmed(self, session, applied, durable, named)
    if session.alive and session.ready and not was_ready:
        self.host.volume.retire(target.name, set(self.host.volume.logs[target.name]), target.volume.position)


# --- S4: a start begins with empty logs -----

_taken = Gate._taken


def _start_with_nothing(self: Gate, record: Record, turn: int) -> None:
    if not self.open and turn == self.turn:
        for log in self.host.volume.logs.values():
            log.clear()
    _taken(self, record, turn)


# --- S5: only the own log is copied, S6: nobody remembers the union -----


def _unite_nothing(self: Streams, other: Follower) -> set[int]:
    return self.host.volume.logs[other.host.name]


def _unite_and_forget(self: Streams, other: Follower) -> set[int]:
    mine, theirs = self.host.volume.logs[other.host.name], other.host.volume.logs[self.host.name]
    union = mine | theirs
    theirs.clear()
    return union


# --- S7: a copied block is read, and queued later -----

_change = Streams.change


def _queue_later(self: Streams, frame: Frame) -> None:
    if frame.kind == "copy":
        self.world.after(0.3, self.host, _queue, self, frame)
    else:
        _change(self, frame)


def _queue(self: Streams, frame: Frame) -> None:
    if self.keeper.alive and self.gate.open and self.keeper.owns:
        _change(self, frame)


# --- S8: a follower keeps a log for its primary alone -----

_apply = Follower._apply


def _log_for_the_source(self: Follower, frame: Frame) -> None:
    volume = self.host.volume
    assert self.incoming is not None
    source = self.incoming.source.host.name
    before = {name: set(log) for name, log in volume.logs.items() if name != source}
    _apply(self, frame)
    for name, log in before.items():
        volume.logs[name] &= log


# --- O1: a member is copied into, O3: a sync begins before what is before it, O4: another order -----

_judge = streams.judge


def _copy_into_a_member(record: Record, here: Standing, joiner: Joiner, **known: Any) -> Ruling:
    return _judge(replace(record, in_sync=record.in_sync - {joiner.node}), here, joiner, **known)


def _sync_too_early(self: Follower, frame: Frame) -> None:
    volume = self.host.volume
    if frame.kind != "sync":
        self.early = list(volume.memory), list(volume.dirty)  # type: ignore[attr-defined]
        _apply(self, frame)
        return
    memory, dirty = getattr(self, "early", ([], [0] * EXTENTS))
    self.syncing[frame.seq] = None
    self.host.on_disk(
        self.keeper.sync_s(), self._member_synced, self.incoming, frame, memory, dirty, self.covers(frame)
    )


def _apply_the_next_one_first(self: Follower, frame: Frame) -> None:
    held: Frame | None = getattr(self, "held", None)
    self.held = None  # type: ignore[attr-defined]
    if held is None and frame.kind == "write":
        self.held = frame  # type: ignore[attr-defined]
        return
    if held is not None and held.extent == frame.extent:
        _apply(self, held)
        held = None
    _apply(self, frame)
    if held is not None and self.incoming is not None:
        _apply(self, held)


# --- G1: a reign is not in the lineage, G4: nothing is set aside, G7: an order is not remembered -----

_add_reign = Volume.add_reign


def _add_the_first_reign(self: Volume, record: Record, unheard: bool = False) -> None:
    if not self.lineage:
        _add_reign(self, record, unheard)


def _count_what_nobody_heard(self: Volume, record: Record, unheard: bool = False) -> None:
    _add_reign(self, record)


def _forget_the_order(self: Volume, record: Record, unheard: bool = False) -> None:
    _add_reign(self, replace(record, forced=False), unheard)


def _keep_nothing(self: Volume, extents: Iterable[int]) -> None:
    return


# --- F1: the mark moves on without a keeper, the record of a stop is taken at the next start -----

_findings = Volume.findings


def _mark_at_the_start(self: Volume) -> frozenset[int]:
    self.trust.mark()
    return _findings(self)


def _seal_at_the_start(self: Volume) -> frozenset[int]:
    if self.trust.kind == SEALED:
        self.trust.seal(self.times)
    return _findings(self)


# --- F2: nobody looks -----


def _look_at_nothing(self: Volume) -> frozenset[int]:
    return frozenset()


def _look_after_a_stop(self: Volume) -> frozenset[int]:
    return _findings(self) if self.trust.kind == SEALED else frozenset()


# --- F3: what was found enters no log, no list, and sets nothing aside -----


def _nothing(self: Volume, found: frozenset[int]) -> None:
    return


def _keep_as_if_ours(self: Volume, found: frozenset[int]) -> None:
    if found:
        self.list_them(found)
        self.pin(found)


# --- F4: the record goes before its findings -----


def _believe(self: Launcher, keeper: Keeper, found: frozenset[int]) -> None:
    self.host.volume.trust.believe(keeper.life)


def _keep(self: Launcher, keeper: Keeper, found: frozenset[int]) -> None:
    self.host.volume.keep(found)


def _off(of: Any, name: str, instead: Any) -> Switch:
    return patched(mock.patch.object(of, name, instead))


MEMBERS_ARE_COPIED_INTO = _off(streams, "judge", _copy_into_a_member)
"""O1. Its harm takes a take-over in the middle of a copy; a story tells it too."""

UNHEARD_REIGNS_COUNT = _off(Volume, "add_reign", _count_what_nobody_heard)
"""G8. Its harm is that something is set aside of which nobody lost anything: no invariant, but a story."""

COPIES_OFF: dict[str, Switch] = {
    "S1 a write goes before its log entry": _off(Volume, "put", _put_unlogged),
    "S2 an entry leaves when the other side has applied": _off(Streams, "_retire", _retire_what_is_applied),
    "S3 the log is cleared when the joiner is ready": _off(Streams, "confirmed", _clear_when_ready),
    "S4 a start empties the logs": _off(Gate, "_taken", _start_with_nothing),
    "S5 the returner's log is not copied": _off(Streams, "unite", _unite_nothing),
    "S6 the returner's log is forgotten when the copy begins": _off(Streams, "unite", _unite_and_forget),
    "S7 a copied block is queued later than it was read": _off(Streams, "change", _queue_later),
    "S8 a follower keeps no log for the third node": _off(Follower, "_apply", _log_for_the_source),
    "O1 a member that restarted is copied into": MEMBERS_ARE_COPIED_INTO,
    "O3 a sync begins before what is before it": _off(Follower, "_apply", _sync_too_early),
    "O4 an operation overtakes another one": _off(Follower, "_apply", _apply_the_next_one_first),
    "G1 a reign is not in the lineage": _off(Volume, "add_reign", _add_the_first_reign),
    "G4 nothing is set aside": _off(Volume, "keep_aside", _keep_nothing),
    "G7 a forced promotion is not remembered": _off(Volume, "add_reign", _forget_the_order),
    "F1 the mark is set at the next start": _off(Volume, "findings", _mark_at_the_start),
    "F1 the record of a stop is taken at the next start": _off(Volume, "findings", _seal_at_the_start),
    "F2 nobody looks before a start": _off(Volume, "findings", _look_at_nothing),
    "F2 nobody looks after a crash": _off(Volume, "findings", _look_after_a_stop),
    "F3 what was found enters no log": _off(Volume, "pin", _nothing),
    "F3 what was found is not listed": _off(Volume, "list_them", _nothing),
    "F3 what was found is not set aside": _off(Volume, "keep", _keep_as_if_ours),
    "F4 the record goes before its findings": patched(
        mock.patch.object(Launcher, "first", _believe), mock.patch.object(Launcher, "then", _keep)
    ),
}
