"""A primary that loses a member, or the register: what it does by itself, and what it waits for."""

from __future__ import annotations

import pytest

from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.names import Epoch
from orchestrator.model.orders import Swap
from orchestrator.model.record import Outcome
from orchestrator.model.report import Phase, Role
from tests.mirror.words import LIFE, SHOP, A, B, asks, primary, record, says


def test_a_primary_that_suspects_its_member_bids_it_out_and_goes_on_alone() -> None:
    story = primary()
    (bid,) = [effect for effect in story.hears(ev.PeerSuspected(B)) if isinstance(effect, do.Bid)]
    assert bid.record.in_sync == {A}
    assert story.mirror.required == {A, B}  # writes hold by themselves until the bid is proved
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON))
    assert [type(effect) for effect in story.did] == [do.StoreModule, do.TakeReign]
    assert story.mirror.required == {A}
    story.hears(ev.ReignTaken(SHOP, bid.record))
    assert story.mirror.role is Role.ALONE
    assert story.ordered(do.Lease) == [do.Lease(SHOP, Epoch(8), frozenset())]


@pytest.mark.parametrize(
    ("verdict", "code"),
    [("version", "HF4012"), ("foreign", "HF4012"), ("clone", "HF4012"), ("unrelated", "HF4004")],
)
def test_who_may_not_talk_and_what_does_not_fit_are_told_apart_and_change_nothing(
    verdict: str, code: str
) -> None:
    story = primary()
    before = story.mirror
    assert story.hears(ev.HandshakeRefused(SHOP, B, verdict, "it says so")) == ()
    assert story.told == [code]
    assert story.mirror == before


def test_a_primary_whose_bid_is_lost_closes_the_gate_before_anything_else() -> None:
    story = primary()
    (bid,) = [effect for effect in story.hears(ev.PeerSuspected(B)) if isinstance(effect, do.Bid)]
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.LOST, record(8, B, B)))
    kinds = [type(effect) for effect in story.did]
    gate, stop, release = (
        kinds.index(kind) for kind in (do.CloseGate, do.StopApplication, do.ReleaseAddresses)
    )
    assert gate < stop < release
    assert story.mirror.role is Role.WAIT


def test_an_unknown_bid_narrows_nothing_until_a_record_proves_it() -> None:
    story = primary()
    (bid,) = [effect for effect in story.hears(ev.PeerSuspected(B)) if isinstance(effect, do.Bid)]
    story.hears(
        ev.BidAnswered(SHOP, bid.record, Outcome.UNKNOWN), ev.RegisterAnswered(SHOP, record(7, A, A, B))
    )
    assert story.mirror.required == {A, B}
    assert story.mirror.bids == (bid.record,)
    story.hears(ev.TimePassed(), after=1)
    assert story.ordered(do.Bid) == [do.Bid(SHOP, record(7, A, A, B), bid.record)]
    story.hears(ev.RegisterAnswered(SHOP, bid.record))
    assert story.mirror.required == {A}


def test_a_silent_register_alone_stops_nothing() -> None:
    story = primary()
    story.hears(ev.TimePassed(), after=61)
    assert story.ordered(do.ReadRegister)
    story.hears(ev.RegisterSilent(SHOP), ev.TimePassed(), after=5)
    assert (story.mirror.role, story.mirror.phase()) == (Role.PRIM, Phase.READY)


def test_a_primary_bids_out_a_member_that_is_leaving() -> None:
    story = primary()
    story.hears(ev.PeerSaid(B, {SHOP: says(Role.SECOND, 7, A, A, B, life=LIFE[B], leaving=True)}))
    (bid,) = story.ordered(do.Bid)
    assert bid.record.in_sync == {A}


def test_a_primary_that_waited_too_long_for_the_register_stops_where_that_was_chosen() -> None:
    story = primary(on_register_loss="stop")
    story.hears(ev.PeerSuspected(B))
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.UNKNOWN), ev.TimePassed(), after=6)
    assert story.ordered(do.CloseGate)


def test_an_heir_that_was_bid_out_during_the_end_gets_no_role_though_it_is_equal_again() -> None:
    story = primary()
    story.hears(asks(Swap()), ev.RegisterAnswered(SHOP, record(7, A, A, B)))
    assert story.ordered(do.StopApplication)
    (bid,) = [effect for effect in story.hears(ev.PeerSuspected(B)) if isinstance(effect, do.Bid)]
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON), ev.ReignTaken(SHOP, bid.record))
    story.hears(ev.MemberReady(SHOP, B, LIFE[B]), ev.ApplicationStopped(SHOP, clean=True), ev.PeerAlive(B))
    story.hears(ev.GateClosed(SHOP, frozenset({A, B})))
    assert story.told[-1] == "HF1104"
    assert story.ordered(do.Bid) == []
    assert story.ordered(do.TakeReign) == [do.TakeReign(SHOP, bid.record)]


def test_a_healthy_primary_asks_a_silent_register_until_it_answers() -> None:
    """What it holds may be over: a former agent's bid may have been won before the register fell silent."""
    story = primary()
    story.hears(ev.RegisterSilent(SHOP))
    for _ in range(3):
        assert story.hears(ev.TimePassed(), after=3.0) == (do.ReadRegister(SHOP),)
        story.hears(ev.RegisterSilent(SHOP))
    story.hears(ev.TimePassed(), ev.RegisterAnswered(SHOP, record(7, A, A, B)), after=3.0)
    assert story.told[-2:] == ["HF2002", "HF2011"]
    assert story.hears(ev.TimePassed(), after=3.0) == ()
