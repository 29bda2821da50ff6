"""Two machines with one name, certificate and address: named, and no acknowledged write is lost."""

from __future__ import annotations

import json
import sys

from orchestrator.demo.story import MODULE
from orchestrator.host.netns import run
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.test_bad_input import PLAIN, read, told, write


def start_clone(found: Bare, node: str) -> None:
    """The machine of the clients turns out to be a copy of this node: its name, bundle and addresses."""
    cluster = found.cluster
    machine = cluster.machines["client"]
    inner = cluster.network.namespace("client")
    for path, address in json.loads((cluster.work / "hafarm.yaml").read_text())["nodes"][1][
        "addresses"
    ].items():
        assert path in ("lan", "backup")
        run("ip", "-n", inner, "address", "add", f"{address}/24", "dev", "eth0")
    settings = json.loads((cluster.machines[node].work / "agent.yaml").read_text())
    settings |= {
        "state_dir": str(machine.disk / "state"),
        "run_dir": str(machine.run_dir),
        "log_dir": str(machine.log_dir),
    }
    (machine.work / "agent.yaml").write_text(json.dumps(settings))
    machine.start(
        sys.executable, "-m", "orchestrator.agent", "--config", str(machine.work / "agent.yaml"), log="agent"
    )


def test_a_cloned_node_is_named_and_costs_no_acknowledged_write() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert write(found, first, "one", "acknowledged")
        start_clone(found, second)
        eventually(lambda: told(found, first, "HF5005", second), 60)
        # Whoever can reach the witness serves; the duplicate address may have cut off the one that did.
        served: list[str] = []

        def acknowledged() -> bool:
            serving = [node for node in (first, second) if found.role(node)[0] in ("PRIM", "ALONE")]
            served[:] = [node for node in serving if write(found, node, "two", "acknowledged")]
            return bool(served)

        eventually(acknowledged, 90)
        found.cluster.machines["client"].power_off()
        run("ip", "-n", found.cluster.network.namespace("client"), "address", "flush", "dev", "eth0")
        # By themselves: nothing has to be decided by an operator once the clone is gone.
        roles = {("PRIM", "ready"), ("SECOND", "ready")}
        eventually(lambda: {found.role(first), found.role(second)} == roles, 120)
        primary = first if found.role(first)[0] == "PRIM" else second
        eventually(lambda: found.cluster.hafarm(primary, "verify", MODULE).returncode == 0, 60)
        for node in (first, second):
            assert (read(found, node, "one"), read(found, node, "two")) == ("acknowledged", "acknowledged")
