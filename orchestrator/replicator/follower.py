"""The follower's side of the replication: accept one primary's stream, apply it in order, acknowledge."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Any, Final

from orchestrator.mirror import frames
from orchestrator.mirror.frames import (
    Acknowledged,
    Frame,
    HandshakeRejected,
    Identity,
    Kind,
    WireFault,
    check_identity,
    read_identity,
)
from orchestrator.mirror.lineage import Position, Standing
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NEVER, Epoch, Nonce
from orchestrator.model.record import Record
from orchestrator.replicator import codec
from orchestrator.replicator.answers import Answers
from orchestrator.replicator.apply import Applier, ApplyFailed, Points
from orchestrator.replicator.link import (
    BACK,
    BULK,
    FORWARD,
    Connection,
    ConnectionLost,
    LinkSettings,
    certified,
    tune,
)
from orchestrator.replicator.logs import ChangeLogs, History
from orchestrator.replicator.ops import HIDDEN
from orchestrator.replicator.stream import ADMISSION_S, Tell

_ASKED: Final = frozenset(
    {
        Kind.HELLO,
        Kind.VERDICT,
        Kind.OPERATION,
        Kind.SKIP,
        Kind.RECORD,
        Kind.COPY_BEGIN,
        Kind.COPY_DONE,
        Kind.FLUSH,
        Kind.ALIVE,
        Kind.ASK,
    }
)
SESSIONS_MAX: Final = 16  # three connections a session, a few half-open ones; more is somebody else's game
HANDSHAKE_S: Final = 5.0


class Follower:
    """Listens always; applies only the stream of the primary that the agent ordered to follow."""

    def __init__(
        self,
        settings: LinkSettings,
        roots: Sequence[int],
        history: History,
        logs: ChangeLogs,
        life: Nonce,
        tell: Tell,
    ) -> None:
        self.settings = settings
        self.history = history
        self.logs = logs
        self.life = life
        self.tell = tell
        self.roots = roots
        self.applier = Applier(roots, logs.before_change)
        self.progress = threading.Condition()
        self.stream = ""
        self.applied = 0
        self.points = Points()
        self.flushed = 0
        self._record: Record | None = None
        self._admitted = threading.Condition()
        self._pending: dict[tuple[str, str], Connection] = {}
        self._session: _Session | None = None
        self._turn = threading.Lock()
        self._open_count = threading.BoundedSemaphore(SESSIONS_MAX)
        self._stopped = False
        self._listeners: list[socket.socket] = []

    # --- what the agent orders -----------------------------------------------------------------------------

    def listen(self) -> None:
        """Open the replication port on each path's address."""
        for address in self.settings.listen:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = socket.create_server((address, self.settings.port), family=family, backlog=16)
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener,), name="accept", daemon=True).start()

    @property
    def ports(self) -> list[int]:
        return [listener.getsockname()[1] for listener in self._listeners]

    def follow(self, record: Record) -> None:
        """Accept this record's primary from now on."""
        self.admit(record)

    def admit(self, record: Record) -> None:
        """The epoch is durable at the agent: go on under this record."""
        with self._admitted:
            if self._record is None or record.epoch >= self._record.epoch:
                self._record = record
            self._admitted.notify_all()

    def adopt(self) -> None:
        """The next handshake may overwrite files of unknown history: they are set aside."""
        self.history.change(may_adopt=True)

    def stop_following(self) -> None:
        """Close the stream and drop what is not applied; nothing is applied after the return (R10)."""
        with self._admitted:
            self._record = None
            self._admitted.notify_all()
        self._end_session()
        with self._turn:
            self.stream = ""
            self.applier.objects.clear()

    def stop(self) -> None:
        self._stopped = True
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
            listener.close()
        self.stop_following()
        for connection in list(self._pending.values()):
            connection.close()
        self.applier.close()

    def status(self) -> dict[str, Any]:
        session = self._session
        return {
            "stream": self.stream,
            "applied": self.applied,
            "points": self.points.done_to,
            "flushed": self.flushed,
            "connected": session is not None,
            "copying": self.applier.copying,
            "inconsistent": self.history.standing.inconsistent,
        }

    # --- connections ---------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopped:
            try:
                plain, _ = listener.accept()
            except OSError:
                return  # closed by stop
            if not self._open_count.acquire(blocking=False):
                plain.close()
                continue
            threading.Thread(target=self._welcome, args=(plain,), name="session", daemon=True).start()

    def _welcome(self, plain: socket.socket) -> None:
        try:
            plain.settimeout(HANDSHAKE_S)
            tune(plain)
            tls = self.settings.server.wrap_socket(plain, server_side=True)
            self._hello(tls)
        except (OSError, HafarmError) as fault:
            self._refuse(None, fault)
        finally:
            plain.close()
            self._open_count.release()

    def _hello(self, tls: ssl.SSLSocket) -> None:
        connection = Connection(tls, _ASKED)
        keep = False
        try:
            hello = connection.receive_one(Kind.HELLO, HANDSHAKE_S)
            identity = read_identity(hello)
            settings = self.settings
            check_identity(identity, certified(tls), settings.cluster, settings.module, settings.node)
            keep = self._sort(connection, identity, hello)
        except (OSError, HafarmError) as fault:
            self._refuse(connection, fault)
        finally:
            if not keep:
                connection.close()

    def _sort(self, connection: Connection, identity: Identity, hello: dict[str, Any]) -> bool:
        """Back and bulk wait for their forward connection, which is then served here; True: keep it open."""
        record = self._admit_offer(Record.from_dict(hello.get("record", {})), identity)
        session = str(hello.get("session"))
        if identity.channel in (BACK, BULK):
            connection.send(frames.encode_json(Kind.WELCOME, self._identity(identity.channel)), HANDSHAKE_S)
            while len(self._pending) >= SESSIONS_MAX:
                self._pending.pop(next(iter(self._pending))).close()
            self._pending[session, identity.channel] = connection
            return True
        if identity.channel != FORWARD:
            raise WireFault(f"a connection for {identity.channel!r:.40}")
        back, bulk = self._pending.pop((session, BACK), None), self._pending.pop((session, BULK), None)
        if back is None or bulk is None:
            raise WireFault("a forward connection without its two others")
        self._end_session()
        with self._turn:
            served = _Session(self, connection, back, bulk, record)
            self._session = served
            try:
                served.run(str(hello.get("stream")))
            finally:
                self._session = None
                back.close()
                bulk.close()
        return False

    def _admit_offer(self, offered: Record, identity: Identity) -> Record:
        """Ask the agent about a newer record; refuse an older one (R6)."""
        if offered.primary != identity.node:
            raise HandshakeRejected("foreign", f"{identity.node} shows a record of {offered.primary}")
        with self._admitted:
            if self._record is None:
                raise HandshakeRejected("not-following", f"{self.settings.node} follows nobody now")
        self.wait_admitted(offered)
        return offered

    def wait_admitted(self, offered: Record) -> None:
        """Return once this record may be obeyed; HandshakeRejected when it may not."""
        with self._admitted:
            known = self._record.epoch if self._record else NEVER
        if offered.epoch > known:
            self.tell({"event": "reign_offered", "record": offered.as_dict()})
        with self._admitted:
            self._admitted.wait_for(lambda: self._record is None or self._decides(offered.epoch), ADMISSION_S)
            if self._record is None or not self._decides(offered.epoch):
                raise HandshakeRejected("not-following", "the agent has not admitted the newer record")
            if offered.epoch < self._record.epoch or offered.nonce != self._record.nonce:
                raise HandshakeRejected("epoch", f"epoch {offered.epoch} is over, {self._record.epoch} rules")

    def _decides(self, epoch: Epoch) -> bool:
        return self._record is not None and self._record.epoch >= epoch

    def _refuse(self, connection: Connection | None, fault: Exception) -> None:
        reason = fault.reason if isinstance(fault, HandshakeRejected) else "broken"
        why = fault.why if isinstance(fault, HandshakeRejected) else str(fault)
        if isinstance(fault, ssl.SSLCertVerificationError):
            reason, why = "foreign", f"its certificate is not of this cluster ({fault.verify_message})"
        if reason in ("version", "foreign", "clone"):
            self.tell({"event": "handshake_refused", "peer": "", "verdict": reason, "why": why})
        if connection is None:
            return
        try:
            connection.send(
                frames.encode_json(Kind.REFUSED, {"reason": reason, "why": str(fault)[:500]}), 1.0
            )
        except ConnectionLost:
            pass  # it is gone; refused all the same

    def _end_session(self) -> None:
        session = self._session
        if session is not None:
            session.end()

    def _identity(self, channel: str) -> dict[str, Any]:
        settings = self.settings
        return Identity(settings.cluster, settings.module, settings.node, channel).as_dict()

    def welcome(self) -> dict[str, Any]:
        """What this copy says of itself."""
        empty = all(set(os.listdir(root)) <= {os.fsdecode(HIDDEN), "lost+found"} for root in self._plain())
        return self._identity(FORWARD) | {
            "life": self.life,
            "standing": self.history.standing.as_dict(),
            "stream": self.stream,
            "applied": self.applied,
            "empty": empty,
        }

    def _plain(self) -> list[int]:
        return [self.applier.objects.root(volume) for volume in range(self.applier.volumes)]


