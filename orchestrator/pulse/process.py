"""The loop of the pulse: hear, judge, renew, speak; one thread, no waiting but in poll."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any, Final

from orchestrator.cluster.heart import Heart
from orchestrator.cluster.leases import Told
from orchestrator.host import clock, lines, nft, realtime
from orchestrator.host.datagrams import PathSocket
from orchestrator.host.nfnetlink import NotThere
from orchestrator.model.config import TimingConfig
from orchestrator.model.errors import CorruptState, HafarmError
from orchestrator.model.events import (
    Event,
    Paused,
    PeerAlive,
    PeerLeft,
    PeerLost,
    PeerSaid,
    PeerSuspected,
)
from orchestrator.model.names import Epoch, Instant, ModuleName, NodeName, PathName
from orchestrator.model.report import state_from_list
from orchestrator.model.timings import TIMER_TICK_S, derive
from orchestrator.pulse.session import Session

CONNECTIONS_MAX: Final = 8  # the agent, an operator's `timings`, and room for a few that hang
BATCH: Final = 256  # datagrams of a path in one turn: a flood costs some milliseconds and keeps no beat
AGENT_SILENT_S: Final = 2.0  # an agent says `alive` once a second; one that is stopped keeps its connection
OUT_BYTES_MAX: Final = 1 << 20  # an asker that reads nothing is dropped, never waited for
NAMES: Final = {
    PeerAlive: "peer_alive",
    PeerSuspected: "peer_suspected",
    PeerLost: "peer_lost",
    PeerLeft: "peer_left",
    PeerSaid: "peer_said",
    Paused: "paused",
}


class Connection:
    """One asker on the control socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = lines.LineBuffer()
        self.out = b""
        self.is_agent = False
        self.heard_at = clock.now()

    def flush(self) -> bool:
        """False when the asker is gone or does not read."""
        try:
            self.out = self.out[self.sock.send(self.out) :]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return len(self.out) <= OUT_BYTES_MAX


