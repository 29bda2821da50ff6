"""The rules of disks, names and what is promised of both, that can be switched off here."""

from __future__ import annotations

from typing import Any
from unittest import mock

from orchestrator.mirror.lineage import Ruling
from orchestrator.model.record import Record
from tests.sim import streams
from tests.sim.follower import Follower
from tests.sim.gate import Gate
from tests.sim.host import Host
from tests.sim.keeper import Keeper
from tests.sim.session import Frame
from tests.sim.streams import Streams
from tests.sim.volume import DIRECTORY, EXTENTS, FILES, Volume
from tests.support.rules_off import Switch, patched

# --- S9: the end of a copy is confirmed before the joiner's disk has it -----

_apply = Follower._apply


def _confirm_at_once(self: Follower, frame: Frame) -> None:
    session = self.incoming
    if frame.joiner != self.host.name or session is None:
        _apply(self, frame)
    else:
        self._member_synced(session, frame, [], [0] * EXTENTS, frozenset())


# --- S10: a sync error is no reason not to start -----

_taken = Gate._taken


def _start_all_the_same(self: Gate, record: Record, turn: int) -> None:
    if not self.host.disk_bad:
        _taken(self, record, turn)
        return
    self.host.disk_bad = False
    with mock.patch.object(Keeper, "flush"):
        _taken(self, record, turn)
    self.host.disk_bad = True


# --- S11: nobody asks where the joiner's disk is -----


def _fits_always(baseline: object, theirs: object) -> str:
    return ""


# --- S12: names are found by looking, and enter no log -----

_put = Volume.put


def _put_no_names(self: Volume, extent: int, value: int) -> None:
    if extent == DIRECTORY:
        self._set(extent, value)
        self.trust.note()
    else:
        _put(self, extent, value)


# --- O2: a copy that lost power is taken for a moment of the stream -----

_power_off, _born = Host.power_off, Keeper.__init__


def _remember_where_it_stood(self: Host) -> None:
    keeper = self.keeper
    if keeper is not None and not keeper.owns:
        self.stood = keeper.stream, keeper.seq  # type: ignore[attr-defined]
    _power_off(self)


def _go_on_from_there(self: Keeper, *args: Any) -> None:
    _born(self, *args)
    self.stream, self.seq = getattr(self.host, "stood", (None, 0))
    self.synced_seq = self.seq
    self.host.stood = None, 0  # type: ignore[attr-defined]


# --- O5: a write that is not sent yet is merged with the next one of its file, a durable point between -----

_change = Streams.change


def _merge(self: Streams, frame: Frame) -> None:
    held: Frame | None = getattr(self, "held", None)
    if held is not None and held.extent != frame.extent:
        _change(self, held)
    self.held = frame if frame.kind == "write" and frame.of is None else None  # type: ignore[attr-defined]
    if self.held is None:  # type: ignore[attr-defined]
        _change(self, frame)


# --- O6: a file is renamed while what it holds is not in the stream yet -----


def _rename_first(self: Gate, file: int, durable: bool) -> bool:
    if not self.takes_writes():
        return False
    volume, ghost = self.host.volume, self.host.ghost
    data, name = self._new_value(file), self._new_value(DIRECTORY)
    ghost.brought[name] = (file, data)
    volume.put(file, data)
    volume.rename(file, name)
    self.named[file] = name
    self.keeper.streams.change(Frame("write", DIRECTORY, name, of=file))
    # The next thing that the kernel's write-back does.
    self.world.after(0.05, self.host, _write_back, self, file, durable, self.turn)
    return True


def _write_back(self: Gate, file: int, durable: bool, turn: int) -> None:
    if turn == self.turn and self.takes_writes():
        self.keeper.streams.change(Frame("write", file, self.host.volume.memory[file]))
        if durable:
            self.fsync(file)


# --- O7: the point of a file is a sync of this file -----


def _of_the_file_alone(self: Follower, frame: Frame) -> frozenset[int]:
    files = frozenset(range(FILES))
    return files if frame.of is not None and frame.of != DIRECTORY else files | {DIRECTORY}


# --- G3: the lineage is adopted when the copy begins -----

_begin_copy = Streams._begin_copy


def _adopt_first(self: Streams, other: Follower, ruling: Ruling) -> None:
    _begin_copy(self, other, ruling)
    if other.incoming is not None:
        other.adopt_lineage(other.incoming)


def _off(of: Any, name: str, instead: Any) -> Switch:
    return patched(mock.patch.object(of, name, instead))


POSITIONS_ARE_NOT_ASKED = _off(streams, "position_fits", _fits_always)
"""S11. Its harm takes an old image of a disk that nothing has overwritten since; a story tells it too."""

SYNC_ERRORS_ARE_BORNE = _off(Gate, "_taken", _start_all_the_same)
"""S10. Its harm takes a disk that fails between a primary's loss and the take-over; a story tells it too."""

DISKS_OFF: dict[str, Switch] = {
    "S10 a sync error is no reason not to start": SYNC_ERRORS_ARE_BORNE,
    "S11 nobody asks where a joiner's disk is": POSITIONS_ARE_NOT_ASKED,
    "S9 the end of a copy is confirmed before it is on disk": _off(Follower, "_apply", _confirm_at_once),
    "S12 names enter no log": _off(Volume, "put", _put_no_names),
    "O2 a copy that lost power is taken for a moment of the stream": patched(
        mock.patch.object(Host, "power_off", _remember_where_it_stood),
        mock.patch.object(Keeper, "__init__", _go_on_from_there),
    ),
    "O5 a write is merged with a later one over a durable point": _off(Streams, "change", _merge),
    "O6 a rename is in the stream before what it brings": _off(Gate, "replace", _rename_first),
    "O7 a file's durable point leaves its new name out": _off(Follower, "covers", _of_the_file_alone),
    "G3 a lineage is adopted when the copy begins": _off(Streams, "_begin_copy", _adopt_first),
}
