"""The replicator's socket: requests of the agent, answers, and events to every agent that is connected."""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.host.lines import LineBuffer, encode
from orchestrator.model.errors import HafarmError

log = logging.getLogger("hafarm.control")

_SEND_S = 2  # an agent that reads nothing for so long is dropped: whoever tells an event may hold a lock
AGENTS_MAX = 16  # the agent, one that it takes the place of, and people with tools
_AGAIN_S = 0.1

Request = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Control:
    """Listens on a Unix socket; each request is carried out in the thread of its connection, in order."""

    def __init__(self, path: str, requests: Mapping[str, Request]) -> None:
        self._requests = requests
        self._lock = threading.Lock()
        self._agents: set[socket.socket] = set()
        self._path = path

    def start(self) -> None:
        """Listen only now: who reaches the socket finds the directories covered."""
        if os.path.exists(self._path):
            os.unlink(self._path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            self._listener.bind(self._path)
        finally:
            os.umask(mask)
        self._listener.listen(8)  # one agent, and a person with a tool
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def tell(self, event: str, **fields: Any) -> None:
        """Send an event to whoever listens; an agent that comes later asks `status`."""
        line = encode({"event": event, **fields})
        with self._lock:
            for agent in list(self._agents):
                self._send(agent, line)

    def _send(self, agent: socket.socket, line: bytes) -> None:
        try:
            agent.sendall(line)
        except OSError:
            self._agents.discard(agent)  # it went away, or reads nothing for its time limit; it dials again

    def _accept(self) -> None:
        while True:
            try:
                agent, _ = self._listener.accept()
            except OSError as fault:  # no descriptor is free: an agent that is refused dials again
                log.warning("no agent is taken: %s", fault)
                time.sleep(_AGAIN_S)
                continue
            if len(self._agents) >= AGENTS_MAX:
                agent.close()
                continue
            agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_S, 0))
            with self._lock:
                self._agents.add(agent)
            threading.Thread(target=self._serve, args=(agent,), name="agent", daemon=True).start()

    def _serve(self, agent: socket.socket) -> None:
        buffer = LineBuffer()
        try:
            while data := agent.recv(65536):
                for request in buffer.receive_data(data):
                    answer = encode(self._answer(request))
                    with self._lock:
                        self._send(agent, answer)
        except (OSError, HafarmError) as fault:
            log.info("an agent's connection ended: %s", fault)
        finally:
            with self._lock:
                self._agents.discard(agent)
            agent.close()

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        number, what = request.get("id"), str(request.get("do"))
        act = self._requests.get(what)
        if act is None:
            return _error(number, "HF1000", f"no request is named {what!r}")
        try:
            return {"id": number, "ok": act(request)}
        except HafarmError as fault:
            return _error(number, fault.code, str(fault))
        except (OSError, KeyError, TypeError, ValueError, AssertionError) as fault:
            log.exception("%s failed", what)
            return _error(number, "HF1000", f"{what}: {type(fault).__name__}: {fault}")


def _error(number: object, code: str, text: str) -> dict[str, Any]:
    return {"id": number, "error": {"code": code, "text": text}}
