"""What a slow disk and an old one cost: told in order, in the words of the log."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from orchestrator.mirror.pace import REST_S
from orchestrator.model.config import TOLD_ONLY, HungDiskConfig, SlowPeerConfig
from orchestrator.model.orders import Start
from tests.sim.rules_off_disks import POSITIONS_ARE_NOT_ASKED, SYNC_ERRORS_ARE_BORNE
from tests.sim.world import Violation
from tests.stories.shop import Shop
from tests.support.rules_off import Switch

SLOW_S = 1.5
"""More than what is slow in any case, and less than after which a member is given up for its silence."""


def a_shop_with_a_slow_member(policy: SlowPeerConfig) -> Shop:
    shop = Shop(slow_peer=policy)
    for _ in range(8):
        shop.saves("a")
    shop.hosts["b"].disk_slow_s = SLOW_S
    return shop


def test_a_slow_member_is_dropped_by_policy_and_taken_in_again_when_it_is_fast() -> None:
    shop = a_shop_with_a_slow_member(SlowPeerConfig(after_s=2.0, do="drop"))
    began = shop.world.now
    while shop.in_sync() == {"a", "b"}:
        shop.saves("a")
    assert 2.0 < shop.world.now - began < 2.0 + 5 * SLOW_S
    began = shop.world.now
    fast = shop.saves("a")
    assert shop.world.now - began < 0.1, "nobody waits for it any more"
    for _ in range(20):
        shop.saves("a")
        shop.passes(2.0)
    assert shop.in_sync() == {"a"}, "it is as slow as before"
    shop.hosts["b"].disk_slow_s = 0.0
    began = shop.world.now
    while shop.in_sync() == {"a"}:
        shop.saves("a")
        shop.passes(1.0)
    assert REST_S - 2 < shop.world.now - began < REST_S + 5
    assert shop.disk("b") > fast


def test_a_slow_member_is_borne_where_nothing_else_was_ordered() -> None:
    shop = a_shop_with_a_slow_member(TOLD_ONLY)
    for _ in range(10):
        shop.saves("a")
    assert shop.in_sync() == {"a", "b"}
    assert shop.world.counts["slow member: slow"] == 1
    assert shop.world.counts["slow member: give up"] == 0


@pytest.mark.parametrize("switch", [nullcontext, POSITIONS_ARE_NOT_ASKED], ids=["as it is", "S11 off"])
def test_a_node_that_is_put_back_to_an_old_image_is_compared_in_full(switch: Switch) -> None:
    """Its lineage is right, and no log names what both disks held: only its position tells."""
    with switch():
        shop = Shop()
        shop.saves("a", 0)
        image = shop.hosts["b"].volume.image()
        newer = shop.saves("a", 0)
        shop.saves("a", 1)
        shop.saves("a", 1)
        shop.loses_power("b")
        shop.waits_until(lambda: not shop.cluster.counts_on(shop.hosts["b"]))
        shop.hosts["b"].volume.roll_back(image, shop.world.random)
        assert shop.disk("b") < newer
        shop.comes_back("b")
        if switch is nullcontext:
            shop.waits_until(lambda: not shop.cluster.not_converged())
            assert shop.disk("b") == newer
        else:
            with pytest.raises(Violation, match=r"clients were told|in neither log"):
                shop.waits_until(lambda: not shop.cluster.not_converged())


def test_a_primary_whose_disk_hangs_gives_the_role_to_the_one_that_has_everything() -> None:
    shop = Shop(hung_disk=HungDiskConfig(after_s=15.0, do="move"))
    saved = shop.saves("a")
    shop.hosts["a"].hang()
    held = shop.writes("a")
    began = shop.world.now
    shop.waits_until(lambda: shop.runs("b"))
    assert 15.0 <= shop.world.now - began < 20.0
    assert not shop.runs("a")
    assert not shop.hosts["a"].pulse.answers()
    assert not shop.acknowledged(held)
    assert shop.disk("b") in (saved, held)
    shop.saves("b")
    shop.hosts["a"].answer()
    assert shop.order("a", Start()) == ""
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.runs("b")


def test_a_primary_whose_disk_hangs_keeps_the_role_where_nothing_else_was_ordered() -> None:
    shop = Shop()
    shop.hosts["a"].hang()
    held = shop.writes("a")
    shop.passes(100.0)
    assert shop.world.counts["own disk: hangs"] == 1
    assert shop.role("a") == "PRIM"
    shop.hosts["a"].answer()
    shop.waits_until(lambda: shop.acknowledged(held))


def test_it_keeps_the_role_while_nobody_else_has_everything() -> None:
    shop = Shop(hung_disk=HungDiskConfig(after_s=15.0, do="move"))
    shop.loses_power("b")
    shop.waits_until(lambda: shop.in_sync() == {"a"})
    shop.hosts["a"].hang()
    held = shop.writes("a")
    shop.passes(100.0)
    assert shop.role("a") == "ALONE"
    shop.hosts["a"].answer()
    shop.waits_until(lambda: shop.acknowledged(held))


@pytest.mark.parametrize("switch", [nullcontext, SYNC_ERRORS_ARE_BORNE], ids=["as it is", "S10 off"])
def test_a_node_whose_disk_fails_before_it_takes_over_does_not_start_on_it(switch: Switch) -> None:
    """What only its memory holds would be read, told to clients, and be gone with the next power cut."""
    with switch():
        shop = Shop()
        shop.saves("a")
        keeper = shop.hosts["a"].keeper
        assert keeper is not None
        keeper.gate.write(0, durable=False)
        shop.passes(0.1)
        shop.loses_power("a")
        shop.hosts["b"].disk_bad = True
        if switch is nullcontext:
            shop.passes(20.0)
            assert not shop.runs("b")
        else:
            with pytest.raises(Violation, match="a power cut takes it back"):
                shop.waits_until(lambda: shop.runs("b"))
