"""Whole clusters under seeds: they run clean, they repeat themselves, and nothing that matters is missed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.sim import __main__ as command
from tests.sim.cluster import MODULE, Cluster
from tests.sim.episode import build, play
from tests.sim.world import Violation

KEPT = [int(line.split()[0]) for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()[1:]]
RANGE = range(100, 104)


@pytest.mark.parametrize("seed", [*KEPT, *RANGE])
def test_a_seed_runs_clean(seed: int) -> None:
    assert play(seed).violation == ""


def test_the_same_seed_gives_the_same_trace() -> None:
    one, two = play(7), play(7)
    assert (one.trace, one.events, one.counts) == (two.trace, two.events, two.counts)
    assert play(8).trace != one.trace


def test_a_trace_tells_two_runs_apart_that_differ_in_one_event() -> None:
    cluster = build(7)
    cluster.world.note("something else happened")
    assert play(7, cluster=cluster).trace != play(7).trace


def quiet_hours(jumping: bool) -> tuple[list[str], float]:
    """Three failures with long quiet between them; every delay is the same, so only the jumps can differ."""
    cluster = Cluster(1, nodes=2, jumping=jumping, jitter=False)
    world = cluster.world
    cluster.begin()
    world.log = []
    hosts = list(cluster.hosts.values())
    for host in (hosts[0], hosts[1], hosts[0]):
        world.run(world.now + 100.0)
        host.power_off()
        world.disturb()
        world.run(world.now + 20.0)
        cluster.revive(host)
        world.run(world.now + 20.0)
    decided = [line.split(maxsplit=1) for line in world.log if " does " in line or "->" in line]
    return [f"{round(float(at), 1)} {what}" for at, what in decided], world.skipped


def test_jumping_over_quiet_stretches_changes_no_decision() -> None:
    slow, none = quiet_hours(jumping=False)
    fast, skipped = quiet_hours(jumping=True)
    assert none == 0.0
    assert skipped > 200.0
    assert [line.split(maxsplit=1)[1] for line in fast] == [line.split(maxsplit=1)[1] for line in slow]


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
    monkeypatch.setattr(command, "FULL_MINUTES", 0.0)
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
    primary = next(host for host in cluster.hosts.values() if host.role == "PRIM")
    assert primary.node is not None
    assert primary.node.mirrors[MODULE].held is not None
    with pytest.raises(Violation, match="had to be refused"):
        cluster.order(primary, command_restart(), refused=True)


def command_restart() -> object:
    from orchestrator.model.orders import Restart

    return Restart()
