"""The small searches: clean with every rule on, and a violation with any of them off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.mirror import bids
from tests.model_search import __main__ as command
from tests.model_search.begin import config, healthy
from tests.model_search.moves import Bounds
from tests.model_search.plans import NODES, PLANS
from tests.model_search.rules_off import RULES_OFF, Off
from tests.model_search.search import Search

SMALL = Bounds(epochs=1, writes=1, crashes=0, losses=1)


@pytest.mark.parametrize("off", RULES_OFF, ids=lambda off: off.rule)
def test_a_rule_that_is_off_does_harm_and_on_does_none(off: Off) -> None:
    without = command.search_without(off)
    assert without.violation, f"{without.states} states, and nothing is wrong"
    assert len(steps_of(without.story)) == without.depth

    made = Search(config(*NODES[: off.nodes]), off.bounds)
    on = made.run(off.starts(made), depth_max=without.depth)
    assert not on.violation, "\n".join(on.story)
    assert on.exhausted or on.depth == without.depth


@pytest.mark.parametrize(
    "plan", [plan for plan in PLANS if "test" in plan.levels], ids=lambda plan: plan.name
)
def test_every_state_of_a_small_search_is_seen_and_none_is_wrong(plan: command.Plan) -> None:
    found = command.search(plan)
    assert not found.violation, "\n".join(found.story)
    assert found.exhausted
    assert found.states > 100


def test_the_same_search_twice_sees_the_same_states() -> None:
    def seen() -> tuple[int, int, int]:
        made = Search(config(*NODES[:2]), SMALL)
        found = made.run(healthy(made))
        return found.states, found.steps, found.depth

    assert seen() == seen()


def test_a_bid_that_widens_nothing_is_told_in_the_words_of_the_log() -> None:
    off = next(off for off in RULES_OFF if off.rule == "R10 no sync before the start")
    story = command.search_without(off).story
    assert any(line.endswith("loses a") for line in steps_of(story))
    assert any("Bid(" in line and "take-over" in line for line in story)


def test_the_command_prints_the_states_and_fails_when_a_claim_does(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PLANS", [plan for plan in PLANS if plan.name == "swap"])
    monkeypatch.setattr(command, "RULES_OFF", RULES_OFF[:1])
    monkeypatch.setattr("sys.argv", ["model", "--quick", "--json", str(tmp_path / "rows")])
    assert command.main() == 0
    rows = json.loads((tmp_path / "rows").read_text())["rows"]
    assert [row["name"] for row in rows] == ["swap", f"off: {RULES_OFF[0].rule}"]
    assert f"{rows[0]['states']:,}" in capsys.readouterr().out

    # A machine that opens its gate under whatever it reads.
    monkeypatch.setattr(bids, "may_open", lambda mirror, record: record.primary == mirror.me)
    monkeypatch.setattr(command, "PLANS", [plan for plan in PLANS if plan.name == "death"])
    assert command.main() == 1
    assert "VIOLATED" in capsys.readouterr().out


def steps_of(story: list[str]) -> list[str]:
    """What happened, without what was said and ordered meanwhile."""
    return [line for line in story if not line.startswith(" ")]
