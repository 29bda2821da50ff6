"""What one agent leaves to the next one about a module's application: a lock, and a record of this boot."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from orchestrator.host.process import boot_id, started_at
from orchestrator.model.errors import ProcessUnreachable
from orchestrator.model.names import NEVER, Epoch, ModuleName

LOCK_TIMEOUT_S = 5.0
"""An agent that was killed lets go of its lock at once; longer means that two agents run."""
LOCK_POLL_S = 0.1


class Memory:
    """In the run directory: it is about this boot, and a rename is whole for every reader."""

    def __init__(self, module: ModuleName, home: Path) -> None:
        self._module = module
        self._home = home
        self._record = home / "application.json"
        self._lock = -1

    async def hold(self) -> None:
        """Only one agent runs a module's scripts; the kernel frees the lock with its process."""
        if self._lock >= 0:
            return
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._home / "application.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = asyncio.get_running_loop().time() + LOCK_TIMEOUT_S
        while not _locked(lock):
            if asyncio.get_running_loop().time() > deadline:
                os.close(lock)
                raise ProcessUnreachable(
                    what=f"the application of {self._module}",
                    why="another agent on this node holds its lock; end one of them",
                )
            await asyncio.sleep(LOCK_POLL_S)
        self._lock = lock

    def let_go(self) -> None:
        """The next agent may hold it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def note(self, phase: str, pid: int | None, log: Path | None, *, watched: bool, epoch: Epoch) -> None:
        """What runs from now on."""
        facts = {
            "boot_id": boot_id(),
            "phase": phase,
            "pid": pid,
            "started_at": None if pid is None else started_at(pid),
            "log": "" if log is None else str(log),
            "watched": watched,
            "epoch": epoch,
        }
        draft = self._record.with_suffix(".new")
        draft.write_text(json.dumps(facts))
        draft.rename(self._record)

    def recall(self) -> dict[str, Any]:
        """What was noted last in this boot; empty where nothing was."""
        try:
            facts = json.loads(self._record.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return facts if isinstance(facts, dict) and facts.get("boot_id") == boot_id() else {}

    def forget(self) -> None:
        """Nothing runs."""
        self._record.unlink(missing_ok=True)

    @property
    def epoch(self) -> Epoch:
        """Under which it was started."""
        return Epoch(self.recall().get("epoch", NEVER))


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
