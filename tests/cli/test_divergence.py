"""What a person sees of two histories, and how he lets go of one."""

from __future__ import annotations

import copy
import io
import json

import pytest

from tests.cli.served import ASIDE, STATUS, Played
from tests.cli.test_commands import Hafarm, agent, hafarm  # noqa: F401  (fixtures)


def test_list_says_when_why_and_who_lost_what(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    code, out, _ = hafarm("divergence", "list")
    assert code == 0
    assert "orders 1780000000-3" in out
    assert "lost              lyon, to paris" in out
    assert "history of lyon   1.aaaaaaaa 2.bbbbbbbb" in out
    assert "2 files, 2.0 KiB on lyon" in out
    (one,) = json.loads(hafarm("divergence", "list", "orders", "-o", "json")[1])["divergences"]
    assert one == {"module": "orders", "node": "lyon", **ASIDE}
    assert hafarm("divergence", "list", "stock")[0] == 2
    agent.care.kept["lyon"].clear()
    assert "no divergence is kept" in hafarm("divergence", "list")[1]


def test_a_node_that_cannot_be_asked_is_named(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    del agent.care.kept["lyon"]
    assert "lyon was not asked: the agent of lyon does not answer" in hafarm("divergence", "list")[1]
    code, _, err = hafarm("divergence", "show", "orders")
    assert (code, "no divergence of orders is kept; lyon was not asked" in err) == (2, True)


def test_show_lists_every_file_over_all_pages(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    code, out, _ = hafarm("divergence", "show", "orders")
    assert code == 0
    assert "changed here  2.0 KiB     a/b  kept as 000001" in out
    assert "changed here  attributes  c" in out
    data = json.loads(hafarm("divergence", "show", "orders", ASIDE["id"], "-o", "json")[1])
    assert [(file["path"], file["why"]) for file in data["files"]] == [
        ("a/b", "changed here"),
        ("c", "changed here"),
    ]
    assert hafarm("divergence", "show", "orders", "7-7")[0] == 2


def test_release_asks_first(
    agent: Played,  # noqa: F811
    hafarm: Hafarm,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, _, err = hafarm("divergence", "release", "orders")
    assert (code, "HF6004" in err, len(agent.care.kept["lyon"])) == (6, True, 1)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, _ = hafarm("divergence", "release", "orders")
    assert (code, "released: 2 files, 2.0 KiB on lyon" in out) == (0, True)
    assert agent.care.kept["lyon"] == []


def test_release_with_yes_asks_nothing_and_one_of_two_must_be_named(
    agent: Played,  # noqa: F811
    hafarm: Hafarm,  # noqa: F811
) -> None:
    agent.care.kept["paris"] = [{**ASIDE, "id": "2-2"}]
    agent.care.kept["lyon"] = [ASIDE]
    code, _, err = hafarm("divergence", "release", "orders", "--yes")
    assert (code, "2-2 on paris, 1780000000-3 on lyon" in err) == (2, True)
    done = json.loads(hafarm("divergence", "release", "orders", "2-2", "--yes", "-o", "json")[1])
    assert done == {"module": "orders", "node": "paris", "id": "2-2", "files": 2, "bytes": 2048}
    assert agent.care.said[-1] == ("paris", {"do": "release", "id": "2-2"})


def test_status_tells_of_an_open_divergence_and_what_to_do(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    agent.status_now = copy.deepcopy(STATUS)
    module = agent.status_now["modules"][0]
    module["divergences"] = [{"node": "paris", **ASIDE}, {"node": "lyon", "count": 2}]
    out = hafarm("status")[1]
    assert "2 files, 2.0 KiB set aside on paris (diverged): a/b, c; hafarm divergence show orders" in out
    module["divergences"] = [{"node": "paris", **ASIDE, "lost": "", "files": 9}]
    assert "changed behind hafarm's back on paris: a/b, c, ...; hafarm divergence" in hafarm("status")[1]
    assert "lyon keeps files of 2; see hafarm divergence list orders" in out
    assert "hafarm divergence release MODULE" in hafarm("explain", "HF4016")[1]
