"""Two sides that lie: a primary that sends what it likes, and a follower that answers as it likes."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import random
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.host.tls_socket import TlsSocket
from orchestrator.mirror import frames
from orchestrator.mirror.frames import Acknowledged, Frame, Identity, Kind
from orchestrator.mirror.lineage import Standing
from orchestrator.model.errors import HafarmError
from orchestrator.model.record import Record
from orchestrator.replicator.link import BACK, BULK, FORWARD, Connection, LinkSettings, dial
from tests.replicator.pair import CLUSTER, LYON, MODULE, PARIS, Pair
from tests.support.waiting import eventually

ALL = frozenset(Kind)
WAIT_S = 5.0


def quick(pair: Pair, **changes: Any) -> None:
    """The primary to come waits for less, or keeps less."""
    settings = pair.settings
    pair.settings = lambda *given: dataclasses.replace(settings(*given), **changes)  # type: ignore


class FalsePrimary:
    """Paris' end of the three connections, without anything behind it."""

    def __init__(self, pair: Pair, record: Record, stream: str = "") -> None:
        self._settings: LinkSettings = pair.settings(PARIS)
        self._record = record
        self.stream = stream or secrets.token_hex(16)
        self.session = secrets.token_hex(16)
        self.connections: list[Connection] = []

    def open(self, channel: str, /, **lies: Any) -> tuple[Connection, dict[str, Any]]:
        connection = dial(self._settings, LYON, ALL, WAIT_S)
        self.connections.append(connection)
        hello = {
            **Identity(CLUSTER, MODULE, PARIS, channel).as_dict(),
            "session": self.session,
            "stream": self.stream,
            "record": self._record.as_dict(),
            **lies,
        }
        connection.send(frames.encode_json(Kind.HELLO, hello), WAIT_S)
        return connection, connection.receive_one(Kind.WELCOME, WAIT_S)

    def begin(self, act: str = "copy", after: Any = 0, **lies: Any) -> dict[str, Any]:
        """The handshake, up to the verdict; what the follower says of itself."""
        self.back, _ = self.open(BACK)
        self.bulk, _ = self.open(BULK)
        self.forward, welcome = self.open(FORWARD)
        verdict = {"act": act, "verdict": "first start", "after": after, **lies}
        self.forward.send(frames.encode_json(Kind.VERDICT, verdict), WAIT_S)
        return welcome

    def ask(self, **request: Any) -> dict[str, Any]:
        self.forward.send(frames.encode(Kind.ALIVE), WAIT_S)  # a stream that rests is not one that ended
        self.bulk.send(frames.encode_json(Kind.ASK, request), WAIT_S)
        return self.bulk.receive_one(Kind.ANSWER, 30)

    def is_ended(self) -> bool:
        """The follower has closed the stream."""
        try:
            self.back.receive(0.05)
        except HafarmError as fault:
            return "silent" not in str(fault) and "timed out" not in str(fault)
        return False

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


def raw(kind: int, payload: bytes, sequence: int, length: int | None = None) -> bytes:
    """A frame whose header says what it likes."""
    return struct.pack("<IHHQ", len(payload) if length is None else length, kind, 0, sequence) + payload


class FalseFollower:
    """Lyon's end of the three connections. What it says is given by functions."""

    def __init__(self, pair: Pair) -> None:
        self._settings = pair.settings(LYON)
        self.welcome: dict[str, Any] = {}
        """What of the welcome is otherwise."""
        self.answer: Callable[[dict[str, Any]], Any] = lambda request: {}
        self.acknowledge: Callable[[int], bytes] = lambda applied: Acknowledged(
            applied, applied, applied
        ).encode()
        """What is sent back once everything up to this number has come."""
        self.received: list[Frame] = []
        self.asked: list[dict[str, Any]] = []
        self.sessions = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        pair.port = self.port
        self._connections: list[Connection] = []
        self._others: dict[str, list[Connection]] = {}
        self._start = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.end_sessions()

    def end_sessions(self) -> None:
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError, HafarmError):
            plain.settimeout(WAIT_S)
            tls = TlsSocket(plain, self._settings.server)
            tls.handshake()
            connection = Connection(tls, ALL)
            self._connections.append(connection)
            hello = connection.receive_one(Kind.HELLO, WAIT_S)
            channel = hello["channel"]
            welcome = {
                **Identity(CLUSTER, MODULE, LYON, channel).as_dict(),
                "life": "f" * 32,
                "standing": Standing().as_dict(),
                "stream": "",
                "applied": 0,
                "empty": True,
                **self.welcome,
            }
            connection.send(frames.encode_json(Kind.WELCOME, welcome), WAIT_S)
            if channel != FORWARD:
                self._others.setdefault(hello["session"], []).append(connection)
                if channel == BULK:
                    self._answer(connection)
                return
            back = self._others[hello["session"]][0]
            verdict = connection.receive_one(Kind.VERDICT, WAIT_S)
            self.sessions += 1
            self._follow(connection, back, int(verdict.get("after") or 0))

    def _follow(self, forward: Connection, back: Connection, applied: int) -> None:
        while True:
            for frame in forward.receive(None):
                self.received.append(frame)
                applied = frame.sequence or applied
            back.send(self.acknowledge(applied), WAIT_S)

    def _answer(self, bulk: Connection) -> None:
        while True:
            for frame in bulk.receive(None):
                request = frame.json()
                self.asked.append(request)
                answer = self.answer(request)
                if not isinstance(answer, bytes):
                    answer = frames.encode_json(Kind.ANSWER, answer)
                bulk.send(answer, WAIT_S)


