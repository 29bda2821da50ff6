"""Keeper and replicator of one node as real processes, and the agent's end of their socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.host.fuse.mount import uncover
from orchestrator.host.lines import LineBuffer, encode
from tests.support.waiting import eventually

Message = dict[str, Any]


class Agent:
    """Speaks to one replicator as the agent does."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._buffer = LineBuffer()
        self._heard: list[Message] = []
        self._number = 0

    def ask(self, do: str, **fields: Any) -> Message:
        """What it answers; a refusal fails."""
        answer = self.answer(do, **fields)
        assert "ok" in answer, answer
        found: Message = answer["ok"]
        return found

    def answer(self, do: str, **fields: Any) -> Message:
        """The same, a refusal too: under `ok`, or under `error`."""
        self._number += 1
        number = self._number
        self._send(encode({"id": number, "do": do, **fields}))
        return self._wait(lambda message: message.get("id") == number)

    def event(self, *names: str) -> Message:
        return self._wait(lambda message: message.get("event") in names)

    def _wait(self, fits: Callable[[Message], bool]) -> Message:
        while True:
            for message in self._heard:
                if fits(message):
                    self._heard.remove(message)
                    return message
            self._heard += self._buffer.receive_data(self._receive())

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the replicator ended")
        return data

    def close(self) -> None:
        self._socket.close()


class Process:
    """One node's keeper and replicator over one directory."""

    def __init__(self, base: Path, tree: Path, node: str = "paris", **more: Any) -> None:
        self.tree = tree
        self.node = node
        base.mkdir(exist_ok=True)
        self.settings = base / "replicator.json"
        self.socket = base / "run/replicator.sock"
        content = {
            "cluster": "shop",
            "module": "orders",
            "node": node,
            "socket": str(self.socket),
            "state_directory": str(base / "state"),
            "bundle": "",
            "volumes": [{"path": str(tree), "exclude": ["*.tmp"]}],
            "log": str(base / "replicator.log"),
            **more,
        }
        self.settings.write_text(json.dumps(content))
        self.keeper = 0

    def start(self) -> Agent:
        command = [sys.executable, "-m", "orchestrator.replicator.keeper", self.settings]
        subprocess.run(command, check=True, timeout=30)
        return self.dial()

    def dial(self) -> Agent:
        found: list[Agent] = []

        def try_once() -> bool:
            try:
                found.append(Agent(self.socket))
            except OSError:
                return False
            return True

        eventually(try_once, 20)
        self.keeper = parent_of(self.replicator())
        return found[0]

    def replicator(self) -> int:
        """The process id of the replicator, 0 when there is none."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"orchestrator.replicator.main" in words and os.fsencode(self.settings) in words:
                    return int(entry.name)
        return 0

    def end(self) -> None:
        for pid in (self.keeper, self.replicator()):
            if pid > 1:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        uncover(str(self.tree))


def record(epoch: int, primary: str, life: str, members: list[str]) -> Message:
    return {
        "cluster": "shop",
        "module": "orders",
        "epoch": epoch,
        "primary": primary,
        "in_sync": members,
        "nodes": ["lyon", "paris"],
        "nonce": life,
    }


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
