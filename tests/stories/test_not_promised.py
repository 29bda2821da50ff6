"""What docs/guarantees.md does *not* promise: each row that decisions can show, shown."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.model.names import Epoch
from orchestrator.model.orders import Promote
from tests.sim.world import TwoHistories
from tests.stories.shop import WITNESS, Shop


def test_a_write_without_fsync_may_be_gone_after_a_fail_over() -> None:
    shop = Shop()
    saved = shop.saves("a")
    keeper = shop.hosts["a"].keeper
    assert keeper is not None
    shop.cuts("a", "b")
    keeper.gate.write(0, durable=False)
    shop.loses_power("a")
    shop.waits_until(lambda: shop.runs("b"))
    assert shop.disk("b") == saved


def test_force_loses_what_the_other_side_acknowledged_and_says_so() -> None:
    shop = Shop()
    old = shop.saves("a")
    shop.loses_power("b")
    shop.waits_until(lambda: shop.in_sync() == {"a"})
    newer = shop.saves("a")
    shop.loses_power("a")
    shop.comes_back("b")
    shop.passes(20.0)
    assert shop.order("b", Promote(accept_data_loss=True)) == ""
    shop.waits_until(lambda: shop.runs("b"))
    assert shop.disk("b") == old != newer
    record = shop.cluster.register.record
    assert record is not None
    assert record.forced
    assert "HF1210" in shop.told()


def test_force_without_the_register_makes_two_histories() -> None:
    shop = Shop()
    shop.saves("a")
    shop.cuts("a", "b")
    shop.witness(answers=False)
    shop.passes(10.0)
    assert shop.order("b", Promote()) == "HF1217"
    served = ""
    try:
        shop.order("b", Promote(accept_data_loss=True))
        shop.passes(20.0)
    except TwoHistories:
        served = "without the register's grant"
    assert served
    assert shop.hosts["a"].keeper is not None
    assert shop.hosts["a"].keeper.gate.open


def test_a_write_that_was_never_acknowledged_may_be_there_all_the_same() -> None:
    shop = Shop()
    shop.cluster.cut("b", "a")  # The member gets the write, and its word does not come back.
    value = shop.writes("a")
    shop.waits_until(lambda: shop.disk("b") == value)
    assert not shop.acknowledged(value)
    shop.loses_power("a")
    shop.waits_until(lambda: shop.runs("b"))
    assert shop.disk("b") == value


def test_acknowledgements_from_memory_do_not_outlive_two_power_cuts() -> None:
    lost = 0
    for cut in range(16):
        shop = Shop(ack="memory")
        shop.world.random.seed(cut)  # What a disk had already written by itself is a matter of luck.
        keeper = shop.hosts["a"].keeper
        assert keeper is not None
        value = shop.writes("a")
        keeper.gate.points[-1].local = True
        shop.passes(0.004)
        assert shop.acknowledged(value)
        shop.loses_power("a", "b")
        lost += value not in (shop.disk("a"), shop.disk("b"))
    assert 0 < lost < 16


def test_a_witness_restored_from_an_old_copy_is_noticed_by_who_knows_better() -> None:
    shop = Shop()
    shop.saves("a")
    old = shop.cluster.register.history[0]
    shop.cluster.register.record = old
    shop.passes(130.0)
    assert "HF2012" in shop.told()
    assert (shop.role("a"), shop.role("b")) == ("PRIM", "SECOND")
    shop.saves("a")


def test_a_witness_that_lost_its_record_is_no_first_start() -> None:
    shop = Shop()
    shop.saves("a")
    shop.cluster.register.record = None
    shop.loses_power("a", "b")
    shop.comes_back("a", "b")
    shop.passes(60.0)
    assert shop.cluster.register.record is None
    assert not any(host.service.application for host in shop.hosts.values())
    shop.cluster.register.found_again()
    shop.waits_until(lambda: not shop.cluster.not_converged())


def test_a_node_that_never_heard_of_the_newer_record_cannot_notice_an_older_one() -> None:
    shop = Shop()
    before = shop.saves("a")
    known = shop.cluster.register.record
    shop.loses_power("b")
    shop.waits_until(lambda: shop.in_sync() == {"a"})
    newer = shop.saves("a")
    shop.loses_power("a")
    shop.cluster.register.record = known
    shop.cluster.register.history[:] = [replace(known, epoch=Epoch(1)), known] if known else []
    shop.cluster.register.changed = lambda record: None
    shop.world.check = lambda: None
    shop.cluster.ghost.line[0][:] = [before]
    shop.comes_back("b")
    shop.waits_until(lambda: shop.runs("b"))
    assert shop.disk("b") == before != newer


def test_an_old_application_may_run_on_after_a_fail_over_but_reaches_nobody_and_writes_nothing() -> None:
    shop = Shop()
    shop.cuts("a", "b")
    shop.cuts("a", WITNESS)
    shop.waits_until(lambda: shop.runs("b"))
    old = shop.hosts["a"]
    assert shop.runs("a")
    assert not old.pulse.answers()
    assert old.keeper is not None
    assert not old.keeper.gate.can_acknowledge()
    shop.heals()
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert not shop.runs("a")


def test_a_frozen_machine_may_wake_up_with_its_application_but_acknowledges_nothing() -> None:
    shop = Shop(overlap="none")
    shop.hosts["a"].freeze()
    shop.cluster.watch_streams()
    shop.waits_until(lambda: shop.runs("b"))
    assert shop.runs("a")
    shop.hosts["a"].thaw()
    keeper = shop.hosts["a"].keeper
    assert keeper is not None
    assert not keeper.gate.can_acknowledge()
    shop.waits_until(lambda: not shop.runs("a"))


def test_the_serving_node_makes_a_lost_record_again_by_order_and_nobody_notices() -> None:
    shop = Shop()
    before = shop.saves("a")
    epoch = shop.cluster.register.record.epoch
    started = shop.world.counts["application started"]
    shop.cluster.register.record = None
    shop.passes(130.0)
    assert shop.order("a", Promote()) == "HF1218"
    assert shop.order("a", Promote(accept_data_loss=True)) == ""
    shop.waits_until(lambda: shop.cluster.register.record is not None)
    assert shop.cluster.register.record.epoch > epoch
    assert shop.in_sync() == {"a", "b"}
    shop.passes(5.0)
    assert shop.world.counts["application started"] == started
    shop.saves("a")
    shop.loses_power("a")
    shop.waits_until(lambda: shop.runs("b"))
    assert shop.disk("b") >= before > 0


def test_after_an_outage_of_all_a_lost_record_is_made_again_by_the_node_to_keep() -> None:
    for left in (None, 1):
        shop = Shop()
        value = shop.saves("a")
        old = shop.cluster.register.history[0] if left else None
        shop.loses_power("a", "b")
        shop.cluster.register.record = old
        shop.comes_back("a", "b")
        shop.passes(30.0)
        assert not any(host.service.application for host in shop.hosts.values())
        assert shop.order("b", Promote()) == "HF1218"
        assert shop.order("b", Promote(accept_data_loss=True)) == ""
        shop.waits_until(lambda shop=shop: shop.runs("b"))  # type: ignore[misc]
        assert shop.disk("b") >= value
        shop.waits_until(lambda shop=shop: shop.in_sync() == {"a", "b"})  # type: ignore[misc]
        shop.saves("b")
