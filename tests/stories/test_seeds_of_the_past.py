"""Faults that a seed found once, told without the seed."""

from __future__ import annotations

from orchestrator.model.orders import Promote, Swap
from tests.stories.shop import WITNESS, Shop


def test_a_joiner_that_fell_behind_is_taken_in_when_it_has_caught_up() -> None:
    """What was acknowledged between its word that it was ready and the widening had not waited for it."""
    shop = Shop()
    shop.loses_power("b")
    shop.waits_until(lambda: shop.in_sync() == {"a"})
    shop.comes_back("b")
    for _ in range(200):
        keeper = shop.hosts["a"].keeper
        assert keeper is not None
        keeper.gate.write(0, durable=True)
        shop.passes(0.03)
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.disk("a") == shop.disk("b")


def test_an_agent_that_dies_between_its_bid_and_the_win_leaves_no_second_address() -> None:
    """The next agent took the won take-over for a restart of its own, and claimed at once."""
    shop = Shop()
    seen = len(shop.log)
    shop.cuts("a", "b")
    shop.waits_until(lambda: any("b does Bid" in line for line in shop.log[seen:]))
    shop.hosts["b"].agent.kill()
    shop.heals()
    shop.hosts["b"].agent.start()
    shop.waits_until(lambda: not shop.cluster.not_converged())
    shop.saves(next(name for name, host in shop.hosts.items() if host.service.application))


def test_a_member_is_not_promoted_behind_the_registers_back() -> None:
    """A plain promote served without the register, while another member could still be granted the role."""
    shop = Shop()
    shop.witness(answers=False)
    shop.cuts("a", "b")
    shop.cuts("a", WITNESS)
    shop.passes(10.0)
    assert shop.order("b", Promote()) == "HF1217"
    shop.passes(20.0)
    assert not shop.runs("b")


def test_a_bid_is_not_forgotten_because_the_state_disk_is_full() -> None:
    """A failed store dropped a bid that was out; and the node that could not store never vouched again."""
    shop = Shop()
    shop.loses_power("b")
    shop.waits_until(lambda: shop.in_sync() == {"a"})
    shop.comes_back("b")
    shop.hosts["a"].store_bad = True
    shop.passes(20.0)
    shop.hosts["a"].store_bad = False
    shop.waits_until(lambda: not shop.cluster.not_converged())


def test_a_member_dropped_on_suspicion_is_taken_in_again() -> None:
    shop = Shop()
    shop.cuts("b", "a")
    shop.waits_until(lambda: shop.in_sync() == {"a"})
    shop.heals()
    shop.waits_until(lambda: shop.in_sync() == {"a", "b"})


def test_a_swap_that_loses_its_heir_half_way_keeps_the_service_here() -> None:
    shop = Shop()
    assert shop.order("a", Swap()) == ""
    shop.loses_power("b")
    shop.waits_until(lambda: shop.runs("a") and shop.hosts["a"].pulse.answers())
    shop.saves("a")


def test_a_promotion_right_after_a_swap_waits_until_the_other_addresses_are_silent() -> None:
    """The giver had vouched for the new primary's lease a moment ago, and did not know yet that it serves."""
    shop = Shop()
    assert shop.order("a", Swap()) == ""
    there = shop.hosts["b"]
    shop.waits_until(lambda: there.service.claimed and there.pulse.answers())
    assert shop.order("a", Promote()) == ""
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.runs("a")


def test_a_member_that_comes_back_during_a_planned_end_is_taken_in_after_it() -> None:
    shop = Shop()
    shop.saves("a")
    shop.cuts("a", "b")
    assert shop.order("a", Swap()) == ""
    shop.waits_until(lambda: shop.in_sync() != {"a", "b"})
    shop.heals()
    shop.waits_until(lambda: not shop.cluster.not_converged())


def test_a_role_whose_planned_end_was_begun_by_a_former_agent_goes_on_with_an_open_gate() -> None:
    """The gate closed beneath the next agent, which served on it: no write was taken, and nobody knew."""
    shop = Shop()
    shop.saves("a")
    shop.hosts["a"].disk_slow_s = 3.0
    assert shop.order("a", Swap()) == ""
    keeper = shop.hosts["a"].keeper
    assert keeper is not None
    shop.waits_until(lambda: keeper.gate.draining)
    shop.hosts["a"].agent.kill()
    shop.hosts["a"].agent.start()
    shop.waits_until(lambda: any("a gate drained" in line for line in shop.log))
    shop.hosts["a"].disk_slow_s = 0.0
    shop.waits_until(keeper.gate.takes_writes)
    assert shop.runs("a")
    shop.saves("a")


def test_an_heir_that_restarted_while_the_gate_drained_gets_no_role() -> None:
    """What was equal were two disks beneath other gates; somebody may have changed files between."""
    shop = Shop()
    value = shop.saves("a")
    shop.hosts["a"].disk_slow_s = 1.9
    assert shop.order("a", Swap()) == ""
    keeper = shop.hosts["a"].keeper
    assert keeper is not None
    shop.waits_until(lambda: keeper.gate.draining)
    shop.passes(0.1)
    shop.loses_power("b")
    shop.comes_back("b")
    edited = shop.edits("b")
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.disk("a") == shop.disk("b") == value
    assert (0, edited) in shop.hosts["b"].volume.aside
