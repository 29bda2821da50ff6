"""Stories of a node that joins: what it asks, whom it believes, and that it does not wait for ever."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.farm import learning
from orchestrator.model.events import ApplicationStarted, PeerLost, SharesLearned
from orchestrator.model.names import NodeName
from tests.farm.decide import WEB, A, B, C, Told, fresh, serving, view


def joining(*others: NodeName) -> Told:
    """It has heard the others, who serve, and its application is ready."""
    told = fresh(A, *others)
    told.teaches = False
    for name in others:
        told.says(name)
    told.hears(ApplicationStarted(WEB))
    return told


def test_a_node_that_joins_is_prepared_when_it_was_told_who_had_the_buckets() -> None:
    farm = joining(B, C)
    assert farm.asks == [B]
    farm.obeys()
    assert farm.farm.state().prepared == "", "it may stand on the way of packets that it knows nothing of"
    farm.hears(SharesLearned(WEB, farm.shares({7: (C, B)})))
    farm.obeys()
    assert farm.farm.state().prepared
    assert farm.farm.former[0][7] == (C, B)
    farm.agrees(B)
    farm.agrees(C)
    if farm.newest.groups[0].owners[7] == A:
        assert farm.newest.groups[0].previous[7] in (B, C)


def test_what_is_said_of_nodes_that_serve_no_more_counts_for_nothing() -> None:
    farm = joining(B)
    farm.hears(SharesLearned(WEB, farm.shares({7: (C, B), 8: (C,), 9: (A, B)})))
    assert farm.farm.former[0] == {7: (B,), 9: (B,)}


def test_one_that_goes_by_another_view_or_another_file_is_asked_again() -> None:
    farm = joining(B)
    good = farm.shares({7: (B,)})
    for other in (None, replace(good, config="x"), replace(good, members=((C, 100, True),))):
        farm.hears(SharesLearned(WEB, other))
        assert farm.farm.former == ()
        farm.passes(learning.AGAIN_S + 0.01)
    assert farm.asks == [B] * 4
    farm.hears(SharesLearned(WEB, good))
    assert farm.farm.former == ({7: (B,)},)


def test_agents_that_do_not_answer_are_asked_in_turn_and_not_for_ever() -> None:
    farm = joining(B, C)
    farm.obeys()
    farm.passes(learning.ASKS_MAX * learning.ANSWER_S + 0.1)
    assert farm.asks == [B, C, B, C, B]
    assert "HF6033" in farm.codes
    assert farm.farm.state().prepared


def test_an_answer_that_comes_late_changes_nothing() -> None:
    farm = serving(B)
    farm.hears(SharesLearned(WEB, farm.shares({7: (B,)})))
    assert farm.farm.former[0].get(7) in (None, (B,))
    before = farm.farm
    farm.hears(SharesLearned(WEB, farm.shares({7: (C,)})))
    assert farm.farm.former == before.former


def test_two_sides_become_one_when_each_was_told_what_the_other_remembers() -> None:
    farm = serving(B)
    farm.hears(PeerLost(B))
    farm.obeys()
    farm.teaches = False
    farm.asks.clear()
    farm.says(B, view=farm.farm.digest(view(B)))
    farm.obeys()
    assert farm.asks == [B]
    farm.agrees(B)
    assert farm.owned(B) == 0, "it does not know yet what b remembers"
    farm.hears(SharesLearned(WEB, farm.shares(dict.fromkeys(range(1024), (B,)))))
    farm.obeys()
    farm.agrees(B)
    assert farm.owned(B) == 512
    assert farm.asks == [B]


def test_another_side_that_tells_nothing_is_not_waited_for_for_ever() -> None:
    farm = serving(B)
    farm.hears(PeerLost(B))
    farm.obeys()
    farm.teaches = False
    farm.asks.clear()
    farm.says(B, view=farm.farm.digest(view(B)))
    farm.obeys()
    farm.passes(learning.ASKS_MAX * learning.ANSWER_S + 0.1)
    assert farm.asks == [B] * learning.ASKS_MAX
    assert "HF6033" in farm.codes
    farm.obeys()
    farm.agrees(B)
    assert farm.owned(B) == 512


def test_the_first_of_all_asks_nobody_and_one_that_is_not_taught_yet_teaches_nobody() -> None:
    alone = fresh(A)
    alone.hears(ApplicationStarted(WEB))
    assert alone.asks == []
    assert learning.known(alone.farm) is not None
    assert learning.known(joining(B).farm) is None
