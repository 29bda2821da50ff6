"""`hafarm fence`: asked for twice, followed to its end, and told by its exit code."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import pytest

from orchestrator.config.load import load_text
from tests.cli.served import STATUS, Played
from tests.cli.test_commands import Hafarm, agent, hafarm  # noqa: F401  (fixtures)
from tests.config.words import changed, refused

RIGHT_FENCE = (
    "preset: lan, fence: {provider: aws, when: takeover, verb: stop, settings: {region: eu-west-1}},"
)


def test_a_node_that_is_off_is_told_with_what_the_cloud_says(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    code, out, _ = hafarm("fence", "lyon", "--yes")
    assert (code, out) == (0, "lyon is off: i-1 is stopped\n")
    assert agent.fencing.ordered == ["lyon"]
    assert json.loads(hafarm("fence", "lyon", "--yes", "-o", "json")[1])["state"] == "off"


def test_the_nodes_name_must_be_typed(agent: Played, hafarm: Hafarm, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, _, err = hafarm("fence", "lyon")
    assert (code, agent.fencing.ordered) == (6, [])
    assert "HF7067" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("lyon\n"))
    assert hafarm("fence", "lyon")[0] == 0
    assert agent.fencing.ordered == ["lyon"]


@pytest.mark.parametrize(("refusal", "exit"), [("HF7064", 6), ("HF7065", 6), ("HF7066", 2)])
def test_a_refusal_ends_with_its_own_code(agent: Played, hafarm: Hafarm, refusal: str, exit: int) -> None:  # noqa: F811
    agent.fencing.refused = refusal
    code, _, err = hafarm("fence", "lyon", "--yes")
    assert (code, refusal in err) == (exit, True)


def test_what_is_not_known_to_be_off_is_a_failure(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    agent.fencing.ends = ("failed", "HF7062", "i-1 is stopping still")
    code, _, err = hafarm("fence", "lyon", "--yes")
    assert code == 1
    assert "error HF7062: lyon: i-1 is stopping still" in err


def test_one_that_goes_on_when_patience_ends_is_said_to_go_on(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    agent.fencing.ends = None
    code, _, err = hafarm("fence", "lyon", "--yes", "--wait=100ms")
    assert code == 5
    assert "being switched off still" in err


def test_without_the_name_the_page_itself_refuses(agent: Played, tmp_path: Path) -> None:  # noqa: F811
    from orchestrator.host import http

    path = str(tmp_path / "agent.sock")
    status, answer = http.ask(path, "POST", "/api/v1/nodes/lyon/fence", {"confirm": "paris"}, 5.0)
    assert (status, json.loads(answer)["error"]["code"]) == (403, "HF7067")
    status, answer = http.ask(path, "GET", "/api/v1/nodes/lyon/fence", None, 5.0)
    assert (status, json.loads(answer)["error"]["code"]) == (404, "HF7068")
    assert agent.fencing.ordered == []


def test_status_shows_it_beside_the_node(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    now = copy.deepcopy(STATUS)
    now["nodes"][1]["fence"] = "NOT known to be off: i-1 is stopping still"
    agent.status_now = now
    assert "lan heard 31 ms ago; NOT known to be off: i-1 is stopping still" in hafarm("status")[1]


def test_status_shows_what_the_cloud_announces(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    notice = {"cloud": "aws", "kind": "spot interruption: terminate", "at": None}
    agent.status_now = {**STATUS, "notices": [notice]}
    assert "this machine: spot interruption: terminate\n" in hafarm("status")[1]
    assert json.loads(hafarm("status", "-o", "json")[1])["notices"] == [notice]


# --- hafarm.yaml ----------------------------------------------------------------------------------------


def test_the_file_says_who_switches_off_and_when() -> None:
    fence = load_text(changed("preset: lan,", RIGHT_FENCE), "hafarm.yaml").fence
    assert fence is not None
    assert (fence.provider, fence.when, fence.verb) == ("aws", "takeover", "stop")
    assert fence.setting("region") == "eu-west-1"
    assert load_text(changed("preset: lan,", "preset: lan,"), "hafarm.yaml").fence is None


@pytest.mark.parametrize(
    ("fence", "place", "said"),
    [
        ("{provider: awz}", "provider", "awz switches no node off; these do: aws"),
        ("{provider: onprem}", "provider", "onprem switches no node off"),
        ("{provider: aws, when: always}", "when", "'takeover' or 'never'"),
        ("{provider: aws, verb: kill}", "verb", "'off', 'stop' or 'reset'"),
        ("{provider: aws, settings: {regoin: x}}", "settings.regoin", "did you mean 'region'?"),
        ("{when: never}", "provider", "is missing"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(fence: str, place: str, said: str) -> None:
    told = refused(changed("preset: lan,", f"preset: lan, fence: {fence},"))
    assert any(f"cluster.fence.{place}: " in line and said in line for line in told), told


def test_without_a_mirror_nobody_has_the_right_to_it() -> None:
    text = changed("preset: lan,", "preset: lan, fence: {provider: aws},").partition("modules:")[0]
    (told,) = refused(text)
    assert "cluster.fence: only who holds a mirror's record may switch another node off" in told


def test_the_rights_for_it_are_printed(hafarm: Hafarm, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "hafarm.yaml"
    file.write_text(
        changed("preset: lan,", RIGHT_FENCE).replace("vip: [{address: 198.18.0.100/24}]", "vip: []")
    )
    code, out, _ = hafarm("provider", "policy", "aws", str(file))
    assert code == 0
    (switches,) = [one for one in json.loads(out)["Statement"] if "ec2:StopInstances" in one["Action"]]
    assert switches["Resource"] == ["arn:aws:ec2:eu-west-1:*:instance/*"]
    assert "ec2:StartInstances" not in switches["Action"]
