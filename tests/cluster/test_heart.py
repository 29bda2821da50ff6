"""Hearts on a wire that the test cuts: what each believes, how long each may answer, and how much is said."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cluster.beat import Beat, decode, encode
from orchestrator.cluster.heart import AHEAD, PADDED_EVERY, Heart
from orchestrator.cluster.membership import Verdict
from orchestrator.model.config import PRESETS
from orchestrator.model.events import Event, Paused, PeerAlive, PeerLeft, PeerLost, PeerSaid, PeerSuspected
from orchestrator.model.names import Epoch, Instant, ModuleName, NodeName, PathName
from orchestrator.model.report import ModuleState
from orchestrator.model.timings import derive

A, B, C = NodeName("paris"), NodeName("lyon"), NodeName("nice")
LAN, BACKUP = PathName("lan"), PathName("backup")
SHOP = ModuleName("shop")
TIMES = derive(PRESETS["lan"])
ONLY_B = frozenset({B})


@dataclass
class Pair:
    """Two hearts, or more; beats take a millisecond; frozen ones do nothing at all."""

    names: tuple[NodeName, ...] = (A, B)
    now: float = 100.0
    cuts: set[tuple[NodeName, PathName]] = field(default_factory=set)
    """Sender and path of the beats that are lost."""
    large_pass: bool = True
    chance: random.Random | None = None
    """Loses every tenth beat, and keeps others for up to half a period."""
    frozen: set[NodeName] = field(default_factory=set)
    heard: dict[NodeName, list[tuple[float, Event]]] = field(default_factory=dict)
    said: list[tuple[float, NodeName, NodeName, PathName, Beat]] = field(default_factory=list)
    flight: list[tuple[float, NodeName, NodeName, PathName, bytes, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.heard = {name: [] for name in self.names}
        self.hearts = {name: self.heart(name, f"{name.encode().hex():a<32}") for name in self.names}

    def heart(self, me: NodeName, boot: str) -> Heart:
        peers = {name: (LAN, BACKUP) for name in self.names if name != me}
        heart = Heart(me, peers, TIMES, boot, Instant(self.now))
        heart.agent_present(Instant(self.now), True)
        heart.announce(SHOP, ModuleState())
        return heart

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1000)):
            self.now += 0.001
            due = [each for each in self.flight if each[0] <= self.now and each[2] not in self.frozen]
            self.flight = [each for each in self.flight if each not in due]
            for _, sender, target, path, body, boot in due:
                self.hearts[target].receive(Instant(self.now), sender, path, decode(boot, body))
            for name, heart in self.hearts.items():
                if name not in self.frozen:
                    self._turn(name, heart)

    def _turn(self, name: NodeName, heart: Heart) -> None:
        heart.advance(Instant(self.now))
        for peer, path, beat in heart.beats_to_send():
            self.said.append((self.now, name, peer, path, beat))
            lost = self.chance is not None and self.chance.random() < 0.1
            if not lost and (name, path) not in self.cuts and (self.large_pass or not beat.padded):
                late_s = self.chance.choice((0.0, 0.002, TIMES.period_s / 2)) if self.chance else 0.0
                self.flight.append((self.now + 0.001 + late_s, name, peer, path, encode(beat), beat.boot))
        self.heard[name] += [(self.now, event) for event in heart.events_received()]

    def events(self, name: NodeName, kind: type[Event]) -> list[float]:
        return [at for at, event in self.heard[name] if isinstance(event, kind)]

    def beats_a_round(self, seconds: float) -> float:
        """How many beats pass between two nodes on a path, for each request of the one who asks first."""
        since = self.now
        self.run(seconds)
        said = [each for each in self.said if each[0] > since]
        lines = Counter(
            (min(source, target), max(source, target), path) for _, source, target, path, _ in said
        )
        rounds = Counter((source, target, path) for _, source, target, path, beat in said if beat.request)
        return max(count / rounds[line] for line, count in lines.items())

    def asked(self) -> list[list[float]]:
        """By sender, target and path: when it asked."""
        asked: dict[tuple[NodeName, NodeName, PathName], list[float]] = {}
        for at, source, target, path, beat in self.said:
            if beat.request:
                asked.setdefault((source, target, path), []).append(at)
        return list(asked.values())

    def cut(self, *names: NodeName) -> float:
        self.cuts |= {(name, path) for name in names for path in (LAN, BACKUP)}
        return self.now

    def holds(self, name: NodeName) -> bool:
        return self.hearts[name].lease_deadlines().get(SHOP, Instant(0.0)) > self.now


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.run(1.0)
    return pair


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


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_lease_is_extended_before_any_pulse_that_keeps_it_can_be_late_for_it(preset: str) -> None:
    times = derive(PRESETS[preset])
    pause = min(2 * times.period_s, times.detection_s / 2)
    assert times.period_s + pause < times.renew_below_s < times.lease_s * 0.99


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


ROUND = 3 + 2 / PADDED_EVERY
"""A request, the other's request that answers it, and the answer to that; large beats answer nothing."""


