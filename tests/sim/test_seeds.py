"""Whole clusters under seeds: they run clean, they repeat themselves, and nothing that matters is missed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from orchestrator.model.orders import Restart
from tests.sim import __main__ as command
from tests.sim.cluster import MODULE, Cluster
from tests.sim.episode import build, play
from tests.sim.world import LOOK_EVENTS, Violation
from tests.stories.shop import Shop

KEPT = [int(line.split()[0]) for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()[1:]]
RANGE = range(100, 104)


@pytest.mark.parametrize("seed", [*KEPT, *RANGE])
def test_a_seed_runs_clean(seed: int) -> None:
    assert play(seed).violation == ""


def test_the_same_seed_gives_the_same_trace() -> None:
    one, two = play(7), play(7)
    assert (one.trace, one.events, one.counts) == (two.trace, two.events, two.counts)
    assert play(8).trace != one.trace


def test_a_seed_whose_campaign_is_over_ends_at_once_and_is_no_violation() -> None:
    cut = play(7, over_at=0.0)
    assert (cut.violation, cut.counts["cut short"]) == ("", 1)
    assert cut.events <= LOOK_EVENTS < play(7).events


def test_a_trace_tells_two_runs_apart_that_differ_in_one_event() -> None:
    cluster = build(7)
    cluster.world.note("something else happened")
    assert play(7, cluster=cluster).trace != play(7).trace


def quiet_hours(jumping: bool) -> tuple[list[str], float]:
    """Three failures with long quiet between them; every delay is the same, so only the jumps can differ."""
    shop = Shop(jumping=jumping)
    world, cluster = shop.world, shop.cluster
    for name in ("a", "b", "a"):
        serving = next(other for other, host in shop.hosts.items() if host.service.application)
        shop.saves(serving)
        world.run(world.now + 100.0)
        shop.loses_power(name)
        world.disturb()
        world.run(world.now + 20.0)
        shop.comes_back(name)
        shop.waits_until(lambda: not cluster.not_converged())
    # A jump shifts the phase of the beats: which of two things within one period is first is not compared.
    decided = [f"{r.epoch} {r.primary} {sorted(r.in_sync)} {r.reason}" for r in cluster.register.history]
    return [*decided, *(f"{name} {host.agent.role}" for name, host in shop.hosts.items())], world.skipped


def test_jumping_over_quiet_stretches_changes_no_decision() -> None:
    slow, none = quiet_hours(jumping=False)
    fast, skipped = quiet_hours(jumping=True)
    assert none == 0.0
    assert skipped > 100.0
    assert fast == slow
    assert len(fast) >= 10


def test_a_campaign_ends_in_its_time_and_prints_its_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    assert command.main(["--minutes", "0.01", "--seed", "100", "--json", str(rows)]) == 0
    for name in command.FIGURES:
        assert name in rows.read_text()


def test_a_campaign_that_missed_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Counter(command.wanted())
    assert command.missing(everything) == []
    for what in command.wanted():
        assert command.missing(everything - Counter([what])) == [what]
    monkeypatch.setattr(command, "FULL_FAULTS", 0)
    monkeypatch.setattr(command, "EVENTS", ("something that never happens",))
    assert command.campaign(0.001, 100, None) == 1


def test_a_campaign_with_a_violation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def violated(cluster: Cluster) -> None:
        raise Violation("planted")

    monkeypatch.setattr(Cluster, "converge", violated)
    assert command.campaign(0.001, 100, None) == 1


def test_whatever_a_machine_raises_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbled(cluster: Cluster) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(Cluster, "converge", stumbled)
    assert "KeyError" in play(100).violation


def test_requests_that_must_be_refused_are_made_and_refused() -> None:
    refused: Counter[str] = Counter()
    for seed in RANGE:
        refused.update({name: n for name, n in play(seed).counts.items() if name.startswith("refused HF")})
    assert len(refused) >= 3, refused


def test_an_order_that_is_accepted_though_it_had_to_be_refused_is_a_violation() -> None:
    cluster = Cluster(1, nodes=2)
    cluster.begin()
    primary = next(host for host in cluster.hosts.values() if host.agent.role == "PRIM")
    assert primary.agent.node is not None
    assert primary.agent.node.mirrors[MODULE].held is not None
    with pytest.raises(Violation, match="had to be refused"):
        cluster.order(primary, Restart(), refused=True)
