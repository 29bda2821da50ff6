"""One node of the rig: its disk, its two processes, and the agent's end of their socket."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.host.fuse.mount import uncover
from tests.chaos.cuts.trigger import Trigger
from tests.chaos.rig import NotWithin, is_zombie
from tests.replicator.processes import Agent, Message, Process
from tests.support.disks import LoopDisk

PATIENCE_S = 30.0
"""For any one answer, on a machine that others load too."""
PORT = 9701


class Struck(Exception):
    """The current failed while something was waited for."""


class Gone(AssertionError):
    """A process ended that nobody cut."""


class Refused(AssertionError):
    """The product said no to what the record allows."""


class Line(Agent):
    """The agent's end, which looks up while it waits."""

    def __init__(self, path: Path, look: Callable[[], None]) -> None:
        super().__init__(path)
        self._path, self._look = path, look

    def ask(self, do: str, **fields: Any) -> Message:
        answer = self.answer(do, **fields)
        if "ok" not in answer:
            self._look()
            raise Refused(f"{self._path}: {do}: {answer}")
        found: Message = answer["ok"]
        return found

    def told(self, name: str, fits: Callable[[Message], bool] = lambda message: True) -> Message:
        """The first event of this name that fits; Refused when the disk is said to have failed instead."""
        found = self._wait(
            lambda message: (
                (message.get("event") == name and fits(message)) or message.get("event") == "volume_failed"
            )
        )
        if found["event"] != name:
            self._look()  # it failed because it was cut
            raise Refused(f"{self._path}: {found} instead of {name}")
        return found

    def heard(self, *names: str) -> list[Message]:
        """All events of these names so far, in their order; they are told once."""
        found = [message for message in self._heard if message.get("event") in names]
        self._heard = [message for message in self._heard if message.get("event") not in names]
        return found

    def _send(self, data: bytes) -> None:
        try:
            super()._send(data)
        except OSError as fault:
            self._ended(fault)

    def _receive(self) -> bytes:
        end = time.monotonic() + PATIENCE_S
        while not select.select([self._socket], [], [], 0.005)[0]:
            self._look()
            if time.monotonic() > end:
                raise NotWithin(f"{self._path} says nothing for {PATIENCE_S} s; heard {self._heard[-3:]}")
        try:
            return super()._receive()
        except OSError as fault:
            self._ended(fault)
            raise

    def _ended(self, fault: OSError) -> None:
        self._look()
        raise Gone(f"{self._path}: {fault}") from fault


class Stem:
    """The process that the others are forked from, with a network of its own."""

    def __init__(self, trigger: Trigger, disks: Sequence[Path]) -> None:
        words = [sys.executable, "-m", "tests.chaos.cuts.stem", str(trigger.path), *map(str, disks)]
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
            start_new_session=True,  # who interrupts the campaign leaves it what it cleans up with
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        if not answer or "error" in answer:
            raise Gone(str(answer.get("error", "the stem ended")))
        return answer

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()


class Node:
    """A machine as far as a mirror's files know one."""

    def __init__(self, number: int, name: str, other: str, base: Path, disk: LoopDisk, bundle: str) -> None:
        self.number, self.name, self.base, self.disk = number, name, base, disk
        self.tree, self.plain = disk.at / "orders", disk.plain / "orders"
        own, its = (f"127.0.0.{1 + at}" for at in (number, 1 - number))
        self._process = Process(
            base,
            self.tree,
            name,
            state_directory=str(disk.at / "state"),
            bundle=bundle,
            peers=[{"name": other, "addresses": [[own, its]]}],
            port=PORT,
            detection_s=5.0,  # nobody waits for it: who is dead resets its connections, and is told lost
        )
        self.up = False
        self.life = ""
        self.cut_ns: int | None = None
        """When its current failed first since what it holds was looked at last."""
        self.half = ""
        """The step of its cut, if its copy was half then."""
        self._boots = 0
        self.agent: Line

    def power_on(self, stem: Stem, trigger: Trigger, look: Callable[[], None], canary: str) -> Message:
        """An empty /run, the disk as the journal has it, and both processes; what they say of themselves."""
        self._boots += 1
        shutil.rmtree(self.base / "run", ignore_errors=True)
        booted_ns = time.time_ns()
        self.disk.mount()
        asked = {"node": self.number, "settings": str(self._process.settings), "canary": canary}
        pids = stem.ask(do="start", boot=self._boots, booted_at_ns=booted_ns, **asked)
        trigger.processes(self.number, pids["keeper"], pids["replicator"])
        self.up = True
        try:
            self.agent = self._dial(pids["replicator"], look)
            status = self.agent.ask("status")
        except BaseException:
            self.power_off(stem, trigger)  # the other node's cut fell meanwhile: nobody knows this life yet
            raise
        self.life = status["life"]
        return status

    def _dial(self, replicator: int, look: Callable[[], None]) -> Line:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return Line(self._process.socket, look)
            except OSError:
                look()
                if is_zombie(replicator):
                    raise Gone(f"the replicator of {self.name} ended: {self.last_words()}") from None
                if time.monotonic() > end:
                    raise NotWithin(f"{self.name} has no socket: {self.last_words()}") from None
                time.sleep(0.002)

    def power_off(self, stem: Stem, trigger: Trigger) -> None:
        """Its processes are gone, and what they covered is uncovered. The disk is as the cut left it."""
        if self.up:
            stem.ask(do="bury", pids=[pid for pid in trigger.pids(self.number) if pid])
            trigger.processes(self.number, 0, 0)
            if hasattr(self, "agent"):
                self.agent.close()
            self.up = False
        uncover(str(self.tree))

    def last_words(self) -> str:
        said = [self.base / name for name in ("stderr.log", "replicator.log")]
        return " | ".join(path.read_text()[-400:] for path in said if path.exists())
