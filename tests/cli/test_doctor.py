"""`hafarm doctor`: what it finds in a status, at ports and on the machine, what it advises, how it ends."""

from __future__ import annotations

import copy
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import agent as agent_room
from orchestrator.cli import diagnosis
from orchestrator.cli.main import main
from orchestrator.cli.tell import Failure
from orchestrator.config.load import load
from tests.cli.served import STATUS

GOOD: dict[str, Any] = copy.deepcopy(STATUS)
GOOD["nodes"][0]["paths"] = []
GOOD["nodes"][1]["paths"] = [{"path": "lan", "heard_ago_s": 0.03}, {"path": "two", "heard_ago_s": 0.04}]
FILE = """
cluster:
  name: shop
  ports: {{control: {control}, health: {health}}}
  witness: {{url: "https://198.18.0.20:9700"}}
nodes:
  - {{name: paris, addresses: {{lan: 127.0.0.1}}}}
  - {{name: lyon, addresses: {{lan: 127.0.0.2}}}}
modules:
  - {{name: orders, kind: mirror, nodes: [paris, lyon], replicate: [{folder}], run: {{command: /bin/true}}}}
"""


def changed(**parts: Any) -> dict[str, Any]:
    """The good status, with something of its module, its register or its second node changed."""
    status = copy.deepcopy(GOOD)
    status["modules"][0].update(parts.pop("module", {}))
    status["witness"].update(parts.pop("witness", {}))
    status["nodes"][1].update(parts.pop("lyon", {}))
    assert not parts
    return status


def configured(folder: Path, control: int = 1, health: int = 2) -> Any:
    (folder / "data").mkdir(exist_ok=True)
    file = folder / "hafarm.yaml"
    file.write_text(FILE.format(control=control, health=health, folder=folder / "data"))
    return load(str(file))


def verdicts(found: Any) -> list[tuple[str, str]]:
    return [(one.verdict, one.about) for one in found if one.verdict != "pass"]


def test_nothing_is_found_where_all_is_well(tmp_path: Path) -> None:
    config = configured(tmp_path)
    found = [
        *diagnosis.of_nodes(config, GOOD),
        *diagnosis.of_register(GOOD),
        *diagnosis.of_modules(GOOD),
        *diagnosis.of_provider("onprem", []),
    ]
    assert verdicts(found) == []
    assert len(found) == 4, "each part says that it was looked at"


@pytest.mark.parametrize(
    ("lyon", "verdict", "text"),
    [
        ({"alive": False}, "fail", "is not heard"),
        ({"paths": [{"path": "lan", "heard_ago_s": 60.0}]}, "warn", "not heard on lan"),
        ({"paths": [{"path": "lan", "heard_ago_s": None}]}, "warn", "not heard on lan"),
        ({"trouble": "it runs another release"}, "fail", "another release"),
    ],
)
def test_a_node_that_is_not_heard_everywhere_is_named(
    tmp_path: Path, lyon: dict[str, Any], verdict: str, text: str
) -> None:
    (found,) = (
        one for one in diagnosis.of_nodes(configured(tmp_path), changed(lyon=lyon)) if one.verdict != "pass"
    )
    assert (found.verdict, found.about) == (verdict, "node lyon")
    assert text in found.text


def test_a_register_that_is_silent_is_named_with_its_reason() -> None:
    (found,) = diagnosis.of_register(changed(witness={"ok": False, "why": "certificate has expired"}))
    assert (found.verdict, found.text) == ("fail", "certificate has expired")
    assert "hafarm witness test" in found.remedy
    assert list(diagnosis.of_register(changed(witness={"ok": None}))) == [], "it was not asked yet"


SICK = {"name": "tcp 80", "good": False, "text": "refused", "failures": 3}
LYON = "module orders on lyon"


def node(**facts: Any) -> list[dict[str, Any]]:
    first, second = copy.deepcopy(GOOD["modules"][0]["nodes"])
    return [first, {**second, **facts}]


@pytest.mark.parametrize(
    ("module", "verdict", "about"),
    [
        ({"nodes": node(phase="transient", reason="its disk does not answer")}, "warn", LYON),
        ({"nodes": node(in_sync=False)}, "warn", LYON),
        ({"nodes": node(slow={"took_s": 3.0, "usual_s": 0.1})}, "warn", LYON),
        ({"nodes": [{**each, "serving": False} for each in node()]}, "fail", "module orders"),
        ({"hint": "hafarm start orders"}, "warn", "module orders"),
        ({"application": {"checks": [SICK]}}, "fail", "module orders"),
        ({"divergences": [{"node": "lyon", "count": 2}]}, "warn", LYON),
        ({"vip": [{"address": "a", "conflict": "02:00:00:00:00:09"}]}, "fail", "a"),
        ({"vip": [{"address": "a", "conflict": "", "missing": {"rtb-2": "denied"}}]}, "fail", "a"),
    ],
)
def test_what_keeps_a_module_from_outliving_the_next_failure(
    module: dict[str, Any], verdict: str, about: str
) -> None:
    assert verdicts(diagnosis.of_modules(changed(module=module))) == [(verdict, about)]


