"""A member takes over: after whose silence, under which record, and who never does."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.names import Epoch
from orchestrator.model.record import Outcome, Record
from orchestrator.model.report import Role
from tests.mirror.words import LIFE, SHOP, TAKING, A, B, Story, fresh, record, says, secondary


def test_a_take_over_that_a_former_agent_won_waits_until_the_old_primary_is_silent() -> None:
    story = fresh(B, A, B, epoch=7)
    story.hears(
        ev.PeerAlive(A),
        ev.ReplicatorUp(SHOP, LIFE[B], required=frozenset({A, B})),
        ev.PeerSaid(A, {SHOP: says(Role.PRIM, 7, A, A, B, life=LIFE[A], serving=True)}),
    )
    won = replace(record(8, B, B), reason="take-over")
    story.hears(ev.RegisterAnswered(SHOP, won))
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON), ev.ReignTaken(SHOP, bid.record))
    assert not story.ordered(do.ClaimAddresses)
    story.hears(ev.TimePassed(), after=0.49)
    assert not story.ordered(do.ClaimAddresses)
    story.hears(ev.TimePassed(), after=0.02)
    assert story.ordered(do.ClaimAddresses)


def test_an_agent_that_restarts_while_it_waits_for_the_other_side_waits_on() -> None:
    story = fresh(B, A, B, epoch=8, overlap="none")
    held = replace(record(8, B, B), reason="take-over")
    story.hears(ev.PeerLost(A), ev.ReplicatorUp(SHOP, LIFE[B], held, held.in_sync, open=True))
    assert not story.ordered(do.ClaimAddresses)
    story.hears(ev.TimePassed(), after=2.51)
    assert story.ordered(do.ClaimAddresses)


def test_a_second_that_loses_its_prim_falls_silent_for_it_before_it_bids() -> None:
    story = secondary()
    story.hears(ev.PeerLost(A))
    assert [type(effect) for effect in story.did] == [do.Mute, do.Bid]
    (bid,) = story.ordered(do.Bid)
    assert bid.record.in_sync == {B}
    assert story.mirror.role is Role.SECOND
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON))
    assert [type(effect) for effect in story.did] == TAKING
    story.hears(ev.ReignTaken(SHOP, bid.record))
    assert not story.ordered(do.StartApplication)
    story.hears(ev.AddressesClaimed(SHOP))
    assert story.did == (do.StartApplication(SHOP, Epoch(8)),)


def test_the_application_waits_for_the_gate_when_the_addresses_are_claimed_before_it_is_open() -> None:
    story, won = won_alone()
    assert story.hears(ev.AddressesClaimed(SHOP)) == ()
    story.hears(ev.ReignTaken(SHOP, won))
    assert story.ordered(do.StartApplication)
    assert not story.ordered(do.ClaimAddresses)


def test_addresses_refused_before_the_gate_is_open_are_claimed_again_behind_it() -> None:
    story, won = won_alone()
    story.hears(ev.AddressesRefused(SHOP, "the interface is down"))
    story.hears(ev.ReignTaken(SHOP, won))
    assert not story.ordered(do.ClaimAddresses)
    story.hears(ev.TimePassed(), after=1)
    assert story.ordered(do.ClaimAddresses)
    story.hears(ev.AddressesClaimed(SHOP))
    assert story.ordered(do.StartApplication)


def test_a_reign_that_cannot_be_made_durable_gives_claimed_addresses_back() -> None:
    story, _ = won_alone()
    story.hears(ev.AddressesClaimed(SHOP), ev.EffectFailed(SHOP, "StoreModule", "no space"))
    assert story.ordered(do.ReleaseAddresses)
    assert not story.mirror.claimed


def won_alone() -> tuple[Story, Record]:
    """A second that won its take-over's bid; nothing of what follows is done yet."""
    story = secondary()
    story.hears(ev.PeerLost(A))
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON))
    return story, bid.record


def test_a_second_never_bids_because_of_the_stream_alone() -> None:
    story = secondary()
    story.hears(ev.StreamDown(SHOP, A, "reset"), ev.TimePassed(), after=30)
    assert not story.ordered(do.Bid)
    assert story.mirror.role is Role.WAIT


def test_a_second_whose_primary_gave_up_does_not_wait_for_silence() -> None:
    story = secondary()
    story.hears(ev.PeerSaid(A, {SHOP: says(Role.WAIT, 7, A, A, B, abandoned=Epoch(7))}))
    (bid,) = story.ordered(do.Bid)
    assert bid.record.primary == B


def test_a_joiner_whose_primary_is_lost_asks_whether_it_was_taken_in() -> None:
    story = fresh(B, A, B, epoch=7)
    story.hears(ev.PeerAlive(A), ev.ReplicatorUp(SHOP, LIFE[B]), ev.RegisterAnswered(SHOP, record(7, A, A)))
    assert story.hears(ev.PeerLost(A)) == (do.ReadRegister(SHOP),)
    story.hears(ev.RegisterAnswered(SHOP, record(7, A, A)))
    assert not story.ordered(do.Bid)
    assert do.ReadRegister(SHOP) in story.hears(ev.TimePassed(), after=2.1)
    story.hears(ev.RegisterAnswered(SHOP, record(8, A, A, B)))
    assert story.ordered(do.Bid)


def test_a_node_outside_the_set_waits_for_ever() -> None:
    story = fresh(B, epoch=7)
    story.hears(ev.ReplicatorUp(SHOP, LIFE[B]), ev.RegisterAnswered(SHOP, record(8, A, A)), ev.PeerLost(A))
    for _ in range(20):
        story.hears(ev.TimePassed(), after=30)
        assert not story.ordered(do.Bid)
    assert story.mirror.role is Role.WAIT


def test_a_restarted_primary_wins_a_bid_of_its_new_life_before_its_gate_opens() -> None:
    story = fresh(A, epoch=7)
    old = record(7, A, A, B, nonce="f" * 32)
    story.hears(ev.ReplicatorUp(SHOP, LIFE[A]), ev.RegisterAnswered(SHOP, old))
    assert not story.ordered(do.TakeReign)
    (bid,) = story.ordered(do.Bid)
    assert (bid.record.in_sync, bid.record.nonce) == ({A}, LIFE[A])
