"""`hafarm resync` as a person types it and a script reads it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from orchestrator.model.orders import Resync
from tests.cli.served import COPYING, LYON, STATUS, Played
from tests.cli.test_commands import Hafarm, agent, hafarm  # noqa: F401  (fixtures)


def test_bare_it_shows_how_far_each_copy_is(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    code, out, _ = hafarm("resync", "orders")
    assert code == 0
    assert "orders, from paris: 6 workers, at most 50.0 MiB/s" in out
    assert "lyon  copying" in out
    for word in ("120 of 400 files", "3.0 MiB of 9.0 MiB, 1.0 MiB sent", "2.0 MiB/s", "3 s left", "at a/b"):
        assert word in out
    data = json.loads(hafarm("resync", "orders", "-o", "json")[1])
    progress = data["nodes"]["lyon"]["progress"]
    assert {"files", "files_total", "bytes", "bytes_total", "sent", "rate", "eta_s", "current"} <= set(
        progress
    )


def test_status_shows_the_same_words(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    agent.status_now = copy.deepcopy(STATUS)
    agent.status_now["modules"][0]["nodes"][1]["resync"] = COPYING
    assert "resync of lyon: 120 of 400 files by the log, 3.0 MiB of 9.0 MiB" in hafarm("status")[1]
    agent.status_now["modules"][0]["nodes"][1]["resync"] = {**COPYING, "paused": True, "eta_s": None}
    assert "paused: hafarm resync MODULE resume" in hafarm("status")[1]


def test_pause_and_resume_are_told_to_every_node(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    assert hafarm("resync", "orders", "pause")[0] == 0
    told = [(node, body) for node, body in agent.care.said if body["do"] == "pause_resync"]
    assert told == [(node, {"do": "pause_resync", "paused": True}) for node in ("paris", "lyon")]
    del agent.care.kept["lyon"]
    code, out, _ = hafarm("resync", "orders", "resume")
    assert (code, "lyon was not told: the agent of lyon does not answer" in out) == (0, True)
    assert agent.care.said[-2][1] == {"do": "pause_resync", "paused": False}


@pytest.mark.parametrize(
    ("words", "full", "said"),
    [
        ((), False, "3 files, at most 4.0 MiB, about 2 s at 2.0 MiB/s (as the last copy went)"),
        (("--full",), True, "everything is compared, only what differs is sent"),
    ],
)
def test_an_estimate_says_files_bytes_and_time_and_orders_nothing(
    agent: Played,  # noqa: F811
    hafarm: Hafarm,  # noqa: F811
    words: tuple[str, ...],
    full: bool,
    said: str,
) -> None:
    code, out, _ = hafarm("resync", "orders", "--estimate", *words)
    assert (code, said in out, agent.orders) == (0, True, [])
    assert agent.care.said[-1] == ("paris", {"do": "estimate", "full": full})
    known: dict[str, Any] = json.loads(hafarm("resync", "orders", "--estimate", "-o", "json")[1])["nodes"][
        "lyon"
    ]
    assert (known["files"], known["bytes"], known["seconds"]) == (3, 4 << 20, 2.0)


def test_full_and_adopt_are_orders_to_the_node(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    assert hafarm("resync", "orders", "--full", "--node", "lyon")[0] == 0
    assert hafarm("resync", "orders", "--adopt", "--node", "lyon")[0] == 0
    assert [(step.node, step.order) for step in agent.orders] == [
        (LYON, Resync()),
        (LYON, Resync(adopt=True)),
    ]


def test_two_wishes_at_once_are_wrong_usage(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    for words in (("pause", "--full"), ("--adopt", "--estimate"), ("halt",)):
        assert hafarm("resync", "orders", *words)[0] == 2
    assert hafarm("resync", "stock")[0] == 2
    assert hafarm("resync", "stock", "pause")[0] == 2
