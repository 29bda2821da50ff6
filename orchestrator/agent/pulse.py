"""The agent's side of the pulse: start it, find it again, tell it what to say and to hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.agent.lines import Lines
from orchestrator.host.process import ours
from orchestrator.host.store import write_durable
from orchestrator.model.config import ClusterConfig
from orchestrator.model.errors import CorruptState, ProcessUnreachable
from orchestrator.model.events import (
    Event,
    Paused,
    PeerAlive,
    PeerLeft,
    PeerLost,
    PeerSaid,
    PeerSuspected,
)
from orchestrator.model.names import ModuleName, NodeName
from orchestrator.model.report import AnyState, state_from_list

ALIVE_S = 1.0
"""How often the agent says that it lives; the pulse believes in a silent one for two seconds."""
HUNG_S = 3.0
"""A pulse that does not answer for so long is stopped or stuck; its leases have ended, a new one begins."""
START_TIMEOUT_S = 15.0
"""A loaded machine imports Python slowly; without a pulse nothing else makes sense."""
KINDS: Mapping[str, Callable[[NodeName], Event]] = {
    "peer_alive": PeerAlive,
    "peer_suspected": PeerSuspected,
    "peer_lost": PeerLost,
    "peer_left": PeerLeft,
    "alive": PeerAlive,
    "suspected": PeerSuspected,
    "lost": PeerLost,
    "left": PeerLeft,
}


class PulseClient:
    """Keeps one pulse running and informed, whatever happens to either side."""

    def __init__(
        self,
        config: ClusterConfig,
        me: NodeName,
        run_dir: str,
        log_dir: str,
        bundle: str,
        on_event: Callable[[Event], None],
    ) -> None:
        self._config = config
        self._me = me
        self._socket = os.path.join(run_dir, "pulse.sock")
        self._settings = os.path.join(run_dir, "pulse.json")
        self._log = os.path.join(log_dir, "pulse.log")
        self._bundle = bundle
        self._on_event = on_event
        self._lines: Lines | None = None
        self._ended = asyncio.Event()
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        # What a pulse that is started anew has to be told again.
        self._said: dict[ModuleName, list[Any]] = {}
        self._leases: dict[ModuleName, dict[str, Any]] = {}
        self._muted: set[ModuleName] = set()

    async def start(self) -> None:
        """Find the running pulse or start one; from then on it is kept running."""
        try:
            await self._connect()
        except ProcessUnreachable:
            await self._connect()  # the one that was found hung and is gone now
        self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(ALIVE_S):
                    await self._ended.wait()
            except TimeoutError:
                await self._say_alive()
                continue
            self._ready.clear()
            try:
                await self._connect()
            except ProcessUnreachable:
                await asyncio.sleep(0.2)

    async def _say_alive(self) -> None:
        lines = self._lines
        try:
            if lines is not None:
                await lines.ask("alive", HUNG_S)
        except ProcessUnreachable:
            if not self._ended.is_set():
                await asyncio.to_thread(self._kill)

    def _kill(self) -> None:
        """It hangs with its socket open: the leases have ended, what else it holds ends with it."""
        for pid in ours("orchestrator.pulse", self._settings):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _connect(self) -> None:
        content = json.dumps(self._make_settings(), indent=1).encode()
        lines = Lines(self._socket, self._hear, self._end)
        self._ended.clear()
        try:
            same = await asyncio.to_thread(self._has_settings, content)
            await lines.open()
            if not same:
                await lines.ask("goodbye")
                await lines.close()
                raise ProcessUnreachable("pulse", "its settings changed")
        except ProcessUnreachable:
            lines = await self._launch(content)
        self._lines = lines
        try:
            await lines.ask("hello", HUNG_S, agent=True)
        except ProcessUnreachable:
            await asyncio.to_thread(self._kill)
            raise
        for module, state in self._said.items():
            await lines.ask("announce", module=module, state=state)
        for module in self._muted:
            await lines.ask("mute", module=module)
        for module, lease in self._leases.items():
            await lines.ask("lease", module=module, **lease)
        self._picture(await lines.ask("status"))
        self._ready.set()

    def _has_settings(self, content: bytes) -> bool:
        try:
            with open(self._settings, "rb") as file:
                return file.read() == content
        except OSError:
            return False

    def _spawn(self, content: bytes) -> subprocess.Popen[bytes]:
        write_durable(self._settings, content)
        with open(self._log, "ab") as log:
            # A session of its own: no signal to the agent's group reaches it, and it outlives the agent.
            return subprocess.Popen(
                [sys.executable, "-m", "orchestrator.pulse", self._settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _launch(self, content: bytes) -> Lines:
        child = self._child = await asyncio.to_thread(self._spawn, content)
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            lines = Lines(self._socket, self._hear, self._end)
            try:
                await lines.open()
                return lines
            except ProcessUnreachable as fault:
                code = child.poll()
                if code is not None or asyncio.get_running_loop().time() > deadline:
                    why = (
                        f"it ended with {code}, see {self._log}" if code is not None else "it does not start"
                    )
                    raise ProcessUnreachable("the pulse", why) from fault
                await asyncio.sleep(0.02)

    def _make_settings(self) -> dict[str, Any]:
        config = self._config
        mine = config.node(self._me)
        others = [node for node in config.nodes if node.name != self._me]
        return {
            "cluster": config.name,
            "node": self._me,
            "paths": {
                path: {
                    "listen": address,
                    "peers": {node.name: node.addresses[path] for node in others if path in node.addresses},
                }
                for path, address in mine.addresses.items()
            },
            "port": config.heartbeat_port,
            "key_file": os.path.join(self._bundle, "heartbeat.key"),
            "timing": {"detection_s": config.timing.detection_s, "period_s": config.timing.period_s},
            "socket": self._socket,
            "addresses": sorted(
                vip.address.split("/")[0]
                for module in config.mirrors
                if self._me in module.nodes
                for vip in module.vip
            ),
            # What every node receives must be silent as a whole; else only who answers for it.
            "shared_addresses": sorted(
                vip.address.split("/")[0]
                for farm in config.farms
                if self._me in farm.nodes and farm.mode != "invisible"
                for vip in farm.vip
            ),
        }

    # --- what it says -------------------------------------------------------------------------------------

    def _hear(self, message: Mapping[str, Any]) -> None:
        kind = message["event"]
        if kind == "peer_said":
            self._say_of(message["peer"], message["states"])
        elif kind == "paused":
            self._on_event(Paused(float(message["seconds"])))
        elif kind in KINDS:
            self._on_event(KINDS[kind](NodeName(message["peer"])))

    def _picture(self, status: Mapping[str, Any]) -> None:
        """What an earlier agent was told already."""
        for peer, states in status.get("states", {}).items():
            self._say_of(peer, states)
        for peer, known in status.get("peers", {}).items():
            if known["verdict"] in KINDS:
                self._on_event(KINDS[known["verdict"]](NodeName(peer)))

    def _say_of(self, peer: str, states: Mapping[str, Any]) -> None:
        try:
            heard = {module: state_from_list(state) for module, state in states.items()}
        except CorruptState:
            return  # another version's words; its beats still count as life
        self._on_event(PeerSaid(NodeName(peer), heard))

    def _end(self) -> None:
        self._lines = None
        self._ended.set()

    # --- what it is told ----------------------------------------------------------------------------------

    async def _ask(self, what: str, **fields: Any) -> Mapping[str, Any]:
        if self._lines is None:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._ready.wait()
        lines = self._lines
        if lines is None:
            raise ProcessUnreachable("the pulse", "it is being started again")
        return await lines.ask(what, **fields)

    async def announce(self, module: ModuleName, state: AnyState) -> None:
        self._said[module] = state.as_list()
        await self._ask("announce", module=module, state=state.as_list())

    async def lease(
        self,
        module: ModuleName,
        epoch: int,
        members: frozenset[NodeName],
        addresses: list[str],
        *,
        shared: bool = False,
    ) -> None:
        """`shared`: other nodes serve these too, and the lease is about who answers questions for them."""
        self._leases[module] = {
            "epoch": epoch,
            "members": sorted(members),
            "addresses": addresses,
            "shared": shared,
        }
        await self._ask("lease", module=module, **self._leases[module])

    async def end_lease(self, module: ModuleName) -> None:
        self._leases.pop(module, None)
        await self._ask("end_lease", module=module)

    async def mute(self, module: ModuleName) -> None:
        self._muted.add(module)
        await self._ask("mute", module=module)

    async def unmute(self, module: ModuleName) -> None:
        self._muted.discard(module)
        await self._ask("unmute", module=module)

    async def status(self) -> Mapping[str, Any]:
        return await self._ask("status")

    async def goodbye(self) -> None:
        """Say that this node stops by plan; the pulse ends."""
        if self._keeper is not None:
            self._keeper.cancel()
        await self._ask("goodbye")

    async def close(self) -> None:
        """Let go: the pulse goes on for the agent's grace."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self._lines is not None:
            await self._lines.close()
