"""The stream to one other node: dialled, judged, sent, listened to, and its copy brought up to date."""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import replace
from typing import Any, Final

from orchestrator.host import disk
from orchestrator.mirror import frames
from orchestrator.mirror.frames import (
    Acknowledged,
    HandshakeRejected,
    Identity,
    Kind,
    WireFault,
    believed,
)
from orchestrator.mirror.lineage import Joiner, Position, Ruling, Standing, Verdict, judge, position_fits
from orchestrator.mirror.pace import Finding
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NAME_PATTERN, NodeName, Nonce
from orchestrator.replicator.copy import Copier
from orchestrator.replicator.link import (
    ADMISSION_S,
    ANSWER_S,
    BACK,
    BULK,
    FORWARD,
    LIFE_SIGN,
    REST_SIGN,
    Connection,
    ConnectionLost,
    Tell,
    dial,
    quoted,
)
from orchestrator.replicator.origin import Origin
from orchestrator.replicator.pacing import Pacing
from orchestrator.replicator.plan import CopyPlan
from orchestrator.replicator.verify import Verifier

_READER_S: Final = 0.01
"""A thread that has read something says so in less, once this one waits."""

_CHECK_S: Final = 0.05
"""Between two looks at what is measured in seconds."""

_REPLIES: Final = frozenset(
    {Kind.WELCOME, Kind.REFUSED, Kind.ACKNOWLEDGED, Kind.FAILED, Kind.ALIVE, Kind.ANSWER}
)


