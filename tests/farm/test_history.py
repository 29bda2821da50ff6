"""Where connections are looked for: ever further back, over losses, returns and splits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.farm import history
from orchestrator.farm.view import maps
from orchestrator.model.names import NodeName
from tests.farm.decide import rules, view

NAMES = tuple(NodeName(name) for name in "abcde")
RULES = rules(*NAMES)


def way(former, owners, bucket: int) -> list[NodeName]:
    """Through whom a packet of an unknown connection goes."""
    here, found = owners[0][bucket], []
    while here is not None:
        assert here not in found, f"a circle: {found} and {here}"
        found.append(here)
        here = history.chances(former, owners, here)[0].get(bucket)
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1), min_size=2, max_size=6))
def test_every_former_owner_is_found_and_no_packet_goes_in_a_circle(views) -> None:
    former, seen = (), [maps(RULES, view(*views[0]))]
    for names in views[1:]:
        after = maps(RULES, view(*names))
        former = history.moved(former, seen[-1], after)
        seen.append(after)
    for bucket in range(0, 1024, 64):
        owners = [one[0][bucket] for one in seen]
        newest = list(dict.fromkeys(reversed(owners)))
        assert way(former, seen[-1], bucket) == newest


def test_when_one_between_leaves_the_owner_asks_the_one_before() -> None:
    a, b, c = (maps(RULES, view(name)) for name in NAMES[:3])
    former = history.moved(history.moved((), a, b), b, c)
    assert way(former, c, 0) == ["c", "b", "a"]
    assert way(history.without(former, {NAMES[1]}), c, 0) == ["c", "a"]


def test_what_a_node_gave_away_it_goes_on_with() -> None:
    a, b = (maps(RULES, view(name)) for name in NAMES[:2])
    former = history.moved((), a, b)
    assert len(history.lost(former, 1, NAMES[0])[0]) == 1024
    assert not history.lost(former, 1, NAMES[1])[0]


def test_two_sides_that_meet_have_one_history() -> None:
    left, right = view(*NAMES[:2]), view(*NAMES[2:4])
    after = maps(RULES, view(*NAMES[:4]))
    one = history.moved((), maps(RULES, view(NAMES[0])), maps(RULES, left))
    two = history.moved((), maps(RULES, view(NAMES[2])), maps(RULES, right))
    lefts, rights = maps(RULES, left), maps(RULES, right)
    told = history.joined((one, two), lefts, rights, after, first=True)
    assert told == history.joined((two, one), rights, lefts, after, first=False)
    for bucket in range(0, 1024, 16):
        assert set(way(told, after, bucket)) >= {NAMES[0], NAMES[2], lefts[0][bucket], rights[0][bucket]}
    # A side that was told nothing knows who owns each bucket there: a packet finds its way.
    here = history.joined((one, ()), lefts, rights, after, first=True)
    there = history.joined((two, ()), rights, lefts, after, first=False)
    for bucket in range(0, 1024, 16):
        found, at = [], after[0][bucket]
        while at is not None:
            assert at not in found, found
            found.append(at)
            known = here if at in left.names else there
            at = history.chances(known, after, at)[0].get(bucket)
        assert {maps(RULES, left)[0][bucket], maps(RULES, right)[0][bucket]} <= set(found)
