"""One primary's three connections to this node: apply its stream in order, acknowledge, answer questions."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Final, Protocol

from orchestrator.mirror import frames
from orchestrator.mirror.frames import Acknowledged, Frame, Kind, WireFault
from orchestrator.mirror.lineage import Position, Standing
from orchestrator.model.errors import HafarmError
from orchestrator.model.record import Record
from orchestrator.replicator import codec
from orchestrator.replicator.answers import Answers
from orchestrator.replicator.apply import Applier, ApplyFailed, Points
from orchestrator.replicator.link import Connection, ConnectionLost, LinkSettings
from orchestrator.replicator.logs import ChangeLogs, History
from orchestrator.replicator.outgoing import Tell

HANDSHAKE_S: Final = 5.0


class Receiver(Protocol):
    """The copy that a session changes, and how far it is; one session after the other has it."""

    settings: LinkSettings
    history: History
    logs: ChangeLogs
    tell: Tell
    applier: Applier
    progress: threading.Condition
    stream: str
    applied: int
    points: Points
    flushed: int
    applying: threading.Lock
    keeping: threading.Lock
    begun: int
    ended: int
    """How many frames were begun to be obeyed, and how many of them are; over all sessions."""
    on_disk: int | None
    """How many were obeyed when all of it was on disk; None: not known, as after a reign of this node."""

    def welcome(self) -> dict[str, Any]: ...

    def wait_admitted(self, offered: Record, given_up: Callable[[], bool] = ...) -> None: ...


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
        self._stream = ""
        self._syncs: set[Future[None]] = set()
        self._answers = Answers(receiver.applier, receiver.logs, record.primary)

    def abandon(self) -> None:
        """Nothing more is obeyed or written, from the moment at which the receiver's two locks were free."""
        self._abandoned = True
        self.end()

    def end(self) -> None:
        self._ended.set()
        for connection in (self._forward, self._back, self._bulk):
            connection.close()

    def run(self, stream: str) -> None:
        """Serve until the connection ends; the acknowledgements go out from a thread of their own."""
        receiver = self._receiver
        timeout_s = max(receiver.settings.silence_s * 4, 2.0)
        self._forward.send(frames.encode_json(Kind.WELCOME, receiver.welcome()), HANDSHAKE_S)
        verdict = self._forward.receive_one(Kind.VERDICT, HANDSHAKE_S)
        if verdict.get("act") == "refuse":
            receiver.tell(
                {
                    "event": "handshake_refused",
                    "peer": self._record.primary,
                    "verdict": verdict.get("verdict"),
                }
            )
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
            why = str(fault)
            self._fail(fault)
        finally:
            self._finish(helpers, why)

    def _begin(self, stream: str, verdict: dict[str, Any]) -> None:
        receiver = self._receiver
        try:
            after = Position.from_list([stream, verdict.get("after")]).sequence
        except ValueError as fault:
            raise WireFault(f"a verdict without a place to begin: {fault}") from fault
        self._stream = stream
        receiver.ended = receiver.begun  # what a former session left half-done is as good as never told
        if verdict.get("act") == "resume":
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
        receiver = self._receiver
        while not self._ended.is_set():
            for frame in self._forward.receive(timeout_s):
                if frame.kind is Kind.ALIVE:
                    continue
                with receiver.applying:
                    if self._abandoned:
                        return
                    if frame.sequence != receiver.applied + 1:
                        raise WireFault(f"number {frame.sequence} after {receiver.applied}")
                    receiver.begun += 1
                    self._obey(frame)
                    receiver.ended += 1
                    with receiver.progress:
                        receiver.applied = frame.sequence
                        receiver.progress.notify_all()

    def _obey(self, frame: Frame) -> None:
        if self._failure is not None:
            raise ApplyFailed("sync", *self._failure)
        receiver = self._receiver
        if frame.kind is Kind.OPERATION:
            sync = receiver.applier.apply(codec.decode(frame.payload), frame.sequence)
            if sync is not None:
                self._watch(sync, frame.sequence, flush=False)
        elif frame.kind is Kind.RECORD:
            self._new_record(Record.from_dict(frame.json()))
        elif frame.kind is Kind.FLUSH:
            sync = receiver.applier.begin_sync_all()
            self._watch(sync, frame.sequence, flush=True)
        elif frame.kind is Kind.COPY_BEGIN:
            self._copy_begin(frame.json())
        elif frame.kind is Kind.COPY_DONE:
            self._copy_done(frame)
        elif frame.kind is not Kind.SKIP:
            raise WireFault(f"{frame.kind.name} inside the stream")

    def _watch(self, sync: Future[None], sequence: int, flush: bool) -> None:
        points = self._receiver.points
        points.begin(sequence)
        obeyed = self._receiver.begun

        def ended(done: Future[None]) -> None:
            fault = done.exception()
            if fault is not None:
                number = fault.errno if isinstance(fault, OSError) and fault.errno else errno.EIO
                self._failure = (number, str(fault))
            elif flush:
                self._flushed(sequence, obeyed)
            if fault is None:
                points.done(sequence)
            self._syncs.discard(done)
            with self._receiver.progress:
                self._receiver.progress.notify_all()

        self._syncs.add(sync)
        sync.add_done_callback(ended)

    def _flushed(self, sequence: int, obeyed: int) -> None:
        """All up to here is on this disk: durable in the lineage before it is told (S11)."""
        receiver = self._receiver
        if receiver.points.done_to + 1 < sequence and not receiver.points.all_done_before(sequence):
            return  # an earlier point is still on its way; the next flush will say it
        with receiver.keeping:
            if self._abandoned:
                return
            if not receiver.history.standing.inconsistent:
                position = Position(self._stream, sequence)
                try:
                    receiver.history.advance(position)
                    receiver.logs.of[self._record.primary].confirmed(position)
                except (OSError, HafarmError) as fault:
                    self._failure = (errno.EIO, str(fault))
                    return
            receiver.flushed = max(receiver.flushed, sequence)
            receiver.on_disk = max(receiver.on_disk or 0, obeyed)

    def _new_record(self, record: Record) -> None:
        if record.primary != self._record.primary:
            raise WireFault("a record of another primary")
        self._receiver.wait_admitted(record, lambda: self._abandoned)
        self._record = record
        if not self._receiver.history.standing.inconsistent:
            self._receiver.history.add_reign(record)

    def _copy_begin(self, facts: dict[str, Any]) -> None:
        # Durable before the first overwritten byte: whatever happens now, this copy is no source (G3).
        self._receiver.history.change(inconsistent=True)
        tag = str(facts.get("set_aside", ""))
        if not all(letter.isdigit() or letter == "-" for letter in tag):
            raise WireFault("a set-aside with a strange name")
        self._receiver.applier.begin_copy(tag)

    def _copy_done(self, frame: Frame) -> None:
        receiver = self._receiver
        source = Standing.from_dict(receiver.history.standing.as_dict() | frame.json())
        try:
            receiver.applier.sync_all()
        except OSError as fault:
            raise ApplyFailed("flush", fault.errno or errno.EIO, str(fault)) from fault
        receiver.history.change(
            reigns=source.reigns,
            forced=source.forced,
            inconsistent=False,
            may_adopt=False,
            position=Position(receiver.stream, frame.sequence),
        )
        log = receiver.logs.of[self._record.primary]
        log.release_all(frame.sequence)
        log.confirmed(Position(receiver.stream, frame.sequence))
        log.unreadable = False
        receiver.applier.end_copy()
        receiver.flushed = frame.sequence

    def _acknowledge(self) -> None:
        """Tell progress as it comes, and life when there is none."""
        receiver = self._receiver
        idle_s = receiver.settings.silence_s / 4
        told = Acknowledged(0, 0, 0)
        try:
            while not self._ended.is_set():
                with receiver.progress:
                    if self._now() == told and self._failure is None:
                        receiver.progress.wait(idle_s)
                    now = self._now()
                if self._failure is not None:
                    self._send_failure(*self._failure)
                    return
                # As one frame for all that came meanwhile: syncs that end together are told together.
                self._back.send(now.encode() if now != told else frames.encode(Kind.ALIVE), HANDSHAKE_S)
                told = now
        except ConnectionLost:
            pass
        finally:
            self._forward.close()

    def _now(self) -> Acknowledged:
        receiver = self._receiver
        return Acknowledged(receiver.applied, receiver.points.reached(receiver.applied), receiver.flushed)

    def _answer(self) -> None:
        """Serve the primary's questions about this tree, one after the other."""
        try:
            while not self._ended.is_set():
                for frame in self._bulk.receive(None):
                    request = frame.json()
                    self._wait_applied(int(request.get("after", 0)))
                    self._bulk.send(frames.encode_json(Kind.ANSWER, self._answers.answer(request)), 60.0)
        except HafarmError:
            self._forward.close()

    def _wait_applied(self, sequence: int) -> None:
        receiver = self._receiver
        with receiver.progress:
            receiver.progress.wait_for(lambda: self._ended.is_set() or receiver.applied >= sequence)

    def _fail(self, fault: HafarmError) -> None:
        if isinstance(fault, ApplyFailed) and self._failure is None:
            self._failure = (fault.number, str(fault))
            with self._receiver.progress:
                self._receiver.progress.notify_all()

    def _send_failure(self, number: int, why: str) -> None:
        receiver = self._receiver
        if number in (errno.EIO, errno.EROFS):
            receiver.tell({"event": "volume_failed", "why": why})
        # What failed half-way is not repeated by a resume: this copy begins anew.
        with receiver.progress:
            receiver.stream = ""
        self._back.send(_failure_frame(number, why), 1.0)
        self._ended.wait(1.0)  # the primary reads it, then ends the session

    def _finish(self, helpers: list[threading.Thread], why: str) -> None:
        if self._failure is not None:
            helpers[0].join(3)
        self.end()
        with self._receiver.progress:
            self._receiver.progress.notify_all()
        wait(list(self._syncs))  # no position of this stream is written once another one begins
        for helper in helpers:
            helper.join(10)
        self._receiver.tell({"event": "stream_down", "peer": self._record.primary, "why": why})


def _failure_frame(number: int, why: str) -> bytes:
    return frames.encode(Kind.FAILED, json.dumps({"number": number, "why": why[:500]}).encode())
