"""Whole farms under seeds: they run clean, repeat themselves, and a rule that is missing is found."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.farm import members
from orchestrator.model.names import NodeName
from orchestrator.model.orders import Drain
from tests.sim.world import Violation
from tests.sim_farm.cluster import FarmCluster
from tests.sim_farm.episode import play
from tests.sim_farm.rules_off import RULES_OFF
from tests.sim_farm.scenes import SCENES

SEEDS = (2, 6, 7, 15)
"""Small farms: a seed takes a second or two."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_runs_clean(seed: int) -> None:
    outcome = play(seed)
    assert outcome.violation == ""
    assert outcome.faults > 10


def test_the_same_seed_gives_the_same_trace() -> None:
    one, two = play(7), play(7)
    assert (one.trace, one.events, one.counts) == (two.trace, two.events, two.counts)
    assert play(15).trace != one.trace


@pytest.mark.parametrize("rule", SCENES)
def test_a_scene_runs_clean_with_its_rule_and_not_without(rule: str) -> None:
    SCENES[rule]()
    with RULES_OFF[rule](), pytest.raises(Violation) as found:
        SCENES[rule]()
    print(f"{rule}: {found.value}")


@pytest.mark.parametrize("rule", sorted(RULES_OFF.keys() - SCENES.keys()))
def test_random_seeds_find_what_a_rule_prevents(rule: str) -> None:
    with RULES_OFF[rule]():
        for seed in (6, 2, 15, 24):
            if violation := play(seed).violation:
                print(f"{rule}: seed {seed}: {violation}")
                return
    pytest.fail("no seed found it")


def test_a_switch_leaves_nothing_behind() -> None:
    for switch in RULES_OFF.values():
        with switch():
            pass
    assert play(7).violation == ""


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
