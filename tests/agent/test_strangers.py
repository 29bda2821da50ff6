"""Heartbeats that are not our peers' are told apart, and an ordinary restart is no alarm."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.agent.strangers import Strangers


def pulse(strangers: int = 0, **path: int) -> dict[str, Any]:
    counted = {"received": 0, "refused": 0, "other_version": 0, **path}
    return {
        "paths": [{"peer": "lyon", "path": "lan", **counted}],
        "peers": {"lyon": {"verdict": "alive", "strangers": strangers}},
    }


@pytest.mark.parametrize(
    ("after", "code"),
    [
        (pulse(refused=40), "HF5003"),
        (pulse(other_version=40), "HF5004"),
        (pulse(strangers=40, received=40), "HF5005"),
    ],
)
def test_what_is_wrong_is_named_while_it_lasts_and_not_longer(after: dict[str, Any], code: str) -> None:
    strangers = Strangers()
    assert strangers.look(pulse()) == []
    assert [found for found, _ in strangers.look(after)] == [code]
    assert "lyon" in strangers.troubles
    assert strangers.look(after) == []
    assert strangers.troubles == {}


def test_late_frames_of_an_old_life_are_no_alarm() -> None:
    strangers = Strangers()
    strangers.look(pulse())
    assert strangers.look(pulse(received=40, refused=7, strangers=2)) == []


def test_a_pulse_that_was_started_anew_counts_from_nothing() -> None:
    strangers = Strangers()
    strangers.look(pulse(received=1000, refused=900))
    assert strangers.look(pulse(received=0, refused=2)) == []
    assert [code for code, _ in strangers.look(pulse(received=0, refused=30))] == ["HF5003"]
