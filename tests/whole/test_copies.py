"""What an operator does about copies, typed on a real cluster: histories, edits, parts of a comparison."""

from __future__ import annotations

import json
import time
from typing import Any

from orchestrator.demo.story import MODULE
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.test_bad_input import PLAIN, read, told, write
from tests.whole.test_command_line import redundant


def asked(found: Bare, node: str, *words: str, code: int = 0) -> dict[str, Any]:
    done = found.cluster.hafarm(node, *words, "-o", "json")
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def on_disk(found: Bare, node: str, *words: str) -> str:
    """A command on the node itself, in the replicated directory."""
    done = found.cluster.machines[node].call("sh", "-c", f"cd {found.cluster.data} && {' '.join(words)}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def force(found: Bare, node: str, name: str) -> None:
    """The other node is gone; this one serves by order, and writes."""
    forced = ("promote", MODULE, "--node", node, "--accept-data-loss", "--yes", "--wait=60s")
    eventually(lambda: found.cluster.hafarm(node, *forced).returncode == 0, 60)
    eventually(lambda: found.role(node)[0] == "ALONE", 60)
    assert write(found, node, "shared", f"as {node} wrote it")
    assert write(found, node, name, f"only {node} has it")


def test_two_forced_histories_are_told_listed_shown_and_released() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        for name in ("shared", "removed", "same"):
            assert write(found, first, name, "before")
        found.cluster.lose(second)
        eventually(lambda: found.role(first)[0] == "ALONE", 60)
        assert write(found, first, "alone", "only the first has it")
        found.cluster.lose(first)
        found.cluster.bring_back(second)
        force(found, second, "of-second")
        found.cluster.lose(second)
        found.cluster.bring_back(first)
        force(found, first, "of-first")
        on_disk(found, first, "rm removed")
        found.cluster.bring_back(second)
        eventually(lambda: redundant_with(found, first, second), 90)

        (one,) = asked(found, first, "divergence", "list")["divergences"]
        assert (one["module"], one["node"], one["lost"], one["kept_by"]) == (MODULE, second, second, first)
        assert one["verdict"] == "diverged"
        assert {len(reigns) > 1 for reigns in one["lineages"].values()} == {True}
        shown = asked(found, second, "divergence", "show", MODULE)
        assert {file["path"]: file["why"] for file in shown["files"]} == {
            "shared": "changed here",
            "of-second": "only here",
            "removed": "deleted there",
        }
        assert one["files"] == 3
        assert one["bytes"] == len(f"as {second} wrote it") + len(f"only {second} has it") + len("before")
        eventually(lambda: "hafarm divergence list" in found.cluster.hafarm(first, "status").stdout, 20)
        assert f"hafarm divergence show {MODULE}" in found.cluster.hafarm(second, "status").stdout
        assert told(found, first, "HF4016", second, "diverged")
        assert read(found, first, "shared") == f"as {first} wrote it"
        assert asked(found, first, "verify", MODULE)["equal"]

        # Also of a node on which the module is stopped, and from any node.
        assert found.cluster.hafarm(first, "stop", MODULE, "--node", second, "--wait=60s").returncode == 0
        eventually(lambda: found.role(second)[0] == "STOP", 60)
        assert found.cluster.hafarm(first, "divergence", "release", MODULE).returncode == 6
        freed = asked(found, first, "divergence", "release", MODULE, "--yes")
        assert (freed["files"], freed["bytes"]) == (3, one["bytes"])
        assert asked(found, second, "divergence", "list")["divergences"] == []
        assert found.cluster.hafarm(first, "start", MODULE, "--node", second, "--wait=60s").returncode == 0
        eventually(lambda: redundant_with(found, first, second), 60)
        assert "divergence" not in found.cluster.hafarm(second, "status").stdout


def test_two_nodes_that_both_serve_by_force_overwrite_nobody_until_one_is_named() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert write(found, first, "shared", "before")
        found.cluster.unplug(second)
        eventually(lambda: found.role(first)[0] == "ALONE", 60)
        force(found, second, "of-second")
        assert write(found, first, "shared", f"as {first} wrote it")
        found.cluster.plug(second)
        for node in (first, second):
            eventually(lambda node=node: "both serve" in found.module(node).get("headline", ""), 60)  # type: ignore[misc]
        shown = found.cluster.hafarm(second, "status").stdout
        assert f"next: hafarm stop {MODULE}, then start the node to keep" in shown
        assert read(found, second, "shared") == f"as {second} wrote it"

        assert found.cluster.hafarm(first, "stop", MODULE, "--wait=60s").returncode == 0
        eventually(lambda: {found.role(node)[0] for node in found.cluster.names} == {"STOP"}, 60)
        assert found.cluster.hafarm(first, "start", MODULE, "--node", first, "--wait=60s").returncode == 0
        eventually(lambda: found.role(first)[0] == "ALONE", 60)
        assert found.cluster.hafarm(first, "start", MODULE, "--node", second, "--wait=60s").returncode == 0
        eventually(lambda: redundant_with(found, first, second), 90)
        assert read(found, second, "shared") == f"as {first} wrote it"
        shown = asked(found, first, "divergence", "show", MODULE)
        assert (shown["verdict"], shown["lost"]) == ("diverged", second)
        assert {file["path"]: file["why"] for file in shown["files"]} == {
            "shared": "changed here",
            "of-second": "only here",
        }


def redundant_with(found: Bare, primary: str, second: str) -> bool:
    return found.role(primary) == ("PRIM", "ready") and found.role(second) == ("SECOND", "ready")


def test_what_was_edited_while_a_node_was_stopped_is_told_and_kept() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        for name in ("edited", "deleted", "same"):
            assert write(found, first, name, "before")
        assert found.cluster.hafarm(first, "stop", MODULE, "--node", second, "--wait=60s").returncode == 0
        eventually(lambda: found.role(second)[0] == "STOP", 60)
        on_disk(found, second, "echo -n by hand > edited; rm deleted; echo -n new > extra")
        assert found.cluster.hafarm(first, "start", MODULE, "--node", second, "--wait=60s").returncode == 0
        eventually(lambda: redundant(found), 90)
        assert told(found, second, "HF4020", "3 names", "edited", "deleted", "extra"), found.events(second)
        assert read(found, second, "edited") == "before"
        shown = asked(found, first, "divergence", "show", MODULE)
        assert shown["verdict"] == "target with edits"
        assert {file["path"]: file["why"] for file in shown["files"]} == {
            "edited": "changed here",
            "deleted": "deleted here",
            "extra": "only here",
        }
        assert asked(found, first, "verify", MODULE)["equal"]
        assert asked(found, first, "divergence", "release", MODULE, "--yes")["files"] == 3

        # On the node that serves next, they count, and reach the other one.
        assert found.cluster.hafarm(first, "stop", MODULE, "--wait=60s").returncode == 0
        eventually(lambda: {found.role(node)[0] for node in found.cluster.names} == {"STOP"}, 60)
        on_disk(found, first, "echo -n by hand > edited")
        assert found.cluster.hafarm(first, "start", MODULE, "--node", first, "--wait=60s").returncode == 0
        eventually(lambda: found.role(first)[0] == "ALONE", 60)
        assert found.cluster.hafarm(first, "start", MODULE, "--node", second, "--wait=60s").returncode == 0
        eventually(lambda: redundant(found), 90)
        assert told(found, first, "HF4020", "1 name changed", "edited")
        assert read(found, second, "edited") == "by hand"
        assert asked(found, first, "verify", MODULE)["equal"]
        shown = asked(found, second, "divergence", "show", MODULE)
        assert [(file["path"], file["kept"]) for file in shown["files"]] == [("edited", "")]

        # A crash without an edit finds nothing.
        before = [event for event in found.events(second) if "HF4020" in event]
        found.cluster.lose(second)
        eventually(lambda: found.role(first)[0] == "ALONE", 60)
        assert write(found, first, "late", "while it was away")
        found.cluster.bring_back(second)
        eventually(lambda: redundant(found), 90)
        assert [event for event in found.events(second) if "HF4020" in event] == before


def test_resync_and_verify_say_how_far_they_are_and_wait_when_told() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        for number in range(6):
            assert write(found, first, f"f{number}", "x", 100_000)
        part = asked(found, second, "verify", MODULE, "--budget", "20s")
        assert (part["equal"], part["complete"]) == (True, True)
        assert part["coverage"][second]["files"] == 6
        nodes = asked(found, second, "resync", MODULE)["nodes"]
        assert nodes[second]["state"] == "streaming"
        assert asked(found, second, "resync", MODULE, "--estimate")["nodes"][second]["files"] == 0
        whole = asked(found, first, "resync", MODULE, "--estimate", "--full")["nodes"][second]
        assert (whole["files"], whole["bytes"]) == (6, 600_000)

        assert asked(found, second, "resync", MODULE, "pause")["unreachable"] == {}
        found.cluster.lose(second)
        eventually(lambda: found.role(first)[0] == "ALONE", 60)
        assert write(found, first, "f1", "y", 100_000)
        # The stream notices by itself, perhaps a moment after the heartbeats did.
        eventually(
            lambda: asked(found, first, "resync", MODULE, "--estimate")["nodes"][second]["state"] == "away",
            60,
        )
        away = asked(found, first, "resync", MODULE, "--estimate")["nodes"][second]
        assert away["files"] >= 1
        found.cluster.bring_back(second)
        eventually(lambda: asked(found, first, "resync", MODULE)["nodes"][second]["state"] == "copying", 60)
        assert asked(found, first, "resync", MODULE)["paused"]
        assert "paused" in found.cluster.hafarm(first, "status").stdout
        assert write(found, first, "live", "goes on")
        assert found.role(first)[0] == "ALONE"
        assert asked(found, first, "resync", MODULE, "resume")["paused"] is False
        eventually(lambda: redundant(found), 60)
        assert read(found, second, "f1") == "y" * 100_000


def test_a_node_filled_from_a_backup_joins_by_order_and_its_copy_keeps_the_rate() -> None:
    rate, late = 2 << 20, 6 << 20
    with bare(module={**PLAIN, "resync": {"rate": "2MiB/s", "workers": 2}}) as found:
        first, second = found.cluster.nodes
        for node in (first, second):
            on_disk(found, node, "head -c 40000000 /dev/zero | tr '\\0' x > same; echo -n old > changed")
        on_disk(found, first, f"echo -n new > changed; head -c {late} /dev/urandom > late")
        eventually(found.cluster.all_hear, 40)
        assert found.cluster.hafarm(first, "start", MODULE, "--first", first).returncode == 0
        eventually(lambda: told(found, first, "HF4004", "unknown files"), 60)
        assert on_disk(found, second, "cat changed") == "old", "nothing is touched without the order"
        adopt = ("resync", MODULE, "--adopt", "--node", second, "--wait=60s")
        assert found.cluster.hafarm(first, *adopt).returncode == 0

        progress: list[dict[str, Any]] = []

        def joined() -> bool:
            known = asked(found, second, "resync", MODULE)
            assert (known["rate_max"], known["workers"]) == (rate, 2)
            if known["nodes"][second]["progress"]:
                progress.append({**known["nodes"][second]["progress"], "at": time.monotonic()})
            return redundant_with(found, first, second)

        eventually(joined, 120)
        sending = [each for each in progress if 256 << 10 < each["sent"] < late]
        took_s = sending[-1]["at"] - sending[0]["at"]
        assert took_s > 1, progress
        measured = (sending[-1]["sent"] - sending[0]["sent"]) / took_s
        # What is looked at is up to a block and a moment old at either end.
        assert measured < 1.1 * rate + (512 << 10) / took_s
        assert measured > 0.3 * rate  # a busy machine may be slower
        assert progress[-1]["sent"] < late + (1 << 20), "what the backup had was not sent"
        assert read(found, second, "changed") == "new"
        assert asked(found, first, "verify", MODULE)["equal"]
        shown = asked(found, first, "divergence", "show", MODULE)
        assert [(file["path"], file["why"]) for file in shown["files"]] == [("changed", "changed here")]
