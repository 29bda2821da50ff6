"""The first start makes the record, once: a register without one is no reason to make another."""

from __future__ import annotations

from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.orders import Start
from orchestrator.model.record import Outcome
from orchestrator.model.report import Phase, Role
from tests.mirror.words import LIFE, SHOP, TAKING, A, B, answer, asks, fresh, record, says, secondary, serves


def test_two_virgin_nodes_wait_and_bid_for_nothing() -> None:
    story = fresh(A)
    story.hears(ev.ReplicatorUp(SHOP, LIFE[A]), ev.RegisterAnswered(SHOP, None), ev.PeerAlive(B))
    story.hears(ev.PeerSaid(B, {SHOP: says(Role.WAIT)}), ev.TimePassed(), after=10)
    assert story.mirror.role is Role.WAIT
    assert not story.ordered(do.Bid)


def test_the_first_start_creates_the_record_and_serves_alone() -> None:
    story = fresh(A, wanted=False)
    story.hears(ev.PeerAlive(B), ev.PeerSaid(B, {SHOP: says(Role.WAIT)}), asks(Start(first=True)))
    assert answer(story) == ""
    assert story.ordered(do.StartReplicator)
    story.hears(ev.ReplicatorUp(SHOP, LIFE[A]), ev.RegisterAnswered(SHOP, None))
    (bid,) = story.ordered(do.Bid)
    assert bid.expected is None
    assert bid.record.in_sync == {A}
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON))
    assert [type(effect) for effect in story.did] == TAKING
    serves(story, bid.record)
    assert (story.mirror.role, story.mirror.phase()) == (Role.ALONE, Phase.DEGRADED)


def test_a_first_start_is_refused_while_a_node_is_out_of_reach_or_has_a_history() -> None:
    story = fresh(A, wanted=False)
    story.hears(asks(Start(first=True)))
    assert answer(story) == "HF1202"
    story.hears(ev.PeerAlive(B), ev.PeerSaid(B, {SHOP: says(Role.STOP, 4, B, B)}), asks(Start(first=True)))
    assert answer(story) == "HF1202"
    assert not story.mirror.wanted


def test_a_node_that_knew_a_record_never_makes_one_when_the_register_is_empty() -> None:
    story = fresh(A, epoch=5)
    story.hears(ev.ReplicatorUp(SHOP, LIFE[A]), ev.RegisterAnswered(SHOP, None))
    story.hears(ev.TimePassed(), after=60)
    assert not story.ordered(do.Bid)
    assert "HF2012" in story.told


def test_a_register_that_answers_less_than_this_node_knows_gets_no_bid() -> None:
    story = secondary(epoch=7)
    story.hears(ev.RegisterAnswered(SHOP, record(3, A, A, B)), ev.PeerLost(A))
    assert not story.ordered(do.Bid)
    assert "HF2012" in story.told