class Pulse:
    """Everything of one node's pulse."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._me = NodeName(settings["node"])
        self._port = int(settings["port"])
        timing = settings["timing"]
        timings = derive(TimingConfig(timing["detection_s"], timing["period_s"]))
        self._boot = os.urandom(16).hex()
        # The lease first: from here on no guarded address is answered by accident.
        addresses, shared = settings.get("addresses", ()), settings.get("shared_addresses", ())
        self._dead_man = nft.DeadMan(nft.open_nft(), addresses, shared)
        self._addresses: dict[ModuleName, tuple[str, ...]] = {}
        self._timings = timings
        self._told = Told()
        self._look_at = self._told.next_look(timings)
        """When the heart is asked whether a lease has grown."""
        self._wall_ahead = 0.0
        self._sockets: dict[PathName, PathSocket] = {}
        self._sessions: dict[tuple[NodeName, PathName], Session] = {}
        self._where: dict[tuple[PathName, str], NodeName] = {}
        self._to: dict[tuple[NodeName, PathName], str] = {}
        self._open_paths(settings)
        self._paths = {sock.fileno(): path for path, sock in self._sockets.items()}
        self._rooms = {path: sock.payload_bytes() for path, sock in self._sockets.items()}
        peers: dict[NodeName, tuple[PathName, ...]] = {}
        for peer, path in self._sessions:
            peers[peer] = (*peers.get(peer, ()), path)
        self._listener = _listen(settings["socket"])
        self._connections: dict[int, Connection] = {}
        self._refusals = realtime.become_punctual()
        self._stopping = False
        self._agent_present = False
        self._looked = clock.now()
        self._heart = Heart(self._me, peers, timings, self._boot, self._looked)

    def _open_paths(self, settings: dict[str, Any]) -> None:
        key = Path(settings["key_file"]).read_bytes().strip()
        for name, path in settings["paths"].items():
            peers = path["peers"]
            if not peers:
                continue
            self._sockets[PathName(name)] = PathSocket(path["listen"], self._port, next(iter(peers.values())))
            for peer, address in peers.items():
                pair = (NodeName(peer), PathName(name))
                self._sessions[pair] = Session(key, settings["cluster"], self._me, *pair, self._boot)
                self._where[PathName(name), address] = NodeName(peer)
                self._to[pair] = address

    def run(self) -> None:
        """Live until SIGTERM or `goodbye`."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stopping", True))
        everything, ears = select.poll(), select.poll()
        everything.register(self._listener.fileno(), select.POLLIN)
        for descriptor in self._paths:
            everything.register(descriptor, select.POLLIN)
            ears.register(descriptor, select.POLLIN)
        while not self._stopping:
            self._take_in(everything, ears)
            self._beat()
        self._heart.goodbye()
        self._beat()
        self._dead_man.remove()

    def _take_in(self, everything: select.poll, ears: select.poll) -> None:
        """Wait until something comes or is due; then hear until nothing more is there."""
        ready = everything.poll(max(0.0, self._heart.next_deadline() - clock.now()) * 1000)
        looked, self._looked = self._looked, clock.now()
        for descriptor, _ in ready:
            if descriptor not in self._paths:
                self._serve(descriptor, everything)
        for _ in range(BATCH):
            # What left together on several paths comes one after another: a look is cheaper than a turn.
            for descriptor, _ in ready:
                if path := self._paths.get(descriptor):
                    self._hear(path, looked)
            if not (ready := ears.poll(0)):
                break

    def _beat(self) -> None:
        """Everything heard is taken in before anything is judged; leases end before anything is said."""
        now = clock.now()
        self._look_for_agent(now)
        self._heart.advance(now)
        if self._heart.leases_unsettled() or now >= self._look_at or self._was_set(time.time(), now):
            self._renew()
        for peer, path, beat in self._heart.beats_to_send():
            frame = self._sessions[peer, path].seal(beat, self._rooms[path])
            self._sockets[path].send(frame, self._to[peer, path], self._port)
        for event in self._heart.events_received():
            self._tell(event)
        for descriptor in [each for each, conn in self._connections.items() if conn.out and not conn.flush()]:
            with contextlib.suppress(OSError):
                self._connections[descriptor].sock.shutdown(socket.SHUT_RDWR)

    def _look_for_agent(self, now: Instant) -> None:
        """Connected is not alive: an agent that says nothing is as good as gone."""
        present = False
        for each in self._connections.values():
            present |= each.is_agent and now - each.heard_at < AGENT_SILENT_S
        if present != self._agent_present:
            self._agent_present = present
            self._heart.agent_present(now, present)

    def _hear(self, path: PathName, looked: Instant) -> None:
        heard = self._sockets[path].receive(looked)
        if heard is None:
            return
        at, source, frame = heard
        peer = self._where.get((path, source))
        if peer is None:
            return
        beat, answer = self._sessions[peer, path].open(frame)
        if answer is not None:
            self._sockets[path].send(answer, source, self._port)
        if beat is not None:
            self._heart.receive(at, peer, path, beat)

    def _renew(self) -> None:
        """Shorten and end at once, extend in time. The kernel never holds longer than granted."""
        granted: dict[str, Instant] = {}
        for module, end in self._heart.lease_deadlines().items():
            for address in self._addresses.get(module, ()):
                granted[address] = max(granted.get(address, end), end)
        wall, now = time.time(), clock.now()
        if not self._told.is_due(now, granted, self._timings) and not self._was_set(wall, now):
            return
        remaining = {address: end - now for address, end in granted.items()}
        try:
            self._dead_man.renew(wall, remaining)
        except NotThere:
            # Somebody flushed all rules of this machine. To end for it would cost the others our beats.
            self._dead_man.restore()
            self._dead_man.renew(wall, remaining)
        self._told = Told(granted)
        self._look_at = self._told.next_look(self._timings)
        self._wall_ahead = wall - now

    def _was_set(self, wall: float, now: Instant) -> bool:
        """The second net is in wall time: after a step its end may already be behind us, or far ahead."""
        return bool(self._told.until) and abs(wall - now - self._wall_ahead) > TIMER_TICK_S

    # --- the control socket -----------------------------------------------------------------------------

    def _serve(self, descriptor: int, poll: select.poll) -> None:
        if descriptor == self._listener.fileno():
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            if len(self._connections) >= CONNECTIONS_MAX:
                sock.close()
                return
            self._connections[sock.fileno()] = Connection(sock)
            poll.register(sock.fileno(), select.POLLIN)
        elif descriptor in self._connections:
            connection = self._connections[descriptor]
            if not self._converse(connection):
                poll.unregister(descriptor)
                del self._connections[descriptor]
                connection.sock.close()

    def _converse(self, connection: Connection) -> bool:
        """Answer what was asked; False at the end of the connection."""
        try:
            data = connection.sock.recv(65536)
            messages = connection.buffer.receive_data(data)
        except BlockingIOError:
            return True
        except (OSError, CorruptState):
            return False
        connection.heard_at = clock.now()
        for message in messages:
            answer: dict[str, Any] = {"id": message.get("id")}
            try:
                answer["ok"] = self._do(connection, message)
            except HafarmError as fault:
                answer["error"] = {"code": fault.code, "text": str(fault)}
            except (KeyError, TypeError, ValueError) as fault:
                answer["error"] = {"code": "HF1000", "text": f"{type(fault).__name__}: {fault}"}
            connection.out += lines.encode(answer)
        return bool(data)

    def _do(self, connection: Connection, message: dict[str, Any]) -> Any:
        heart = self._heart
        match message["do"]:
            case "hello":
                connection.is_agent = bool(message.get("agent"))
                self._look_for_agent(clock.now())
            case "alive":
                pass  # hearing it was all
            case "status":
                return self._status()
            case "announce":
                heart.announce(ModuleName(message["module"]), state_from_list(message["state"]))
            case "lease":
                self._lease(message)
            case "end_lease":
                heart.end_lease(ModuleName(message["module"]))
                self._renew()
            case "mute":
                heart.mute(ModuleName(message["module"]))
            case "unmute":
                heart.unmute(ModuleName(message["module"]))
            case "goodbye":
                self._stopping = True
            case other:
                raise ValueError(f"unknown request {other!r}")
        return {}

    def _lease(self, message: dict[str, Any]) -> None:
        module = ModuleName(message["module"])
        members = frozenset(NodeName(str(name)) for name in message["members"])
        addresses = tuple(str(address).split("/")[0] for address in message.get("addresses", ()))
        self._dead_man.guard(addresses, shared=bool(message.get("shared")))
        self._addresses[module] = addresses
        self._heart.lease(module, Epoch(int(message["epoch"])), members)
        # A wider set ends the old lease now, in the kernel too, before the request is answered: the bid that
        # makes the newcomer a rival leaves only after it.
        self._renew()

    def _tell(self, event: Event) -> None:
        fields: dict[str, Any] = {"event": NAMES[type(event)]}
        if isinstance(event, PeerSaid):
            fields |= {"peer": event.peer, "states": {name: s.as_list() for name, s in event.states.items()}}
        elif dataclasses.is_dataclass(event):
            fields |= dataclasses.asdict(event)
        for connection in self._connections.values():
            connection.out += lines.encode(fields)

    def _status(self) -> dict[str, Any]:
        now = clock.now()
        paths = [
            {
                "peer": peer,
                "path": path,
                **dataclasses.asdict(report),
                "heard_ago_s": None if report.heard_at is None else now - report.heard_at,
                # Two missed beats above the worst that was seen: below it this path alone would accuse.
                "safe_detection_s": report.worst_gap_s + 2 * self._timings.period_s,
                "refused": self._sessions[peer, path].refused,
                "other_version": self._sessions[peer, path].other_version,
            }
            for (peer, path), report in self._heart.path_reports().items()
        ]
        return {
            "node": self._me,
            "boot": self._boot,
            "pid": os.getpid(),
            "realtime_refused": self._refusals,
            "peers": {
                peer: {"verdict": verdict.value, "strangers": strangers}
                for peer, (verdict, strangers) in self._heart.verdicts().items()
            },
            "states": {
                peer: {name: state.as_list() for name, state in states.items()}
                for peer, states in self._heart.peer_states().items()
            },
            "leases": {module: end - now for module, end in self._heart.lease_deadlines().items()},
            "paths": paths,
        }


def _listen(where: str) -> socket.socket:
    """The control socket; what a dead pulse left is replaced, a living one is not."""
    Path(where).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(where)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    listener.bind(where)
    os.umask(before)
    listener.listen(CONNECTIONS_MAX)
    listener.setblocking(False)
    return listener


def main(settings_file: str) -> None:
    Pulse(json.loads(Path(settings_file).read_text())).run()
