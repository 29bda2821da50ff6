"""What docs/guarantees.md promises, each as a story."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from orchestrator.mirror.lineage import Verdict
from orchestrator.model.orders import Leave, Promote, Swap
from tests.sim.rules_off_copies import MEMBERS_ARE_COPIED_INTO, UNHEARD_REIGNS_COUNT
from tests.sim.world import Violation
from tests.stories.shop import WITNESS, Shop
from tests.support.rules_off import Switch

# --- 1: no acknowledged write is lost -----


def test_an_acknowledged_write_is_on_both_disks() -> None:
    shop = Shop()
    value = shop.saves("a")
    assert (shop.disk("a"), shop.disk("b")) == (value, value)


def test_a_write_outlives_the_loss_of_the_primary() -> None:
    shop = Shop()
    value = shop.saves("a")
    shop.loses_power("a")
    shop.waits_until(lambda: shop.runs("b"))
    assert shop.role("b") == "ALONE"
    assert shop.disk("b") == value


def test_a_write_outlives_a_power_cut_of_everything() -> None:
    shop = Shop()
    value = shop.saves("a")
    shop.loses_power("a", "b")
    shop.comes_back("b")
    shop.waits_until(lambda: shop.runs("b"))
    assert shop.disk("b") == value


def test_a_write_that_the_lost_member_does_not_have_is_held_until_the_member_is_out_of_the_record() -> None:
    shop = Shop()
    shop.witness(answers=False)
    shop.loses_power("b")
    value = shop.writes("a")
    shop.passes(30.0)
    assert not shop.acknowledged(value)
    shop.witness(answers=True)
    shop.waits_until(lambda: shop.acknowledged(value))
    assert shop.in_sync() == {"a"}


def test_a_disk_that_fails_costs_the_role_and_no_write() -> None:
    shop = Shop()
    value = shop.saves("a")
    shop.hosts["a"].disk_bad = True
    lost = shop.writes("a")
    shop.waits_until(lambda: shop.runs("b"))
    assert not shop.acknowledged(lost)
    assert shop.disk("b") in (value, lost)


# --- 2: one history -----


def test_an_isolated_primary_acknowledges_nothing_that_its_successor_lacks() -> None:
    shop = Shop()
    shop.saves("a")
    shop.cuts("a", "b")
    shop.cuts("a", WITNESS)
    alone = shop.writes("a")
    shop.waits_until(lambda: shop.runs("b"))
    shop.saves("b")
    assert not shop.acknowledged(alone)
    shop.heals()
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.disk("a") == shop.disk("b") != alone


def test_of_two_that_lose_each_other_exactly_one_goes_on() -> None:
    shop = Shop()
    shop.cuts("a", "b")
    shop.passes(20.0)
    serving = [name for name, host in shop.hosts.items() if host.service.application and host.pulse.answers()]
    assert len(serving) == 1
    assert shop.in_sync() == set(serving)


def test_an_isolated_primary_stops_answering_before_its_successor_begins() -> None:
    shop = Shop()
    shop.cuts("a", "b")
    shop.cuts("a", WITNESS)
    shop.waits_until(lambda: not shop.hosts["a"].pulse.answers())
    assert not shop.hosts["b"].service.claimed
    shop.waits_until(lambda: shop.hosts["b"].pulse.answers())


def test_a_member_takes_over_though_its_primary_was_lost_before_telling_that_it_had_joined() -> None:
    shop = Shop(settled_s=0.0)
    shop.cuts("a", "b")
    shop.cuts("a", WITNESS)
    node = shop.hosts["b"].agent.node
    assert node is not None
    assert not node.mirrors["shop"].member
    shop.waits_until(lambda: shop.runs("b"))


@pytest.mark.parametrize("switch", [nullcontext, UNHEARD_REIGNS_COUNT], ids=["as it is", "G8 off"])
def test_a_primary_lost_before_anybody_heard_of_its_reign_comes_back_as_one_that_is_behind(
    switch: Switch,
) -> None:
    with switch():
        shop = Shop()
        shop.saves("a")
        assert shop.order("a", Swap()) == ""
        shop.waits_until(lambda: len(shop.hosts["b"].volume.lineage) == 3)
        shop.cuts("a", "b")
        held = shop.writes("b")
        shop.loses_power("b")
        shop.heals()
        shop.waits_until(lambda: shop.runs("a"))
        shop.saves("a")
        shop.comes_back("b")
        shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.disk("a") == shop.disk("b") != held
    assert not shop.acknowledged(held)
    verdict = Verdict.UNHEARD if switch is nullcontext else Verdict.DIVERGED
    assert shop.world.counts[f"verdict {verdict.value}"] == 1
    set_aside = shop.hosts["b"].volume.aside
    assert (set_aside == set()) is (switch is nullcontext), "nobody lost anything"


# --- 3: nothing stale starts by itself, nothing is discarded in silence -----


def stale(shop: Shop) -> int:
    """What only `a` has: b went first, then a wrote, then a went too, and b is back."""
    shop.loses_power("b")
    shop.waits_until(lambda: shop.in_sync() == {"a"})
    value = shop.saves("a")
    shop.loses_power("a")
    shop.comes_back("b")
    shop.passes(30.0)
    return value


def test_a_copy_that_is_not_in_sync_does_not_start() -> None:
    shop = Shop()
    stale(shop)
    assert shop.role("b") == "WAIT"
    assert shop.order("b", Promote()) == "HF1215"
    assert not shop.runs("b")


def test_what_force_gives_up_is_set_aside_when_the_loser_returns() -> None:
    shop = Shop()
    value = stale(shop)
    assert shop.order("b", Promote(accept_data_loss=True)) == ""
    shop.waits_until(lambda: shop.runs("b"))
    assert "HF1210" in shop.told()
    shop.saves("b")
    shop.comes_back("a")
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.disk("a") == shop.disk("b") != value
    assert (0, value) in shop.hosts["a"].volume.aside
    assert "HF4004" in shop.told()


# --- 4: stopped means stopped before started means started -----


def test_a_swap_ends_everything_on_one_side_before_anything_begins_on_the_other() -> None:
    shop = Shop()
    value = shop.saves("a")
    assert shop.order("a", Swap()) == ""
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert (shop.role("a"), shop.role("b")) == ("SECOND", "PRIM")
    assert shop.disk("b") == value
    said = [line for line in shop.log if " does " in line]
    first = {
        what: next(at for at, line in enumerate(said) if f"{node} does {what}" in line)
        for node, what in (("a", "ReleaseAddresses"), ("a", "StopApplication"), ("b", "ClaimAddresses"))
    }
    assert first["ReleaseAddresses"] < first["StopApplication"] < first["ClaimAddresses"]


def test_with_overlap_none_the_old_side_is_killed_before_the_new_one_starts() -> None:
    shop = Shop(overlap="none")
    shop.cuts("a", "b")
    shop.cuts("a", WITNESS)
    shop.waits_until(lambda: not shop.runs("a"))
    assert not shop.runs("b")
    shop.waits_until(lambda: shop.runs("b"))


def test_a_departure_is_refused_before_anything_stops_when_the_register_is_silent() -> None:
    shop = Shop()
    shop.witness(answers=False)
    for order in (Swap(), Leave()):
        assert shop.order("a", order) == "HF1207"
    assert shop.runs("a")
    shop.saves("a")


# --- 5: the application never stops for our sake -----


@pytest.mark.parametrize("trouble", ["witness", "agent", "pulse", "replicator", "peer returns"])
def test_nothing_of_ours_interrupts_the_application(trouble: str) -> None:
    shop = Shop()
    here = shop.hosts["a"]
    turn = here.service.application_turn
    match trouble:
        case "witness":
            shop.witness(answers=False)
            shop.passes(300.0)
            shop.witness(answers=True)
        case "agent":
            here.agent.kill()
            shop.passes(2.0)
            here.agent.start()
        case "pulse":
            here.pulse.kill()
            shop.passes(0.3)
            here.pulse.start()
        case "replicator":
            assert here.keeper is not None
            here.keeper.reset("it ended")
            here.launcher.back(here.keeper)
        case _:
            shop.loses_power("b")
            shop.passes(20.0)
            shop.comes_back("b")
    shop.waits_until(lambda: not shop.cluster.not_converged())
    shop.saves("a")
    assert here.service.application
    assert here.service.application_turn == turn


def test_a_story_that_breaks_a_promise_would_be_noticed() -> None:
    shop = Shop()
    shop.saves("a")
    shop.hosts["b"].volume.disk[0] = 0
    with pytest.raises(Violation, match="clients were told"):
        shop.passes(1.0)


def test_a_take_over_that_has_a_later_write_and_lacks_an_earlier_one_would_be_noticed() -> None:
    shop = Shop()
    shop.saves("a")
    shop.cuts("a", "b")
    shop.writes("a", 1)
    later = shop.writes("a", 0)
    shop.loses_power("a")
    there = shop.hosts["b"].volume
    there.memory[0] = there.disk[0] = later
    with pytest.raises(Violation, match="lacks what was written before"):
        shop.waits_until(lambda: shop.runs("b"))


@pytest.mark.parametrize("switch", [nullcontext, MEMBERS_ARE_COPIED_INTO], ids=["as it is", "O1 off"])
def test_a_member_whose_replicator_restarted_is_bid_out_before_it_is_copied_to(switch: Switch) -> None:
    """Else it could have to take over half-way, with some of what is newer and not all of what is older."""
    with switch():
        shop = Shop()
        shop.hosts["b"].launcher.kill()
        for file in range(4):
            shop.writes("a", file)
        shop.waits_until(lambda: shop.world.counts["copy begun"] > 1)
        assert (shop.in_sync() == {"a", "b"}) is (switch is MEMBERS_ARE_COPIED_INTO)
        shop.loses_power("a")
        if switch is nullcontext:
            shop.passes(20.0)
            assert not shop.runs("b")
        else:
            with pytest.raises(Violation, match="half a copy"):
                shop.waits_until(lambda: shop.runs("b"))
