"""Farms of each mode on five nodes of real processes: shares, faults under load, and nothing left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.farm.clients import source
from tests.support.leftovers import remember
from tests.support.waiting import eventually
from tests.whole.farms import ECHO, MODES, NODES, TCP, WEB, Farms

DETECTION_S = 0.5
"""Of the preset lan."""
LATE_S = 2.0
"""Beside detection, on a machine where five nodes, their clients and other tests share the processors. What
a quiet one needs is measured by `./run bench farm`."""
AGAIN_S = 1.0
"""A SYN that was lost is sent again after a second."""
CONNECTIONS = 100
RATES = ("connections_per_s", "packets_per_s", "bytes_per_s")


@pytest.fixture(scope="module")
def made() -> Iterator[Farms]:
    work = remember(Path(tempfile.mkdtemp(prefix="hafarm-test-")))
    farms = Farms(work)
    failed = True
    try:
        farms.up()
        farms.begin()
        yield farms
        failed = False
    finally:
        farms.down()
        if not failed:
            shutil.rmtree(work, ignore_errors=True)


@pytest.fixture
def farms(made: Farms) -> Farms:
    made.await_ready(*NODES)
    return made


@pytest.mark.parametrize("farm", ECHO)
def test_each_client_is_answered_by_the_node_of_its_bucket_alone(farms: Farms, farm: str) -> None:
    farms.assert_answered_once(farm, NODES, count=300)


def test_status_tells_shares_connections_and_rates_of_every_node(farms: Farms) -> None:
    words = (f"http://{WEB[0]}/", "-H", "Connection: close")
    with farms.wrk(60, 20, *words), farms.moving("echo", 4, CONNECTIONS) as moving:
        there = {name: moving.nodes.count(name) for name in NODES}

        def told() -> dict[str, dict[str, float]]:
            return {each["node"]: each for each in farms.module("n4", "web")["nodes"]}

        eventually(lambda: all((each["connections_per_s"] or 0) > 10 for each in told().values()), 40)
        for each in told().values():
            assert each["packets_per_s"] > each["connections_per_s"]
            assert each["bytes_per_s"] > 40 * each["packets_per_s"]
        shown = farms.hafarm("n4", "status", "web").stdout
        assert len(re.findall(r"new/s, \d+ packets/s, .*/s in", shown)) == len(NODES), shown
        eventually(lambda: connections(farms) == there, 20)
        tcp, udp = (group["shares"] for group in farms.module("n5", "echo")["groups"][:2])
        parts = {"n1": 1, "n2": 2, "n3": 1, "n4": 1, "n5": 1}
        assert all(abs(tcp[name] - part / 6) < 0.002 for name, part in parts.items()), tcp
        assert udp["n3"] == 0
        # Somebody takes the rules of a node away: they are put back, and no rate becomes absurd by that.
        node = next(name for name in NODES if name != farms.director("web"))
        before: dict[str, dict[str, float]] = {}

        def all_told() -> bool:
            """An agent that is busy for a moment is not told of."""
            before.update(told())
            return all(each[key] is not None for each in before.values() for key in RATES)

        eventually(all_told, 20)
        farms.delete_tables(node, "hafarm_farm_web")
        eventually(lambda: any("HF6107" in line for line in events(farms, node)), 20)
        assert moving.report()["broken"] == {}
        for name, each in told().items():
            for key in RATES:
                assert each[key] is None or 0 <= each[key] <= 20 * before[name][key], (name, key)


def test_a_drain_breaks_nothing_and_a_node_that_is_lost_only_its_own(farms: Farms) -> None:
    gone = "n1"
    alive = tuple(name for name in NODES if name != gone)
    with farms.moving("echo", 4, CONNECTIONS) as four, farms.moving("all", 6, CONNECTIONS) as six:
        farms.order("drain", "web", "--node=n3")
        farms.order("weight", "echo", "--node=n4", "50")
        eventually(lambda: shares(farms, "n5", "echo")["n4"] < 0.2, 30)
        farms.order("weight", "echo", "--node=n4", "100")
        eventually(lambda: shares(farms, "n5", "web")["n3"] == 0, 30)
        farms.order("undrain", "web", "--node=n3")
        farms.await_ready(*NODES)
        assert [moving.report()["broken"] for moving in (four, six)] == [{}, {}]

        # The mirror's primary, a farm's director perhaps, and a server of all.
        with (
            farms.wrk(10, 60, f"http://{WEB[0]}/") as asking,
            farms.beginning("near", 4) as near,
            farms.beginning("echo", 6) as echo,
        ):
            eventually(lambda: rate(farms, "web") > 100, 20)
            lost_at = time.monotonic()
            farms.lose(gone)
            farms.await_ready(*alive)
            out = asking.communicate(timeout=60)[0]
            for moving in (four, six):
                doomed = {str(20000 + n) for n, node in enumerate(moving.nodes) if node == gone}
                eventually(lambda: moving.report()["broken"].keys() >= doomed, 30)  # noqa: B023
                eventually(lambda: moving.report()["stuck"] == [], 30)  # noqa: B023
                assert moving.report()["broken"].keys() == doomed
    found = re.search(r"(\d+) requests in", out)
    assert found is not None
    assert int(found[1]) > 1000, out
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    assert errors is None or sum(map(int, errors.groups())) < 60, out
    for beginning in (near, echo):
        assert len(beginning.met) > 20
        bad = [each for each in beginning.bad(LATE_S) if each[0] > lost_at + DETECTION_S + LATE_S]
        assert bad == []
        assert [each for each in beginning.met if each[0] < lost_at - 0.1 and not each[2]] == []
    for farm in ECHO:
        farms.assert_answered_once(farm, alive, first=50)
    # The farm in front of the mirror: whoever serves, all nodes reach the other primary.
    eventually(lambda: rows(farms) == {200}, 60)
    farms.bring_back(gone)
    farms.await_ready(*NODES)
    assert not any("HF6033" in line for line in events(farms, gone)), "the others told it who had the buckets"


def test_a_node_that_stands_still_is_left_out_and_comes_back(farms: Farms) -> None:
    frozen = farms.director("echo")
    alive = tuple(name for name in NODES if name != frozen)
    with farms.beginning("echo", 4) as beginning:
        at = time.monotonic()
        pids = farms.freeze(frozen)
        try:
            farms.await_ready(*alive)
            for farm in ECHO:
                farms.assert_answered_once(farm, alive, first=200)
        finally:
            farms.thaw(pids)
        farms.await_ready(*NODES)
    assert [each for each in beginning.bad(LATE_S) if each[0] > at + DETECTION_S + LATE_S] == []
    for farm in ECHO:
        farms.assert_answered_once(farm, NODES, first=400)


def test_a_node_that_nobody_hears_costs_nobody_an_answer(farms: Farms) -> None:
    """It hears the others, and serves on with whoever reaches it alone; nobody is without an answer."""
    mute = next(name for name in NODES if name not in {farms.director(farm) for farm in MODES})
    others = tuple(name for name in NODES if name != mute)
    with farms.beginning("echo", 4) as beginning:
        at = time.monotonic()
        for name in others:
            farms.network.cut(mute, name)
        farms.await_ready(*others)
        asked = [(source(4, 900 + number), 5000 + number) for number in range(300)]
        for address, farm in ((ECHO["echo"][0], "echo"), (ECHO["near"][0], "near")):
            for kind, port in (("tcp", TCP[farm]), ("udp", TCP[farm] + 1)):
                said = farms.ask(address, kind, port, asked)
                assert set(said) <= set(NODES), (farm, kind)
        # Where all receive everything it would answer beside those that have its part: there it stands back.
        eventually(lambda: "HF6032" in str(farms.module(mute, "all")["nodes"]), 30)
        farms.assert_answered_once("all", others, first=700)
        farms.heal()
        farms.await_ready(*NODES)
    assert [each for each in beginning.bad(LATE_S) if each[0] > at + DETECTION_S + LATE_S] == []
    for farm in ECHO:
        farms.assert_answered_once(farm, NODES, first=600)


def test_echo_requests_are_answered_once(farms: Farms) -> None:
    for address in (*WEB, *(address for pair in ECHO.values() for address in pair)):
        done = farms.machines["client"].call("ping", "-c", "3", "-i", "0.05", "-W", "5", address)
        assert "3 received" in done.stdout, done.stdout
        assert "duplicates" not in done.stdout


def test_after_a_kill_a_clean_takes_everything_and_while_an_agent_runs_nothing(farms: Farms) -> None:
    node = "n5"
    clean = (sys.executable, "-m", "orchestrator.agent", "--clean")
    before, foreign = farms.tables(node), farms.foreign(node)
    assert foreign is not None
    refused = farms.machines[node].call(*clean)
    assert (refused.returncode, "HF4520" in refused.stderr) == (6, True), refused.stderr
    assert farms.tables(node) == before
    kill(farms, node, "orchestrator.agent", "orchestrator.pulse")
    alive = tuple(name for name in NODES if name != node)
    farms.await_ready(*alive)
    assert farms.left(node) != []
    for farm in ECHO:
        farms.assert_answered_once(farm, alive, first=800)
    assert farms.machines[node].call(*clean).returncode == 0
    assert farms.left(node) == []
    assert farms.foreign(node) == foreign
    # The next life takes its part again.
    kill(farms, node, "serve.py", "nginx")
    farms.start_agent(node)
    farms.await_ready(*NODES)


def test_a_stop_leaves_nothing(farms: Farms) -> None:
    foreign = {node: farms.foreign(node) for node in NODES}
    for farm in MODES:
        farms.order("stop", farm, "--wait=60s")
    for node in NODES:
        assert farms.left(node) == []
        assert farms.foreign(node) == foreign[node] is not None


# --- words --------------------------------------------------------------------------------------------------


def shares(farms: Farms, node: str, farm: str) -> dict[str, float]:
    return {each["node"]: each["share"] for each in farms.module(node, farm)["nodes"]}


def kill(farms: Farms, node: str, *needles: str) -> None:
    """Together: an agent would start its pulse again."""
    found = [pid for needle in needles for pid in farms.machines[node].pids(needle)]
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def connections(farms: Farms) -> dict[str, int]:
    return {each["node"]: each["connections"] for each in farms.module("n5", "echo")["nodes"]}


def rate(farms: Farms, farm: str) -> float:
    """Packets in a second, of all nodes."""
    return sum(each["packets_per_s"] or 0 for each in farms.module("n2", farm)["nodes"])


def events(farms: Farms, node: str) -> list[str]:
    return farms.hafarm(node, "events", "-o", "tsv").stdout.splitlines()


def rows(farms: Farms) -> set[int]:
    """What the farm's nodes got from the mirror that they ask: the HTTP status of some connections."""
    code = (
        "import json,sys,urllib.request,urllib.error\n"
        "def ask():\n"
        "    try: return urllib.request.urlopen(sys.argv[1], timeout=10).status\n"
        "    except urllib.error.HTTPError as fault: return fault.code\n"
        "print(json.dumps([ask() for _ in range(30)]))\n"
    )
    done = farms.machines["client"].call(sys.executable, "-c", code, f"http://{WEB[0]}/rows")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))
