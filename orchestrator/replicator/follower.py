"""The follower's side of the replication: accept one primary's stream, apply it in order, acknowledge."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from orchestrator.host.tls_socket import TlsSocket
from orchestrator.mirror import frames
from orchestrator.mirror.frames import (
    HandshakeRejected,
    Identity,
    Kind,
    WireFault,
    believed,
    check_identity,
    read_identity,
)
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NEVER, Epoch, Nonce
from orchestrator.model.record import Record
from orchestrator.replicator.apply import Applier
from orchestrator.replicator.history import History
from orchestrator.replicator.incoming import HANDSHAKE_S, Session
from orchestrator.replicator.link import (
    ADMISSION_S,
    BACK,
    BULK,
    FORWARD,
    Connection,
    ConnectionLost,
    LinkSettings,
    Tell,
    certified,
    quoted,
    tune,
)
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.ops import HIDDEN
from orchestrator.replicator.points import Points
from orchestrator.replicator.trees import Excluded, nothing_excluded
from orchestrator.replicator.workers import Workers

log = logging.getLogger("hafarm.follower")

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
SYNC_THREADS: Final = 8  # fsyncs of different files overlap in the file system's journal; more gained nothing
SESSIONS_MAX: Final = 16  # three connections a session, a few that end; more is somebody else's game
KEPT_S: Final = 1.0  # two threads of this process have to run meanwhile; far less than a handshake may take
GREETINGS_MAX: Final = (
    64  # of whoever dials: an honest one is through in milliseconds, before so many others come
)
ACCEPT_AGAIN_S: Final = 0.1  # descriptors come free within one sync of a file


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
        excluded: Excluded = nothing_excluded,
    ) -> None:
        self.settings = settings
        self.history = history
        self.logs = logs
        self.life = life
        self.tell = tell
        self.roots = roots
        self.excluded = excluded
        self.applier = Applier(roots, logs, excluded)
        self.syncers = Workers(SYNC_THREADS, "sync")
        self.progress = threading.Condition()
        self.busy = threading.Event()
        """Set with every change, for whoever notes that this node is at work."""
        self.stream = ""
        self.applied = 0
        self.points = Points()
        self.flushed = 0
        self.begun = self.ended = 0
        self.on_disk: int | None = None
        self.applying = threading.Lock()
        """Held while a frame is obeyed."""
        self.keeping = threading.Lock()
        """Held while a position is written."""
        self._record: Record | None = None
        self._given_up = False
        self._admitted = threading.Condition()
        self._door = threading.Condition()
        """Held while one of the next two changes."""
        self._greetings: dict[object, socket.socket] = {}
        """Who has not said yet who it is, the eldest first."""
        self._pending: dict[tuple[str, str], Connection] = {}
        self._session: Session | None = None
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
            if not self._given_up and (self._record is None or record.epoch >= self._record.epoch):
                self._record = record
            self._admitted.notify_all()

    def adopt(self) -> None:
        """The next handshake may overwrite files of unknown history: they are set aside."""
        self.history.change(may_adopt=True)

    @property
    def mark(self) -> int | None:
        """Changes with everything that is applied; None while something is."""
        begun = self.begun
        return begun if begun == self.ended else None

    def interrupt(self) -> None:
        """Close the stream that runs; nothing of it is applied after the return, but another may begin."""
        session = self._session
        if session is not None:
            session.abandon()
        with self._admitted:
            self._admitted.notify_all()  # it may wait for the agent, who waits for us
        with self.applying, self.keeping:
            pass

    def stop_following(self) -> None:
        """Close the stream and drop what is not applied; nothing is applied after the return (R10)."""
        with self._admitted:
            self._record = None
            self._admitted.notify_all()
        self.interrupt()
        self.stream = ""
        self._let_go()

    def give_up(self) -> None:
        """This disk failed: nobody is followed any more, whoever is admitted."""
        with self._admitted:
            self._given_up = True
        self.stop_following()

    def _let_go(self) -> None:
        """Close the files of a stream that is over; whoever comes last, as the gate waits for no thread."""
        if self._record is None and self._turn.acquire(blocking=False):
            try:
                self.applier.objects.clear()
            finally:
                self._turn.release()

    def stop(self) -> None:
        self._stopped = True
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
            listener.close()
        self.stop_following()
        with self._turn:
            pass
        for connection in list(self._pending.values()):
            connection.close()
        self.syncers.close()
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
            except OSError as fault:
                # Closed by stop; or no descriptor is free now: the next node is heard all the same.
                if not self._stopped:
                    log.warning("no connection is taken: %s", fault)
                    time.sleep(ACCEPT_AGAIN_S)
                continue
            threading.Thread(target=self._welcome, args=(plain,), name="session", daemon=True).start()

    def _welcome(self, plain: socket.socket) -> None:
        greeting = object()
        tls: TlsSocket | None = None
        try:
            plain.settimeout(HANDSHAKE_S)
            tune(plain)
            self._greet(greeting, plain)
            tls = TlsSocket(plain, self.settings.server)
            tls.handshake(time.monotonic() + HANDSHAKE_S)
        except OSError as fault:
            self._refuse(None, fault)
            plain.close()
            tls = None
        try:
            if tls is not None:
                self._hello(tls, greeting)
        finally:
            self._greeted(greeting)

    def _greet(self, greeting: object, plain: socket.socket) -> None:
        """Somebody dialled, nobody knows who: the one who has not said so for longest makes room."""
        with self._door:
            while len(self._greetings) >= GREETINGS_MAX:
                eldest = self._greetings.pop(next(iter(self._greetings)))
                try:
                    eldest.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
                except OSError:
                    pass  # it went away by itself
            self._greetings[greeting] = plain

    def _greeted(self, greeting: object) -> None:
        with self._door:
            self._greetings.pop(greeting, None)

    def _hello(self, tls: TlsSocket, greeting: object) -> None:
        connection = Connection(tls, _ASKED)
        keep = is_counted = False
        try:
            hello = connection.receive_one(Kind.HELLO, HANDSHAKE_S)
            identity = read_identity(hello)
            settings = self.settings
            check_identity(identity, certified(tls), settings.cluster, settings.module, settings.node)
            self._greeted(greeting)
            is_counted = self._open_count.acquire(blocking=False)
            if not is_counted:
                raise HandshakeRejected("busy", f"{SESSIONS_MAX} connections of our nodes are being served")
            keep = self._sort(connection, identity, hello)
        except (OSError, HafarmError) as fault:
            self._refuse(connection, fault)
        finally:
            if is_counted:
                self._open_count.release()
            if not keep:
                connection.close()

    def _sort(self, connection: Connection, identity: Identity, hello: dict[str, Any]) -> bool:
        """Back and bulk wait for their forward connection, which is then served here; True: keep it open."""
        with believed("a HELLO"):
            offered = Record.from_dict(hello["record"])
            session, stream = (_short(hello[what]) for what in ("session", "stream"))
        if hello.get("patterns", self.settings.patterns) != self.settings.patterns:
            raise HandshakeRejected("patterns", "exclude or only of its directories are others than here")
        record = self._admit_offer(offered, identity)
        if identity.channel in (BACK, BULK):
            connection.send(frames.encode_json(Kind.WELCOME, self._identity(identity.channel)), HANDSHAKE_S)
            self._keep(session, identity.channel, connection)
            return True
        if identity.channel != FORWARD:
            raise WireFault(f"a connection for {identity.channel!r:.40}")
        with self._door:
            # Theirs were welcomed before this one was dialled, by threads that may not have kept them yet.
            self._door.wait_for(lambda: {(session, BACK), (session, BULK)} <= self._pending.keys(), KEPT_S)
            back, bulk = (self._pending.pop((session, channel), None) for channel in (BACK, BULK))
        if back is None or bulk is None:
            for other in (back, bulk):
                if other is not None:
                    other.close()
            raise WireFault("a forward connection without its two others")
        self._end_session()
        try:
            with self._turn:
                self._serve(Session(self, connection, back, bulk, record), record, stream)
        finally:
            back.close()
            bulk.close()
            self._let_go()
        return False

    def _keep(self, session: str, channel: str, connection: Connection) -> None:
        """Keep it for its forward connection, which comes next."""
        gone = []
        with self._door:
            known = self._pending.pop((session, channel), None)
            while len(self._pending) >= SESSIONS_MAX:
                gone.append(self._pending.pop(next(iter(self._pending))))
            self._pending[session, channel] = connection
            self._door.notify_all()
        for other in (*gone, *([known] if known is not None else [])):
            other.close()

    def _serve(self, session: Session, record: Record, stream: str) -> None:
        self._session = session
        try:
            self.wait_admitted(record)  # again: whoever stopped following meanwhile has not seen this one
            session.run(stream)
        finally:
            self._session = None

    def _admit_offer(self, offered: Record, identity: Identity) -> Record:
        """Ask the agent about a newer record; refuse an older one (R6)."""
        if offered.primary != identity.node:
            raise HandshakeRejected("foreign", f"{identity.node} shows a record of {offered.primary}")
        with self._admitted:
            if self._record is None:
                raise HandshakeRejected("not-following", f"{self.settings.node} follows nobody now")
        return self.wait_admitted(offered)

    def wait_admitted(self, offered: Record, given_up: Callable[[], bool] = lambda: False) -> Record:
        """The record of this epoch as the agent admitted it; HandshakeRejected when it is none, or over."""
        with self._admitted:
            known = self._record.epoch if self._record else NEVER
        if offered.epoch > known:
            self.tell({"event": "reign_offered", "record": offered.as_dict()})
        with self._admitted:
            self._admitted.wait_for(
                lambda: self._record is None or given_up() or self._decides(offered.epoch), ADMISSION_S
            )
            if self._record is None or not self._decides(offered.epoch):
                raise HandshakeRejected("not-following", "the agent has not admitted the newer record")
            if offered.epoch < self._record.epoch or offered.nonce != self._record.nonce:
                raise HandshakeRejected("epoch", f"epoch {offered.epoch} is over, {self._record.epoch} rules")
            return self._record

    def _decides(self, epoch: Epoch) -> bool:
        return self._record is not None and self._record.epoch >= epoch

    def _refuse(self, connection: Connection | None, fault: Exception) -> None:
        reason = fault.reason if isinstance(fault, HandshakeRejected) else "broken"
        why = fault.why if isinstance(fault, HandshakeRejected) else str(fault)
        if isinstance(fault, ssl.SSLCertVerificationError):
            reason, why = "foreign", f"its certificate is not of this cluster ({fault.verify_message})"
        if reason in ("version", "foreign", "clone"):
            self.tell({"event": "handshake_refused", "peer": "", "verdict": reason, "why": quoted(why)})
        if isinstance(fault, WireFault):  # of a node of ours: the certificate was seen
            log.warning("a connection was refused: %s", quoted(why))
        if connection is None:
            return
        try:
            connection.send(
                frames.encode_json(Kind.REFUSED, {"reason": reason, "why": quoted(str(fault))}), 1.0
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
        return self._identity(FORWARD) | {
            "life": self.life,
            "standing": self.history.standing.as_dict(),
            "stream": self.stream,
            "applied": self.applied,
            "empty": self._is_empty(),
        }

    def _is_empty(self) -> bool:
        """Nothing that is replicated is here."""
        for volume, root in enumerate(self._plain()):
            with os.scandir(root) as items:
                for item in items:
                    name, is_directory = os.fsencode(item.name), item.is_dir(follow_symlinks=False)
                    own = name in (HIDDEN, b"lost+found")
                    if not own and not self.excluded(volume, name, is_directory):
                        return False
        return True

    def _plain(self) -> list[int]:
        return [self.applier.objects.root(volume) for volume in range(self.applier.volumes)]


def _short(told: Any) -> str:
    if not isinstance(told, str) or len(told) > 64:
        raise ValueError("not the name of a session or stream")
    return told
