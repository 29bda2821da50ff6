"""One primary's three connections to this node: apply its stream in order, acknowledge, answer questions."""

from __future__ import annotations

import errno
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from orchestrator.host import disk
from orchestrator.mirror import frames
from orchestrator.mirror.frames import Acknowledged, Frame, Kind, WireFault, believed
from orchestrator.mirror.lineage import Position, Standing
from orchestrator.model.errors import HafarmError
from orchestrator.model.record import Record
from orchestrator.replicator import codec
from orchestrator.replicator.answers import Answers
from orchestrator.replicator.apply import Applier, ApplyFailed
from orchestrator.replicator.history import History
from orchestrator.replicator.link import (
    ANSWER_S,
    LIFE_SIGN,
    REST_SIGN,
    Connection,
    ConnectionLost,
    LinkSettings,
    Tell,
    quoted,
)
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.points import Points
from orchestrator.replicator.trees import Excluded
from orchestrator.replicator.workers import Workers

HANDSHAKE_S: Final = 5.0
TOLD_AT_ONCE: Final = 32
"""Operations: half of what a copy keeps on its way; it goes on while the answer travels."""
TOLD_LATER_S: Final = 0.01
"""What no request waits for is told together; the window of the stream is a hundred times longer."""

SYNCS_MAX: Final = 128
"""Durable points on their way to the disk, of at most 65 descriptors each; eight are synced at a time."""

_ACTS: Final = {"resume": Kind.OPERATION, "copy": Kind.COPY_BEGIN}
_TAG: Final = re.compile("[0-9-]{0,64}")

EARLIER_POINTS_S: Final = 0.5
"""How late a flush that waits for earlier points notices that its session was given up."""


class Receiver(Protocol):
    """The copy that a session changes, and how far it is; one session after the other has it."""

    settings: LinkSettings
    history: History
    logs: ChangeLogs
    tell: Tell
    applier: Applier
    excluded: Excluded
    syncers: Workers
    progress: threading.Condition
    stream: str
    applied: int
    points: Points
    flushed: int
    applying: threading.Lock
    keeping: threading.Lock
    busy: threading.Event
    begun: int
    ended: int
    """How many frames were begun to be obeyed, and how many of them are; over all sessions."""
    on_disk: int | None
    """How many were obeyed when all of it was on disk; None: not known, as after a reign of this node."""

    def welcome(self) -> dict[str, Any]: ...

    def wait_admitted(self, offered: Record, given_up: Callable[[], bool] = ...) -> Record: ...


