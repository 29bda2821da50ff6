"""A member joins: it is required before it is named, and stays so while that is unresolved."""

from __future__ import annotations

from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.record import Outcome
from orchestrator.model.report import Role
from tests.mirror.words import LIFE, SHOP, A, B, alone, fresh, record


def test_a_joiner_is_required_before_the_bid_that_takes_it_in() -> None:
    story = alone()
    story.hears(ev.PeerAlive(B), ev.StreamUp(SHOP, B), ev.MemberReady(SHOP, B, LIFE[B]))
    kinds = [type(effect) for effect in story.did]
    assert kinds.index(do.WidenRequired) < kinds.index(do.Bid)
    assert kinds.index(do.Lease) < kinds.index(do.Bid)
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON), ev.ReignTaken(SHOP, bid.record))
    assert story.mirror.role is Role.PRIM


def test_a_newcomer_that_the_gate_refuses_was_never_bid_for() -> None:
    story = alone()
    story.hears(ev.PeerAlive(B), ev.StreamUp(SHOP, B), ev.MemberReady(SHOP, B, LIFE[B]))
    story.hears(ev.EffectFailed(SHOP, "WidenRequired", "not ready any more"))
    assert story.mirror.bids == ()
    assert story.mirror.required == {A}


def test_a_joiner_lost_while_its_bid_is_unresolved_stays_required() -> None:
    story = alone()
    story.hears(ev.PeerAlive(B), ev.StreamUp(SHOP, B), ev.MemberReady(SHOP, B, LIFE[B]))
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.UNKNOWN), ev.PeerSuspected(B))
    assert story.mirror.required == {A, B}
    (again,) = story.ordered(do.Bid)
    assert again.record.in_sync == {A}
    story.hears(ev.BidAnswered(SHOP, again.record, Outcome.WON))
    assert story.mirror.required == {A}


def test_an_agent_that_restarts_beneath_a_wide_gate_bids_until_it_is_resolved() -> None:
    story = fresh(A, epoch=7)
    held = record(7, A, A)
    story.hears(
        ev.ReplicatorUp(SHOP, LIFE[A], held, frozenset({A, B}), open=True, application=True, addresses=True),
        ev.RegisterAnswered(SHOP, held),
    )
    assert story.mirror.required == {A, B}
    (bid,) = story.ordered(do.Bid)
    assert bid.record.in_sync == {A}
    assert not story.ordered(do.StartApplication)
