"""Files changed behind hafarm's back, as docs/guarantees.md tells: they count, or they are set aside."""

from __future__ import annotations

import pytest

from orchestrator.model.orders import Leave, Start, Stop
from tests.stories.shop import Shop

WAYS = ("after a crash", "after a power cut", "after a stop")


def goes_down(shop: Shop, name: str, how: str) -> None:
    """Nothing of ours runs there, and the files are plain."""
    match how:
        case "after a crash":
            shop.loses_processes(name)
            shop.passes(3.0)
        case "after a power cut":
            shop.loses_power(name)
            shop.passes(3.0)
            shop.comes_back(name)
            shop.passes(0.05)  # before anything of ours has started
        case _:
            assert shop.order(name, Leave() if shop.role(name) == "SECOND" else Stop()) == ""
            shop.waits_until(lambda: shop.hosts[name].keeper is None)
    assert shop.hosts[name].keeper is None


def comes_up(shop: Shop, name: str) -> None:
    shop.comes_back(name)
    if shop.role(name) == "STOP":
        assert shop.order(name, Start()) == ""


@pytest.mark.parametrize("how", WAYS)
def test_on_a_node_that_follows_an_edit_is_set_aside_before_it_is_overwritten(how: str) -> None:
    shop = Shop()
    value = shop.saves("a")
    goes_down(shop, "b", how)
    edited = shop.edits("b")
    comes_up(shop, "b")
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.disk("a") == shop.disk("b") == value
    assert (0, edited) in shop.hosts["b"].volume.listed
    assert (0, edited) in shop.hosts["b"].volume.aside


@pytest.mark.parametrize("how", WAYS)
def test_on_the_node_that_serves_an_edit_counts_and_is_replicated(how: str) -> None:
    shop = Shop()
    shop.saves("a")
    goes_down(shop, "b", "after a stop")
    goes_down(shop, "a", how)
    edited = shop.edits("a")
    comes_up(shop, "a")
    shop.waits_until(lambda: shop.runs("a"))
    comes_up(shop, "b")
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.disk("a") == shop.disk("b") == edited
    assert (0, edited) in shop.hosts["a"].volume.listed


def test_a_node_that_dies_while_it_looks_looks_again() -> None:
    shop = Shop()
    value = shop.saves("a")
    goes_down(shop, "b", "after a stop")
    edited = shop.edits("b")
    shop.hosts["b"].look_dies = "crash"
    comes_up(shop, "b")
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.world.counts["fault keeper crash"] == 1
    assert shop.disk("b") == value
    assert (0, edited) in shop.hosts["b"].volume.aside


def test_nothing_is_called_an_edit_after_a_power_cut_of_a_busy_node() -> None:
    shop = Shop()
    for _ in range(20):
        shop.writes("a")
        shop.passes(0.03)
    shop.loses_power("b")
    shop.comes_back("b")
    shop.waits_until(lambda: not shop.cluster.not_converged())
    assert shop.hosts["b"].volume.listed == set()
