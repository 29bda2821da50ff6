"""Which histories a copy contains, and what two copies that meet may do with each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from orchestrator.model.errors import CorruptState
from orchestrator.model.names import NAME_PATTERN, NEVER, Epoch, NodeName, Nonce
from orchestrator.model.record import Record, Reign

_STREAM: Final = re.compile("[0-9a-f]{32}")  # 128 random bits
LINEAGE: Final = "lineage.json"
"""The file of a copy's standing, in its replicator's state directory."""
REIGNS_MAX: Final = 64  # older than 64 changes of role means unknown, which means set aside, never merged


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to this number of this stream (the life of its primary's gate) is on disk."""

    stream: str
    sequence: int

    def __post_init__(self) -> None:
        assert _STREAM.fullmatch(self.stream), self.stream

    def as_list(self) -> list[Any]:
        return [self.stream, self.sequence]

    @classmethod
    def from_list(cls, data: Any) -> Position:
        stream, sequence = data
        if not isinstance(stream, str) or not _STREAM.fullmatch(stream):
            raise ValueError(f"not a stream's name: {stream!r:.40}")
        return cls(stream, _number(sequence))


@dataclass(frozen=True, slots=True)
class Standing:
    """What one copy durably knows of itself; compared by nonces, never by numbers (G2)."""

    reigns: tuple[Reign, ...] = ()
    """Oldest first; the data of each is contained in this copy."""
    inconsistent: bool = False
    """A copy into this tree began and did not end: never a source, never started from."""
    position: Position | None = None
    may_adopt: bool = False
    """The operator ordered that files of unknown history here may be set aside and overwritten."""
    edited: bool = False
    """Files here were changed behind hafarm's back: what differs of them is set aside before a copy."""
    forced: Reign | None = None
    """The last reign that began by an order accepting data loss: who lacks it may hold what was given up."""
    unheard: Reign | None = None
    """The last reign, if it began here with other members and none of them is known to have heard of it: they
    had what was acknowledged before it, and nothing is acknowledged under it without them."""
    former: Position | None = None
    """Where this disk stood in the stream before its position's. What it got since is in both sides' logs."""

    def with_reign(self, reign: Reign, forced: bool = False, unheard: bool = False) -> Standing:
        """This copy's data go on under one more reign."""
        if self.reigns and self.reigns[-1] == reign:
            return self
        return replace(
            self,
            reigns=(*self.reigns, reign)[-REIGNS_MAX:],
            forced=reign if forced else self.forced,
            unheard=reign if unheard else None,
        )

    def at(self, position: Position) -> Standing:
        """Everything up to here is on this disk."""
        known = self.position
        goes_on = known is not None and known.stream == position.stream
        return replace(self, position=position, former=self.former if goes_on else known)

    def with_copy(self, source: Standing, position: Position) -> Standing:
        """A whole copy of that one is on this disk, and its history with it (G3)."""
        return replace(
            self.at(position),
            reigns=source.reigns,
            forced=source.forced,
            unheard=None,
            inconsistent=False,
            may_adopt=False,
            edited=False,
        )

    @property
    def epoch(self) -> Epoch:
        return max((reign.epoch for reign in self.reigns), default=NEVER)

    def as_dict(self) -> dict[str, Any]:
        return {
            "reigns": [reign.as_list() for reign in self.reigns],
            "inconsistent": self.inconsistent,
            "position": self.position.as_list() if self.position else None,
            "former": self.former.as_list() if self.former else None,
            "may_adopt": self.may_adopt,
            "edited": self.edited,
            "forced": self.forced.as_list() if self.forced else None,
            "unheard": self.unheard.as_list() if self.unheard else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Standing:
        """Read what a file or a peer says; damage is CorruptState, never an empty lineage."""
        try:
            reigns = tuple(_reign(reign) for reign in data["reigns"])
            forced = _reign_or_none(data["forced"])
            position = _position_or_none(data["position"])
            # An older release tells neither: one comparison of everything, one set-aside too many.
            former, unheard = _position_or_none(data.get("former")), _reign_or_none(data.get("unheard"))
            flags = data["inconsistent"], data["may_adopt"], data["edited"]
        except (KeyError, TypeError, ValueError, IndexError) as fault:
            raise CorruptState("a lineage", f"{type(fault).__name__}: {fault}") from fault
        if len(reigns) > REIGNS_MAX or not all(isinstance(flag, bool) for flag in flags):
            raise CorruptState("a lineage", "its fields are not what we write")
        return cls(reigns, flags[0], position, flags[1], flags[2], forced, unheard, former)


class Verdict(Enum):
    """What two copies may do with each other; the value is what status and log show."""

    FIRST_START = "first start"
    UNKNOWN = "unknown files"
    UNRELATED = "unrelated"
    IN_SYNC = "in sync"
    UNPROVEN = "in sync, unproven"
    """It is in `in_sync`, but its disk may hold a subset of the stream: a bid without it comes first."""
    TARGET = "target"
    EDITED = "target with edits"
    """It follows from the primary's history, and was changed behind hafarm's back (F2)."""
    UNHEARD = "target, reign unheard"
    """It began a reign of which no other node heard: it holds nothing acknowledged that the primary lacks."""
    GIVEN_UP = "given up by order"
    """It followed under a reign that both know, and may hold what a forced promotion of the other gave up."""
    DIVERGED = "diverged"
    ROLLED_BACK = "primary rolled back"


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict and what follows from it."""

    verdict: Verdict
    copy: bool = False
    """The joiner is overwritten where it differs, after which it may be taken in."""
    full: bool = False
    """Every file is compared, because the logs do not say enough; `why` tells the operator."""
    set_aside: bool = False
    """What is overwritten is first kept aside (G4)."""
    refused: bool = False
    alarm: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Joiner:
    """What a joiner shows at the handshake."""

    node: NodeName
    standing: Standing
    empty: bool
    """Its tree holds no file at all."""
    resumes: bool
    """Its replicator never restarted since this stream began, and it stands at a sequence still kept."""


def judge(record: Record, primary: Standing, joiner: Joiner, log_fits: bool, log_why: str) -> Ruling:
    """The verdict table: P serves under the record, J follows. `log_why`: why the log does not fit."""
    theirs = joiner.standing
    ours, other = _known(primary.reigns, theirs.reigns)
    ours_only, theirs_only = _without(ours, other), _without(other, ours)
    if not theirs.reigns:
        return _without_lineage(joiner)
    if theirs_only and not ours_only:
        return Ruling(
            Verdict.ROLLED_BACK, refused=True, alarm=True, why="the joiner holds more than the primary"
        )
    if not set(ours) & set(other):
        if theirs.may_adopt:
            return Ruling(
                Verdict.UNRELATED, copy=True, full=True, set_aside=True, why="adopted by the operator"
            )
        return Ruling(Verdict.UNRELATED, refused=True, alarm=True, why="no common reign")
    if theirs_only not in ([], [theirs.unheard]):
        return Ruling(Verdict.DIVERGED, copy=True, full=True, set_aside=True, alarm=True, why="diverged")
    resumes = joiner.resumes and not theirs_only
    if joiner.node in record.in_sync:
        # A copy into a member breaks the prefix (O1) should it have to take over half-way: bid it out first.
        return Ruling(Verdict.IN_SYNC if resumes else Verdict.UNPROVEN, why="its replicator restarted")
    if resumes and not theirs.inconsistent:
        return Ruling(Verdict.IN_SYNC)
    if primary.forced is not None and primary.forced not in theirs.reigns:
        # The promoted copy may have been behind under a reign that both know: by reigns alone it holds all.
        why = "it may hold what an operator's order gave up"
        return Ruling(Verdict.GIVEN_UP, copy=True, full=True, set_aside=True, alarm=True, why=why)
    if theirs.edited:
        why = "changed behind hafarm's back" + (f"; {log_why}" if log_why else "")
        return Ruling(Verdict.EDITED, copy=True, full=not log_fits, set_aside=True, alarm=True, why=why)
    verdict = Verdict.UNHEARD if theirs_only else Verdict.TARGET
    return Ruling(verdict, copy=True, full=not log_fits, why=log_why)


def _without_lineage(joiner: Joiner) -> Ruling:
    if joiner.standing.may_adopt and not joiner.empty:
        # Also when such a copy was interrupted: what is left of the unknown files is still set aside.
        why = "adopted by the operator"
        return Ruling(Verdict.UNKNOWN, copy=True, full=True, set_aside=True, why=why)
    if joiner.empty or joiner.standing.inconsistent:
        return Ruling(Verdict.FIRST_START, copy=True, full=True, why="first start of this node")
    return Ruling(
        Verdict.UNKNOWN, refused=True, alarm=True, why="files of unknown history: adopt or remove them"
    )


def position_fits(baseline: Position | None, theirs: Standing) -> str:
    """Empty when the joiner's disk is at least where the log's baseline says; else why it is not (S11).

    It may have gone one stream further than the log knows: its copy was whole, and the primary was cut before
    it heard so. Nothing has left the log since.
    """
    if baseline is None:
        return "the may-differ log has no baseline"
    if theirs.position is None:
        return "the joiner's position is unknown"
    for at in (theirs.position, theirs.former):
        if at is not None and at.stream == baseline.stream:
            fell = f"the joiner's disk fell back from position {baseline.sequence} to {at.sequence}"
            return fell if at.sequence < baseline.sequence else ""
    return "the joiner's position is of another stream than the log's baseline"


def _known(left: tuple[Reign, ...], right: tuple[Reign, ...]) -> tuple[tuple[Reign, ...], tuple[Reign, ...]]:
    """Both lineages, without the eldest reigns that the other one, being full, has only dropped."""
    return _since(left, right), _since(right, left)


def _since(reigns: tuple[Reign, ...], other: tuple[Reign, ...]) -> tuple[Reign, ...]:
    if len(other) < REIGNS_MAX:
        return reigns
    return next((reigns[at:] for at, reign in enumerate(reigns) if reign in other), reigns)


def _without(reigns: tuple[Reign, ...], known: tuple[Reign, ...]) -> list[Reign]:
    return [reign for reign in reigns if reign not in known]


def _reign_or_none(data: Any) -> Reign | None:
    return None if data is None else _reign(data)


def _position_or_none(data: Any) -> Position | None:
    return None if data is None else Position.from_list(data)


def _reign(data: Any) -> Reign:
    epoch, nonce = data
    return Reign(Epoch(_number(epoch)), Nonce(_nonce(nonce)))


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"not a number: {value!r:.40}")
    return value


def _nonce(value: object) -> str:
    # Nonces are hexadecimal; a name's alphabet and length hold them and nothing that could hurt a log.
    if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
        raise ValueError(f"not a nonce: {value!r:.40}")
    return value
