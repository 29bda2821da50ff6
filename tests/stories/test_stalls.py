"""How long an application waits for a peer that is not there any more: the detection, and one bid."""

from __future__ import annotations

import pytest

from tests.sim.keeper import SYNC_S
from tests.stories.shop import Shop

BID_S = 0.02
"""Of these stories' register: there and back in 2 ms; and a reign is taken within two syncs."""


@pytest.mark.parametrize("loss", ["its current", "its processes", "the wire", "the way back", "its time"])
def test_a_write_waits_for_a_lost_member_no_longer_than_the_detection_and_one_bid(loss: str) -> None:
    shop = Shop()
    shop.saves("a")
    lost = shop.hosts["b"]
    match loss:
        case "its current":
            shop.loses_power("b")
        case "its processes":
            shop.loses_processes("b")
            lost.pulse.kill()
        case "the wire":
            shop.cuts("a", "b")
        case "the way back":
            shop.cluster.cut("b", "a")
        case _:
            lost.freeze()
            shop.cluster.watch_streams()
    began = shop.world.now
    value = shop.writes("a")
    shop.waits_until(lambda: shop.acknowledged(value))
    waited_s = shop.world.now - began
    print(f"lost {loss}: held for {waited_s:.2f} s")
    assert shop.in_sync() == {"a"}
    assert waited_s <= shop.cluster.timings.detection_s + BID_S + 2 * SYNC_S
