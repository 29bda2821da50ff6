"""A real cluster that replicates only what it is told to, and begins nothing on a disk that is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.demo.cluster import Cluster
from orchestrator.demo.story import MODULE
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.test_bad_input import PLAIN, read, told, write
from tests.whole.test_command_line import redundant
from tests.whole.test_copies import asked, on_disk

SENTINEL = "data/SENTINEL"


class Choosing(Cluster):
    """Only `data` is replicated, and must be there."""

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        chosen = {"path": str(self.data), "only": ["data/**"], "exclude": ["re:.*[.]tmp"]}
        replicate = [{**chosen, "must_exist": SENTINEL}]
        return super()._make_config(preset, {**module, "replicate": replicate})


def check(found: Bare, node: str) -> dict[str, Any]:
    file = str(found.cluster.work / "hafarm.yaml")
    done = found.cluster.hafarm(node, "config", "check", file, "--node", node, "-o", "json")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def warned(found: Bare, node: str) -> list[str]:
    return [one["text"] for one in check(found, node)["findings"] if one["verdict"] == "warn"]


def other_users(found: Bare, node: str) -> None:
    """On this node another user has the number that owns the files."""
    changed = found.cluster.work / f"passwd-{node}"
    lines = Path("/etc/passwd").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.split(":")[2] != "4711"]
    changed.write_text("\n".join([*lines, "intruder:x:4711:4711::/:/bin/false", ""]), encoding="utf-8")
    done = found.cluster.machines[node].call("mount", "--bind", str(changed), "/etc/passwd")
    assert done.returncode == 0, done.stderr


def test_an_empty_disk_begins_nothing_and_only_what_is_named_is_replicated() -> None:
    with bare(Choosing, module=PLAIN) as found:
        first, second = found.cluster.nodes
        eventually(found.cluster.all_hear, 40)
        # An empty directory is not what a module begins with: no record, no role, nothing made.
        refused = found.cluster.hafarm(first, "start", MODULE, "--first", first)
        assert (refused.returncode, "HF4021" in refused.stderr, SENTINEL in refused.stderr) == (6, True, True)
        assert found.module(first)["record"] is None
        assert {found.role(node)[0] for node in (first, second)} == {"STOP"}
        assert any("HF4021" in text for text in warned(found, first))
        on_disk(found, first, f"mkdir data; touch {SENTINEL}; echo mine > conf; sync")
        found.begin()
        assert check(found, first)["directories"][0]["files"] == 1

        on_disk(found, first, "mkdir data/a && chown 4711 data/a")
        assert write(found, first, "data/a/one", "replicated")
        assert write(found, first, "data/a/one.tmp", "local")
        assert write(found, first, "note", "local")
        assert on_disk(found, second, "find . -type f | sort").split() == [f"./{SENTINEL}", "./data/a/one"]
        data = str(found.cluster.data)
        moved = found.cluster.machines[first].call("mv", f"{data}/note", f"{data}/data/note")
        assert moved.returncode == 0
        # It was copied, as by any mv, which syncs nothing: it comes by itself, a moment later.
        eventually(lambda: read(found, second, "data/note") == "local", 20)
        assert asked(found, first, "verify", MODULE)["equal"]
        assert not any("HF4022" in text for text in warned(found, first))
        other_users(found, second)
        assert any("user 4711 is nobody here and intruder on" in text for text in warned(found, first))
        said = asked(found, first, "verify", MODULE)["owners"]
        assert [text for text in said if "intruder" in text and "HF4022" in text], said

        # The primary's machine comes back without its disk: it serves nobody, and its peer loses nothing.
        found.cluster.lose(first)
        eventually(lambda: found.role(second)[0] == "ALONE", 60)
        machine = found.cluster.machines[first]
        machine.power_on()
        empty = machine.disk / "empty"
        script = f"mkdir -p {empty} && mount --bind {empty} {data}"
        assert machine.call("sh", "-c", script).returncode == 0
        found.cluster.plug(first)
        found.cluster.start_agent(first)
        eventually(lambda: "HF4021" in found.reason(first), 60)
        assert told(found, first, "HF4002", "HF4021", SENTINEL)
        assert found.role(first)[0] == "WAIT"
        assert write(found, second, "data/a/two", "while it waits")
        assert machine.call("ls", "-A", data).stdout == ""
        assert read(found, second, "data/a/one") == "replicated"
        # The disk is mounted; it goes on by itself, with what is local as it was.
        assert machine.call("umount", data).returncode == 0
        eventually(lambda: redundant(found), 90)
        assert read(found, first, "data/a/two") == "while it waits"
        assert read(found, first, "data/a/one.tmp") == "local"
        assert read(found, first, "conf") == "mine\n"
        assert asked(found, second, "verify", MODULE)["equal"]
