"""Every combination of cut wires between two nodes and their register: never do both acknowledge writes."""

from __future__ import annotations

from itertools import combinations

import pytest

from orchestrator.model.record import Outcome, Record
from tests.sim.register import Register
from tests.stories.shop import WITNESS, Shop

WIRES = (("a", "b"), ("a", WITNESS), ("b", WITNESS))
SETTLED_S = 20.0
"""Ten times what a detection and two bids take."""
CUTS = [cuts for count in range(4) for cuts in combinations(WIRES, count)]
SERVES = {
    # Who goes on, where it does not depend on who was faster.
    (): {"a"},
    (WIRES[1],): {"a"},
    (WIRES[2],): {"a"},
    (WIRES[1], WIRES[2]): {"a"},
    (WIRES[0], WIRES[1]): {"b"},
    (WIRES[0], WIRES[2]): {"a"},
    # Nobody: the primary holds its writes, since the other one might have won a bid.
    WIRES: set(),
}


def acknowledging(shop: Shop) -> set[str]:
    """The nodes whose application gets a durable write acknowledged."""
    values = {}
    for number, (name, host) in enumerate(shop.hosts.items()):
        if host.keeper is not None and host.keeper.gate.write(number, durable=True):
            values[name] = host.volume.memory[number], number
    shop.passes(5.0)
    return {name for name, (value, number) in values.items() if shop.acknowledged(value, number)}


@pytest.mark.parametrize(
    "cuts", CUTS, ids=lambda cuts: " ".join(f"{one}-{two}" for one, two in cuts) or "none"
)
def test_whatever_is_cut_one_node_at_the_most_acknowledges(cuts: tuple[tuple[str, str], ...]) -> None:
    shop = Shop()
    for one, two in cuts:
        shop.cuts(one, two)
    shop.passes(SETTLED_S)
    serving = acknowledging(shop)
    assert len(serving) <= 1
    assert serving == SERVES.get(cuts, serving)
    if cuts == (WIRES[0],):
        assert serving, "both reach the register: one of them has won"
    shop.heals()
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert len(acknowledging(shop)) == 1
    assert shop.in_sync() == {"a", "b"}


class Reached(Register):
    """No register: it says yes to whoever reaches it, as a router that answers a ping."""

    def _swap(self, expected: Record | None, record: Record) -> tuple[Outcome, Record | None]:
        self.record = record
        self.history.append(record)
        return Outcome.WON, None


def test_what_is_merely_reached_lets_two_nodes_acknowledge() -> None:
    """The matrix can fail: with anything less than a comparison the very first cut gives two primaries."""
    shop = Shop()
    stands = shop.cluster.register.record
    shop.cluster.register = Reached(shop.world)
    shop.cluster.register.record = stands
    shop.cuts("a", "b")
    with pytest.raises(AssertionError, match="can acknowledge, each without the other"):
        shop.passes(SETTLED_S)