def test_two_nodes_need_three_beats_a_round_and_a_path(pair: Pair) -> None:
    assert pair.beats_a_round(5.0) <= ROUND
    rounds_s = 5.0 / len([at for at in pair.asked()[0] if at > pair.now - 5.0])
    assert (1 - AHEAD) * TIMES.period_s <= rounds_s <= TIMES.period_s


def test_three_nodes_need_three_beats_a_round_and_a_path() -> None:
    three = Pair((A, B, C))
    three.run(1.0)
    assert three.beats_a_round(5.0) <= ROUND


def test_two_nodes_that_ask_at_the_same_moment_soon_do_it_in_turn() -> None:
    pair = Pair()
    assert pair.beats_a_round(TIMES.period_s / 2) == 4
    pair.run(2 * TIMES.period_s)
    assert pair.beats_a_round(2.0) <= ROUND


def test_after_a_cut_three_beats_a_round_are_enough_again(pair: Pair) -> None:
    pair.cut(B)
    pair.run(1.0)
    pair.cuts = set()
    pair.run(4 * TIMES.period_s)
    assert pair.beats_a_round(5.0) <= ROUND


@pytest.mark.parametrize("seed", range(8))
def test_beats_of_all_paths_leave_together_soon_after_a_bad_time(seed: int) -> None:
    pair = Pair(chance=random.Random(seed))
    pair.run(2.0)
    pair.chance = None
    pair.run(4 * TIMES.period_s)
    since = len(pair.said)
    pair.run(5.0)
    paths: dict[tuple[float, NodeName], set[PathName]] = {}
    for at, source, _, path, _ in pair.said[since:]:
        paths.setdefault((at, source), set()).add(path)
    assert set(map(frozenset, paths.values())) == {frozenset({LAN, BACKUP})}


@settings(max_examples=15)
@given(st.integers(0, 1 << 32), st.booleans(), st.sets(st.tuples(st.sampled_from([A, B]), st.just(LAN))))
def test_whatever_is_lost_or_late_each_asks_once_a_period_and_never_twice_in_half_of_one(
    seed: int, many: bool, cuts: set[tuple[NodeName, PathName]]
) -> None:
    pair = Pair((A, B, C) if many else (A, B), chance=random.Random(seed), cuts=cuts)
    pair.run(3.0)
    for instants in pair.asked():
        gaps = [after - before for before, after in pairwise([100.0, *instants, pair.now])]
        assert max(gaps) <= TIMES.period_s + 0.0011  # a turn of this test
        assert min(gaps[1:-1]) >= TIMES.period_s / 2 - 1e-9


@settings(max_examples=20)
@given(st.integers(0, 1 << 32))
def test_every_request_that_arrives_is_echoed_in_the_same_turn_and_no_answer_is(seed: int) -> None:
    pair = Pair((A, B, C), chance=random.Random(seed))
    for _ in range(1000):
        arriving = [each for each in pair.flight if each[0] <= pair.now + 0.001]
        since = len(pair.said)
        pair.run(0.001)
        heard = [
            (target, source, path, decode(boot, body)) for _, source, target, path, body, boot in arriving
        ]
        owed = [(me, peer, path, beat.counter) for me, peer, path, beat in heard if beat.request]
        answers = [
            (me, peer, path, beat.echo) for _, me, peer, path, beat in pair.said[since:] if beat.prompt
        ]
        assert sorted(owed) == sorted(answers)


def test_both_nodes_know_the_round_trip(pair: Pair) -> None:
    for name, other in ((A, B), (B, A)):
        reports = pair.hearts[name].path_reports()
        assert [reports[other, path].rtt_s for path in (LAN, BACKUP)] == pytest.approx([0.002, 0.002])


def test_where_large_beats_vanish_every_small_request_is_still_echoed(pair: Pair) -> None:
    # Meanwhile one asks more often than the other: after it their large beats are not the same ones.
    pair.cut(A, B)
    pair.run(1.0)
    pair.cuts, pair.large_pass = set(), False
    since = pair.now
    pair.run(3.0)
    echoes = {
        (target, path, beat.echo) for _, _, target, path, beat in pair.said if beat.prompt and not beat.padded
    }
    for at, source, _, path, beat in pair.said:
        if since < at < pair.now - 0.002 and beat.request and not beat.padded:
            assert (source, path, beat.counter) in echoes


def test_a_node_that_slept_answers_what_waited_with_one_request_of_its_own(pair: Pair) -> None:
    pair.frozen = {B}
    pair.run(1.0)
    pair.frozen = set()
    since = len(pair.said)
    pair.run(0.001)
    lan = [beat for _, source, _, path, beat in pair.said[since:] if (source, path) == (B, LAN)]
    assert sum(beat.request for beat in lan) == 1
    assert sum(beat.prompt for beat in lan) >= 1.0 / TIMES.period_s - 1


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
