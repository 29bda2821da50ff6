"""What is wrong on a node is named with code and remedy; nothing is lost, no role is taken on doubt."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.demo.story import MODULE
from orchestrator.setup.bundle import init
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare

PLAIN = {"run": None, "checks": [], "vip": []}
"""Files alone: no application, no address."""


def stays(condition: Callable[[], object], seconds: float) -> None:
    """True all the time: here the time itself is the test."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition()
        time.sleep(0.1)


def told(found: Bare, node: str, *words: str) -> bool:
    """An event has all of these words."""
    return any(all(word in event for word in words) for event in found.events(node))


def write(found: Bare, node: str, name: str, text: str, times: int = 1) -> bool:
    """A durable write into the replicated directory; whether it was acknowledged."""
    code = (
        "import os,sys; f=open(sys.argv[1],'w'); f.write(sys.argv[2]*int(sys.argv[3])); f.flush();"
        "os.fsync(f.fileno()); os.fsync(os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY))"
    )
    path = str(found.cluster.data / name)
    return found.cluster.machines[node].call("python3", "-c", code, path, text, str(times)).returncode == 0


def read(found: Bare, node: str, name: str) -> str:
    return found.cluster.machines[node].call("cat", str(found.cluster.data / name)).stdout


def end_agent(found: Bare, node: str) -> None:
    """The current fails, and the disk can be looked into from outside."""
    found.cluster.lose(node)


def state_of(found: Bare, node: str) -> Path:
    return found.cluster.machines[node].disk / "state"


def test_two_virgin_nodes_wait_and_say_what_to_type() -> None:
    with bare(module=PLAIN) as found:
        first, second = found.cluster.nodes
        for node in (first, second):
            shown = found.cluster.hafarm(node, "status")
            assert f"hafarm start {MODULE} --first NODE" in shown.stdout
        # A start without the choice starts nothing, and so does one for a node that does not exist.
        plain = found.cluster.hafarm(first, "start", MODULE)
        assert (plain.returncode, "--first NODE" in plain.stdout) == (0, True), plain
        stays(lambda: found.module(first)["record"] is None, 3)
        wrong = found.cluster.hafarm(first, "start", MODULE, "--first", "rome")
        assert (wrong.returncode, "HF1220" in wrong.stderr) == (2, True), wrong.stderr
        none = found.cluster.hafarm(first, "verify", MODULE)
        assert (none.returncode, "HF1225" in none.stderr) == (6, True), none.stderr
        # Who is out of reach may hold the better files.
        found.cluster.unplug(second)
        eventually(lambda: not found.cluster.hears(first), 20)
        refused = found.cluster.hafarm(first, "start", MODULE, "--first", first)
        assert (refused.returncode, "HF1226" in refused.stderr) == (8, True), refused.stderr
        found.cluster.plug(second)
        found.begin()
        again = found.cluster.hafarm(second, "start", MODULE, "--first", second)
        assert (again.returncode, "HF1201" in again.stderr) == (6, True), again.stderr


def test_a_directory_that_forgets_or_is_missing_is_named_and_serves_nobody() -> None:
    with bare(module=PLAIN) as found:
        first, second = found.cluster.nodes
        eventually(lambda: found.cluster.hears(first) and found.cluster.hears(second), 30)
        machine, data = found.cluster.machines[second], str(found.cluster.data)
        assert machine.call("mount", "-t", "tmpfs", "tmpfs", data).returncode == 0
        assert found.cluster.hafarm(first, "start", MODULE, "--first", first).returncode == 0
        eventually(lambda: "HF4005" in found.reason(second), 30)
        assert "tmpfs" in found.reason(second)
        assert told(found, second, "HF4002", "HF4005", "tmpfs")
        assert found.role(second)[0] == "WAIT"
        assert write(found, first, "one", "kept")  # its absence costs the first nothing
        assert machine.call("ls", "-A", data).stdout == ""
        # Underneath it is as it should be; hafarm goes on by itself.
        assert machine.call("umount", "-l", data).returncode == 0
        eventually(lambda: found.role(second) == ("SECOND", "ready"), 40)
        assert found.reason(second) == ""
        # Gone altogether: stopped, taken away, started again.
        assert found.cluster.hafarm(first, "stop", MODULE, "--node", second, "--wait=30s").returncode == 0
        machine.call("umount", "-l", data)
        elsewhere = found.cluster.work / "elsewhere"
        found.cluster.data.rename(elsewhere)
        try:
            assert found.cluster.hafarm(second, "start", MODULE, "--node", second).returncode == 0
            eventually(lambda: "No such file or directory" in found.reason(second), 30)
            assert found.role(second)[0] == "WAIT"
        finally:
            elsewhere.rename(found.cluster.data)
        eventually(lambda: found.role(second) == ("SECOND", "ready"), 40)


