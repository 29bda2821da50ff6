"""The agent's side of one mirror's keeper and replicator: start, find again, ask, and notice their end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.agent.lines import Lines, Refused
from orchestrator.agent.slowness import Slowness
from orchestrator.host.fuse import mount
from orchestrator.host.process import ours
from orchestrator.host.store import write_durable
from orchestrator.model.config import ClusterConfig, MirrorConfig
from orchestrator.model.errors import ProcessUnreachable, StoreFailed
from orchestrator.model.names import NodeName, PathName

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 30.0
SEAL_TIMEOUT_S = 300.0
"""Ten million files; who is slower finds out by the files' times what was changed meanwhile."""
KILL_TIMEOUT_S = 5.0
"""SIGKILL takes milliseconds; what lives longer waits in the kernel for a device."""
SILENT_S = 90.0
"""A comparison tells every second how far it is, and one question to the peer may take a minute."""
HUNG_S = 5.0
"""A replicator that answers nothing for so long is stopped or stuck, and the application with it: its keeper
and it are killed, and another node or a new life goes on. As long as a silent member is borne."""


class ReplicatorClient:
    """One module's replicator. `on_up(status)` when it is reached, `on_lost(why)` when its life is over."""

    def __init__(
        self,
        config: ClusterConfig,
        module: MirrorConfig,
        me: NodeName,
        places: Mapping[str, str],
        on_event: Callable[[Mapping[str, Any]], None],
        on_up: Callable[[Mapping[str, Any]], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """`places`: state_dir, run_dir, log_dir and bundle."""
        self._config = config
        self._module = module
        self._me = me
        self._places = places
        self._run = os.path.join(places["run_dir"], module.name)
        self._socket = os.path.join(self._run, "replicator.sock")
        self._settings = os.path.join(self._run, "replicator.json")
        self._on_event = on_event
        self._on_up = on_up
        self._on_lost = on_lost
        self._lines: Lines | None = None
        self._stopping = False
        self._looking = False
        self._covering = threading.Lock()
        """Held while a keeper starts, and while what a dead one left is taken away."""
        self._compared: asyncio.Queue[Mapping[str, Any]] | None = None
        self.aside: list[Mapping[str, Any]] = []
        """The divergences that are kept on this node, as its replicator told last."""
        self._tickets: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        """What was asked and is answered by an event."""
        self._ticket = 0
        self.progress: dict[str, Mapping[str, Any]] = {}
        """How far the copy to each peer is, while one runs."""
        self.slow: dict[str, Mapping[str, Any]] = {}
        """Peers whose disks are slow, as this node sees them while it serves."""
        self.slowness = Slowness()
        """Which are, as the node that serves says."""
        self.hangs = False
        """This node's own disk does not answer."""

    async def adopt(self) -> Mapping[str, Any] | None:
        """The status of a keeper that lives, or None. What a dead one left is the caller's to `uncover`."""
        if not await asyncio.to_thread(self._keeper_lives):
            return None
        return await self._reach(START_TIMEOUT_S)

    async def look(self) -> None:
        """A replicator that hangs is as bad as a dead one, and is made one."""
        lines = self._lines
        if lines is None or self._stopping or self._looking:
            return
        self._looking = True
        try:
            await lines.ask("status", HUNG_S)
        except ProcessUnreachable:
            if self._lines is lines and not self._stopping:
                await self.kill()
        except Refused:
            pass  # it answers; what it says is not the question here
        finally:
            self._looking = False

    async def launch(self) -> None:
        """Start keeper and replicator; ends in `on_up`, or in `on_lost`."""
        self._stopping = False
        if self._lines is not None:
            with contextlib.suppress(ProcessUnreachable, Refused):
                self._on_up(await self._lines.ask("status"))  # adopted already
                return
        try:
            if not await asyncio.to_thread(self._keeper_lives):
                await asyncio.to_thread(self._start_keeper)
            status = await self._reach(START_TIMEOUT_S)
        except (ProcessUnreachable, StoreFailed, OSError) as fault:
            await self.kill()
            self._on_lost(str(fault))
            return
        self._on_up(status)

    def _start_keeper(self) -> None:
        os.makedirs(self._run, mode=0o700, exist_ok=True)
        write_durable(self._settings, json.dumps(self._make_settings(), indent=1).encode())
        with self._covering:
            done = subprocess.run(
                [sys.executable, "-m", "orchestrator.replicator.keeper", self._settings],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=START_TIMEOUT_S,
            )
        if done.returncode != 0:
            raise ProcessUnreachable(
                "the replicator", done.stderr.strip()[-500:] or f"exit {done.returncode}"
            )

    async def _reach(self, timeout_s: float) -> Mapping[str, Any]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            lines = Lines(self._socket, self._hear, self._end)
            try:
                await lines.open()
                status = await lines.ask("status")
                while status.get(
                    "checking"
                ):  # as long as it takes: the application of this node waits for it
                    await asyncio.sleep(0.02)
                    status = await lines.ask("status")
                self._lines = lines
                self.aside = list(status.get("aside", ()))
                peers = status.get("peers", {}).items()
                self.progress = {peer: known["copy"] for peer, known in peers if known.get("copy")}
                self.hangs = bool(status.get("hangs"))
                self.slow = {peer: known["slow"] for peer, known in peers if known.get("slow")}
                return status
            except ProcessUnreachable:
                await lines.close()
                if not await asyncio.to_thread(self._keeper_lives):
                    why = await asyncio.to_thread(_last_words, self._log)
                    raise ProcessUnreachable("the replicator", f"it gave up: {why}") from None
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.02)

    @property
    def _log(self) -> str:
        return os.path.join(self._places["log_dir"], f"replicator-{self._module.name}.log")

    def _make_settings(self) -> dict[str, Any]:
        config, module = self._config, self._module
        order = module.replication or tuple(config.node(self._me).addresses)
        return {
            "cluster": config.name,
            "module": module.name,
            "node": self._me,
            "socket": self._socket,
            "state_directory": os.path.join(self._places["state_dir"], "volumes", module.name),
            "bundle": self._places["bundle"],
            "volumes": [
                {
                    "path": one.path,
                    "exclude": list(one.exclude),
                    "only": list(one.only),
                    "must_exist": one.must_exist,
                }
                for one in module.replicate
            ],
            "peers": [
                {"name": name, "addresses": self._addresses(name, order)}
                for name in module.nodes
                if name != self._me
            ],
            "port": module.replication_port,
            "cache": module.cache,
            "ack": module.ack,
            "detection_s": config.timing.detection_s,
            "slow_after_s": module.slow_peer.after_s,
            "slow_do": module.slow_peer.do,
            "hung_after_s": module.hung_disk.after_s,
            "hung_do": module.hung_disk.do,
            "resync_rate": module.resync_rate,
            "resync_workers": module.resync_workers,
            "mirrors": sum(self._me in each.nodes for each in config.mirrors),
            "log": self._log,
        }

    def _addresses(self, peer: NodeName, order: tuple[PathName, ...]) -> list[tuple[str, str]]:
        mine, other = self._config.node(self._me).addresses, self._config.node(peer).addresses
        return [(mine[path], other[path]) for path in order if path in mine and path in other]

    # --- its life -----------------------------------------------------------------------------------------

    def _keeper_lives(self) -> bool:
        """A keeper holds its lock for as long as it lives; the kernel frees it with the process."""
        try:
            lock = os.open(os.path.join(self._run, "keeper.lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _hear(self, message: Mapping[str, Any]) -> None:
        if message["event"] == "progress":
            self.progress[message["peer"]] = message
        elif message["event"] in ("member_ready", "member_lost", "stream_down", "stream_up"):
            self.progress.pop(message["peer"], None)
        elif message["event"] == "peer_slow":
            self.slow[message["peer"]] = message
        elif message["event"] == "peer_fast_again":
            self.slow.pop(message["peer"], None)
        elif message["event"] in ("disk_hangs", "disk_answers"):
            self.hangs = message["event"] == "disk_hangs"
        elif message["event"] == "gate_closed":
            self.slow.clear()  # only who serves sees it
        if message["event"] == "aside":
            self.aside = list(message["divergences"])
        if message["event"] == "cared" and (waiting := self._tickets.get(int(message["ticket"]))):
            if not waiting.done():
                waiting.set_result(message)
            return
        if message["event"] in ("verifying", "verified") and self._compared is not None:
            self._compared.put_nowait(message)
        self._on_event(message)

    def _end(self) -> None:
        self._lines = None
        if not self._stopping:
            asyncio.get_running_loop().create_task(self._find_again())

    async def _find_again(self) -> None:
        """The replicator died: its keeper starts another one, or the life is over."""
        try:
            status = await self._reach(START_TIMEOUT_S)
        except ProcessUnreachable as fault:
            if self._stopping:
                return
            await self.kill()
            self._on_lost(str(fault))
            return
        self._on_up(status)

    async def ask(self, what: str, timeout_s: float = 5.0, **fields: Any) -> Mapping[str, Any]:
        """One request. Raises Refused or ProcessUnreachable."""
        if self._lines is None:
            raise ProcessUnreachable("the replicator", "it is being started again")
        return await self._lines.ask(what, timeout_s, **fields)

    async def ask_at_leisure(self, what: str, timeout_s: float, **fields: Any) -> Any:
        """One request whose answer may take long, while others are answered. Raises as `ask` does."""
        self._ticket += 1
        ticket = self._ticket
        waiting: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._tickets[ticket] = waiting
        try:
            await self.ask(what, ticket=ticket, **fields)
            async with asyncio.timeout(timeout_s):
                told = await waiting
        except TimeoutError as fault:
            raise ProcessUnreachable("the replicator", f"{what}: no answer in {timeout_s:g} s") from fault
        finally:
            del self._tickets[ticket]
        if "error" in told:
            raise Refused(str(told["error"]["code"]), str(told["error"]["text"]))
        return told["answer"]

    async def ask_or_look(self, what: str, timeout_s: float, *words: str, **fields: Any) -> Any:
        """Of what is kept aside: the replicator's word, or that of a process of its own while none runs.

        Raises Refused or ProcessUnreachable.
        """
        if await asyncio.to_thread(self._keeper_lives):
            return await self.ask_at_leisure(what, timeout_s, **fields)
        return await self._look("divergence", timeout_s, *words)

    async def check_files(self) -> None:
        """Before these files become the ones to begin with: Refused where they lack what must exist.

        Nobody is asked while a keeper lives: what it covers was looked at.
        """
        guarded = any(directory.must_exist for directory in self._module.replicate)
        if guarded and not await asyncio.to_thread(self._keeper_lives):
            # Whatever else is wrong with the directory is told by the keeper, which opens it.
            with contextlib.suppress(ProcessUnreachable):
                await self._look("sentinel", START_TIMEOUT_S)

    async def _look(self, program: str, timeout_s: float, *words: str) -> Any:
        """What a program of the replicator's, which reads files and ends, says. Raises as it says."""
        os.makedirs(self._run, mode=0o700, exist_ok=True)
        await asyncio.to_thread(write_durable, self._settings, json.dumps(self._make_settings()).encode())
        looking = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"orchestrator.replicator.{program}", self._settings, *words,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await looking.communicate()
        except TimeoutError as fault:
            looking.kill()
            raise ProcessUnreachable("the disk", f"not read within {timeout_s:g} s") from fault
        if looking.returncode != 0:
            raise ProcessUnreachable("the look at the files", err.decode(errors="replace").strip()[-200:])
        answer = json.loads(out)
        if isinstance(answer, dict) and "error" in answer:
            raise Refused(str(answer["error"]["code"]), str(answer["error"]["text"]))
        return answer

    async def verify(self, budget_s: float | None) -> dict[str, Mapping[str, Any]]:
        """By peer: the report. Raises Refused, and ProcessUnreachable when one could not be compared."""
        waiting = {name for name in self._module.nodes if name != self._me}
        if self._compared is not None:
            raise Refused("HF4019", "a comparison of this module is under way already")
        self._compared = asyncio.Queue()  # before it is asked: of a small tree the end comes first
        reports: dict[str, Mapping[str, Any]] = {}
        try:
            await self.ask("verify", **({} if budget_s is None else {"budget_s": budget_s}))
            while waiting:
                async with asyncio.timeout(SILENT_S):
                    answer = await self._compared.get()
                if "error" in answer:
                    raise ProcessUnreachable(f"the copy on {answer['peer']}", str(answer["error"]))
                reports[str(answer["peer"])] = answer["report"]
                if answer["event"] == "verified":
                    waiting.discard(answer["peer"])
        except TimeoutError as fault:
            raise ProcessUnreachable("the comparison", f"nothing was told for {SILENT_S:g} s") from fault
        finally:
            self._compared = None
        return reports

    async def stop(self) -> None:
        """Unmount and end; when this returns the directory is plain files."""
        self._stopping = True
        try:
            await self.ask("stop", STOP_TIMEOUT_S)
            # It looks through all files at its end, some hundred thousand in a second.
            deadline = asyncio.get_running_loop().time() + SEAL_TIMEOUT_S
            while await asyncio.to_thread(self._keeper_lives):
                if asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(0.02)
        except ProcessUnreachable:
            pass  # it is gone already, or hangs: the next step is certain
        await self.kill()
        await self.uncover()
        self.progress.clear()

    async def kill(self) -> None:
        """End keeper and replicator for certain. The directory stays covered, and answers ENOTCONN."""
        await asyncio.to_thread(self._kill)

    def _kill(self) -> None:
        for pid in ours("orchestrator.replicator", self._settings):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while self._keeper_lives() and time.monotonic() < deadline:
            time.sleep(0.002)

    async def uncover(self) -> None:
        """Make the directories plain files again; nothing is done while a keeper lives.

        Only when the application has ended: what it wrote there would be on this disk alone.
        """
        await asyncio.to_thread(self._uncover)

    def _uncover(self) -> None:
        with self._covering:
            if self._keeper_lives():
                return
            for directory in self._module.replicate:
                # What cannot be uncovered stays as it is; the next keeper tries again, and says why not.
                with contextlib.suppress(OSError):
                    mount.uncover(directory.path)

    async def close(self) -> None:
        """Let go: keeper and replicator go on."""
        self._stopping = True
        if self._lines is not None:
            await self._lines.close()


def _last_words(log: str) -> str:
    """Why a replicator gave up, as it wrote at its end."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as fault:
        return f"{log} cannot be read: {fault.strerror}"
    said = [line.partition("cannot serve: ")[2] for line in lines if "cannot serve: " in line]
    return said[-1] if said else f"see {log}"