class PeerLink:
    """The stream to one other node: dialled again for ever, judged at every handshake (G5)."""

    def __init__(self, primary: Origin, peer: NodeName) -> None:
        self._primary = primary
        self._settings = primary.settings
        self.peer = peer
        self.is_up = False
        self.flushed = 0
        self._points_at = (0, 0.0)
        self.pacing = Pacing(self._settings.slow_peer)
        self._withheld = False
        """It lacks nothing, and is too slow to be waited for."""
        self._life = Nonce("")
        self._verdict = ""
        self._stopped = threading.Event()
        self._connections: list[Connection] = []
        self._bulk: Connection | None = None
        self._bulk_lock = threading.Lock()
        self._forward: tuple[Connection, Connection] | None = None
        """The way there, and the one back, while they may be used."""
        self._sending = threading.Lock()
        self._sent_at = 0.0
        self._heard_at = 0.0
        self._asked_at = 0.0
        """When the first thing was sent after the last one that was heard."""
        self._hurried = False
        """Somebody waits for what is queued."""
        self._copy_target = 0
        self._copier: Copier | None = None
        self._copying = threading.Lock()
        """Held while a copy ends: by its last frame, or with its connection."""
        self._why = "not connected yet"
        self._broken_at: float | None = None
        self._delay_s = 0.0
        self._outbox = primary.outbox
        self._thread = threading.Thread(target=self._run, name=f"link {peer}", daemon=True)

    def start(self, after_s: float = 0.0) -> None:
        """Dial, from then on."""
        self._broken_at = time.monotonic()
        self._delay_s = after_s
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self.end_session("stopped")

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join(10)

    def end_session(self, why: str) -> None:
        """End the connections; the loop dials anew."""
        self._why = why
        for connection in self._connections:
            connection.close()

    def status(self) -> dict[str, Any]:
        return {
            "up": self.is_up,
            "flushed": self.flushed,
            "verdict": self._verdict,
            "why": self._why,
            "copy": self._copier.progress() if self._copier else None,
            "slow": self.pacing.facts(),
        }

    # --- one session after the other -----------------------------------------------------------------------

    def _run(self) -> None:
        self._stopped.wait(self._delay_s)
        while not self._stopped.is_set():
            try:
                self._session()
            except HandshakeRejected as refusal:
                self._why = str(refusal)
                if refusal.reason not in ("not-following", "busy"):
                    self._tell("handshake_refused", verdict=refusal.reason, why=refusal.why)
            except (HafarmError, OSError) as fault:
                self._why = str(fault)
            finally:
                self._end()
            self._give_up_when_late()
            self._stopped.wait(min(0.2, self._settings.silence_s / 4))

    def _end(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections = []
        self._bulk = None
        with self._copying:
            copier, self._copier = self._copier, None
        if copier is not None:
            copier.cancel()
            # It is begun anew, whatever of it is queued: the peer may not even know that one began.
            self._outbox.detach(self.peer)
        if self.is_up:
            self.is_up = False
            self._broken_at = time.monotonic()
            self._outbox.disconnect(self.peer)
            self._tell("stream_down", why=self._why)

    def _give_up_when_late(self) -> None:
        """Silent for T: the member is told lost, once for each break."""
        if self._broken_at is not None and time.monotonic() - self._broken_at >= self._settings.silence_s:
            self._broken_at = None
            self._primary.lost(self.peer, self._why)

    def _session(self) -> None:
        session = secrets.token_hex(16)
        back, _ = self._open(session, BACK)
        bulk, _ = self._open(session, BULK)
        forward, welcome = self._open(session, FORWARD)
        ruling, resumes = self._judge(welcome)
        self._verdict = ruling.verdict.value
        if ruling.refused or ruling.verdict is Verdict.UNPROVEN:
            self._refuse(forward, ruling)
            return
        self._begin(forward, ruling, resumes, int(welcome["applied"]))
        self._bulk = bulk
        self._serve(forward, back)

    def _open(self, session: str, channel: str) -> tuple[Connection, dict[str, Any]]:
        settings = self._settings
        record = self._primary.record
        assert record is not None
        timeout_s = max(settings.silence_s, 0.5)
        connection = dial(settings, self.peer, _REPLIES, timeout_s)
        self._connections.append(connection)
        identity = Identity(settings.cluster, settings.module, settings.node, channel)
        hello = identity.as_dict() | {
            "session": session,
            "stream": self._primary.stream,
            "record": record.as_dict(),
            "patterns": settings.patterns,
        }
        connection.send(frames.encode_json(Kind.HELLO, hello), timeout_s)
        # The joiner may have to ask its agent about a newer record: it answers within its own bound.
        welcome = connection.receive_one(Kind.WELCOME, timeout_s + ADMISSION_S)
        frames.read_identity(welcome)
        return connection, welcome

    def _judge(self, welcome: dict[str, Any]) -> tuple[Ruling, bool]:
        primary = self._primary
        assert primary.record is not None
        with believed("a WELCOME"):
            standing = Standing.from_dict(welcome["standing"])
            applied, empty, life = welcome["applied"], welcome["empty"], welcome["life"]
            if type(applied) is not int or not 0 <= applied < 1 << 63 or not isinstance(empty, bool):
                raise ValueError("other fields than ours")
            if not NAME_PATTERN.fullmatch(life):
                raise ValueError("a life that is no nonce")
        self._life = Nonce(life)
        resumes = welcome.get("stream") == primary.stream and self._outbox.can_resume(self.peer, applied)
        log = primary.logs.of[self.peer]
        why = "the may-differ log is unreadable" if log.unreadable else ""
        why = why or ("more changed than its may-differ log holds" if log.log.overflowed else "")
        why = why or position_fits(log.log.baseline, standing)
        joiner = Joiner(self.peer, standing, empty, resumes)
        ruling = judge(primary.record, primary.history.standing, joiner, not why, why)
        return replace(ruling, why=ruling.why or log.in_bulk()), ruling.verdict is Verdict.IN_SYNC

    def _refuse(self, forward: Connection, ruling: Ruling) -> None:
        forward.send(
            frames.encode_json(Kind.VERDICT, {"act": "refuse", "verdict": ruling.verdict.value}), 1.0
        )
        if ruling.verdict is Verdict.UNPROVEN:
            self._broken_at = None
            self._outbox.detach(self.peer)
            self._primary.lost(self.peer, ruling.why)
        else:
            self._tell("handshake_refused", verdict=ruling.verdict.value, why=ruling.why)
        self._why = f"{ruling.verdict.value}: {ruling.why}"
        self._stopped.wait(0.5)  # the answer is a bid, or an operator: asking faster changes nothing

    def _begin(self, forward: Connection, ruling: Ruling, resumes: bool, applied: int) -> None:
        outbox = self._outbox
        assert resumes != ruling.copy
        if resumes and not outbox.resume(self.peer, applied):
            raise ConnectionLost("what the peer missed is no longer kept")
        start = applied if resumes else self._prepare_copy(ruling)
        if not resumes:
            facts = {"verdict": ruling.verdict.value, "full": ruling.full, "why": ruling.why}
            self._tell("copy_begins", **facts, set_aside=ruling.set_aside)
        act = "resume" if resumes else "copy"
        verdict = {"act": act, "verdict": ruling.verdict.value, "after": start}
        forward.send(frames.encode_json(Kind.VERDICT, verdict), max(self._settings.silence_s, 0.5))

    def _serve(self, forward: Connection, back: Connection) -> None:
        self.is_up = True
        self._broken_at = None
        self._points_at = (0, time.monotonic())
        self.pacing.forget()
        self._heard_at = time.monotonic()
        self._tell("stream_up")
        if self._copier is not None:
            self._copier.start()
        else:
            self._tell_ready_if_joining()
        reader = threading.Thread(target=self._read_back, args=(back, forward), daemon=True)
        reader.start()
        self._forward = forward, back
        try:
            self._send_on(forward, back)
        finally:
            self._forward = None
            back.close()
            reader.join(10)

    def _send_on(self, forward: Connection, back: Connection) -> None:
        sign_s, resting_s = (share * self._settings.silence_s for share in (LIFE_SIGN, REST_SIGN))
        while not self._stopped.is_set():
            asking_s = min(sign_s, self._patience_s())
            # A point is owed until it is on the peer's disk, long after it is applied.
            pace_s = self._outbox.wait_for_news(
                self.peer, asking_s, asking_s if self._primary.oldest_held() else resting_s
            )
            with self._sending:
                is_due = time.monotonic() - self._sent_at >= pace_s
                self._send_batch(forward, back, frames.encode(Kind.ALIVE) if is_due else b"")
            self._check_silence(back)
            self._check_room(back)
            if self._hurried:
                self.hurry()

    def _patience_s(self) -> float:
        """For how much longer the peer may be silent: T where it is asked something."""
        if self._heard_at >= self._asked_at:
            return self._settings.silence_s
        return max(0.0, self._asked_at + self._settings.silence_s - time.monotonic())

    def _check_silence(self, back: Connection) -> None:
        if self._patience_s() <= 0 and not self._is_late(back):
            raise ConnectionLost(f"silent for {self._settings.silence_s} s while asked")

    def _is_late(self, back: Connection) -> bool:
        """Whether this process was: what has come and was not taken in yet is an answer too."""
        return back.has_arrived() or self._stopped.wait(_READER_S) or self._patience_s() > 0

    def _send_batch(self, forward: Connection, back: Connection, otherwise: bytes) -> None:
        """What is queued, at most one batch of it. Held: `_sending`, so that batches leave in order."""
        data = self._outbox.take(self.peer)
        if data is None:
            raise ConnectionLost(self._why)
        if data or otherwise:
            if self._heard_at >= self._asked_at:
                self._asked_at = time.monotonic()
            # Who takes nothing for so long shows in its acknowledgements before; who is dead, in its silence.
            look = LIFE_SIGN * self._settings.silence_s, lambda: self._check_silence(back)
            forward.send(data or otherwise, self._settings.ack_timeout_s, look)
            self._sent_at = time.monotonic()
        if self._outbox.is_behind(self.peer):
            self._hurried = True  # more than one batch: whoever sends goes on

    def hurry(self) -> None:
        """Send what is queued, in the caller's thread; one that is at it already sends this too."""
        self._hurried = True
        while self._hurried and self._sending.acquire(blocking=False):
            try:
                self._hurried = False
                connections = self._forward
                if connections is not None:
                    self._send_batch(*connections, b"")
            except ConnectionLost:
                return  # the link's own thread finds out, and ends the session
            finally:
                self._sending.release()

    def _read_back(self, back: Connection, forward: Connection) -> None:
        checked_at = 0.0
        try:
            while True:
                # Whoever sends watches for an answer; here the last sign of a stream at rest was in vain.
                arrived = back.receive((1 + REST_SIGN) * self._settings.silence_s)
                now = self._heard_at = time.monotonic()
                for frame in arrived:
                    self._heard(frame)
                if now - checked_at >= _CHECK_S:
                    checked_at = now
                    self._check_progress()
                    self._look_at_pace()
        except (HafarmError, OSError) as fault:
            if disk.is_disk_fault(fault):
                self._primary.tell({"event": "volume_failed", "why": str(fault)})
            if self.is_up and not self._stopped.is_set():
                self._why = str(fault)
        finally:
            self._outbox.disconnect(self.peer)
            forward.close()

    def _heard(self, frame: frames.Frame) -> None:
        if frame.kind is Kind.ACKNOWLEDGED:
            self._progressed(Acknowledged.decode(frame.payload))
        elif frame.kind is Kind.FAILED:
            why = quoted(frame.json().get("why"))
            self._outbox.detach(self.peer)
            self._broken_at = None
            self._primary.lost(self.peer, why)
            raise ConnectionLost(why)
        elif frame.kind is not Kind.ALIVE:
            raise WireFault(f"{frame.kind.name} on the way back")

    def _progressed(self, progress: Acknowledged) -> None:
        if max(progress.applied, progress.points, progress.flushed) > self._outbox.last:
            raise WireFault("it acknowledges what was never sent")
        self._primary.acknowledged(self.peer, progress)  # first of all: somebody waits for it
        if progress.points > self._points_at[0] or not self._primary.oldest_held():
            self._points_at = (progress.points, time.monotonic())
        self._look_at_pace(progress.points)
        if progress.flushed > self.flushed:
            self.flushed = progress.flushed
            self._flushed_to(progress.flushed)

    def _flushed_to(self, flushed: int) -> None:
        log = self._primary.logs.of[self.peer]
        if self._copier is None:
            log.confirmed(self._durable_on_both(flushed))
        elif self._copy_target and flushed >= self._copy_target:
            log.unpin(self._copy_target)
            log.confirmed(self._durable_on_both(flushed))
            log.unreadable = False
            self._copier, self._copy_target = None, 0
            self._tell_ready_if_joining()

    def _durable_on_both(self, flushed: int) -> Position:
        """This disk is behind what was sent since it was flushed last: an entry needs both (S2)."""
        primary = self._primary
        own = primary.history.standing.position
        if own is None or own.stream != primary.stream:
            return Position(primary.stream, 0)
        return Position(primary.stream, min(flushed, own.sequence))

    def _check_progress(self) -> None:
        if self._primary.oldest_held() and self.peer in self._primary.required:
            waited_s = time.monotonic() - self._points_at[1]
            if waited_s > self._settings.ack_timeout_s:
                self._outbox.detach(self.peer)
                raise ConnectionLost(f"acknowledged nothing for {waited_s:.1f} s while asked")
        self._check_room()

    def _check_room(self, back: Connection | None = None) -> None:
        """Whoever writes waits for a full window, needed or not: not for one that takes nothing out of it."""
        waited_s = self._outbox.holds_up_s(self.peer)
        if waited_s <= self._settings.ack_timeout_s:
            return
        if back is not None and (back.has_arrived() or self._stopped.wait(_READER_S)):
            return  # this process may be the late one: whoever reads looks next
        self._outbox.detach(self.peer)
        raise ConnectionLost(f"applied nothing for {waited_s:.1f} s while the window was full")

    def _look_at_pace(self, reached: int = 0) -> None:
        """Tell what is new of how fast its disk is; ConnectionLost where the policy waits no longer."""
        if self._copier is not None:
            self.pacing.forget()  # durable points wait behind the blocks of a copy, not for the disk
            return
        finding = self.pacing.look(reached)
        facts = self.pacing.facts() or {}
        if finding is Finding.SLOW:
            self._tell("peer_slow", **facts)
        elif finding is Finding.FAST_AGAIN:
            self._tell("peer_fast_again")
        elif finding is Finding.GIVE_UP and self.peer in self._primary.required:
            after_s = self._settings.slow_peer.after_s
            why = f"slow for {after_s:g} s, up to {facts['took_s']:.1f} s for a synced write"
            self._outbox.detach(self.peer)
            self._broken_at = None
            self._primary.lost(self.peer, why)
            raise ConnectionLost(why)
        if self._withheld and self.pacing.may_join():
            self.tell_ready_if_complete()

    # --- the copy ------------------------------------------------------------------------------------------

    def _prepare_copy(self, ruling: Ruling) -> int:
        """Attach the peer for a copy; the number after which its stream begins.

        Changes are watched before it is attached, and its first frame is the copy's beginning: a live
        operation that came between would be refused by a tree that is not the primary's yet.
        """
        primary = self._primary
        assert primary.record is not None
        log = primary.logs.of[self.peer]
        if ruling.full:
            log.forget_baseline()
        tag = f"{int(time.time())}-{primary.record.epoch}" if ruling.set_aside else ""
        begin = {"full": ruling.full, "set_aside": tag, "why": ruling.why, "verdict": ruling.verdict.value}
        if tag:
            begin["reigns"] = primary.history.standing.as_dict()["reigns"]
        plan = CopyPlan(ruling.full, ruling.why)
        self._copy_target = 0
        self.flushed = 0
        copier = Copier(primary, self.peer, self.ask, plan, lambda: self._copied(copier), self._copy_failed)
        self._copier = copier
        return self._outbox.attach(self.peer, Kind.COPY_BEGIN, json.dumps(begin).encode())

    def _copied(self, copier: Copier) -> None:
        """Everything to copy is in the stream; what follows is the barrier (S9) and the lineage (G3)."""
        primary = self._primary
        primary.flush()
        standing = primary.history.standing.as_dict()
        told = {key: standing[key] for key in ("reigns", "forced")}
        flushed = self._durable_on_both(self._outbox.last).sequence
        done = json.dumps(told | {"flushed": flushed}).encode()
        with self._copying:
            if self._copier is copier:  # else its connection ended, and another copy may be under way
                self._copy_target = self._outbox.put(Kind.COPY_DONE, done, self.peer, wait=False)

    def _copy_failed(self, why: str) -> None:
        self._outbox.detach(self.peer)
        self.end_session(why)

    def ask(self, request: dict[str, Any], timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """One question to the peer's tree over the bulk connection, and its answer."""
        with self._bulk_lock:
            bulk = self._bulk
            if bulk is None:
                raise ConnectionLost(self._why)
            self.hurry()  # the answer waits for what is queued
            return bulk.ask(request, timeout_s)

    def tell_progress(self) -> None:
        """Say now how far the copy is, if one runs."""
        if self._copier is not None:
            self._copier.tell_progress()

    def verifier(self, tell: Tell = lambda report: None) -> Verifier:
        return Verifier(self._primary, self.ask, tell)

    def tell_ready_if_complete(self) -> None:
        """For a new record: a node that streams, and has nothing left to be copied, may be in it."""
        if self.is_up and self._copier is None:
            self._tell_ready_if_joining()

    def _tell_ready_if_joining(self) -> None:
        record = self._primary.record
        joins = record is not None and self.peer not in record.in_sync
        self._withheld = joins and not self.pacing.may_join()
        if joins and not self._withheld:
            self._tell("member_ready", life=self._life)

    def _tell(self, event: str, **facts: object) -> None:
        self._primary.tell({"event": event, "peer": self.peer, **facts})
