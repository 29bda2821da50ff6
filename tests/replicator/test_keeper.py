"""Keeper and replicator as processes: what dies, what lives on, and what an application notices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host.fuse.mount import mounts_of_ours
from tests.replicator.kills import Alone, alone, kill_again_and_again
from tests.replicator.processes import record, write_durably
from tests.support.waiting import eventually

KILLS = 6
"""The keeper makes a pause before each start but the first; `./run chaos --kills` does a hundred."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Alone]:
    with alone(tmp_path) as thing:
        yield thing


def test_a_node_alone_serves_from_reign_to_stop_and_leaves_plain_files(mirror: Alone) -> None:
    agent = mirror.start()
    with pytest.raises(OSError, match="Read-only"):
        (mirror.tree / "early").write_bytes(b"")
    life = agent.ask("status")["life"]
    agent.ask("take_reign", record=record(1, "paris", life, ["paris"]))
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


def test_a_gate_that_is_closed_while_it_opens_stays_closed(mirror: Alone) -> None:
    agent = mirror.start()
    life = agent.ask("status")["life"]
    for epoch in range(1, 11):
        agent.ask("take_reign", record=record(epoch, "paris", life, ["paris"]))
        agent.ask("close_gate", drain=False)
    # Behind all of these in the same queue: what comes before it was closed again.
    agent.ask("take_reign", record=record(11, "paris", life, ["paris"]))
    last = "nothing"
    while (event := agent.event("reign_taken", "gate_closed")).get("record", {}).get("epoch") != 11:
        last = event["event"]
    assert last == "gate_closed"
    write_durably(mirror.tree / "a", b"acknowledged")


def test_a_sync_that_a_lost_member_must_confirm_is_held_and_refused_when_the_gate_closes(
    mirror: Alone,
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


def test_a_replicator_that_is_killed_again_and_again_is_not_noticed_by_its_application(
    mirror: Alone,
) -> None:
    mirror.serve()
    life = mirror.dial().ask("status")["life"]
    report = kill_again_and_again(mirror, KILLS, seed=1)
    assert not report.errors
    assert not report.wrong
    assert report.kills == KILLS
    status = mirror.dial().ask("status")
    assert status["life"] == life
    assert status["open"]


def test_a_killed_keeper_takes_the_replicator_along_and_the_next_start_finds_the_files(
    mirror: Alone,
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


def test_a_second_keeper_for_the_same_mirror_is_refused(mirror: Alone) -> None:
    mirror.start()
    command = [sys.executable, "-m", "orchestrator.replicator.keeper", mirror.settings]
    again = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert again.returncode == 1
    assert "already runs" in again.stderr


def test_a_keeper_has_nothing_of_the_replicator_and_gives_away_all_but_its_lock(mirror: Alone) -> None:
    mirror.start()
    maps = Path(f"/proc/{mirror.keeper}/maps").read_text()
    assert [name for name in ("_ctypes", "_ssl", "libcrypto") if name in maps] == []
    assert "/run/keeper.lock" in _opened(mirror.keeper)
    assert "/run/keeper.lock" not in _opened(mirror.replicator())
    assert "/memfd:gate" in _opened(mirror.replicator())


def _opened(pid: int) -> str:
    """What a process holds open, a line each."""
    return "\n".join(os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
