"""Two hearts on a wire that the test cuts: what each believes, and how long each may answer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cluster.beat import Beat, decode
from orchestrator.cluster.membership import Verdict
from orchestrator.model.events import Paused, PeerAlive, PeerLeft, PeerLost, PeerSaid, PeerSuspected
from orchestrator.model.names import Epoch, Instant, NodeName, PathName
from orchestrator.model.report import ModuleState
from tests.cluster.wire import BACKUP, LAN, ONLY_B, SHOP, TIMES, A, B, Pair


def test_two_nodes_find_each_other_once(pair: Pair) -> None:
    assert len(pair.events(A, PeerAlive)) == len(pair.events(B, PeerAlive)) == 1
    assert not pair.events(A, PeerSuspected)


def test_one_silent_path_of_two_is_no_verdict(pair: Pair) -> None:
    pair.cuts = {(A, LAN), (B, LAN)}
    pair.run(3.0)
    assert not pair.events(A, PeerSuspected)
    assert not pair.events(B, PeerLost)


def test_a_dead_peer_is_suspected_at_half_t_and_lost_at_t(pair: Pair) -> None:
    died = pair.now
    pair.frozen = {B}
    pair.run(1.0)
    assert pair.events(A, PeerSuspected)[0] - died <= TIMES.suspect_s + 0.01
    lost = pair.events(A, PeerLost)[0] - died
    assert TIMES.detection_s - TIMES.period_s <= lost <= TIMES.detection_s + 0.01


def test_a_one_way_cut_is_suspicion_on_the_mute_side_and_loss_on_the_deaf_side(pair: Pair) -> None:
    pair.cut(A)
    pair.run(2.0)
    assert pair.events(A, PeerSuspected)
    assert not pair.events(A, PeerLost)
    assert pair.events(B, PeerLost)


def test_an_isolated_holder_is_silent_before_its_peer_gives_it_up(pair: Pair) -> None:
    pair.hearts[A].lease(SHOP, Epoch(1), ONLY_B)
    pair.run(0.2)
    assert pair.holds(A)
    pair.cut(A, B)
    while not pair.events(B, PeerLost):
        pair.run(0.001)
    assert not pair.holds(A)


def test_a_path_that_swallows_large_frames_is_named_and_no_peer_is_accused(pair: Pair) -> None:
    assert not pair.hearts[A].path_reports()[B, LAN].black_hole
    pair.large_pass = False
    pair.run(3.0)
    assert pair.hearts[A].path_reports()[B, LAN].black_hole
    assert not pair.events(A, PeerSuspected)
    pair.large_pass = True
    pair.run(1.0)
    assert not pair.hearts[A].path_reports()[B, LAN].black_hole


def test_nobody_else_in_sync_needs_no_contact(pair: Pair) -> None:
    pair.hearts[A].lease(SHOP, Epoch(1), frozenset({A}))
    pair.cut(A, B)
    pair.run(3.0)
    assert pair.holds(A)


def test_a_peer_that_is_about_to_bid_renews_nothing(pair: Pair) -> None:
    pair.hearts[A].lease(SHOP, Epoch(1), ONLY_B)
    pair.run(0.2)
    pair.hearts[B].mute(SHOP)
    pair.run(TIMES.lease_s + 0.002)
    assert not pair.holds(A)
    assert not pair.events(A, PeerSuspected)
    pair.hearts[B].unmute(SHOP)
    pair.run(0.1)
    assert pair.holds(A)


def test_a_peer_that_serves_under_a_higher_epoch_ends_the_lease_at_once(pair: Pair) -> None:
    pair.hearts[A].lease(SHOP, Epoch(1), frozenset())
    pair.run(0.1)
    assert pair.holds(A)
    pair.hearts[B].announce(SHOP, ModuleState(epoch=Epoch(2), primary=B, serving=True))
    pair.run(0.1)
    assert not pair.holds(A)


def test_a_lease_that_was_overtaken_runs_again_under_a_higher_epoch_or_when_that_life_is_over(
    pair: Pair,
) -> None:
    heart = pair.hearts[A]
    heart.lease(SHOP, Epoch(1), frozenset())
    pair.hearts[B].announce(SHOP, ModuleState(epoch=Epoch(2), primary=B, serving=True))
    pair.run(0.1)
    assert not pair.holds(A)
    heart.lease(SHOP, Epoch(3), frozenset())
    assert pair.holds(A)
    heart.lease(SHOP, Epoch(1), frozenset())
    assert not pair.holds(A)
    heart.receive(Instant(pair.now), B, LAN, Beat(boot="cc" * 16, counter=1, request=True))
    assert pair.holds(A)


def test_nodes_that_find_each_other_again_know_it_in_the_same_round(pair: Pair) -> None:
    pair.cut(A, B)
    pair.run(2.0)
    pair.cuts = set()
    pair.run(0.2)
    found = [pair.events(name, PeerAlive)[-1] for name in (A, B)]
    assert abs(found[0] - found[1]) <= 2 * pair.way_s + 0.001


def test_what_may_end_a_lease_is_told_before_the_next_beat(pair: Pair) -> None:
    heart = pair.hearts[A]
    heart.lease(SHOP, Epoch(1), ONLY_B)
    pair.run(0.2)
    assert heart.lease_deadlines()
    assert not heart.leases_unsettled()
    pair.run(0.2)
    assert not heart.leases_unsettled()
    pair.hearts[B].announce(SHOP, ModuleState(epoch=Epoch(2), primary=B))
    pair.run(0.1)
    assert heart.leases_unsettled()
    assert not heart.lease_deadlines()


def test_a_new_life_and_a_goodbye_end_what_was_granted_at_once(pair: Pair) -> None:
    heart = pair.hearts[A]
    heart.lease(SHOP, Epoch(1), ONLY_B)
    pair.run(0.2)
    assert heart.lease_deadlines()
    newborn = pair.heart(B, "cc" * 16)
    newborn.advance(Instant(pair.now))
    _, path, beat = newborn.beats_to_send()[0]
    heart.receive(Instant(pair.now), B, path, beat)
    assert heart.leases_unsettled()
    assert not heart.lease_deadlines()
    heart.goodbye()
    assert heart.leases_unsettled()


def test_a_goodbye_waits_for_no_time_out_and_a_new_life_is_welcome(pair: Pair) -> None:
    pair.hearts[B].goodbye()
    pair.run(0.01)
    assert pair.events(A, PeerLeft)
    pair.hearts[B] = pair.heart(B, "cc" * 16)
    pair.run(0.2)
    assert len(pair.events(A, PeerAlive)) == 2
    assert not pair.events(A, PeerLost)


def test_a_node_that_slept_accuses_nobody_and_drops_its_lease_first(pair: Pair) -> None:
    pair.hearts[A].lease(SHOP, Epoch(1), ONLY_B)
    pair.run(0.2)
    pair.frozen = {A}
    pair.run(2.0)
    pair.flight.clear()
    pair.frozen = set()
    pair.run(0.001)
    assert pair.events(A, Paused)
    assert not pair.holds(A)
    pair.run(1.0)
    assert not pair.events(A, PeerSuspected)
    assert not pair.events(A, PeerLost)


def test_an_agent_that_is_away_is_forgiven_for_its_grace_and_then_counts_as_silence(pair: Pair) -> None:
    pair.hearts[B].agent_present(Instant(pair.now), False)
    pair.run(TIMES.agent_grace_s - 0.1)
    assert not pair.events(A, PeerSuspected)
    pair.run(1.0)
    assert pair.events(A, PeerLost)


def test_nobody_renews_longer_than_the_grace_without_its_agent(pair: Pair) -> None:
    pair.hearts[A].lease(SHOP, Epoch(1), frozenset())
    pair.hearts[A].agent_present(Instant(pair.now), False)
    pair.run(TIMES.agent_grace_s - 0.1)
    assert pair.holds(A)
    pair.run(0.2)
    assert not pair.holds(A)


def test_a_new_state_is_told_once_and_survives_loss(pair: Pair) -> None:
    before = len(pair.events(A, PeerSaid))
    pair.cut(B)
    pair.hearts[B].announce(SHOP, ModuleState(epoch=Epoch(5)))
    pair.run(0.2)
    pair.cuts = set()
    pair.run(0.5)
    assert len(pair.events(A, PeerSaid)) == before + 1
    assert pair.hearts[A].peer_states()[B][SHOP].epoch == 5


def test_two_machines_with_one_name_are_told_apart(pair: Pair) -> None:
    twin = pair.heart(B, "dd" * 16)
    twin.advance(Instant(pair.now))
    _, path, beat = twin.beats_to_send()[0]
    pair.hearts[A].receive(Instant(pair.now), B, path, beat)
    pair.run(0.2)
    assert pair.hearts[A].verdicts()[B][1] > 0


def test_when_the_clone_is_gone_the_node_is_heard_again_with_all_that_it_had_told(pair: Pair) -> None:
    pair.hearts[B].announce(SHOP, ModuleState(epoch=Epoch(5)))
    pair.run(0.5)
    twin = pair.heart(B, "dd" * 16)
    twin.announce(SHOP, ModuleState(epoch=Epoch(9)))
    twin.advance(Instant(pair.now))
    for _, path, beat in twin.beats_to_send():
        pair.hearts[A].receive(Instant(pair.now), B, path, beat)
    pair.run(0.1)
    assert pair.hearts[A].peer_states()[B][SHOP].epoch == 9
    pair.run(TIMES.detection_s * 3)
    assert pair.hearts[A].verdicts()[B][0].value == "alive"
    assert pair.hearts[A].peer_states()[B][SHOP].epoch == 5
    strangers = pair.hearts[A].verdicts()[B][1]
    pair.run(1.0)
    assert pair.hearts[A].verdicts()[B] == (Verdict.ALIVE, strangers)


def test_a_life_that_said_goodbye_does_not_come_back(pair: Pair) -> None:
    while not (late := [each for each in pair.flight if each[1] == B]):
        pair.run(0.001)
    pair.flight.clear()
    pair.hearts[B].goodbye()
    pair.run(TIMES.detection_s * 3)
    for _, _, _, path, body, boot in late:
        pair.hearts[A].receive(Instant(pair.now), B, path, decode(boot, body))
    assert pair.hearts[A].verdicts()[B][0] is Verdict.LEFT


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sets(st.tuples(st.sampled_from([A, B]), st.sampled_from([LAN, BACKUP]))),
            st.sets(st.sampled_from([A, B]), max_size=1),
            st.integers(1, 700),
        ),
        max_size=6,
    )
)
def test_whatever_is_cut_or_frozen_no_lease_outlives_a_loss(
    steps: list[tuple[set[tuple[NodeName, PathName]], set[NodeName], int]],
) -> None:
    pair = Pair()
    pair.run(0.3)
    pair.hearts[A].lease(SHOP, Epoch(1), ONLY_B)
    for cuts, frozen, milliseconds in steps:
        pair.cuts, pair.frozen = cuts, frozen
        for _ in range(milliseconds):
            losses = len(pair.events(B, PeerLost))
            pair.run(0.001)
            if len(pair.events(B, PeerLost)) > losses:
                assert not pair.holds(A)
