"""The map of buckets: exact shares, the same everywhere, and nothing moves that need not."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.farm.buckets import BUCKETS, NOBODY, in_chain, owners, spread
from orchestrator.model.names import NODES_MAX, NodeName

NAMES = tuple(NodeName(f"n{number}") for number in range(NODES_MAX))


@st.composite
def farms(draw: st.DrawFn, most: int = 12) -> tuple[str, dict[NodeName, int], list[NodeName]]:
    """A salt, weights, and the nodes that are there."""
    names = NAMES[: draw(st.integers(2, most))]
    weights = {name: draw(st.integers(0, 5)) for name in names}
    live = [name for name in names if draw(st.booleans())]
    return draw(st.sampled_from("xyz")), weights, live


@settings(max_examples=60, deadline=None)
@given(farms())
def test_every_bucket_belongs_to_a_live_node_with_a_weight_or_to_nobody(farm) -> None:
    salt, weights, live = farm
    able = {name for name in live if weights[name]}
    found = owners(salt, weights, live)
    assert len(found) == BUCKETS
    assert set(found) <= able if able else found is NOBODY


@settings(max_examples=60, deadline=None)
@given(farms(), st.data())
def test_a_loss_moves_the_victims_buckets_and_no_other_and_its_return_is_exact(farm, data) -> None:
    salt, weights, live = farm
    if not live:
        return
    victim = data.draw(st.sampled_from(live))
    before = owners(salt, weights, live)
    after = owners(salt, weights, [name for name in live if name != victim])
    assert {old for old, new in zip(before, after, strict=True) if old != new} <= {victim}
    assert owners(salt, weights, live) == before


@settings(max_examples=40, deadline=None)
@given(farms())
def test_shares_are_the_weights_to_a_fifth_of_a_percent(farm) -> None:
    salt, weights, _ = farm
    total = sum(weights.values())
    if total:
        had = Counter(owners(salt, weights, list(weights)))
        for name, weight in weights.items():
            assert abs(had[name] / BUCKETS - weight / total) <= 0.002


def test_after_losses_the_others_have_equal_parts() -> None:
    for count, lost, bound in ((4, 1, 1.01), (4, 2, 1.02), (8, 1, 1.01), (8, 3, 1.03), (16, 2, 1.03)):
        weights = dict.fromkeys(NAMES[:count], 1)
        had = Counter(owners("web", weights, NAMES[lost:count]))
        assert max(had.values()) / (BUCKETS / (count - lost)) <= bound, (count, lost, had)


def test_the_order_in_which_nodes_came_and_went_means_nothing_and_the_order_of_names_neither() -> None:
    weights = dict.fromkeys(NAMES[:5], 2)
    turned = dict(reversed(weights.items()))
    assert owners("web", weights, NAMES[1:4]) == owners("web", turned, NAMES[3:0:-1])


def test_another_process_finds_the_same_map() -> None:
    code = (
        "from orchestrator.farm.buckets import owners\n"
        "print(owners('web', {'a': 1, 'b': 2, 'c': 3}, ['c', 'a']))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    weights = {NodeName("a"): 1, NodeName("b"): 2, NodeName("c"): 3}
    assert told.strip() == repr(owners("web", weights, [NodeName("a"), NodeName("c")]))


def test_a_new_weight_moves_little_more_than_it_must() -> None:
    before, after = dict.fromkeys(NAMES[:4], 100), {**dict.fromkeys(NAMES[:4], 100), NAMES[0]: 50}
    moved = sum(
        old != new
        for old, new in zip(owners("web", before, before), owners("web", after, after), strict=True)
    )
    must = BUCKETS * (1 / 4 - 0.5 / 3.5)
    assert must <= moved <= 1.2 * must


def test_sixty_four_nodes_share_as_well() -> None:
    had = Counter(owners("web", dict.fromkeys(NAMES, 1), NAMES))
    assert set(had.values()) == {16}


def test_the_next_group_of_a_chain_serves_only_while_nobody_of_the_first_is_there() -> None:
    a, b, c = NAMES[:3]
    weights = dict.fromkeys((a, b, c), 1)
    chain = ((a, b), (c,))
    assert set(in_chain("web", weights, chain, (a, b, c))) == {a, b}
    assert set(in_chain("web", weights, chain, (b, c))) == {b}
    assert set(in_chain("web", weights, chain, (c,))) == {c}
    assert in_chain("web", weights, chain, ()) is NOBODY


def test_addresses_are_answered_by_as_many_nodes_as_can_be() -> None:
    answering = spread("web", [f"198.18.0.{number}" for number in range(6)], NAMES[:3])
    assert set(Counter(answering.values()).values()) == {2}
    assert spread("web", ["198.18.0.1"], ()) == {}
