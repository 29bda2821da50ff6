"""Whole farms under seeds: they run clean, repeat themselves, and a rule that is missing is found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.farm import members
from orchestrator.model.names import NodeName
from orchestrator.model.orders import Drain
from tests.sim.world import Violation
from tests.sim_farm import __main__ as command
from tests.sim_farm.cluster import FarmCluster
from tests.sim_farm.episode import play, play_calm
from tests.sim_farm.rules_off import RULES_OFF
from tests.sim_farm.scenes import SCENES

SEEDS = (2, 7)
"""Small farms: a seed takes some two seconds."""
CALM_SEEDS = (8, 40, 49, 58, 90)
"""Each broke a connection once, by a fault of the product or of this simulator."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_runs_clean(seed: int) -> None:
    outcome = play(seed)
    assert outcome.violation == ""
    assert outcome.faults > 10


@pytest.mark.parametrize("seed", CALM_SEEDS)
def test_what_is_done_by_plan_breaks_no_connection(seed: int) -> None:
    assert play_calm(seed).violation == ""


def test_the_same_seed_gives_the_same_trace() -> None:
    one, two = play(7), play(7)
    assert (one.trace, one.events, one.counts) == (two.trace, two.events, two.counts)
    assert play(2).trace != one.trace


def test_a_seed_whose_campaign_is_over_ends_at_once_and_is_no_violation() -> None:
    cut = play(7, over_at=0.0)
    assert (cut.violation, cut.counts["cut short"]) == ("", 1)


def test_a_campaign_ends_in_its_time_and_prints_its_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    assert command.main(["--farm", "--minutes", "0.01", "--seed", "7", "--json", str(rows)]) == 0
    for name in command.FIGURES:
        assert name in rows.read_text()


def test_a_campaign_that_missed_something_fails(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    everything = Counter(command.wanted())
    assert command.missing(everything) == []
    del everything["rule: history recalled"]
    assert command.missing(everything) == ["rule: history recalled"]
    monkeypatch.setattr(command, "FULL_FAULTS", 0)
    assert command.main(["--minutes", "0.001", "--seed", "7"]) == 1
    assert "never happened: " in capfd.readouterr().err


def test_a_campaign_with_a_violation_fails_and_says_how_to_see_it(
    monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    with RULES_OFF["traffic opens before the checks"]():
        assert command.main(["--minutes", "0.001", "--seed", "7"]) == 1
    assert "./run sim --farm --story 7 " in capfd.readouterr().err


@pytest.mark.parametrize("rule", SCENES)
def test_a_scene_runs_clean_with_its_rule_and_not_without(rule: str) -> None:
    SCENES[rule]()
    with RULES_OFF[rule](), pytest.raises(Violation) as found:
        SCENES[rule]()
    print(f"{rule}: {found.value}")


SEEDS_OFF = (1, 6, 7, 17, 2, 3, 4, 5, 8, 9, 25, 31)
"""Most are found by the first, the others by one of the next three."""


@pytest.mark.parametrize("rule", sorted(RULES_OFF.keys() - SCENES.keys()))
def test_random_seeds_find_what_a_rule_prevents(rule: str) -> None:
    with RULES_OFF[rule]():
        for seed in SEEDS_OFF:
            if violation := play_calm(seed).violation:
                print(f"{rule}: seed {seed}: {violation}")
                return
    pytest.fail("no seed found it")


def test_a_switch_leaves_nothing_behind() -> None:
    for switch in RULES_OFF.values():
        with switch():
            pass
    assert play_calm(1).violation == ""


def flaps(cluster: FarmCluster, times: int) -> int:
    """How often the view of `a` changed while the wires to `c` came and went."""
    cluster.world.counts.clear()
    before = Counter(cluster.world.counts)["views"]
    for _ in range(times):
        cluster.cut("c", "a")
        cluster.cut("c", "b")
        cluster.world.disturb()
        cluster.world.run(cluster.world.now + 3.0)
        cluster.world.cuts.clear()
        cluster.world.disturb()
        cluster.world.run(cluster.world.now + 3.0)
    return cluster.world.counts["views"] - before


def test_a_network_that_comes_and_goes_moves_buckets_a_few_times_and_not_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = FarmCluster(1, "abc")
    cluster.begin()
    damped = flaps(cluster, 20)
    monkeypatch.setattr(members, "HOLD_MAX_S", 0.0)
    wild = FarmCluster(1, "abc")
    wild.begin()
    assert damped < 30 < flaps(wild, 20), damped


def test_a_split_that_nobody_heals_serves_on_both_sides() -> None:
    cluster = FarmCluster(3, "abcde")
    cluster.begin()
    for one in "ab":
        for two in "cde":
            cluster.cut(one, two)
    cluster.converge(("ab", "cde"))
    assert cluster.order("a", Drain(limit_s=1.0)) == ""
    cluster.world.run(cluster.world.now + 10.0)
    assert cluster.hosts["b"].kernel is not None
    assert set(cluster.hosts["b"].kernel.groups[0].owners) == {NodeName("b")}


def test_nodes_that_do_not_all_hear_each_other_still_change_by_plan() -> None:
    cluster = FarmCluster(4, "abc")
    cluster.begin()
    cluster.cut("a", "b")
    cluster.world.disturb()
    cluster.world.run(cluster.world.now + 5.0)
    assert cluster.order("c", Drain(limit_s=30.0)) == ""
    cluster.world.disturb()
    cluster.world.run(cluster.world.now + 60.0)
    assert cluster.hosts["c"].kernel is None, "the drain came to its end"
    for name in "ab":
        kernel = cluster.hosts[name].kernel
        assert kernel is not None
        assert set(kernel.groups[0].owners) == {NodeName(name)}


def test_the_violations_of_the_simulated_farm_can_be_seen() -> None:
    cluster = FarmCluster(5, "ab")
    cluster.begin()
    cluster.clients.come(20)
    cluster.calmly(3.0)
    cluster.hosts["b"].kernel = None
    with pytest.raises(Violation, match="lets nothing in, again and again"):
        cluster.calmly(3.0)
