"""The process beside the agent that has a cloud's library, before there is any cloud."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.providers.process import WorkerProcess

BUSY = """
import socket, sys, time
from orchestrator.providers.process import inbox
messages = inbox(socket.socket(fileno=int(sys.argv[1])))
messages.get()
print("begun", flush=True)
time.sleep(100)
"""
"""What loads a library for long, and has not taken its other messages."""


def test_it_ends_with_its_agent_whatever_it_is_doing() -> None:
    ours, theirs = socket.socketpair()
    words = [sys.executable, "-c", BUSY, str(theirs.fileno())]
    with subprocess.Popen(words, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE) as process:
        theirs.close()
        ours.sendall(b'{"place": 1}\n{"id": 1}\n')
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        ours.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize("module", ["orchestrator.providers.worker", "no.such.module"])
def test_one_that_ends_before_it_is_ready_is_told_of_and_leaves_nothing(module: str, tmp_path: Path) -> None:
    """Without words the one stumbles over what it is not told, the other is not there."""
    gone: list[bool] = []

    def take(message: Mapping[str, Any]) -> None:
        raise AssertionError(message)

    async def story() -> None:
        log = tmp_path / "log"
        process = WorkerProcess(module, (), str(log), take, gone.append)
        with pytest.raises(OSError, match="does not get ready"):
            await process.start({"place": {}})
        assert not process.is_up
        assert process.pid == 0
        assert "Error" in log.read_text() or "No module" in log.read_text()
        with pytest.raises(ConnectionResetError):
            await process.send({"id": 1})

    asyncio.run(story())
    assert gone[0], "nobody ordered it"
