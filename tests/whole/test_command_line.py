"""Every verb typed on a real cluster, with the exit code that scripts rely on."""

from __future__ import annotations

import json
import subprocess

from orchestrator.demo.story import MODULE
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.test_bad_input import PLAIN, read, write

Done = subprocess.CompletedProcess[str]


def expect(done: Done, code: int, *words: str) -> Done:
    assert done.returncode == code, (done.args, done.returncode, done.stdout, done.stderr)
    for word in words:
        assert word in done.stdout + done.stderr, (word, done.stdout, done.stderr)
    if code not in (0, 2, 3):
        # What, why, what to do, where to read on.
        assert "\nerror HF" in f"\n{done.stderr}", done.stderr
        assert "\n  fix: " in done.stderr
        assert "\n  more: hafarm explain HF" in done.stderr
    return done


def redundant(found: Bare) -> bool:
    return {found.role(node) for node in found.cluster.names} == {("PRIM", "ready"), ("SECOND", "ready")}


def test_every_verb_does_what_it_says() -> None:
    with bare(module=PLAIN) as found:
        found.begin()
        first, second = found.cluster.nodes
        file = str(found.cluster.work / "hafarm.yaml")

        def here(*words: str) -> Done:
            return found.cluster.hafarm(first, *words)

        # Telling.
        expect(here("status"), 0, "PRIM", "SECOND", f"{first} serves; if it fails, {second} takes over")
        assert json.loads(here("status", "-o", "json").stdout)["cluster"] == "demo"
        assert here("status", MODULE, "-o", "tsv").stdout.splitlines()[1].split("\t")[:3] == [
            MODULE,
            first,
            "PRIM",
        ]
        expect(here("status", "-o", "yaml"), 0, "cluster: demo")
        expect(here("status", "--check"), 0)
        expect(here("events"), 0, "HF1101")
        expect(here("timings", file), here("timings", file).returncode, "worst gap", "would have been safe")
        expect(here("config", "check", file, "--node", first), 0, "is served by hafarm now")
        expect(here("doctor", file), 0, f"node {second}", "is heard on every network", "can be reached")
        assert "properties" in json.loads(here("config", "schema").stdout)
        expect(here("explain", "HF1206"), 0, "What to do")
        expect(here("version"), 0, "hafarm 0")

        # Acting.
        assert write(found, first, "one", "acknowledged")
        expect(here("verify", MODULE), 0, "all copies are equal")
        expect(here("restart", MODULE, "--wait=60s"), 0, "done")
        expect(here("swap", MODULE, "--wait=60s"), 0, "done")
        eventually(lambda: found.role(second) == ("PRIM", "ready") and redundant(found), 60)
        expect(here("swap", MODULE, "--to", first, "--wait=60s"), 0, "done")
        eventually(lambda: found.role(first) == ("PRIM", "ready") and redundant(found), 60)
        expect(here("resync", MODULE, "--full", "--node", second, "--wait=60s"), 0)
        eventually(lambda: redundant(found), 60)
        expect(here("stop", MODULE, "--node", second, "--wait=60s"), 0)
        eventually(lambda: found.role(first)[0] == "ALONE" and found.role(second)[0] == "STOP", 60)
        expect(here("status", "--check"), 3)
        expect(here("start", MODULE, "--node", second, "--wait=60s"), 0)
        eventually(lambda: redundant(found), 60)

        # Refusing.
        expect(here("promote", MODULE, "--node", first), 6, "HF1211")
        expect(here("promote", MODULE, "--node", second), 6, "HF1214")
        expect(here("promote", MODULE, "--node", second, "--accept-data-loss"), 6, "HF6004")
        expect(here("swap", MODULE, "--to", first), 6)
        expect(here("swap", "nonsense"), 2, "HF1232")
        expect(here("swop", MODULE), 2)
        expect(here("--cluster", "prod", "stop", MODULE), 6, "HF6003")
        expect(here("--socket", "/nowhere.sock", "status"), 8, "HF6002")
        found.cluster.machines["witness"].power_off()
        eventually(lambda: found.cluster.hafarm(first, "swap", MODULE).returncode == 6, 60)
        expect(here("swap", MODULE), 6, "HF1207")
        assert redundant(found)
        found.cluster.bring_back("witness")
        eventually(lambda: "witness answers" in here("status").stdout, 60)

        # The peer is lost, and this copy is not the newest: only by an order that names what it costs.
        found.cluster.lose(second)
        eventually(lambda: found.role(first)[0] == "ALONE", 60)
        assert write(found, first, "two", "acknowledged")
        found.cluster.lose(first)
        found.cluster.bring_back(second)
        eventually(lambda: "promote" in found.module(second).get("hint", ""), 60)
        there = found.cluster.hafarm
        expect(there(second, "promote", MODULE, "--node", second), 6, "HF1215")
        forced = ("promote", MODULE, "--node", second, "--accept-data-loss", "--yes", "--wait=60s")
        expect(there(second, *forced), 0, "done")
        eventually(lambda: found.role(second)[0] == "ALONE", 60)
        assert read(found, second, "one") == "acknowledged"
        assert any("HF1210" in event for event in found.events(second))
        expect(there(second, "stop", MODULE, "--wait=60s"), 0)
        eventually(lambda: found.role(second)[0] == "STOP", 60)
