"""Each rule is there for a reason: without it, random seeds run into an invariant that names the harm."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.model_search.rules_off import RULES_OFF as SEARCHED
from tests.sim.episode import play
from tests.sim.rules_off import RULES_OFF

SEEDS = range(2000, 2060)
"""Most are found within the first few of these; the rest is margin for when the draws change."""
PATIENCE_S = 10.0
"""Without its rule a cluster may go in a circle: then the next seed's turn comes. Others take 1 to 3 s."""
HARM = re.compile(
    "|".join(
        (
            "is in sync and has .* clients were told",  # an acknowledged write is missing on a member's disk
            "opens under epoch .* clients were told",  # ... or where an application starts
            "which the serving history",  # two nodes acknowledge
            "can acknowledge, each without the other",
            "a power cut takes it back",
            "was not in sync .* and became primary",
            "answer for the address at once",
            "with \\d+ on disk$",  # an epoch is used before it is durable
            "is in neither log",
            "bids .* and requires",  # a bid leaves before the gate is wide
            "forgets whom its bid",
            "and no node has them",
            "streamed to as if it were equal",
            "lacks what was written before",
            "and is torn",
            "opens with half a copy",
            "epoch \\d+ after \\d+",
        )
    )
)


def first_harm() -> str:
    """The first seed that names the harm; others may only end where nobody goes on."""
    others = []
    for seed in SEEDS:
        violation = play(seed, over_at=time.monotonic() + PATIENCE_S).violation or ""
        if HARM.search(violation):
            return violation
        others += [violation] if violation else []
    pytest.fail(f"none of {len(SEEDS)} seeds found it; what they found is no harm: {others}")


@pytest.mark.parametrize("rule", RULES_OFF)
def test_the_simulator_finds_what_a_rule_prevents(rule: str) -> None:
    with RULES_OFF[rule]():
        print(f"{rule}: {first_harm()}")


def test_every_rule_is_switched_off_once() -> None:
    switched = {name.split()[0] for name in RULES_OFF}
    switched |= {off.rule.split()[0] for off in SEARCHED}
    wanted = {"R": 10, "S": 12, "O": 7, "G": 8, "F": 4}
    rules = {f"{letter}{number}" for letter, last in wanted.items() for number in range(1, last + 1)}
    assert rules - switched == set()
    # And the page that says who misses which names each of them.
    page = (Path(__file__).parents[2] / "docs" / "model.md").read_text()
    assert {rule for rule in rules if f"\n| {rule} " not in page} == set()


def test_a_switch_leaves_nothing_behind() -> None:
    seed = SEEDS[0]
    clean = play(seed)
    for switch in RULES_OFF.values():
        with switch():
            pass
    assert play(seed).trace == clean.trace
    assert clean.violation == ""
