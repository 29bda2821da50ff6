"""Who asks when: two or three beats a round and a path, each request answered at once, and never a storm."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cluster.beat import decode
from orchestrator.cluster.heart import PADDED_EVERY, STEP
from orchestrator.model.names import Epoch, NodeName, PathName
from tests.cluster.wire import BACKUP, LAN, SHOP, TIMES, A, B, C, Pair

LARGE = 2 / PADDED_EVERY
"""A request of whoever only answers, large, and the answer to it; and large beats answer nothing."""
ANSWERED, MUTUAL = 2 + LARGE, 3 + LARGE
"""A request and its answer; or the other's request that answers it, and the answer to that."""


def test_two_nodes_of_which_nobody_depends_on_the_other_need_two_beats_a_round_and_a_path(pair: Pair) -> None:
    assert pair.beats_a_round(5.0) <= ANSWERED


@pytest.mark.parametrize("holder", [A, B])
def test_who_answers_by_the_word_of_the_other_asks_and_two_beats_are_enough(
    pair: Pair, holder: NodeName
) -> None:
    pair.hearts[holder].lease(SHOP, Epoch(1), frozenset({A, B}))
    pair.run(2 * TIMES.period_s)
    since = pair.now
    assert pair.beats_a_round(5.0) <= ANSWERED
    assert len(pair.asked_by(holder, since)) >= 5.0 / TIMES.period_s
    assert len(pair.asked_by(B if holder == A else A, since)) <= 7.0 / TIMES.period_s / PADDED_EVERY


def test_two_nodes_that_depend_on_each_other_need_three_beats(pair: Pair) -> None:
    pair.depend()
    pair.run(2 * TIMES.period_s)
    since = pair.now
    assert pair.beats_a_round(5.0) <= MUTUAL
    for name in (A, B):
        assert len(pair.asked_by(name, since)) >= 5.0 / TIMES.period_s


@pytest.mark.parametrize("depend", [False, True])
def test_three_nodes_need_no_more_beats_than_two(depend: bool) -> None:
    three = Pair((A, B, C))
    if depend:
        three.depend()
    three.run(1.0)
    assert three.beats_a_round(5.0) <= (MUTUAL if depend else ANSWERED)


@pytest.mark.parametrize("holder", [A, B])
def test_who_begins_to_depend_on_the_other_asks_at_once(pair: Pair, holder: NodeName) -> None:
    for _ in range(round(TIMES.period_s * 1000)):
        since = pair.now
        pair.hearts[holder].lease(SHOP, Epoch(1), frozenset({A, B}))
        pair.run(0.001)
        assert pair.asked_by(holder, since)
        pair.hearts[holder].end_lease(SHOP)
        pair.run(0.25 + 0.001)


@pytest.mark.parametrize("holder", [A, B])
def test_who_only_answers_is_echoed_once_a_period_all_the_same(pair: Pair, holder: NodeName) -> None:
    pair.hearts[holder].lease(SHOP, Epoch(1), frozenset({A, B}))
    pair.run(1.0)
    other = B if holder == A else A
    for _ in range(2000):
        pair.run(0.001)
        for path in (LAN, BACKUP):
            echoed_at = pair.hearts[other].path_reports()[holder, path].echoed_at or 0.0
            assert pair.now - echoed_at <= 2 * TIMES.period_s + 2 * pair.way_s


def test_two_nodes_that_ask_at_the_same_moment_soon_do_it_in_turn() -> None:
    pair = Pair()
    pair.depend()
    assert pair.beats_a_round(TIMES.period_s / 2) == 4
    pair.run(2 * TIMES.period_s)
    assert pair.beats_a_round(2.0) <= MUTUAL


@pytest.mark.parametrize("depend", [False, True])
def test_after_a_cut_as_few_beats_are_enough_again(pair: Pair, depend: bool) -> None:
    if depend:
        pair.depend()
    pair.cut(B)
    pair.run(1.0)
    pair.cuts = set()
    pair.run(4 * TIMES.period_s)
    assert pair.beats_a_round(5.0) <= (MUTUAL if depend else ANSWERED)


@pytest.mark.parametrize("holders", [(), (A,), (B,), (A, B)])
@pytest.mark.parametrize("seed", range(5))
def test_beats_of_all_paths_leave_together_soon_after_a_bad_time(
    seed: int, holders: tuple[NodeName, ...]
) -> None:
    pair = Pair(chance=random.Random(seed))
    for name in holders:
        pair.hearts[name].lease(SHOP, Epoch(1), frozenset({A, B}))
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
@given(
    st.integers(0, 1 << 32),
    st.booleans(),
    st.booleans(),
    st.sets(st.tuples(st.sampled_from([A, B]), st.just(LAN))),
)
def test_whatever_is_lost_or_late_each_speaks_once_a_period_and_never_asks_twice_in_half_of_one(
    seed: int, many: bool, depend: bool, cuts: set[tuple[NodeName, PathName]]
) -> None:
    pair = Pair((A, B, C) if many else (A, B), chance=random.Random(seed), cuts=cuts)
    if depend:
        pair.depend()
    pair.run(3.0)
    for line, spoken in pair.instants(lambda beat: True).items():
        asked = pair.instants(lambda beat: beat.request)[line]
        rounds = [after - before for before, after in pairwise([100.0, *spoken, pair.now])]
        assert max(rounds) <= (1 + STEP) * TIMES.period_s + 0.0011  # a turn of this test
        gaps = [after - before for before, after in pairwise(asked)]
        assert min(gaps) >= TIMES.period_s / 2 - 1e-9
        if depend:
            assert max(gaps) <= TIMES.period_s + 0.0011


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


@pytest.mark.parametrize("asker", [A, B])
def test_a_request_that_is_lost_is_repeated_after_half_a_period(pair: Pair, asker: NodeName) -> None:
    pair.depend()
    pair.run(1.0)
    since = pair.now
    while not (asked := pair.asked_by(asker, since)):
        pair.run(0.001)
    pair.flight = [each for each in pair.flight if each[1] != asker]
    pair.run(TIMES.period_s / 2 + 0.003)
    assert pair.asked_by(asker, asked[0])
    other = B if asker == A else A
    for path in (LAN, BACKUP):
        assert (pair.hearts[asker].path_reports()[other, path].echoed_at or 0.0) > asked[0]


def test_on_a_path_that_broke_nobody_asks_more_often_for_long(pair: Pair) -> None:
    pair.cuts = {(A, LAN), (B, LAN), (A, BACKUP), (B, BACKUP)}
    pair.run(TIMES.suspect_s + TIMES.period_s)
    since = pair.now
    pair.run(2.0)
    assert len(pair.asked_by(A, since)) <= 2.0 / ((1 - 2 * STEP) * TIMES.period_s) + 1


@pytest.mark.parametrize("depend", [False, True])
def test_an_echo_that_only_takes_its_time_is_waited_for(depend: bool) -> None:
    far = Pair(way_s=0.45 * TIMES.period_s)
    if depend:
        far.depend()
    far.run(1.0)
    since = far.now
    far.run(5.0)
    for name in (A, B):
        gaps = [after - before for before, after in pairwise(far.asked_by(name, since))]
        assert min(gaps) >= 2 * far.way_s - 0.001


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