class _Session:
    """One primary's three connections, from the handshake to the end."""

    def __init__(
        self, follower: Follower, forward: Connection, back: Connection, bulk: Connection, record: Record
    ) -> None:
        self._follower = follower
        self._forward = forward
        self._back = back
        self._bulk = bulk
        self._record = record
        self._ended = threading.Event()
        self._failure: tuple[int, str] | None = None
        self._stream = ""
        self._syncs: set[Future[None]] = set()
        self._answers = Answers(follower.applier, follower.logs, record.primary)

    def end(self) -> None:
        self._ended.set()
        for connection in (self._forward, self._back, self._bulk):
            connection.close()

    def run(self, stream: str) -> None:
        """Serve until the connection ends; the acknowledgements go out from a thread of their own."""
        follower = self._follower
        timeout_s = max(follower.settings.silence_s * 4, 2.0)
        self._forward.send(frames.encode_json(Kind.WELCOME, follower.welcome()), HANDSHAKE_S)
        verdict = self._forward.receive_one(Kind.VERDICT, HANDSHAKE_S)
        if verdict.get("act") == "refuse":
            follower.tell(
                {
                    "event": "handshake_refused",
                    "peer": self._record.primary,
                    "verdict": verdict.get("verdict"),
                }
            )
            return
        self._begin(stream, verdict)
        follower.tell({"event": "stream_up", "peer": self._record.primary})
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
        follower = self._follower
        try:
            after = Position.from_list([stream, verdict.get("after")]).sequence
        except ValueError as fault:
            raise WireFault(f"a verdict without a place to begin: {fault}") from fault
        self._stream = stream
        if verdict.get("act") == "resume":
            if follower.stream != stream or follower.applied != after:
                raise WireFault("it resumes what was never begun")
            if not follower.history.standing.inconsistent:
                follower.history.add_reign(self._record.reign)
            return
        follower.applier.objects.clear()
        follower.logs.of[self._record.primary].pin_all()
        with follower.progress:
            follower.stream = stream
            follower.applied = after
            follower.points = Points()
            follower.points.done_to = after
            follower.flushed = 0

    def _apply_all(self, timeout_s: float) -> None:
        follower = self._follower
        while not self._ended.is_set():
            for frame in self._forward.receive(timeout_s):
                if frame.kind is Kind.ALIVE:
                    continue
                if frame.sequence != follower.applied + 1:
                    raise WireFault(f"number {frame.sequence} after {follower.applied}")
                self._obey(frame)
                with follower.progress:
                    follower.applied = frame.sequence
                    follower.progress.notify_all()

    def _obey(self, frame: Frame) -> None:
        if self._failure is not None:
            raise ApplyFailed("sync", *self._failure)
        follower = self._follower
        if frame.kind is Kind.OPERATION:
            sync = follower.applier.apply(codec.decode(frame.payload), frame.sequence)
            if sync is not None:
                self._watch(sync, frame.sequence, flush=False)
        elif frame.kind is Kind.RECORD:
            self._new_record(Record.from_dict(frame.json()))
        elif frame.kind is Kind.FLUSH:
            sync = follower.applier.begin_sync_all()
            self._watch(sync, frame.sequence, flush=True)
        elif frame.kind is Kind.COPY_BEGIN:
            self._copy_begin(frame.json())
        elif frame.kind is Kind.COPY_DONE:
            self._copy_done(frame)
        elif frame.kind is not Kind.SKIP:
            raise WireFault(f"{frame.kind.name} inside the stream")

    def _watch(self, sync: Future[None], sequence: int, flush: bool) -> None:
        points = self._follower.points
        points.begin(sequence)

        def ended(done: Future[None]) -> None:
            fault = done.exception()
            if fault is not None:
                number = fault.errno if isinstance(fault, OSError) and fault.errno else errno.EIO
                self._failure = (number, str(fault))
            elif flush:
                self._flushed(sequence)
            if fault is None:
                points.done(sequence)
            self._syncs.discard(done)
            with self._follower.progress:
                self._follower.progress.notify_all()

        self._syncs.add(sync)
        sync.add_done_callback(ended)

    def _flushed(self, sequence: int) -> None:
        """All up to here is on this disk: durable in the lineage before it is told (S11)."""
        follower = self._follower
        if follower.points.done_to + 1 < sequence and not follower.points.all_done_before(sequence):
            return  # an earlier point is still on its way; the next flush will say it
        if not follower.history.standing.inconsistent:
            position = Position(self._stream, sequence)
            try:
                follower.history.advance(position)
                follower.logs.of[self._record.primary].confirmed(position)
            except (OSError, HafarmError) as fault:
                self._failure = (errno.EIO, str(fault))
                return
        follower.flushed = max(follower.flushed, sequence)

    def _new_record(self, record: Record) -> None:
        if record.primary != self._record.primary:
            raise WireFault("a record of another primary")
        self._follower.wait_admitted(record)
        self._record = record
        if not self._follower.history.standing.inconsistent:
            self._follower.history.add_reign(record.reign)

    def _copy_begin(self, facts: dict[str, Any]) -> None:
        # Durable before the first overwritten byte: whatever happens now, this copy is no source (G3).
        self._follower.history.change(inconsistent=True)
        tag = str(facts.get("set_aside", ""))
        if not all(letter.isdigit() or letter == "-" for letter in tag):
            raise WireFault("a set-aside with a strange name")
        self._follower.applier.begin_copy(tag)

    def _copy_done(self, frame: Frame) -> None:
        follower = self._follower
        source = Standing.from_dict(follower.history.standing.as_dict() | frame.json())
        try:
            follower.applier.sync_all()
        except OSError as fault:
            raise ApplyFailed("flush", fault.errno or errno.EIO, str(fault)) from fault
        follower.history.change(
            reigns=source.reigns,
            inconsistent=False,
            may_adopt=False,
            position=Position(follower.stream, frame.sequence),
        )
        log = follower.logs.of[self._record.primary]
        log.release_all(frame.sequence)
        log.confirmed(Position(follower.stream, frame.sequence))
        log.unreadable = False
        follower.applier.end_copy()
        follower.flushed = frame.sequence

    def _acknowledge(self) -> None:
        """Tell progress as it comes, and life when there is none."""
        follower = self._follower
        idle_s = follower.settings.silence_s / 4
        told = Acknowledged(0, 0, 0)
        try:
            while not self._ended.is_set():
                with follower.progress:
                    if self._now() == told and self._failure is None:
                        follower.progress.wait(idle_s)
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
        follower = self._follower
        return Acknowledged(follower.applied, follower.points.reached(follower.applied), follower.flushed)

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
        follower = self._follower
        with follower.progress:
            follower.progress.wait_for(lambda: self._ended.is_set() or follower.applied >= sequence)

    def _fail(self, fault: HafarmError) -> None:
        if isinstance(fault, ApplyFailed) and self._failure is None:
            self._failure = (fault.number, str(fault))
            with self._follower.progress:
                self._follower.progress.notify_all()

    def _send_failure(self, number: int, why: str) -> None:
        follower = self._follower
        if number in (errno.EIO, errno.EROFS):
            follower.tell({"event": "volume_failed", "why": why})
        # What failed half-way is not repeated by a resume: this copy begins anew.
        with follower.progress:
            follower.stream = ""
        self._back.send(json_failure(number, why), 1.0)
        self._ended.wait(1.0)  # the primary reads it, then ends the session

    def _finish(self, helpers: list[threading.Thread], why: str) -> None:
        if self._failure is not None:
            helpers[0].join(3)
        self.end()
        with self._follower.progress:
            self._follower.progress.notify_all()
        wait(list(self._syncs))  # no position of this stream is written once another one begins
        for helper in helpers:
            helper.join(10)
        self._follower.tell({"event": "stream_down", "peer": self._record.primary, "why": why})


def json_failure(number: int, why: str) -> bytes:
    return frames.encode(Kind.FAILED, json.dumps({"number": number, "why": why[:500]}).encode())
