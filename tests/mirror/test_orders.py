"""What the operator orders: swap, stop, leave, promote; refused before anything stops, or carried out."""

from __future__ import annotations

from orchestrator.mirror import asked
from orchestrator.mirror.state import Stage
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.orders import Leave, Promote, Stop, Swap
from orchestrator.model.record import Outcome
from orchestrator.model.report import Phase, Role
from tests.mirror.words import (
    LIFE,
    SHOP,
    A,
    B,
    C,
    Story,
    answer,
    asks,
    fresh,
    primary,
    record,
    says,
    secondary,
    serves,
)


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


def test_a_stale_copy_is_promoted_only_by_an_order_that_accepts_the_loss() -> None:
    story = stale()
    story.hears(asks(Promote()))
    assert answer(story) == "HF1215"
    story.hears(asks(Promote(accept_data_loss=True)), ev.RegisterAnswered(SHOP, record(8, A, A)))
    (bid,) = story.ordered(do.Bid)
    assert (bid.record.forced, bid.record.in_sync) == (True, {B})


def stale() -> Story:
    """B missed what A served alone, and A is lost."""
    story = fresh(B, epoch=7)
    story.hears(ev.ReplicatorUp(SHOP, LIFE[B]), ev.RegisterAnswered(SHOP, record(8, A, A)), ev.PeerLost(A))
    return story


def test_a_promotion_that_could_not_be_carried_out_is_given_up_once_another_node_serves() -> None:
    story = stale()
    story.hears(asks(Promote(accept_data_loss=True)), ev.EffectFailed(SHOP, "StoreModule", "no space"))
    serving = says(Role.ALONE, 8, A, A, life=LIFE[A], serving=True)
    story.hears(ev.PeerAlive(A), ev.PeerSaid(A, {SHOP: serving}))
    assert story.told[-1] == "HF1219"
    story.hears(ev.ModuleStored(SHOP), ev.RegisterAnswered(SHOP, record(8, A, A)), ev.PeerLost(A))
    assert not story.ordered(do.Bid), "what A acknowledged since the order would be lost"


def test_a_promotion_is_not_carried_out_long_after_it_was_ordered() -> None:
    story = stale()
    story.hears(asks(Promote(accept_data_loss=True)), ev.EffectFailed(SHOP, "StoreModule", "no space"))
    story.hears(ev.TimePassed(), after=asked.ORDER_S + 1)
    assert "HF1219" in story.told
    story.hears(ev.ModuleStored(SHOP), ev.RegisterAnswered(SHOP, record(8, A, A)))
    assert not story.ordered(do.Bid)


def test_a_force_that_was_granted_and_could_not_open_is_a_force_when_it_is_bid_for_again() -> None:
    story = stale()
    story.hears(asks(Promote(accept_data_loss=True)), ev.RegisterAnswered(SHOP, record(8, A, A)))
    (bid,) = story.ordered(do.Bid)
    story.hears(
        ev.BidAnswered(SHOP, bid.record, Outcome.WON), ev.EffectFailed(SHOP, "StoreModule", "no space")
    )
    story.hears(ev.ModuleStored(SHOP))
    (again,) = story.ordered(do.Bid)
    assert again.record.forced, "the copy may be half of another one"


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


def test_a_gate_that_a_former_agents_planned_end_closed_is_opened_again() -> None:
    story = primary()
    assert story.hears(ev.GateClosed(SHOP, frozenset({A, B}))) == (do.TakeReign(SHOP, record(7, A, A, B)),)
    assert story.mirror.stage is Stage.SERVING
    assert story.hears(ev.ReignTaken(SHOP, record(7, A, A, B)), ev.TimePassed()) == ()


def test_a_serving_role_whose_gate_is_found_closed_opens_it() -> None:
    story = primary()
    found = ev.ReplicatorUp(SHOP, LIFE[A], record(7, A, A, B), frozenset({A, B}), application=True)
    assert story.hears(found) == (do.TakeReign(SHOP, record(7, A, A, B)),)


def test_a_gate_that_was_closed_while_a_reign_was_ordered_is_opened_again_after_it() -> None:
    story = primary()
    (bid,) = [effect for effect in story.hears(ev.PeerSuspected(B)) if isinstance(effect, do.Bid)]
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON), ev.GateClosed(SHOP))
    assert story.ordered(do.TakeReign) == [do.TakeReign(SHOP, bid.record)]
    story.hears(ev.ReignTaken(SHOP, bid.record))
    assert story.ordered(do.TakeReign) == [do.TakeReign(SHOP, bid.record)]


def test_a_gate_that_was_closed_opens_under_no_record_that_a_bid_may_replace() -> None:
    """R1: under the old one it would forget whom the bid names."""
    story = primary()
    (bid,) = [effect for effect in story.hears(ev.PeerSuspected(B)) if isinstance(effect, do.Bid)]
    story.hears(ev.GateClosed(SHOP, frozenset({A, B})), ev.BidAnswered(SHOP, bid.record, Outcome.UNKNOWN))
    assert not story.ordered(do.TakeReign)
    story.hears(ev.RegisterAnswered(SHOP, bid.record))
    assert story.ordered(do.TakeReign) == [do.TakeReign(SHOP, bid.record)]


def test_an_heir_with_another_life_than_the_one_that_was_drained_to_gets_no_role() -> None:
    story = primary()
    story.hears(
        asks(Swap()), ev.RegisterAnswered(SHOP, record(7, A, A, B)), ev.ApplicationStopped(SHOP, True)
    )
    story.hears(ev.PeerSaid(B, {SHOP: says(Role.WAIT, 7, A, A, B, life=LIFE[C])}))
    story.hears(ev.GateClosed(SHOP, frozenset({A, B})))
    assert story.told[-1] == "HF1104"
    assert not story.ordered(do.Bid)
    assert story.ordered(do.TakeReign)


def test_an_heir_that_restarts_while_its_bid_is_undecided_is_bid_out() -> None:
    story = primary()
    story.hears(
        asks(Swap()), ev.RegisterAnswered(SHOP, record(7, A, A, B)), ev.ApplicationStopped(SHOP, True)
    )
    (bid,) = [
        effect for effect in story.hears(ev.GateClosed(SHOP, frozenset({A, B}))) if isinstance(effect, do.Bid)
    ]
    story.hears(ev.PeerSaid(B, {SHOP: says(Role.WAIT, 7, A, A, B, life=LIFE[C])}))
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.UNKNOWN))
    story.hears(ev.TimePassed(), after=3.0)
    (other,) = story.ordered(do.Bid)
    assert (other.record.primary, other.record.in_sync) == (A, {A})
