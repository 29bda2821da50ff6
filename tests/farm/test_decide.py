"""Stories of one node's farm: when it takes traffic, when it gives it away, and what it waits for."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.farm import machine
from orchestrator.farm.state import MOVES
from orchestrator.farm.view import directors
from orchestrator.model.effects import (
    Announce,
    CountConnections,
    KeepShares,
    StartApplication,
    Steer,
    StopApplication,
    StoreFarm,
    Unsteer,
)
from orchestrator.model.events import (
    ApplicationFailed,
    ApplicationStarted,
    ApplicationStopped,
    CheckFailed,
    ChecksPassed,
    ConnectionsCounted,
    EffectFailed,
    FarmLoaded,
    LinkLost,
    LinkRestored,
    PeerAlive,
    PeerLeft,
    PeerLost,
    PeerSaid,
    PeerSuspected,
    SteeringFailed,
)
from orchestrator.model.names import Instant, NodeName
from orchestrator.model.orders import Drain, Leave, Restart, Start, Stop, Swap, Undrain, Weigh
from orchestrator.model.report import FarmRole, Phase
from tests.farm.decide import ADDRESS, TIMINGS, WEB, A, B, C, Told, config, fresh, serving, view


def test_a_node_takes_traffic_only_when_each_check_was_good() -> None:
    farm = fresh(A, B, checks=True)
    assert farm.farm.role is FarmRole.WAIT
    farm.hears(PeerLost(B))
    assert not farm.hears(ApplicationStarted(WEB))
    farm.hears(ChecksPassed(WEB))
    assert farm.farm.role is FarmRole.UP
    assert len(farm.ordered(Steer)) == 1


def test_it_does_not_say_who_shares_before_it_has_heard_the_others_or_waited_for_them() -> None:
    farm = fresh(A, B)
    farm.hears(ApplicationStarted(WEB))
    assert farm.farm.role is FarmRole.WAIT
    farm.passes(TIMINGS.start_grace_s + 0.1)
    assert farm.farm.role is FarmRole.UP


def test_alone_it_owns_all_and_answers() -> None:
    farm = fresh(A, B)
    farm.hears(PeerLost(B), ApplicationStarted(WEB))
    farm.obeys()
    farm.obeys()
    assert farm.owned(A) == 1024
    assert farm.newest.directs == {ADDRESS}
    assert farm.farm.phase() is Phase.DEGRADED


def test_one_that_joins_is_prepared_before_anybody_sends_to_it() -> None:
    farm = fresh(A, B)
    farm.says(B)
    farm.hears(ApplicationStarted(WEB))
    (steer,) = farm.ordered(Steer)
    # Nobody sends here yet; what is to come has its connections at b.
    assert steer.groups[0].owners.count(B) == 1024
    assert set(steer.groups[0].previous.values()) == {B}
    assert len(steer.groups[0].previous) == 512
    farm.obeys()
    assert farm.owned(A) == 0, "b has not said that it is prepared"
    farm.agrees(B)
    assert farm.owned(A) == 512


def test_a_lost_node_s_buckets_come_at_once_and_are_asked_for_nowhere() -> None:
    farm = serving(B, C)
    farm.hears(PeerLost(B))
    assert (farm.owned(A), farm.owned(C)) == (512, 512)
    assert B not in farm.newest.groups[0].previous.values()


def test_a_suspect_that_stays_silent_counts_as_lost_though_it_is_still_heard() -> None:
    farm = serving(B)
    farm.hears(PeerSuspected(B))
    assert farm.owned(A) == 512
    farm.passes(TIMINGS.detection_s - TIMINGS.suspect_s + 0.01)
    assert farm.owned(A) == 1024


def deaf(*peers: NodeName, mode: str = "invisible") -> Told:
    """b is heard, and hears nothing from here."""
    farm = serving(*peers, mode=mode)
    farm.hears(PeerSuspected(B))
    farm.passes(TIMINGS.detection_s - TIMINGS.suspect_s + 0.01)
    assert farm.owned(A) == 1024 // len(peers)
    farm.passes(TIMINGS.suspect_s + 0.01)
    return farm


def test_where_all_receive_everything_who_is_not_heard_stands_back_for_who_has_its_part() -> None:
    farm = deaf(B)
    assert (farm.owned(A), farm.newest.directs) == (0, frozenset())
    assert "HF6032" in farm.codes
    farm.hears(PeerAlive(B))
    farm.obeys()
    farm.agrees(B)
    assert farm.owned(A) == 512


def test_a_third_node_learns_that_one_stands_back() -> None:
    farm = deaf(B, C)
    assert farm.farm.state().draining
    farm.obeys()
    farm.agrees(C)
    assert (farm.owned(A), farm.owned(C)) == (0, 1024)


def test_who_passes_on_serves_whoever_reaches_it() -> None:
    assert deaf(B, mode="directed").owned(A) == 1024


def test_nobody_stands_back_for_one_that_serves_no_more_and_for_none_twice() -> None:
    farm = deaf(B)
    farm.hears(PeerSaid(B, {WEB: farm.word(draining=True)}))
    farm.obeys()
    assert farm.owned(A) == 1024
    farm.hears(PeerSaid(B, {WEB: farm.word()}))
    farm.passes(60)
    assert farm.owned(A) == 1024


def test_a_dead_node_is_not_stood_back_for() -> None:
    farm = serving(B, mode="invisible")
    farm.hears(PeerSuspected(B))
    farm.passes(TIMINGS.detection_s - TIMINGS.suspect_s + 0.01)
    farm.hears(PeerLost(B))
    farm.passes(60)
    assert farm.owned(A) == 1024


def test_a_node_that_leaves_by_plan_is_not_waited_for() -> None:
    farm = serving(B)
    farm.hears(PeerLeft(B))
    assert farm.owned(A) == 1024


def test_one_that_drains_keeps_its_connections_and_the_others_know_where_they_are() -> None:
    farm = serving(B)
    farm.says(B, draining=True)
    farm.obeys()
    farm.agrees(B)
    assert farm.owned(A) == 1024
    # Those of now, and those that b had when this node came.
    assert set(farm.newest.groups[0].previous.values()) == {B}
    assert len(farm.newest.groups[0].previous) == 1024


def test_a_gainer_that_never_says_to_be_prepared_holds_a_change_up_for_a_while_only() -> None:
    farm = serving(B, C)
    farm.says(C, draining=True)
    farm.obeys()
    assert farm.owned(C) > 0
    farm.passes(TIMINGS.agent_grace_s + 2 * TIMINGS.detection_s + 0.1)
    assert farm.owned(C) == 0
    assert "HF6022" in farm.codes


def test_a_node_that_comes_and_goes_is_left_out_longer_each_time() -> None:
    farm = serving(B)
    farm.hears(PeerLost(B))
    farm.says(B)
    assert not farm.farm.peers[B].out, "after one loss at once"
    for losses in (2, 3):
        farm.hears(PeerLost(B))
        farm.says(B)
        assert farm.farm.peers[B].out
        farm.passes(TIMINGS.detection_s * 2**losses - 0.1)
        assert farm.farm.peers[B].out
        farm.passes(0.2)
        assert not farm.farm.peers[B].out
    assert "HF6023" in farm.codes


def test_a_new_life_that_has_said_nothing_is_sent_nothing() -> None:
    farm = serving(B)
    farm.hears(PeerLost(B), PeerSaid(B, {}), PeerAlive(B))
    assert farm.owned(B) == 0
    assert farm.farm.taking.names == {A}


def test_a_pulse_that_was_started_anew_costs_nothing_when_its_agent_speaks_soon() -> None:
    farm = serving(B)
    word = farm.farm.peers[B].said
    farm.hears(PeerSaid(B, {}))
    assert farm.owned(B) == 512
    farm.hears(PeerSaid(B, {WEB: word}))
    farm.passes(2.0)
    assert farm.owned(B) == 512


def test_traffic_closes_before_the_application_stops_and_the_others_are_told_first() -> None:
    farm = serving(B)
    decision = machine.step(farm.farm, Instant(farm.now), ApplicationFailed(WEB, "exit 1"))
    assert next(type(effect).__name__ for effect in decision.effects) == "Announce"
    farm.asked(Stop())
    kinds = [type(effect) for effect in farm.did]
    assert kinds.index(Unsteer) < kinds.index(StopApplication)
    farm.hears(ApplicationStopped(WEB, True))
    assert farm.farm.role is FarmRole.STOP


def test_a_drained_node_waits_for_its_last_connection_then_stops_and_stays_so() -> None:
    farm = serving(B)
    assert farm.asked(Drain(limit_s=60.0)) == ""
    assert StoreFarm(WEB, True, 100, True) in farm.did
    farm.obeys()
    farm.agrees(B)
    assert farm.owned(A) == 0
    farm.obeys()
    farm.agrees(B)
    assert CountConnections(WEB) in farm.passes(0.6)
    farm.hears(ConnectionsCounted(WEB, 3))
    assert farm.farm.role is FarmRole.UP
    farm.hears(ConnectionsCounted(WEB, 0))
    assert farm.ordered(Unsteer)
    farm.hears(ApplicationStopped(WEB, True))
    assert farm.farm.role is FarmRole.STOP
    assert StoreFarm(WEB, False, 100, False) in farm.did


def test_a_drain_is_over_at_its_limit_whatever_is_left() -> None:
    farm = serving(B)
    farm.asked(Drain(limit_s=5.0))
    farm.obeys()
    farm.agrees(B)
    farm.obeys()
    farm.agrees(B)
    farm.passes(0.6)
    farm.hears(ConnectionsCounted(WEB, 3))
    farm.passes(5.0)
    assert farm.farm.role is FarmRole.WAIT
    assert "HF6025" in farm.codes


def test_undrained_in_time_it_takes_traffic_again_and_nothing_stops() -> None:
    farm = serving(B)
    farm.asked(Drain(limit_s=5.0))
    assert farm.asked(Undrain()) == ""
    farm.passes(60.0)
    assert farm.farm.takes
    assert not farm.ordered(StopApplication)


def test_the_last_node_is_drained_only_by_force() -> None:
    farm = serving(B)
    farm.says(B, role=FarmRole.WAIT, open=False)
    assert farm.asked(Drain()) == "HF6027"
    assert farm.asked(Drain(force=True)) == ""


def test_a_restart_gives_the_traffic_away_first_and_comes_back() -> None:
    farm = serving(B)
    assert farm.asked(Restart()) == ""
    assert not farm.ordered(StopApplication)
    farm.passes(31.0)
    farm.hears(ApplicationStopped(WEB, True))
    assert farm.ordered(StartApplication)
    farm.hears(ApplicationStarted(WEB))
    assert farm.farm.takes


def test_the_last_node_restarts_at_once() -> None:
    farm = fresh(A, B)
    farm.hears(PeerLost(B), ApplicationStarted(WEB))
    farm.asked(Restart())
    assert farm.ordered(StopApplication)


def test_a_weight_is_durable_told_and_refused_where_it_is_none() -> None:
    farm = serving(B)
    assert farm.asked(Weigh(1001)) == "HF6030"
    assert farm.asked(Weigh(50)) == ""
    assert StoreFarm(WEB, True, 50, False) in farm.did
    assert farm.farm.state().percent == 50
    farm.obeys()
    farm.agrees(B)
    assert farm.owned(A) == 341


def test_orders_of_mirrors_are_refused() -> None:
    farm = serving(B)
    assert farm.asked(Swap()) == "HF6029"
    assert farm.asked(Start(first=True)) == "HF6029"


def test_a_kernel_that_refuses_leaves_the_part_to_the_others_and_is_asked_again() -> None:
    farm = serving(B)
    farm.hears(SteeringFailed(WEB, farm.farm.steering, "somebody else answers"))
    assert farm.farm.role is FarmRole.WAIT
    assert not farm.farm.state().open
    farm.passes(5.1)
    assert farm.farm.role is FarmRole.UP


def test_without_a_carrier_nothing_is_taken_and_the_application_goes_on() -> None:
    farm = serving(B)
    farm.hears(LinkLost(WEB, "eth0"))
    assert farm.ordered(Unsteer)
    assert not farm.ordered(StopApplication)
    farm.hears(LinkRestored(WEB, "eth0"))
    assert farm.farm.role is FarmRole.UP


def test_an_application_that_fails_is_started_again_slower_once_the_budget_is_spent() -> None:
    farm = serving(B, restarts_max=1)
    farm.hears(ApplicationFailed(WEB, "exit 1"))
    assert farm.ordered(Unsteer)
    assert StartApplication in [type(effect) for effect in farm.passes(1.1)]
    farm.hears(ApplicationFailed(WEB, "exit 1"))
    assert not farm.passes(29.0)
    assert StartApplication in [type(effect) for effect in farm.passes(1.1)]


def test_a_check_that_fails_closes_the_traffic_before_the_application_is_stopped() -> None:
    farm = serving(B)
    farm.hears(CheckFailed(WEB, "tcp 80", "restart"))
    kinds = [type(effect) for effect in farm.did]
    assert kinds.index(Unsteer) < kinds.index(StopApplication)


def test_what_could_not_be_done_is_tried_again() -> None:
    farm = serving(B)
    farm.asked(Leave(force=True))
    farm.hears(EffectFailed(WEB, "Unsteer", "busy"), EffectFailed(WEB, "StoreFarm", "EIO"))
    kinds = [type(effect) for effect in farm.passes(5.1)]
    assert {Unsteer, StoreFarm} <= set(kinds)


def test_a_restarted_agent_touches_nothing_before_it_has_heard_the_others() -> None:
    farm = fresh(A, B, wanted=False)
    farm.farm = machine.create(A, config(A, B), config(A, B).farms[0], TIMINGS)
    decision = machine.step(farm.farm, Instant(farm.now), FarmLoaded(WEB, True, running=True))
    farm.farm = decision.state
    assert not [each for each in decision.effects if isinstance(each, Steer | Announce | StartApplication)]
    assert farm.farm.role is FarmRole.UP
    farm.says(B, view=farm.farm.digest(view(A, B)))
    assert farm.owned(A) == 512, "as it was: nothing is prepared anew"


def restarted(farm: Told) -> Told:
    """The next agent of the same boot."""
    kept = farm.kept[-1].shares
    told = Told(machine.create(A, config(A, B, C), config(A, B, C).farms[0], TIMINGS), farm.now)
    told.hears(FarmLoaded(WEB, True, shares=kept, running=True))
    return told


def test_a_restarted_agent_knows_where_connections_are_that_moved_before() -> None:
    farm = serving(B, C)
    farm.says(C, draining=True)
    farm.agrees(B)
    farm.agrees(C)
    farm.obeys()
    moved = farm.newest.groups[0].previous
    assert set(moved.values()) == {B, C}
    farm = restarted(farm)
    farm.says(B)
    farm.says(C, draining=True)
    assert farm.farm.settled
    assert farm.newest.groups[0].previous == moved


def test_a_restarted_agent_drops_who_was_lost_meanwhile_at_once() -> None:
    farm = restarted(serving(B, C))
    farm.says(B)
    farm.hears(PeerLost(C))
    assert farm.owned(C) == 0
    assert C not in farm.newest.groups[0].previous.values()


def test_what_a_node_kept_of_another_configuration_is_not_believed() -> None:
    farm = serving(B, C)
    other = replace(farm.kept[-1].shares, config="00000000")
    farm = Told(machine.create(A, config(A, B, C), config(A, B, C).farms[0], TIMINGS), farm.now)
    farm.hears(FarmLoaded(WEB, True, shares=other, running=True))
    assert not farm.farm.recalled


def test_who_had_the_buckets_is_kept_before_the_kernel_is_told() -> None:
    farm = serving(B)
    decision = machine.step(farm.farm, Instant(farm.now), PeerLost(B))
    kinds = [type(effect) for effect in decision.effects]
    assert kinds.index(KeepShares) < kinds.index(Steer)


def test_where_all_have_the_weight_0_whoever_answers_has_everything() -> None:
    farm = serving(B)
    farm.says(B, percent=0)
    settle(farm)
    assert farm.owned(A) == 1024
    assert farm.asked(Weigh(0)) == ""
    settle(farm)
    (director,) = set(directors(farm.farm.rules, farm.farm.committed).values())
    assert farm.owned(director) == 1024


def settle(farm: Told) -> None:
    """The other node agrees, and the kernel obeys, until nothing changes any more."""
    for _ in range(3):
        farm.agrees(B)
        farm.obeys()


def test_a_lost_node_is_asked_no_more_by_a_change_that_is_being_prepared() -> None:
    farm = serving(B, C)
    farm.says(C, draining=True)
    farm.agrees(B)
    farm.agrees(C)
    farm.obeys()
    farm.says(B, percent=50)
    assert farm.farm.coming
    assert farm.farm.fading
    assert C in farm.newest.groups[0].previous.values()
    farm.hears(PeerLost(C))
    assert farm.farm.preparing is not None
    assert C not in farm.newest.groups[0].previous.values()
    assert not any(C in names for group in farm.farm.coming for names in group.values())


def test_two_sides_of_a_split_look_for_each_other_s_connections_when_it_is_over() -> None:
    farm = serving(B)
    farm.hears(PeerLost(B))
    farm.obeys()
    farm.says(B, view=farm.farm.digest(view(B)))
    # What stays here was b's as well, on its side.
    assert set(farm.newest.groups[0].previous.values()) == {B}
    farm.obeys()
    farm.agrees(B)
    assert farm.owned(B) == 512
    assert len(farm.newest.groups[0].previous) > 500


def test_another_configuration_is_told_once() -> None:
    farm = serving(B)
    farm.says(B, config="00000000")
    farm.says(B, config="00000000")
    assert farm.codes.count("HF6026") == 1


def test_every_move_between_roles_is_walked() -> None:
    walked = {
        FarmRole.STOP: {FarmRole.WAIT},
        FarmRole.WAIT: {FarmRole.UP, FarmRole.STOP},
        FarmRole.UP: {FarmRole.WAIT},
    }
    assert {role: set(others) for role, others in MOVES.items()} == walked
