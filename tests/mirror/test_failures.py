"""What fails on one machine: application, disk, link, and deeds that cannot be carried out."""

from __future__ import annotations

from orchestrator.mirror.state import Stage
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.orders import Start, Swap
from orchestrator.model.record import Outcome
from orchestrator.model.report import Role
from tests.mirror.words import LIFE, SHOP, A, B, alone, asks, primary, record, says, secondary


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


def test_a_disk_that_cannot_keep_the_epoch_takes_no_role() -> None:
    story = secondary()
    story.hears(ev.PeerLost(A))
    (bid,) = story.ordered(do.Bid)
    story.hears(
        ev.BidAnswered(SHOP, bid.record, Outcome.WON), ev.EffectFailed(SHOP, "StoreModule", "no space")
    )
    assert story.mirror.role is Role.WAIT
    assert story.ordered(do.CloseGate)


def test_addresses_that_come_after_the_role_was_given_up_are_not_counted_on() -> None:
    """Their release follows; the next role would start the application without them."""
    story = secondary()
    story.hears(ev.PeerLost(A))
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON))
    assert story.ordered(do.ClaimAddresses)
    story.hears(ev.EffectFailed(SHOP, "StoreModule", "no space"))
    assert story.ordered(do.ReleaseAddresses)
    story.hears(ev.AddressesClaimed(SHOP))
    assert not story.mirror.claimed


def test_the_role_is_bid_for_again_once_the_epoch_is_on_the_disk_and_not_before() -> None:
    story = secondary()
    story.hears(ev.PeerLost(A))
    (bid,) = story.ordered(do.Bid)
    story.hears(ev.BidAnswered(SHOP, bid.record, Outcome.WON))
    for _ in range(3):
        story.hears(ev.EffectFailed(SHOP, "StoreModule", "no space"))
        assert story.mirror.role is Role.WAIT
        story.hears(ev.TimePassed(), after=1)
        assert [type(effect) for effect in story.did] == [do.StoreModule]
        assert story.mirror.role is Role.WAIT
    story.hears(ev.ModuleStored(SHOP))
    (again,) = story.ordered(do.Bid)
    assert again.record.epoch == bid.record.epoch + 1, "the first one was given up, and others may know"
    story.hears(ev.BidAnswered(SHOP, again.record, Outcome.WON))
    assert story.mirror.role is Role.ALONE


def test_a_disk_that_gives_no_answer_is_asked_once_and_not_ten_times() -> None:
    story = secondary()
    story.hears(ev.PeerLost(A))
    (bid,) = story.ordered(do.Bid)
    story.hears(
        ev.BidAnswered(SHOP, bid.record, Outcome.WON), ev.EffectFailed(SHOP, "StoreModule", "no space")
    )
    story.hears(ev.TimePassed(), after=1)
    assert story.ordered(do.StoreModule)
    for _ in range(10):
        story.hears(ev.TimePassed(), ev.PeerLost(A), after=1)
        assert not story.ordered(do.StoreModule)
    story.hears(ev.EffectFailed(SHOP, "ReleaseAddresses", "behind which it was dropped, perhaps"))
    story.hears(ev.TimePassed(), after=1)
    assert story.ordered(do.StoreModule)


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


def test_a_former_primary_whose_state_disk_was_full_vouches_for_the_next_one_all_the_same() -> None:
    story = primary()
    story.hears(ev.RegisterAnswered(SHOP, record(8, B, B)), ev.EffectFailed(SHOP, "StoreModule", "no space"))
    story.hears(ev.TimePassed(), after=1)
    assert [type(effect) for effect in story.did] == [do.StoreModule]
    story.hears(ev.ModuleStored(SHOP))
    orders = [type(effect) for effect in story.did]
    assert orders.index(do.Unmute) < orders.index(do.Follow)


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


def test_a_question_to_the_register_behind_a_deed_that_failed_is_asked_again() -> None:
    story = secondary()
    story.hears(ev.PeerSaid(A, {SHOP: says(Role.PRIM, 9, A, A, B, life=LIFE[A], serving=True)}))
    assert story.ordered(do.ReadRegister)
    assert story.ordered(do.StoreModule)
    story.hears(ev.EffectFailed(SHOP, "StoreModule", "no space"))
    assert story.ordered(do.ReadRegister)
    story.hears(ev.RegisterAnswered(SHOP, record(9, A, A, B)))
    assert not story.mirror.reading
