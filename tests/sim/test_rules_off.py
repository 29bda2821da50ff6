"""Each rule is there for a reason: without it, random seeds run into an invariant that names the harm."""

from __future__ import annotations

import re

import pytest

from tests.sim.episode import Outcome, play
from tests.sim.rules_off import RULES_OFF

SEEDS = range(2000, 2060)
"""All are found within the first few of these; the rest is margin for when the draws change."""
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
            "epoch \\d+ after \\d+",
        )
    )
)


def first_harm() -> Outcome:
    """The first seed that is violated."""
    for seed in SEEDS:
        outcome = play(seed)
        if outcome.violation:
            return outcome
    pytest.fail(f"none of {len(SEEDS)} seeds found it")


@pytest.mark.parametrize("rule", RULES_OFF)
def test_the_simulator_finds_what_a_rule_prevents(rule: str) -> None:
    with RULES_OFF[rule]():
        found = first_harm().violation
    print(f"{rule}: {found}")
    assert HARM.search(found), f"found by {found!r}, which is no harm but a check inside"


def test_every_rule_is_switched_off_once() -> None:
    switched = {name.split()[0] for name in RULES_OFF}
    assert {f"R{number}" for number in range(1, 11)} <= switched


def test_a_switch_leaves_nothing_behind() -> None:
    seed = SEEDS[0]
    clean = play(seed)
    for switch in RULES_OFF.values():
        with switch():
            pass
    assert play(seed).trace == clean.trace
    assert clean.violation == ""
