"""Keeper and replicator as processes: what dies, what lives on, and what an application notices."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.host.fuse.mount import mounts_of_ours, unmount
from orchestrator.host.lines import LineBuffer, encode
from tests.support.disks import ext4
from tests.support.waiting import eventually


class Agent:
    """Speaks to one replicator as the agent does."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(path))
        self._buffer = LineBuffer()
        self._heard: list[dict[str, Any]] = []

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        self._socket.sendall(encode({"id": 1, "do": do, **fields}))
        answer = self._wait(lambda message: message.get("id") == 1)
        assert "ok" in answer, answer
        found: dict[str, Any] = answer["ok"]
        return found

    def event(self, name: str) -> dict[str, Any]:
        return self._wait(lambda message: message.get("event") == name)

    def _wait(self, fits: Any) -> dict[str, Any]:
        while True:
            for message in self._heard:
                if fits(message):
                    self._heard.remove(message)
                    return message
            self._heard += self._buffer.receive_data(self._socket.recv(65536))


class Mirror:
    def __init__(self, base: Path, tree: Path) -> None:
        self.tree = tree
        self.settings = base / "replicator.json"
        self.socket = base / "run/replicator.sock"
        content = {
            "cluster": "shop",
            "module": "orders",
            "node": "paris",
            "socket": str(self.socket),
            "state_directory": str(base / "state"),
            "bundle": "",
            "volumes": [{"path": str(tree), "exclude": []}],
        }
        self.settings.write_text(json.dumps(content))
        self.keeper = 0

    def start(self) -> Agent:
        subprocess.run(
            [sys.executable, "-m", "orchestrator.replicator.keeper", self.settings], check=True, timeout=30
        )
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
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"orchestrator.replicator.main" in words and os.fsencode(self.settings) in words:
                    return int(entry.name)
        return 0

    def serve(self) -> Agent:
        agent = self.start()
        agent.ask("take_reign", record=self.record(agent.ask("status")["life"], ["paris"]))
        agent.event("reign_taken")
        return agent

    def record(self, life: str, members: list[str]) -> dict[str, Any]:
        return {
            "cluster": "shop",
            "module": "orders",
            "epoch": 1,
            "primary": "paris",
            "in_sync": members,
            "nodes": ["lyon", "paris"],
            "nonce": life,
        }

    def end(self) -> None:
        for pid in (self.keeper, self.replicator()):
            if pid > 1:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        while mounts_of_ours(str(self.tree)):
            unmount(str(self.tree))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with ext4(tmp_path / "image", tmp_path / "disk") as disk:
        tree = disk / "orders"
        tree.mkdir()
        thing = Mirror(tmp_path, tree)
        try:
            yield thing
        finally:
            thing.end()


def write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def test_a_node_alone_serves_from_reign_to_stop_and_leaves_plain_files(mirror: Mirror) -> None:
    agent = mirror.start()
    with pytest.raises(OSError, match="Read-only"):
        (mirror.tree / "early").write_bytes(b"")
    life = agent.ask("status")["life"]
    agent.ask("take_reign", record=mirror.record(life, ["paris"]))
    agent.event("reign_taken")
    write_durably(mirror.tree / "a", b"acknowledged")
    assert agent.ask("status")["lineage"] == [[1, life]]
    agent.ask("close_gate", drain=False)
    agent.event("gate_closed")
    with pytest.raises(OSError, match="Input/output"):
        (mirror.tree / "late").write_bytes(b"")
    agent.ask("stop")
    eventually(lambda: not mirror.replicator())
    assert mounts_of_ours(str(mirror.tree)) == 0
    assert (mirror.tree / "a").read_bytes() == b"acknowledged"


def test_a_sync_that_a_lost_member_must_confirm_is_held_and_refused_when_the_gate_closes(
    mirror: Mirror,
) -> None:
    agent = mirror.serve()
    agent.ask("widen_required", members=["lyon"])
    errors: list[str] = []

    def work() -> None:
        try:
            write_durably(mirror.tree / "a", b"x")
            errors.append("acknowledged")
        except OSError as fault:
            errors.append(str(fault.errno))

    threading.Thread(target=work, daemon=True).start()
    eventually(lambda: agent.ask("status")["held"] == 1)
    assert not errors
    agent.ask("close_gate", drain=False)
    eventually(lambda: errors == ["5"])


def test_a_killed_replicator_is_not_noticed_by_a_writer(mirror: Mirror) -> None:
    mirror.serve()
    life = mirror.dial().ask("status")["life"]
    stop = threading.Event()
    wrote: dict[str, bytes] = {}
    faults: list[BaseException] = []
    log = os.open(mirror.tree / "log", os.O_CREAT | os.O_RDWR | os.O_APPEND)

    def work() -> None:
        number = 0
        try:
            while not stop.is_set():
                data = secrets.token_bytes(100)
                path = mirror.tree / f"f{number % 50}"
                if number >= 50:
                    os.unlink(path)
                fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                os.write(fd, data)
                os.fsync(fd)
                os.close(fd)
                os.write(log, b"%08d\n" % number)
                wrote[path.name] = data
                number += 1
            wrote["lines"] = b"%d" % number
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    for round_number in range(4):
        already = len((mirror.tree / "log").read_bytes())
        eventually(lambda before=already: len((mirror.tree / "log").read_bytes()) > before or faults, 20)
        victim = mirror.replicator()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda gone=victim: mirror.replicator() not in (0, gone), 20)
        assert not faults, (round_number, faults)
    stop.set()
    thread.join(20)
    assert not faults
    lines = int(wrote.pop("lines"))
    assert os.pread(log, 1 << 20, 0) == b"".join(b"%08d\n" % number for number in range(lines))
    for name, data in wrote.items():
        assert (mirror.tree / name).read_bytes() == data
    os.close(log)
    status = mirror.dial().ask("status")
    assert status["life"] == life
    assert status["open"]


def test_a_killed_keeper_takes_the_replicator_along_and_the_next_start_finds_the_files(
    mirror: Mirror,
) -> None:
    mirror.serve()
    write_durably(mirror.tree / "a", b"kept")
    os.kill(mirror.keeper, signal.SIGKILL)
    eventually(lambda: not mirror.replicator())
    with pytest.raises(OSError, match=r"not connected|abort"):
        os.listdir(mirror.tree)
    agent = mirror.start()
    assert (mirror.tree / "a").read_bytes() == b"kept"
    agent.ask("stop")
    eventually(lambda: not mirror.replicator())
    assert (mirror.tree / "a").read_bytes() == b"kept"


def test_a_second_keeper_for_the_same_mirror_is_refused(mirror: Mirror) -> None:
    mirror.start()
    command = [sys.executable, "-m", "orchestrator.replicator.keeper", mirror.settings]
    again = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert again.returncode == 1
    assert "already runs" in again.stderr
