"""Planned changes break no connection, whatever it does meanwhile; new ones follow the new shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.farm.plane import Mode
from tests.farm.clients import source
from tests.farm.rig import V4, V6, Farm, Moving, begin, dealt, owner_of, shared
from tests.support.waiting import eventually

CONNECTIONS = 300
FOUR = shared("n1", "n2", "n3", "n4")
FIVE = tuple("n5" if bucket % 5 == 0 else owner for bucket, owner in enumerate(FOUR))
"""A join: a fifth of everybody's."""
DRAINED = dealt(FIVE, "n2", "n1", "n3", "n4", "n5")
WEIGHED = tuple("n4" if bucket % 3 == 0 else owner for bucket, owner in enumerate(DRAINED))
ASKED = {4: [(source(4, n), 5000 + n) for n in range(60)], 6: [(source(6, n), 5000 + n) for n in range(60)]}


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with Farm(5) as made:
        yield made


@pytest.mark.parametrize("mode", [Mode.DIRECTED, Mode.INVISIBLE])
def test_joining_draining_and_weighing_break_no_connection(farm: Farm, mode: Mode) -> None:
    farm.apply(FOUR, "n1", mode=mode)
    try:
        with farm.moving(V4, CONNECTIONS // 2) as moving4, farm.moving(V6, CONNECTIONS // 2) as moving6:
            assert set(moving4.nodes) == set(moving6.nodes) == {"n1", "n2", "n3", "n4"}
            chain = begin(FOUR)
            # Some buckets move three times while their first connections are where they began.
            for after in (FIVE, DRAINED, WEIGHED):
                for moving in (moving4, moving6):
                    _await_turns(moving)
                chain = farm.move(chain, after, "n1", mode=mode)
                for version, address in ((4, V4), (6, V6)):
                    expected = [owner_of(after, *client) for client in ASKED[version]]
                    assert farm.ask(address, "tcp", ASKED[version]) == expected
            reports = [_await_turns(moving) for moving in (moving4, moving6)]
    finally:
        farm.clean()
    assert [report["broken"] for report in reports] == [{}, {}]


def _await_turns(moving: Moving) -> dict[str, object]:
    """Until each connection has said and heard something twice more, or broke."""
    begun = moving.report()["turns"]

    def moved() -> bool:
        report = moving.report()
        broken = len(report["broken"])
        return (
            sum(now >= then + 2 for now, then in zip(report["turns"], begun, strict=True))
            >= len(begun) - broken
        )

    eventually(moved, 20)
    return moving.report()