class Session:
    """One primary's three connections, from the handshake to the end."""

    def __init__(
        self, receiver: Receiver, forward: Connection, back: Connection, bulk: Connection, record: Record
    ) -> None:
        self._receiver = receiver
        self._forward = forward
        self._back = back
        self._bulk = bulk
        self._record = record
        self._ended = threading.Event()
        self._abandoned = False
        self._failure: tuple[int, str] | None = None
        self._disk_failed = False
        self._stream = ""
        self._begins_copy = False
        """The next frame has to be the beginning of a copy."""
        self._why = ""
        """What the other connections ended the session for."""
        self._syncing = 0
        """Syncs that are on their way to the disk. Changed under the receiver's `progress`."""
        self._told = Acknowledged(0, 0, 0)
        self._telling = threading.Lock()
        self._retell = False
        self._active = True
        """Frames came since the teller looked last; while none do it rests."""
        self._busy = False
        """Frames are being obeyed, perhaps by a slow disk: who asks is told that we live."""
        self._resting = False
        self._untold = threading.Event()
        """There is progress that nobody has told yet, or a failure."""
        self._answers = Answers(
            receiver.applier, receiver.logs, record.primary, receiver.excluded, self._ended.is_set
        )

    def abandon(self) -> None:
        """Nothing more is obeyed or written, from the moment at which the receiver's two locks were free."""
        self._abandoned = True
        self.end()

    def end(self) -> None:
        self._ended.set()
        self._untold.set()
        with self._receiver.progress:
            self._receiver.progress.notify_all()
        for connection in (self._forward, self._back, self._bulk):
            connection.close()

    def run(self, stream: str) -> None:
        """Serve until the connection ends; the acknowledgements go out from a thread of their own."""
        receiver = self._receiver
        timeout_s = 3 * REST_SIGN * receiver.settings.silence_s  # two signs were lost with their connection
        self._forward.send(frames.encode_json(Kind.WELCOME, receiver.welcome()), HANDSHAKE_S)
        verdict = self._forward.receive_one(Kind.VERDICT, HANDSHAKE_S)
        if verdict.get("act") == "refuse":
            told = quoted(verdict.get("verdict"))
            receiver.tell({"event": "handshake_refused", "peer": self._record.primary, "verdict": told})
            return
        self._begin(stream, verdict)
        receiver.tell({"event": "stream_up", "peer": self._record.primary})
        helpers = [threading.Thread(target=work, daemon=True) for work in (self._acknowledge, self._answer)]
        for helper in helpers:
            helper.start()
        why = "ended"
        try:
            self._apply_all(timeout_s)
        except HafarmError as fault:
            why = self._why or str(fault)
            self._fail(fault)
        finally:
            self._finish(helpers, why)
            receiver.logs.let_go(receiver.applied)

    def _begin(self, stream: str, verdict: dict[str, Any]) -> None:
        receiver = self._receiver
        with believed("a verdict without a place to begin"):
            after = Position.from_list([stream, _position(verdict["after"])]).sequence
            act = _ACTS[verdict["act"]]
        self._stream = stream
        receiver.ended = receiver.begun  # what a former session left half-done is as good as never told
        self._begins_copy = act is Kind.COPY_BEGIN
        if not self._begins_copy:
            if receiver.stream != stream or receiver.applied != after:
                raise WireFault("it resumes what was never begun")
            if not receiver.history.standing.inconsistent:
                receiver.history.add_reign(self._record)
            return
        receiver.applier.objects.clear()
        receiver.logs.of[self._record.primary].pin_all()
        with receiver.progress:
            receiver.stream = stream
            receiver.applied = after
            receiver.points = Points()
            receiver.points.done_to = after
            receiver.flushed = 0

    def _apply_all(self, timeout_s: float) -> None:
        while not self._ended.is_set():
            arrived = [frame for frame in self._forward.receive(timeout_s) if frame.kind is not Kind.ALIVE]
            if not arrived:
                self._answer_sign_of_life()
                continue
            self._active = self._busy = True
            if self._resting:
                self._untold.set()  # this thread may be held by a slow disk: that one says that we live
            for number, frame in enumerate(arrived, 1):
                sync = self._apply_one(frame)
                if sync is not None:
                    # With nothing more to apply this thread waits for the disk itself: no change of threads.
                    # Where memory is enough nobody waits for the disk, so this thread does not either.
                    alone = number == len(arrived) and self._receiver.settings.ack != "memory"
                    if alone and not self._forward.has_more():
                        sync()
                    else:
                        self._receiver.syncers.put(sync)
                if self._abandoned:
                    return
            self._busy = False
            self._progressed()

    def _answer_sign_of_life(self) -> None:
        """The primary heard nothing new from here either: what is said now is news or the same sign."""
        if not self._tell():
            self._back.send(frames.encode(Kind.ALIVE), HANDSHAKE_S)

    def _apply_one(self, frame: Frame) -> Callable[[], None] | None:
        """Obey one frame; what is still to be called, once: the way to the disk that it asks for."""
        receiver = self._receiver
        with receiver.applying:
            if self._abandoned:
                return None
            if frame.sequence != receiver.applied + 1:
                raise WireFault(f"number {frame.sequence} after {receiver.applied}")
            if self._begins_copy is not (frame.kind is Kind.COPY_BEGIN):
                raise WireFault(f"{frame.kind.name} at the wrong place of a copy")
            receiver.begun += 1
            try:
                sync = self._obey(frame)
            except OSError as fault:
                # Of what is kept beside the tree: the lineage, the list of what is set aside.
                raise ApplyFailed(frame.kind.name, fault.errno or errno.EIO, str(fault)) from fault
            receiver.ended += 1
            receiver.applied = frame.sequence
        if not receiver.busy.is_set():
            receiver.busy.set()
        return sync

    def _progressed(self) -> None:
        """A batch is applied: told at once when there is much, else with the next point or in a moment."""
        receiver = self._receiver
        with receiver.progress:
            receiver.progress.notify_all()
        behind = receiver.applied - self._told.applied
        if behind >= TOLD_AT_ONCE or (behind and receiver.settings.ack == "memory"):
            self._tell()
        elif behind:
            self._untold.set()

    def _obey(self, frame: Frame) -> Callable[[], None] | None:
        if self._failure is not None:
            raise ApplyFailed("sync", *self._failure)
        receiver = self._receiver
        if frame.kind is Kind.OPERATION:
            sync = receiver.applier.apply(codec.decode(frame.payload), frame.sequence)
            return sync and self._point(sync, frame.sequence, None)
        if frame.kind is Kind.FLUSH:
            theirs = frames.decode_flushed(frame.payload)
            return self._point(receiver.applier.sync_all, frame.sequence, theirs)
        if frame.kind is Kind.RECORD:
            with believed("a RECORD"):
                offered = Record.from_dict(frame.json())
            self._new_record(offered)
        elif frame.kind is Kind.COPY_BEGIN:
            self._copy_begin(frame.json())
        elif frame.kind is Kind.COPY_DONE:
            self._copy_done(frame)
        elif frame.kind is not Kind.SKIP:
            raise WireFault(f"{frame.kind.name} inside the stream")
        return None

    def _point(self, sync: Callable[[], None], sequence: int, theirs: int | None) -> Callable[[], None]:
        """A durable point begins; calling the result brings it to the disk, and tells so.

        `theirs`: of a flush, up to which number the primary's disk holds everything.
        """
        receiver = self._receiver
        points, obeyed = receiver.points, receiver.begun
        points.begin(sequence)
        with receiver.progress:
            # Each holds descriptors: a disk that is slower than the stream slows the stream.
            while self._syncing >= SYNCS_MAX and not self._ended.is_set():
                receiver.progress.wait()
            self._syncing += 1

        def bring_to_disk() -> None:
            try:
                sync()
                if theirs is not None:
                    self._flushed(sequence, obeyed, min(theirs, sequence))
                points.done(sequence)
            except OSError as fault:
                self._broke(fault, fault.errno or errno.EIO, str(fault))
            with receiver.progress:
                self._syncing -= 1
                receiver.progress.notify_all()
            if self._failure is None:
                self._tell()
            else:
                self._untold.set()

        return bring_to_disk

    def _flushed(self, sequence: int, obeyed: int, theirs: int) -> None:
        """All up to here is on this disk: durable in the lineage before it is told (S11)."""
        receiver = self._receiver
        with receiver.progress:
            # Not left to the next flush: a swap waits for this one, and an idle stream sends no other.
            while not receiver.points.all_done_before(sequence):
                if self._failure is not None or self._abandoned or self._ended.is_set():
                    return
                receiver.progress.wait(EARLIER_POINTS_S)
        with receiver.keeping:
            if self._abandoned:
                return
            if not receiver.history.standing.inconsistent:
                try:
                    receiver.history.advance(Position(self._stream, sequence))
                    # Not this position: the primary's own disk may be behind it, and an entry needs both.
                    receiver.logs.of[self._record.primary].confirmed(Position(self._stream, theirs))
                except (OSError, HafarmError) as fault:
                    self._broke(fault, errno.EIO, str(fault))
                    return
            receiver.flushed = max(receiver.flushed, sequence)
            receiver.on_disk = max(receiver.on_disk or 0, obeyed)

    def _new_record(self, offered: Record) -> None:
        if offered.primary != self._record.primary:
            raise WireFault("a record of another primary")
        record = self._record = self._receiver.wait_admitted(offered, lambda: self._abandoned)
        if not self._receiver.history.standing.inconsistent:
            self._receiver.history.add_reign(record)

    def _copy_begin(self, facts: dict[str, Any]) -> None:
        with believed("a COPY_BEGIN"):
            tag = facts.get("set_aside", "")
            if not _TAG.fullmatch(tag):
                raise ValueError("a set-aside with a strange name")
            about = self._about(facts) if tag else {}
        # Durable before the first overwritten byte: whatever happens now, this copy is no source (G3).
        self._receiver.history.change(inconsistent=True)
        self._begins_copy = False
        id = self._receiver.applier.begin_copy(tag, about)
        if tag:
            self._receiver.tell({"event": "set_aside", "id": id, **about})

    def _about(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What a person will want to know of what is set aside now; the time in seconds since the epoch."""
        me, primary = self._receiver.settings.node, self._record.primary
        theirs = Standing.from_dict(Standing().as_dict() | {"reigns": facts.get("reigns")})
        return {
            "at": time.time(),
            "verdict": quoted(facts.get("verdict")),
            "why": quoted(facts.get("why")),
            "lost": me,
            "kept_by": primary,
            "lineages": {
                me: self._receiver.history.standing.as_dict()["reigns"],
                primary: theirs.as_dict()["reigns"],
            },
            "since": self._receiver.history.parted(theirs),
        }

    def _copy_done(self, frame: Frame) -> None:
        receiver = self._receiver
        if not receiver.applier.copying:
            raise WireFault("the end of a copy that never began")
        with believed("a COPY_DONE"):
            told = frame.json()
            flushed = told["flushed"]
            if type(flushed) is not int or not 0 <= flushed <= frame.sequence:
                raise ValueError("no position of the sender")
            known = receiver.history.standing.as_dict()
            source = Standing.from_dict(known | {"reigns": told["reigns"], "forced": told["forced"]})
        try:
            receiver.applier.sync_all()
        except OSError as fault:
            raise ApplyFailed("flush", fault.errno or errno.EIO, str(fault)) from fault
        receiver.history.adopt(source, Position(receiver.stream, frame.sequence))
        log = receiver.logs.of[self._record.primary]
        log.unpin(frame.sequence)
        log.confirmed(Position(receiver.stream, flushed))
        log.unreadable = False
        receiver.applier.end_copy(whole=True)
        receiver.flushed = frame.sequence
        receiver.tell({"event": "copy_done", "peer": self._record.primary})

    def _acknowledge(self) -> None:
        """Tell what nobody waits for a moment later, a failure, and life while something is applied."""
        idle_s = LIFE_SIGN * self._receiver.settings.silence_s
        try:
            while not self._ended.is_set():
                self._resting, self._active = not self._active, False
                # Looked at once the other thread can see that this one rests: one of the two sees the other.
                self._resting = self._resting and not self._busy
                if self._untold.wait(None if self._resting else idle_s):
                    self._ended.wait(0.0 if self._failure else TOLD_LATER_S)
                    self._untold.clear()
                if self._failure is not None:
                    self._send_failure(*self._failure)
                    return
                if not self._tell() and not self._resting:
                    self._back.send(frames.encode(Kind.ALIVE), HANDSHAKE_S)
        except ConnectionLost:
            pass
        finally:
            self._forward.close()

    def _tell(self) -> bool:
        """Acknowledge what is new since the last time, as one frame; False when nothing is.

        What becomes new while another thread tells is told by that one.
        """
        told = False
        self._retell = True
        while self._retell and self._telling.acquire(blocking=False):
            try:
                self._retell = False
                now = self._now()
                if now != self._told:
                    self._told, told = now, True
                    self._back.send(now.encode(), HANDSHAKE_S)
            except ConnectionLost:
                self._forward.close()
                return True
            finally:
                self._telling.release()
        return told

    def _now(self) -> Acknowledged:
        receiver = self._receiver
        return Acknowledged(receiver.applied, receiver.points.reached(receiver.applied), receiver.flushed)

    def _answer(self) -> None:
        """Serve the primary's questions about this tree, one after the other."""
        try:
            while not self._ended.is_set():
                for frame in self._bulk.receive(None):
                    if frame.kind is not Kind.ASK:
                        raise WireFault(f"{frame.kind.name} among the questions")
                    request = frame.json()
                    with believed("a question"):
                        after = _position(request.get("after", 0))
                    self._wait_applied(after)
                    answer = frames.encode_json(Kind.ANSWER, self._answers.answer(request))
                    self._bulk.send(answer, ANSWER_S)
        except HafarmError as fault:
            self._why = "" if isinstance(fault, ConnectionLost) else str(fault)
            self._forward.close()

    def _wait_applied(self, sequence: int) -> None:
        receiver = self._receiver
        with receiver.progress:
            receiver.progress.wait_for(lambda: self._ended.is_set() or receiver.applied >= sequence)

    def _fail(self, fault: HafarmError) -> None:
        if isinstance(fault, ApplyFailed) and self._failure is None:
            self._broke(fault, fault.number, str(fault))
            self._untold.set()

    def _broke(self, fault: Exception, number: int, why: str) -> None:
        """This copy goes no further; the first reason is told."""
        if disk.is_disk_fault(fault) or disk.is_disk_fault(fault.__cause__):
            self._disk_failed = True
        self._failure = self._failure or (number, why)

    def _send_failure(self, number: int, why: str) -> None:
        receiver = self._receiver
        # What failed half-way is not repeated by a resume: this copy begins anew.
        with receiver.progress:
            receiver.stream = ""
        try:
            self._back.send(_failure_frame(number, why), 1.0)
        finally:
            if self._disk_failed:  # told afterwards: it ends the connection
                receiver.tell({"event": "volume_failed", "why": why})
        self._ended.wait(1.0)  # the primary reads it, then ends the session

    def _finish(self, helpers: list[threading.Thread], why: str) -> None:
        if self._failure is not None:
            helpers[0].join(3)
        self.end()
        with self._receiver.progress:
            self._receiver.progress.notify_all()
            # No position of this stream is written once another one begins.
            self._receiver.progress.wait_for(lambda: not self._syncing)
        for helper in helpers:
            helper.join(10)
        self._receiver.tell({"event": "stream_down", "peer": self._record.primary, "why": why})


def _failure_frame(number: int, why: str) -> bytes:
    return frames.encode(Kind.FAILED, json.dumps({"number": number, "why": why[:500]}).encode())


def _position(value: Any) -> int:
    # Far below what the lineage can hold: from here on one is added for each frame.
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("no position of a stream")
    return value