def test_damaged_state_takes_no_role_and_loses_nothing() -> None:
    """Each file of ours on the node that could take over; then the primary dies."""
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert write(found, first, "one", "acknowledged")
        harmed = {
            f"state/modules/{MODULE}.json": "HF1001",
            f"state/volumes/{MODULE}/lineage.json": "HF1001",
        }
        for file, code in harmed.items():
            machine = found.cluster.machines[second]
            found.cluster.lose(second)
            eventually(lambda: found.role(first)[0] == "ALONE", 30)
            whole = _harm_on_disk(found, second, file)
            eventually(lambda code=code: code in found.reason(second) or told(found, second, code), 40)
            assert found.role(second)[0] in ("WAIT", "STOP")
            found.cluster.lose(first)
            stays(lambda: found.role(second)[0] in ("WAIT", "STOP", ""), 4)
            refused = found.cluster.hafarm(second, "start", MODULE)
            assert found.role(second)[0] in ("WAIT", "STOP"), refused
            found.cluster.bring_back(first)
            eventually(lambda: found.role(first)[0] in ("ALONE", "PRIM"), 40)
            assert read(found, first, "one") == "acknowledged"
            # The remedy: the file is put back, as from a backup.
            found.cluster.lose(second)
            found.cluster.machines[second].power_on()
            (machine.disk / file).parent.mkdir(parents=True, exist_ok=True)
            _on_disk(found, second, file).write_bytes(whole)
            found.cluster.plug(second)
            found.cluster.start_agent(second)
            eventually(lambda: found.role(second) == ("SECOND", "ready"), 60)
        assert read(found, second, "one") == "acknowledged"


def _on_disk(found: Bare, node: str, file: str) -> Path:
    machine = found.cluster.machines[node]
    return Path(f"/proc/{machine.first_pid()}/root{machine.disk}/{file}")


def _harm_on_disk(found: Bare, node: str, file: str) -> bytes:
    """The node boots with this file cut short; what it held."""
    found.cluster.machines[node].power_on()
    path = _on_disk(found, node, file)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    found.cluster.plug(node)
    found.cluster.start_agent(node)
    eventually(lambda: found.cluster.status(node) is not None, 40)
    return whole


def test_an_unreadable_may_differ_log_means_a_full_comparison_said_aloud() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert write(found, first, "one", "before")
        found.cluster.lose(second)
        eventually(lambda: found.role(first)[0] == "ALONE", 30)
        assert write(found, first, "two", "meanwhile")
        found.cluster.lose(first)
        found.cluster.machines[first].power_on()
        log = _on_disk(found, first, f"state/volumes/{MODULE}/may-differ.{second}")
        whole = log.read_bytes()
        log.write_bytes(whole[: len(whole) // 2] + b"\xff" * 16 + whole[len(whole) // 2 :])
        found.cluster.plug(first)
        found.cluster.start_agent(first)
        eventually(lambda: found.role(first)[0] == "ALONE", 60)
        found.cluster.bring_back(second)
        eventually(lambda: found.role(second) == ("SECOND", "ready"), 60)
        assert (read(found, second, "one"), read(found, second, "two")) == ("before", "meanwhile")
        assert told(found, first, "HF4006", second, "in full", "the may-differ log is unreadable")


def test_another_cluster_s_key_is_heard_by_nobody_and_named() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert write(found, first, "one", "acknowledged")
        strange = found.cluster.work / "strange"
        init(found.cluster.cluster, found.cluster.names, str(strange))
        bundle = found.cluster.work / "keys" / second
        kept = found.cluster.work / "kept"
        found.cluster.lose(second)
        shutil.copytree(bundle, kept)
        # First the heartbeat key alone, then the whole bundle of another `hafarm init`.
        shutil.copy(strange / second / "heartbeat.key", bundle)
        found.cluster.bring_back(second)
        eventually(lambda: told(found, first, "HF5003", second) and told(found, second, "HF5003", first), 40)
        assert "carry another key" in found.cluster.hafarm(first, "status").stdout
        assert found.role(first)[0] == "ALONE"
        # The stream may be up, its certificates are right; who is not heard is no member and never serves.
        stays(lambda: found.role(second)[0] not in ("PRIM", "ALONE"), 3)
        assert found.module(first)["record"]["in_sync"] == [first]
        found.cluster.lose(second)
        shutil.rmtree(bundle)
        shutil.copytree(strange / second, bundle)
        found.cluster.bring_back(second)
        eventually(lambda: found.cluster.status(second) is not None, 40)
        eventually(lambda: "certificate" in str(found.cluster.status(second)["witness"]["why"]), 40)
        eventually(lambda: told(found, first, "HF4012", "foreign", "not of this cluster"), 40)
        assert found.role(second)[0] in ("WAIT", "STOP")
        assert write(found, first, "two", "acknowledged")
        found.cluster.lose(second)
        shutil.rmtree(bundle)
        shutil.copytree(kept, bundle)
        found.cluster.bring_back(second)
        eventually(lambda: found.role(second) == ("SECOND", "ready"), 60)
        assert read(found, second, "two") == "acknowledged"


def test_a_second_agent_on_a_node_is_refused() -> None:
    import sys

    with bare(module=PLAIN) as found:
        first, _ = found.cluster.nodes
        machine = found.cluster.machines[first]
        settings = str(machine.work / "agent.yaml")
        done = machine.call(sys.executable, "-m", "orchestrator.agent", "--config", settings)
        assert (done.returncode, "HF1005" in done.stderr) == (1, True), done.stderr
        assert found.cluster.status(first) is not None