def mutated(dice: random.Random, data: bytes) -> bytes:
    """Some of its bytes otherwise, fewer or more."""
    bad = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(len(bad) + 1)
        match dice.randrange(4):
            case 0:
                bad[at:at] = dice.randbytes(dice.randrange(1, 9))
            case 1:
                del bad[at : at + dice.randrange(1, 9)]
            case 2 if at < len(bad):
                bad[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF])
            case _:
                bad[at : at + 4] = struct.pack("<I", dice.choice([0, 0x7FFFFFFF, 0xFFFFFFFF, 70_000]))
    return bytes(bad)


def answer_of_an_empty_node(request: dict[str, Any]) -> dict[str, Any]:
    """As a follower whose tree holds nothing."""
    match request["do"]:
        case "summaries":
            return {
                "summaries": [
                    {"digests": "00" * 8 * buckets, "linked": {}} for _, buckets in request["items"]
                ]
            }
        case "names":
            return {"names": [], "whole": True}
        case "look":
            return {"entries": [None] * len(request["paths"])}
        case "passed_over":
            return {"count": 0}
    return {"digests": [[] for _ in request.get("items", ())]}


def lied(dice: random.Random, value: Any) -> Any:
    """The same with some of it otherwise."""
    if dice.random() < 0.08:
        return dice.choice(
            [None, -1, 1 << 70, "", "zz", [], {}, True, 1.5, "2e2e", "2f", "00", "61" * 200, float("inf")]
        )
    if isinstance(value, dict):
        return {key: lied(dice, each) for key, each in value.items() if dice.random() > 0.02}
    if isinstance(value, list):
        some = [lied(dice, each) for each in value if dice.random() > 0.03]
        return some * dice.choice([1, 1, 1, 1, 2])
    return value


class Canary:
    """A directory beside the tree that nobody may touch, and every way to it that a stream could try."""

    SECRET = b"nobody sent this"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "canary"
        (self.path / "below").mkdir(parents=True)
        (self.path / "victim").write_bytes(self.SECRET)
        (self.path / "below" / "victim").write_bytes(self.SECRET)
        self._before = self._picture()
        self._inotify = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for each in (self.path, self.path / "below", self.path / "victim", self.path / "below" / "victim"):
            assert _libc.inotify_add_watch(self._inotify, os.fsencode(each), _ALL_EVENTS) > 0

    def _picture(self) -> list[tuple[Any, ...]]:
        return sorted(
            (str(each), each.lstat().st_mode, each.lstat().st_mtime_ns, each.lstat().st_nlink)
            for each in self.path.rglob("*")
        )

    def check(self) -> None:
        """Nothing in it was opened, read, made or changed."""
        with contextlib.suppress(BlockingIOError):
            assert not os.read(self._inotify, 4096), "something outside of the tree was touched"
        assert self._picture() == self._before
        with contextlib.suppress(BlockingIOError):
            os.read(self._inotify, 1 << 16)  # what looking at it has caused

    def close(self) -> None:
        os.close(self._inotify)


_libc = ctypes.CDLL(None, use_errno=True)
_ALL_EVENTS = 0xFFF


@contextmanager
def no_other_exceptions() -> Iterator[None]:
    """No thread ends by an exception meanwhile."""
    found: list[threading.ExceptHookArgs] = []
    former, threading.excepthook = threading.excepthook, found.append
    try:
        yield
    finally:
        threading.excepthook = former
    assert not found, [f"{each.thread}: {each.exc_type.__name__}: {each.exc_value}" for each in found]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def eventually_no_more_descriptors_than(most: int) -> None:
    eventually(lambda: descriptors() <= most, 15)
