"""A run that is broken off leaves nothing, however often it is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.leftovers import MARK

ROOT = str(Path(__file__).parents[2])


def test_a_run_that_is_told_twice_to_end_cleans_up_once() -> None:
    words = [sys.executable, "-m", "tests.chaos", "--minutes=5", "--seed=1", "--workload=sqlite"]
    paths = os.environ | {"PYTHONPATH": ROOT}
    run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=paths, start_new_session=True)
    assert run.stdout is not None
    while " after " not in run.stdout.readline():  # the first fault: a whole cluster stands
        assert run.poll() is None
    run.send_signal(signal.SIGTERM)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "everything was cleaned up" in said
    namespaces = os.listdir("/var/run/netns")
    assert [name for name in namespaces if name.startswith(f"hf{run.pid % 100000}-")] == []
    assert processes_of(run.pid) == []


def processes_of(session: int) -> list[str]:
    """What was started by the run, told by the mark that it gives to all."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            marked = f"{MARK}={session}".encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if marked and name != str(session):
            found.append(name)
    return found
