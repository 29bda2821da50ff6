"""Our own processes are killed under load: nobody notices, or the module fails over; nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.demo.cluster import ask
from tests.support.waiting import eventually
from tests.whole.conftest import Running, running

KEEPER = "orchestrator.replicator.keeper"
KILLS = 3
"""Between the death of a keeper and that of its application lie some milliseconds, and a line takes less."""


def application_pid(served: Running, node: str) -> list[int]:
    return served.pids(node, "orchestrator.demo.application")


def mount_ids(served: Running, node: str) -> list[str]:
    machine = served.cluster.machines[node]
    lines = machine.call("cat", "/proc/self/mountinfo").stdout.splitlines()
    return [line.split()[0] for line in lines if "fuse.hafarm" in line]


def test_an_agent_killed_twenty_times_under_load_is_noticed_by_nobody(served: Running) -> None:
    clients = served.load()
    node = served.story.primary()
    before = application_pid(served, node), mount_ids(served, node)
    assert before[1]
    for _ in range(20):
        assert served.kill(node, "orchestrator.agent")
        served.cluster.start_agent(node)
        eventually(lambda: served.story.role(node)[0] == "PRIM", 20)
        served.progresses()
        assert (application_pid(served, node), mount_ids(served, node)) == before
    eventually(served.redundant, 30)
    assert served.lost() == set()
    assert not [gap for gap in clients.final["gaps"] if gap[1] - gap[0] > 2.0]


def test_a_killed_replicator_is_started_again_by_its_keeper(served: Running) -> None:
    served.load()
    node = served.story.primary()
    before = application_pid(served, node), mount_ids(served, node)
    for _ in range(3):
        assert served.kill(node, "orchestrator.replicator.main")
        served.progresses()
        eventually(served.redundant, 40)
    assert (application_pid(served, node), mount_ids(served, node)) == before
    assert served.lost() == set()


def test_a_killed_replicator_of_the_secondary_costs_a_resync_and_no_more(served: Running) -> None:
    served.load()
    primary = served.story.primary()
    node = served.story.other(primary)

    def resyncs() -> bool:
        entries = served.cluster.status(primary)["modules"][0]["nodes"]
        return any(entry["resync"] for entry in entries)

    assert served.kill(node, "orchestrator.replicator.main")
    served.progresses()
    eventually(served.redundant, 40)
    eventually(lambda: not resyncs(), 10)  # a copy that has ended is not shown any more
    assert served.lost() == set()


def test_a_killed_keeper_leaves_plain_files_and_the_module_serves_again(served: Running) -> None:
    served.load()
    node = served.story.primary()
    assert served.kill(node, KEEPER)
    served.progresses()
    eventually(served.redundant, 60)
    assert served.lost() == set()


def opener(work: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        str(Path(__file__).with_name("opener.py")),
        str(work / "srv" / "log"),
        str(work / "told"),
    ]
    return {"run": {"command": command}, "checks": []}


def test_no_application_writes_beneath_the_mount_of_a_killed_keeper() -> None:
    with running(module=opener) as served:
        for _ in range(KILLS):
            node = served.story.primary()
            (keeper,) = served.kill(node, KEEPER)
            eventually(lambda: served.pids(node, KEEPER) not in ([], [keeper]), 30)  # noqa: B023 - used here
            eventually(served.redundant, 60)
        told = (served.cluster.work / "told").read_text().splitlines()
        assert told, "a check of nothing proves nothing"
        machine = served.cluster.machines[served.story.primary()]
        there = machine.call("cat", str(served.cluster.data / "log")).stdout.splitlines()
        assert set(told) - set(there) == set()


def test_files_are_plainly_accessible_after_keeper_and_agent_are_killed(served: Running) -> None:
    served.load()
    node = served.story.primary()
    served.kill(node, "orchestrator.agent")
    served.kill(node, KEEPER)
    machine = served.cluster.machines[node]
    # The next agent finds the dead mount, whatever it decides then; no file needs it to be read.
    served.cluster.start_agent(node)
    eventually(lambda: machine.call("ls", str(served.cluster.data)).returncode == 0, 30)
    assert "rows.db" in machine.call("ls", str(served.cluster.data)).stdout
    served.progresses()
    assert served.lost() == set()


def test_a_killed_pulse_silences_the_address_and_the_service_comes_back(served: Running) -> None:
    served.load()
    node = served.story.primary()
    assert served.kill(node, "orchestrator.pulse")
    served.progresses()
    eventually(served.redundant, 60)
    assert served.lost() == set()


def test_an_agent_that_is_stopped_for_long_hands_over_and_finds_its_place_again(served: Running) -> None:
    served.load()
    node = served.story.primary()
    (agent,) = served.pids(node, "orchestrator.agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        eventually(lambda: served.story.role(served.story.other(node))[0] == "ALONE", 40)
        served.progresses()
    finally:
        os.kill(agent, signal.SIGCONT)
    eventually(served.redundant, 60)
    assert served.lost() == set()


def test_an_application_that_dies_is_started_again_in_place(served: Running) -> None:
    served.load()
    node = served.story.primary()
    (before,) = application_pid(served, node)
    os.kill(before, signal.SIGKILL)
    served.progresses()
    eventually(served.redundant, 30)
    assert served.story.primary() == node
    assert application_pid(served, node) != [before]
    assert served.lost() == set()


def test_a_swap_stops_on_one_side_before_it_starts_on_the_other(served: Running) -> None:
    served.load()
    source = served.story.primary()
    target = served.story.other(source)
    assert served.cluster.act(source, action="swap")[0] == 202
    overlap = []
    end = time.monotonic() + 20
    while served.story.role(target) != ("PRIM", "ready") and time.monotonic() < end:
        overlap.append((bool(application_pid(served, source)), bool(application_pid(served, target))))
    assert (True, True) not in overlap
    served.progresses()
    eventually(served.redundant, 30)
    assert served.lost() == set()


def test_a_stopped_module_starts_again_on_either_node_and_is_refused_what_is_unsafe(served: Running) -> None:
    first, second = served.cluster.nodes
    socket = str(served.cluster.machines[first].run_dir / "agent.sock")
    for wish, code in (
        ({"action": "start", "first": first}, "HF1201"),
        ({"action": "promote", "node": second}, "HF1214"),
    ):
        _, answer = served.cluster.act(first, **wish)
        operation = ask(socket, "GET", f"/api/v1/operations/{answer['op']}?wait=10")[1]
        assert (operation["state"], operation["error"]["code"]) == ("refused", code)
    assert served.cluster.act(first, action="nonsense")[0] == 409
    assert served.cluster.act(first, action="stop")[0] == 202
    eventually(lambda: served.story.roles("STOP") == 2, 40)
    for name in served.cluster.names:
        machine = served.cluster.machines[name]
        assert "rows.db" in machine.call("ls", str(served.cluster.data)).stdout
        assert mount_ids(served, name) == []
        assert application_pid(served, name) == []
    assert served.cluster.act(second, action="start", node=second)[0] == 202
    eventually(lambda: served.story.role(second)[0] == "ALONE", 40)
    assert served.cluster.act(second, action="start")[0] == 202
    eventually(served.redundant, 40)


def test_a_node_that_missed_writes_never_serves_by_itself(served: Running) -> None:
    served.load()
    primary = served.story.primary()
    stale = served.story.other(primary)
    served.cluster.lose(stale)
    eventually(lambda: served.story.role(primary)[0] == "ALONE", 20)
    served.progresses()
    served.cluster.lose(primary)
    served.cluster.bring_back(stale)
    eventually(lambda: served.cluster.status(stale) is not None, 30)
    end = time.monotonic() + 8  # many times T: it must stay as it is, so the time itself is the test
    while time.monotonic() < end:
        assert served.story.role(stale)[0] in ("WAIT", "")
        time.sleep(0.2)
    assert "promote" in json.dumps(served.cluster.status(stale)["modules"][0]["hint"])
    served.cluster.bring_back(primary)
    served.progresses()
    eventually(served.redundant, 60)
    assert served.lost() == set()
