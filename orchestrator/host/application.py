"""One module's application: start, watch, stop, and find it again after the agent died."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.host.cgroup import group, kill_all
from orchestrator.host.checks import Checks
from orchestrator.host.launcher import CannotLaunch, Waiting
from orchestrator.host.memory import Memory
from orchestrator.host.process import (
    Process,
    begin,
    dismiss,
    drop_old_logs,
    ending,
    open_log,
    opened,
    prepare,
    spawn_logged,
    started_at,
    tail,
    trusted,
)
from orchestrator.model.config import FarmConfig, MirrorConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.events import ApplicationFailed, ApplicationStarted, ApplicationStopped, ModuleEvent
from orchestrator.model.names import Epoch, NodeName

EMPTY_POLL_S = 0.1
"""Between two looks whether a group is empty: fast against any take-over, cheap beside any application."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A process that waits to become the application, under this epoch and no other."""

    epoch: Epoch
    argv: tuple[str, ...]
    log: Path
    child: Waiting


class Application:
    """The hands of StartApplication and StopApplication for one module, its checks included."""

    def __init__(
        self,
        module: MirrorConfig | FarmConfig,
        node: NodeName,
        run_dir: str,
        log_dir: str,
        on_event: Callable[[ModuleEvent], None],
    ) -> None:
        self._module = module
        self._node = node
        # On all nodes of a farm the application runs; of a mirror's on the primary.
        self._where, self._role = ("both", "UP") if isinstance(module, FarmConfig) else ("prim", "PRIM")
        self._home = Path(run_dir) / module.name
        self._logs = Path(log_dir) / module.name
        self._on_event = on_event
        self._group = group(f"{module.name}/app")
        self._turn = 0
        """Which order is the newest; an older one that wakes up later does nothing any more."""
        self._script: Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._memory = Memory(module.name, self._home)
        self._prepared: _Prepared | None = None
        self.checks = Checks(module.name, module.checks, on_event, tell_good=isinstance(module, FarmConfig))

    @property
    def certain(self) -> bool:
        """Whether stop can promise that nothing lives: needs cgroups."""
        return self._group.certain

    @property
    def running(self) -> bool:
        """Started, and not seen to die since."""
        record = self._memory.recall()
        return record.get("phase") == "running" and (self._watcher is not None or not record["watched"])

    # --- orders -----------------------------------------------------------------------------------------

    async def adopt(self) -> bool:
        """Take back what an earlier agent left: True when the application runs, and is watched again."""
        await self._memory.hold()
        match self._memory.recall():
            case {"phase": "running", **rest} if self._lives(rest):
                self._watch(rest.get("pid"), Path(rest["log"]) if rest["log"] else None)
            case {"phase": "starting", **rest} if await self._script_left_something(rest):
                self._memory.note("running", None, Path(rest["log"]), watched=True, epoch=rest["epoch"])
                self._watch(None, Path(rest["log"]))
            case {"phase": "stopping", **rest}:
                # The stop was asked for: it gets its time, then it is made true.
                await self._end_of_script(rest, self._module.run.stop_timeout_s)
                await self._clear(self._turn)
                return False
            case _:
                await self._clear(self._turn)
                return False
        self.checks.start(self._variables(self._memory.epoch))
        return True

    async def prepare(self, epoch: Epoch) -> None:
        """The role is bid for: a process is born that has only to become the application if it is won.

        Nothing is done where something of the application may live, and nothing is told: what cannot be
        prepared is done, and told, by `start`.
        """
        if self._prepared is not None and self._prepared.epoch == epoch:
            return
        self.dismiss()
        with contextlib.suppress(HafarmError, OSError, CannotLaunch):
            if self._memory.recall() or self._group.pids():
                return
            await self._memory.hold()
            self._prepared = self._prepare(epoch)

    def dismiss(self) -> None:
        """What was prepared is not needed."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared.log.unlink(missing_ok=True)
            dismiss(prepared.child)

    async def start(self, epoch: Epoch) -> None:
        """Emits ApplicationStarted or ApplicationFailed."""
        turn = await self._begin()
        try:
            if self._prepared is None or self._prepared.epoch != epoch:
                self.dismiss()
                await self._clear(turn)
            if turn != self._turn:
                return
            why = await self._run_start(epoch, turn)
        except (HafarmError, OSError) as fault:
            why = str(fault)
        if turn != self._turn:
            return
        if why:
            self._on_event(ApplicationFailed(self._module.name, why))
            return
        self.checks.start(self._variables(epoch), self._module.run.start_timeout_s)
        self._on_event(ApplicationStarted(self._module.name))
        drop_old_logs(self._logs, "command")

    async def stop(self, force: bool) -> None:
        """Emits ApplicationStopped once nothing lives; ProcessUnreachable when something cannot be killed."""
        turn = await self._begin()
        self.dismiss()
        clean = not self._group.pids() if force else await self._stop_gently(turn)
        await self._clear(turn)
        if turn == self._turn:
            self._on_event(ApplicationStopped(self._module.name, clean))

    def detach(self) -> None:
        """The agent ends, the application goes on: watch no more, let go of the lock."""
        self._turn += 1
        self.dismiss()
        self._unwatch()
        self._memory.let_go()

    # --- start ------------------------------------------------------------------------------------------

    async def _run_start(self, epoch: Epoch, turn: int) -> str:
        """What went wrong, or nothing."""
        run = self._module.run
        if run.scripts:
            return await self._run_start_script(epoch, turn)
        if not run.command:
            self._memory.note("running", None, None, watched=False, epoch=epoch)
            return ""
        process, log = self._spawn("command", run.command, epoch)
        self._memory.note("running", process.pid, log, watched=True, epoch=epoch)
        self._watcher = asyncio.create_task(self._watch_process(process, log))
        return ""

    async def _run_start_script(self, epoch: Epoch, turn: int) -> str:
        ended, status, log = await self._run_script(
            f"start_{self._where}", "starting", epoch, self._module.run.start_timeout_s
        )
        if turn != self._turn:
            return ""  # what lives now is the newer order's
        if not ended or status != 0:
            await kill_all(self._group)
            how = ending(status) if ended else f"took longer than {self._module.run.start_timeout_s:g} s"
            return _with_tail(f"start_{self._where} {how}", log)
        # Nothing left in the group: the script had others run it (a service manager); the checks watch it.
        watched = bool(self._group.pids())
        self._memory.note("running", None, log, watched=watched, epoch=epoch)
        if watched:
            self._watch(None, log)
        return ""

    async def _run_script(
        self, name: str, phase: str, epoch: Epoch, limit_s: float
    ) -> tuple[bool, int | None, Path]:
        """Run one script to its end: whether it ended in time, its status, its log."""
        script = trusted(Path(self._module.run.scripts) / name)
        process, log = self._spawn(name, (str(script),), epoch)
        self._script = process
        self._memory.note(phase, process.pid, log, watched=True, epoch=epoch)
        try:
            ended, status = await process.wait_for(limit_s)
            if not ended:
                process.kill_session()
                await process.wait()
            return ended, status, log
        finally:
            process.close()
            if self._script is process:
                self._script = None
            drop_old_logs(self._logs, name)

    def _words(self) -> tuple[str, tuple[str, ...]]:
        """What a start runs, and its log's name; nothing where a module has neither command nor scripts."""
        run = self._module.run
        if run.scripts:
            name = f"start_{self._where}"
            return name, (str(trusted(Path(run.scripts) / name)),)
        return "command", tuple(run.command)

    def _prepare(self, epoch: Epoch) -> _Prepared | None:
        name, argv = self._words()
        if not argv:
            return None
        log = open_log(self._logs, name)
        try:
            with opened(log) as output:
                child = prepare(argv, self._group, output, self._module.run.user, self._variables(epoch))
        except BaseException:
            log.unlink(missing_ok=True)
            raise
        return _Prepared(epoch, argv, log, child)

    def _spawn(self, name: str, argv: Sequence[str], epoch: Epoch) -> tuple[Process, Path]:
        """A new process and its log: the one that was prepared for this, or one that is made now."""
        prepared = self._prepared
        if prepared is not None and prepared.argv == tuple(argv):
            self._prepared = None
            with contextlib.suppress(CannotLaunch):  # somebody has ended it, and it has run nothing
                return begin(prepared.child, argv), prepared.log
        self.dismiss()
        log = open_log(self._logs, name)
        return spawn_logged(argv, self._group, log, self._module.run.user, self._variables(epoch)), log

    # --- stop -------------------------------------------------------------------------------------------

    async def _stop_gently(self, turn: int) -> bool:
        """Ask, and wait until nothing lives or the time is over; whether it ended in its time."""
        deadline = asyncio.get_running_loop().time() + self._module.run.stop_timeout_s
        asked = True
        if self._module.run.scripts:
            asked = await self._ask_by_script()
        else:
            self._group.signal(signal.SIGTERM)
        while self._group.pids() and turn == self._turn:
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(EMPTY_POLL_S / 10)
        return asked

    async def _ask_by_script(self) -> bool:
        epoch = self._memory.epoch
        try:
            ended, status, _ = await self._run_script(
                f"stop_{self._where}", "stopping", epoch, self._module.run.stop_timeout_s
            )
        except (HafarmError, OSError):
            # Without a usable stop script SIGTERM is the gentlest that is left; `clean` says False.
            self._group.signal(signal.SIGTERM)
            return False
        return ended and status == 0

    # --- watching ---------------------------------------------------------------------------------------

    def _watch(self, pid: int | None, log: Path | None) -> None:
        if pid is not None:
            assert log is not None, "a command has a log"
            self._watcher = asyncio.create_task(self._watch_process(Process(pid), log))
        elif self._group.pids():
            self._watcher = asyncio.create_task(self._watch_group(log))

    async def _watch_process(self, process: Process, log: Path) -> None:
        try:
            status = await process.wait()
        finally:
            process.close()
        self._died(_with_tail(f"the command {ending(status)}", log))

    async def _watch_group(self, log: Path | None) -> None:
        while self._group.pids():  # noqa: ASYNC110 - a v1 hierarchy tells nobody that it is empty
            await asyncio.sleep(EMPTY_POLL_S)
        self._died(_with_tail("all its processes ended", log))

    def _died(self, why: str) -> None:
        self._watcher = None
        self._on_event(ApplicationFailed(self._module.name, why))

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    # --- what was, and what is left ---------------------------------------------------------------------

    async def _begin(self) -> int:
        """A new order overtakes the one under way: its script is ended, its checks and watch are over."""
        self._turn += 1
        turn = self._turn
        self._unwatch()
        if self._script is not None:
            self._script.kill_session()
        await self.checks.stop()
        await self._memory.hold()
        return turn

    async def _clear(self, turn: int) -> None:
        """Nothing of the application lives, and nothing says that it does; unless a newer order came."""
        await kill_all(self._group, overtaken=lambda: turn != self._turn)
        if turn == self._turn:
            self._group.remove()
            self._memory.forget()

    def _lives(self, record: dict[str, Any]) -> bool:
        if record["pid"] is not None:
            return bool(started_at(record["pid"]) == record["started_at"])
        return not record["watched"] or bool(self._group.pids())

    async def _script_left_something(self, record: dict[str, Any]) -> bool:
        """Its status went with the agent that ran it; what it left running is the evidence."""
        ended = await self._end_of_script(record, self._module.run.start_timeout_s)
        return ended and bool(self._group.pids())

    async def _end_of_script(self, record: dict[str, Any], limit_s: float) -> bool:
        if started_at(record["pid"]) != record["started_at"]:
            return True
        process = Process(record["pid"])
        try:
            return (await process.wait_for(limit_s))[0]
        finally:
            process.close()

    def _variables(self, epoch: Epoch) -> dict[str, str]:
        ours = {
            "HAFARM_MODULE": self._module.name,
            "HAFARM_NODE": self._node,
            "HAFARM_ROLE": self._role,
            "HAFARM_EPOCH": str(epoch),
        }
        return {**self._module.run.environment, **ours}


def _with_tail(text: str, log: Path | None) -> str:
    said = tail(log) if log is not None else ""
    return f"{text}: {said}" if said else text
