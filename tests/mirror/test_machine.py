"""The mirror's machine, told in stories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.mirror import machine
from orchestrator.mirror.state import MOVES, Stage
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.names import Epoch, Instant, RequestId
from orchestrator.model.orders import Leave, Promote, Restart, Resync, Start, Stop, Swap
from orchestrator.model.record import Outcome
from orchestrator.model.report import Phase, Role
from tests.mirror.words import LIFE, SHOP, A, B, alone, fresh, primary, record, says, secondary, serves

ME = RequestId("r1")


def asks(order):
    return ev.OperatorAsked(ME, SHOP, order)


def answer(story):
    (given_answer,) = story.ordered(do.Answer)
    return given_answer.code


# --- the first start ---------------------------------------------------------------------------------------


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
    assert [type(effect) for effect in story.did] == [do.StoreModule, do.TakeReign]
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


# --- losing a member ---------------------------------------------------------------------------------------


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


def test_without_the_register_a_member_is_promoted_only_by_an_order_that_accepts_the_loss() -> None:
    story = secondary(B, A)
    story.hears(ev.PeerSaid(A, {SHOP: says(Role.WAIT, 7, A, A, B)}), ev.RegisterSilent(SHOP), asks(Promote()))
    assert answer(story) == "HF1217"
    story.hears(ev.TimePassed(), ev.RegisterSilent(SHOP), after=3)
    assert story.mirror.held is None
    story.hears(asks(Promote(accept_data_loss=True)), ev.RegisterSilent(SHOP))
    assert story.mirror.offline


def test_an_order_that_came_too_late_is_forgotten() -> None:
    story = secondary(B, A)
    story.hears(ev.PeerSaid(A, {SHOP: says(Role.WAIT, 7, A, A, B)}), asks(Promote()))
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.LOST, record(8, A, A)))
    assert not story.mirror.force


def test_a_joiner_whose_primary_is_lost_asks_whether_it_was_taken_in() -> None:
    story = fresh(B, A, B, epoch=7)
    story.hears(ev.PeerAlive(A), ev.ReplicatorUp(SHOP, LIFE[B]), ev.RegisterAnswered(SHOP, record(7, A, A)))
    assert story.hears(ev.PeerLost(A)) == (do.ReadRegister(SHOP),)
    story.hears(ev.RegisterAnswered(SHOP, record(7, A, A)))
    assert not story.ordered(do.Bid)
    assert do.ReadRegister(SHOP) in story.hears(ev.TimePassed(), after=2.1)
    story.hears(ev.RegisterAnswered(SHOP, record(8, A, A, B)))
    assert story.ordered(do.Bid)


def test_a_former_primary_whose_state_disk_was_full_vouches_for_the_next_one_all_the_same() -> None:
    story = primary()
    story.hears(ev.RegisterAnswered(SHOP, record(8, B, B)), ev.EffectFailed(SHOP, "StoreModule", "no space"))
    story.hears(ev.TimePassed(), after=1)
    orders = [type(effect) for effect in story.did]
    assert orders.index(do.StoreModule) < orders.index(do.Unmute) < orders.index(do.Follow)


# --- a member joins ----------------------------------------------------------------------------------------


def test_a_joiner_is_required_before_the_bid_that_takes_it_in() -> None:
    story = alone()
    story.hears(ev.PeerAlive(B), ev.StreamUp(SHOP, B), ev.MemberReady(SHOP, B, LIFE[B]))
    kinds = [type(effect) for effect in story.did]
    assert kinds.index(do.WidenRequired) < kinds.index(do.Bid)
    assert kinds.index(do.Lease) < kinds.index(do.Bid)
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON), ev.ReignTaken(SHOP, bid.record))
    assert story.mirror.role is Role.PRIM


def test_a_bid_that_is_out_stays_unresolved_when_the_state_disk_fails() -> None:
    story = alone()
    story.hears(ev.PeerAlive(B), ev.StreamUp(SHOP, B), ev.MemberReady(SHOP, B, LIFE[B]))
    (bid,) = story.ordered(do.Bid)
    story.hears(asks(Start()), ev.EffectFailed(SHOP, "StoreModule", "no space"))
    assert story.mirror.bids == (bid.record,)
    assert story.mirror.required == {A, B}


def test_a_bid_that_is_proved_while_the_state_disk_fails_gives_no_role() -> None:
    story = alone()
    story.hears(ev.PeerAlive(B), ev.StreamUp(SHOP, B), ev.MemberReady(SHOP, B, LIFE[B]))
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.RegisterAnswered(SHOP, bid.record), ev.EffectFailed(SHOP, "StoreModule", "no space"))
    assert story.mirror.held is None
    assert story.ordered(do.CloseGate)


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


# --- taking over -------------------------------------------------------------------------------------------


def test_a_second_that_loses_its_prim_falls_silent_for_it_before_it_bids() -> None:
    story = secondary()
    story.hears(ev.PeerLost(A))
    assert [type(effect) for effect in story.did] == [do.Mute, do.Bid]
    (bid,) = story.ordered(do.Bid)
    assert bid.record.in_sync == {B}
    assert story.mirror.role is Role.SECOND
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON))
    assert [type(effect) for effect in story.did] == [do.StoreModule, do.TakeReign]
    story.hears(ev.ReignTaken(SHOP, bid.record))
    assert [type(effect) for effect in story.did] == [do.Lease, do.ClaimAddresses]
    story.hears(ev.AddressesClaimed(SHOP))
    assert story.did == (do.StartApplication(SHOP, Epoch(8)),)


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


def test_a_disk_that_cannot_keep_the_epoch_takes_no_role() -> None:
    story = secondary()
    story.hears(ev.PeerLost(A))
    (bid,) = story.ordered(do.Bid)
    story.hears(
        ev.BidAnswered(SHOP, bid.record, Outcome.WON), ev.EffectFailed(SHOP, "StoreModule", "no space")
    )
    assert story.mirror.role is Role.WAIT
    assert story.ordered(do.CloseGate)


def test_a_role_whose_remains_cannot_be_ended_is_over_all_the_same_and_they_are_tried_again() -> None:
    story = primary()
    newer = record(8, B, A, B)
    story.hears(ev.RegisterAnswered(SHOP, newer))
    assert story.ordered(do.Follow)
    story.hears(ev.EffectFailed(SHOP, "ReleaseAddresses", "the pulse does not answer"))
    assert not story.did, "not at once: it would be asked without end"
    story.hears(ev.TimePassed(), after=1)
    # What was dropped behind the failure is ordered again, too.
    again = [do.StopApplication, do.ReleaseAddresses, do.Unmute, do.Follow]
    assert [type(effect) for effect in story.did] == again


def test_following_that_fails_is_ordered_again_after_a_while_and_not_at_once() -> None:
    story = primary()
    story.hears(ev.RegisterAnswered(SHOP, record(8, B, A, B)))
    for _ in range(3):
        assert story.ordered(do.Follow)
        story.hears(ev.EffectFailed(SHOP, "Follow", "the replicator is being started again"))
        assert not story.ordered(do.Follow)
        due = story.mirror.deadline()
        assert due is not None
        assert due > story.now
        story.hears(ev.TimePassed(), after=due - story.now)


def test_a_planned_end_whose_first_deed_failed_is_begun_again() -> None:
    story = primary()
    story.hears(asks(Swap()), ev.RegisterAnswered(SHOP, story.mirror.held))
    assert story.ordered(do.ReleaseAddresses)
    story.hears(ev.EffectFailed(SHOP, "ReleaseAddresses", "no answer"))
    story.hears(ev.TimePassed(), after=1)
    assert [type(effect) for effect in story.did] == [do.ReleaseAddresses, do.StopApplication]


# --- planned changes ---------------------------------------------------------------------------------------


def test_a_swap_stops_the_application_then_closes_then_bids() -> None:
    story = primary()
    story.hears(asks(Swap()))
    assert story.did == (do.ReadRegister(SHOP),)
    story.hears(ev.RegisterAnswered(SHOP, record(7, A, A, B)))
    assert answer(story) == ""
    assert story.did[1:] == (do.ReleaseAddresses(SHOP), do.StopApplication(SHOP, force=False))
    story.hears(ev.ApplicationStopped(SHOP, clean=True))
    assert story.did == (do.CloseGate(SHOP, drain=True),)
    story.hears(ev.GateClosed(SHOP, frozenset({B})))
    (bid,) = story.ordered(do.Bid)
    assert (bid.record.primary, bid.record.nonce, bid.record.in_sync) == (B, LIFE[B], {A, B})
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON))
    assert story.mirror.role is not Role.PRIM
    assert story.ordered(do.Follow)


def test_a_swap_is_refused_before_anything_stops_when_the_register_is_silent() -> None:
    story = primary()
    story.hears(asks(Swap()), ev.RegisterSilent(SHOP))
    assert answer(story) == "HF1207"
    assert story.mirror.stage is Stage.SERVING


def test_the_heir_opens_only_under_the_record_that_it_read_itself() -> None:
    story = secondary()
    swapped = record(8, B, A, B)
    story.hears(ev.PeerSaid(A, {SHOP: says(Role.WAIT, 8, B, A, B)}))
    assert not story.ordered(do.TakeReign)
    assert story.ordered(do.ReadRegister)
    story.hears(ev.RegisterAnswered(SHOP, swapped))
    assert story.ordered(do.TakeReign) == [do.TakeReign(SHOP, swapped)]


def test_an_heir_that_is_not_equal_gets_nothing_and_the_role_stays() -> None:
    story = primary()
    story.hears(
        asks(Swap()), ev.RegisterAnswered(SHOP, record(7, A, A, B)), ev.ApplicationStopped(SHOP, True)
    )
    story.hears(ev.GateClosed(SHOP, frozenset()))
    assert not story.ordered(do.Bid)
    assert story.ordered(do.TakeReign)
    serves(story, record(7, A, A, B))
    assert story.mirror.phase() is Phase.READY


def test_stopping_the_module_leaves_the_set_as_it_is() -> None:
    story = primary()
    story.hears(asks(Stop()), ev.ApplicationStopped(SHOP, True), ev.GateClosed(SHOP, frozenset({B})))
    assert story.ordered(do.StopReplicator)
    assert not story.ordered(do.Bid)
    story.hears(ev.ReplicatorStopped(SHOP))
    assert story.mirror.role is Role.STOP


def test_a_member_is_not_stopped_under_a_serving_primary_but_may_leave() -> None:
    story = secondary()
    story.hears(asks(Stop()))
    assert answer(story) == "HF1203"
    story.hears(asks(Leave()), ev.RegisterAnswered(SHOP, record(7, A, A, B)))
    assert answer(story) == ""
    assert story.mirror.state().leaving
    story.hears(ev.RegisterAnswered(SHOP, record(8, A, A)))
    assert story.ordered(do.StopReplicator)


def test_a_primary_bids_out_a_member_that_is_leaving() -> None:
    story = primary()
    story.hears(ev.PeerSaid(B, {SHOP: says(Role.SECOND, 7, A, A, B, life=LIFE[B], leaving=True)}))
    (bid,) = story.ordered(do.Bid)
    assert bid.record.in_sync == {A}


def test_a_stale_copy_is_promoted_only_by_an_order_that_accepts_the_loss() -> None:
    story = fresh(B, epoch=7)
    story.hears(ev.ReplicatorUp(SHOP, LIFE[B]), ev.RegisterAnswered(SHOP, record(8, A, A)), ev.PeerLost(A))
    story.hears(asks(Promote()))
    assert answer(story) == "HF1215"
    story.hears(asks(Promote(accept_data_loss=True)), ev.RegisterAnswered(SHOP, record(8, A, A)))
    (bid,) = story.ordered(do.Bid)
    assert (bid.record.forced, bid.record.in_sync) == (True, {B})


# --- application, disk, link -------------------------------------------------------------------------------


def test_an_application_that_dies_is_started_again_until_its_budget_is_spent_then_moves() -> None:
    story = primary(restarts_max=1)
    story.hears(ev.ApplicationFailed(SHOP, "killed"), ev.TimePassed(), after=0)
    story.hears(ev.TimePassed(), after=2)
    assert story.ordered(do.ClaimAddresses)
    story.hears(ev.AddressesClaimed(SHOP), ev.ApplicationStarted(SHOP), ev.ApplicationFailed(SHOP, "again"))
    assert do.StopApplication(SHOP, force=False) in story.did
    assert story.mirror.heir == B


def test_a_failed_disk_costs_the_role_at_once_and_says_so_to_the_other() -> None:
    story = primary()
    story.hears(ev.VolumeFailed(SHOP, "EIO"))
    assert story.did[0] == do.CloseGate(SHOP, drain=False)
    assert story.mirror.state().abandoned == 7
    assert not story.ordered(do.Bid)


def test_a_dead_link_moves_the_module_when_somebody_can_take_it() -> None:
    story = primary()
    story.hears(ev.LinkLost(SHOP, "eth0"))
    assert story.did[0] == do.ReleaseAddresses(SHOP)
    lonely = alone()
    lonely.hears(ev.LinkLost(SHOP, "eth0"))
    assert lonely.mirror.stage is Stage.SERVING


def test_a_primary_that_waited_too_long_for_the_register_stops_where_that_was_chosen() -> None:
    story = primary(on_register_loss="stop")
    story.hears(ev.PeerSuspected(B))
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.UNKNOWN), ev.TimePassed(), after=6)
    assert story.ordered(do.CloseGate)


# --- everything, everywhere --------------------------------------------------------------------------------

RECORDS = [
    record(6, B, B),
    record(7, A, A, B),
    record(8, B, B),
    record(8, A, A),
    record(8, A, A, B),
    record(9, B, A, B),
]
EVENTS = [
    ev.TimePassed(),
    ev.Paused(3.0),
    ev.PeerAlive(B),
    ev.PeerSuspected(B),
    ev.PeerLost(B),
    ev.PeerLeft(B),
    ev.PeerSaid(B, {SHOP: says(Role.SECOND, 7, A, A, B, life=LIFE[B])}),
    ev.PeerSaid(B, {SHOP: says(Role.ALONE, 8, B, B, life=LIFE[B], serving=True)}),
    ev.PeerSaid(B, {SHOP: says(Role.STOP, 7, A, A, B)}),
    ev.LinkLost(SHOP, "eth0"),
    ev.LinkRestored(SHOP, "eth0"),
    ev.RegisterAnswered(SHOP, None),
    *(ev.RegisterAnswered(SHOP, known) for known in RECORDS),
    ev.RegisterSilent(SHOP),
    ev.ReplicatorUp(SHOP, LIFE[A]),
    ev.ReplicatorLost(SHOP, "killed"),
    ev.ReplicatorStopped(SHOP),
    *(ev.ReignTaken(SHOP, known) for known in RECORDS),
    ev.GateClosed(SHOP, frozenset({B})),
    ev.GateClosed(SHOP),
    *(ev.ReignOffered(SHOP, known) for known in RECORDS),
    ev.StreamUp(SHOP, B),
    ev.StreamDown(SHOP, B, "reset"),
    ev.MemberLost(SHOP, B, "silent"),
    ev.MemberReady(SHOP, B, LIFE[B]),
    ev.HandshakeRefused(SHOP, B, "diverged"),
    ev.VolumeFailed(SHOP, "EIO"),
    ev.AddressesClaimed(SHOP),
    ev.AddressesRefused(SHOP, "taken"),
    ev.ApplicationStarted(SHOP),
    ev.ApplicationStopped(SHOP, True),
    ev.ApplicationFailed(SHOP, "exit 1"),
    *(ev.CheckFailed(SHOP, "tcp", action) for action in ("restart", "swap", "stop", "none")),
    *(
        ev.EffectFailed(SHOP, name, "x")
        for name in ("StoreModule", "WidenRequired", "Follow", "CloseGate", "ReleaseAddresses")
    ),
    *(
        asks(order)
        for order in (
            Start(),
            Start(True),
            Stop(),
            Leave(),
            Restart(),
            Swap(),
            Promote(),
            Promote(True),
            Resync(),
        )
    ),
]


@settings(max_examples=300)
@given(
    st.sampled_from(["primary", "secondary", "alone", "fresh"]),
    st.lists(st.tuples(st.integers(0, len(EVENTS)), st.sampled_from([0.0, 0.3, 2.0, 61.0])), max_size=25),
)
def test_any_event_in_any_state_is_a_legal_step(start: str, happenings: list[tuple[int, float]]) -> None:
    story = {
        "primary": primary,
        "secondary": lambda: secondary(A, B),
        "alone": alone,
        "fresh": lambda: fresh(A),
    }[start]()
    for index, pause in happenings:
        mirror = story.mirror
        if index == len(EVENTS):  # the answer to a bid that is out, if one is
            if not mirror.bidding or not mirror.bids:  # another record may have resolved it already
                continue
            event = ev.BidAnswered(SHOP, mirror.bids[-1], Outcome.WON)
        else:
            event = EVENTS[index]
        before = mirror
        story.hears(event, after=pause)
        after = story.mirror
        assert after.role is before.role or _reachable(before.role, after.role)
        assert after.epoch >= before.epoch
        if after.held is not None:
            assert after.held.in_sync <= after.required
            assert after.held.epoch <= after.epoch
        for bid in story.ordered(do.Bid):
            assert bid.expected is None or A in bid.expected.in_sync or bid.record.forced or mirror.offline
            assert after.held is None or bid.record.in_sync <= after.required
        answered = len(story.ordered(do.Answer))
        assert answered <= 1


def _reachable(source: Role, target: Role, steps: int = 3) -> bool:
    """One event may take several moves at once (a stale primary that finds itself a secondary)."""
    if source is target:
        return True
    return steps > 0 and any(_reachable(role, target, steps - 1) for role in MOVES[source])


def test_a_machine_with_nothing_due_asks_for_no_time() -> None:
    for story in (primary(), alone(), secondary()):
        for _ in range(50):
            due = story.mirror.deadline()
            if due is None:
                break
            assert due > story.now or story.now == 0
            story.now = due
            decision = machine.step(story.mirror, Instant(story.now), ev.TimePassed())
            story.mirror = decision.state
            assert story.mirror.deadline() is None or story.mirror.deadline() > story.now


def test_the_manual_shows_the_moves_that_the_machine_makes() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    for source, targets in MOVES.items():
        row = next(line for line in manual.splitlines() if line.startswith(f"| {source.value} |"))
        assert {Role(word) for word in row.split("|")[2].replace(",", " ").split()} == targets