@contextmanager
def listening(address: str) -> Iterator[int]:
    with socket.create_server((address, 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_a_firewall_keeps_shut_is_named_with_what_it_is_for(tmp_path: Path) -> None:
    with listening("127.0.0.2") as port:
        config = configured(tmp_path, control=port)
        open_, _ = diagnosis.of_ports(config, "paris")
    shut, health = diagnosis.of_ports(config, "paris")
    assert (open_.verdict, shut.verdict, health.verdict) == ("pass", "fail", "fail")
    assert shut.about == f"node lyon, TCP 127.0.0.2 port {port}"
    assert "firewalls and security groups" in shut.remedy
    assert health.about == "health port 127.0.0.1:2"


class Live(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/live" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


def test_a_health_port_that_answers_is_well(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Live) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        config = configured(tmp_path, health=server.server_address[1])
        health = diagnosis.of_ports(config, "paris")[-1]
        thread.join()
    assert health.verdict == "pass"


def test_a_disk_that_is_nearly_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path)
    assert "space is free" not in " ".join(one.text for one in diagnosis.of_machine(config, "paris"))
    monkeypatch.setattr(diagnosis, "FREE_SHARE", 1.1)
    about = [one.about for one in diagnosis.of_machine(config, "paris") if "space is free" in one.text]
    assert about == [str(tmp_path / "data")]


# --- the command ------------------------------------------------------------------------------------------


def ended(*words: str) -> int:
    with pytest.raises(SystemExit) as over:
        main(list(words))
    assert isinstance(over.value.code, int)
    return over.value.code


def played(monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], findings: Any = ()) -> None:
    """An agent that says this, on a machine and a network that are well."""

    def tested(*_: Any) -> dict[str, Any]:
        if isinstance(findings, Failure):
            raise findings
        return {"findings": list(findings)}

    monkeypatch.setattr(agent_room.Agent, "get", lambda *_: status)
    monkeypatch.setattr(agent_room.Agent, "post", tested)
    monkeypatch.setattr(diagnosis, "of_machine", lambda *_: [])
    monkeypatch.setattr(diagnosis, "of_ports", lambda *_: [])


AWS: dict[str, Any] = {
    "vip": [{"address": "198.19.0.100/32", "provider": "aws", "conflict": "", "missing": {}}]
}


def test_what_is_wrong_comes_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(tmp_path)
    check = {"subject": "eni-1", "problem": "its source/destination check is on", "remedy": "switch it off"}
    played(monkeypatch, changed(module=AWS), [check])
    assert ended("doctor", str(tmp_path / "hafarm.yaml")) == 3
    told = capsys.readouterr()
    assert "fail  aws: eni-1" in told.out
    assert "-> switch it off" in told.out
    assert "HF6009: 1 thing to mend on paris" in told.err
    assert ended("doctor", str(tmp_path / "hafarm.yaml"), "-o", "json") == 3
    found = json.loads(capsys.readouterr().out)
    assert {
        "verdict": "fail",
        "about": "aws: eni-1",
        "text": check["problem"],
        "remedy": "switch it off",
    } in (found["findings"])


def test_all_well_ends_with_0_and_a_warning_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(tmp_path)
    played(monkeypatch, changed(module=AWS))
    assert ended("doctor", str(tmp_path / "hafarm.yaml")) == 0
    played(monkeypatch, changed(module={"hint": "hafarm start orders"}))
    assert ended("doctor", str(tmp_path / "hafarm.yaml")) == 3
    assert "error" not in capsys.readouterr().err


def test_a_provider_that_cannot_be_asked_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(tmp_path)
    played(monkeypatch, changed(module=AWS), Failure("HF7004", "provider aws is not installed here"))
    assert ended("doctor", str(tmp_path / "hafarm.yaml")) == 3
    assert "provider aws is not installed here" in capsys.readouterr().out


def test_without_an_agent_the_machine_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(tmp_path)
    words = ["doctor", str(tmp_path / "hafarm.yaml"), "--node=paris", f"--socket={tmp_path}/none.sock"]
    assert ended(*words) == 3
    told = capsys.readouterr().out
    assert "fail  agent" in told
    assert "/dev/fuse" in told
    assert "node lyon, TCP 127.0.0.2 port 1" in told
