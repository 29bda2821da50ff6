"""A full disk, on either side: refused, said, and over when there is room again."""

from __future__ import annotations

from orchestrator.demo.story import MODULE
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.test_bad_input import PLAIN, read, stays, told, write

FILL = """
import os, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
for size in (1 << 20, 1 << 12, 1):
    try:
        while True:
            os.write(out, bytes(size))
    except OSError:
        os.fsync(out)
"""
"""To the last byte; root gets the reserved blocks too."""


def fill(found: Bare, node: str) -> None:
    """Nothing more fits on the node's disk, which holds its data and its state."""
    machine = found.cluster.machines[node]
    for _ in range(2):  # what a journal still held back is taken by the second pass
        done = machine.call("python3", "-c", FILL, str(machine.disk / "filler"))
        assert done.returncode == 0, done.stderr
    assert machine.call("df", "--output=avail", str(machine.disk)).stdout.split()[-1] == "0"


def free(found: Bare, node: str) -> None:
    machine = found.cluster.machines[node]
    assert machine.call("rm", str(machine.disk / "filler")).returncode == 0


def test_a_full_primary_refuses_writes_keeps_its_role_and_goes_on_when_there_is_room() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert write(found, first, "one", "before")
        fill(found, first)
        assert not write(found, first, "big", "x", 1_000_000)
        assert read(found, first, "one") == "before"
        assert found.role(first)[0] in ("PRIM", "ALONE")
        free(found, first)
        eventually(lambda: write(found, first, "two", "after"), 30)
        eventually(lambda: found.role(second) == ("SECOND", "ready"), 60)
        assert found.cluster.hafarm(first, "verify", MODULE).returncode == 0
        # Everything that was acknowledged is on the other side too.
        found.cluster.lose(first)
        eventually(lambda: found.role(second)[0] == "ALONE", 60)
        assert (read(found, second, "one"), read(found, second, "two")) == ("before", "after")


def test_a_full_secondary_costs_its_place_and_nothing_else() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        fill(found, second)
        assert write(found, first, "one", "x", 1_000_000)
        eventually(lambda: found.role(first)[0] == "ALONE", 60)
        assert told(found, first, "HF4003", second) or told(found, second, "HF4013"), found.events(first)
        assert "serves alone" in found.module(first)["headline"]
        assert write(found, first, "two", "meanwhile")
        free(found, second)
        eventually(lambda: found.role(second) == ("SECOND", "ready"), 90)
        assert found.cluster.hafarm(first, "verify", MODULE).returncode == 0
        assert read(found, second, "two") == "meanwhile"


def test_a_full_secondary_takes_over_and_serves_what_it_has() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        assert write(found, first, "one", "acknowledged")
        fill(found, second)
        found.cluster.lose(first)
        eventually(lambda: found.role(second)[0] == "ALONE", 60)
        assert read(found, second, "one") == "acknowledged"
        assert not write(found, second, "big", "x", 1_000_000)
        free(found, second)
        eventually(lambda: write(found, second, "two", "after"), 30)


def test_a_secondary_that_cannot_keep_its_epoch_takes_no_role() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        machine = found.cluster.machines[second]
        state = str(machine.disk / "state" / "modules" / f"{MODULE}.json")
        assert write(found, first, "one", "acknowledged")
        assert machine.call("chattr", "+i", state).returncode == 0
        found.cluster.lose(first)
        eventually(lambda: not found.cluster.hears(second), 30)
        stays(lambda: found.role(second) != ("ALONE", "degraded"), 4)
        assert found.role(second)[0] == "WAIT"
        assert not told(found, second, "HF1101"), "the gate was open"
        assert "durable" in found.reason(second)
        assert told(found, second, "HF1002")
        assert machine.call("chattr", "-i", state).returncode == 0
        done = found.cluster.hafarm(second, "start", MODULE, "--node", second)
        eventually(lambda: found.role(second)[0] == "ALONE", 60)
        assert done.returncode == 0
        assert read(found, second, "one") == "acknowledged"
