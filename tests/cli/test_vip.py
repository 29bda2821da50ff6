"""`hafarm vip show`, `hafarm explain ADDRESS`, `hafarm provider policy`: what they print and end with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import agent as agent_room
from orchestrator.cli.main import main
from tests.config.words import RIGHT

ADDRESS = "198.19.0.100/32"
VIP: dict[str, Any] = {
    "address": ADDRESS,
    "here": True,
    "interface": "ens5",
    "conflict": "",
    "provider": "aws",
    "mode": "overlay-route",
    "why": "the nodes are in several subnets",
    "owner": "paris",
    "detail": "rtb-1 leads to paris",
    "missing": {},
}


def told(vip: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    farm = {"name": "web", "vip": [{"address": "198.18.0.101/24", "director": "paris"}]}
    status = {"modules": [{"name": "orders", "vip": [vip]}, farm]}
    monkeypatch.setattr(agent_room.Agent, "get", lambda *_: status)


def ended(*words: str) -> int:
    with pytest.raises(SystemExit) as over:
        main(list(words))
    assert isinstance(over.value.code, int)
    return over.value.code


def test_who_moves_an_address_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(VIP, monkeypatch)
    assert ended("vip", "show") == 0
    text = capsys.readouterr().out
    assert "198.19.0.100/32  module orders, here, on ens5" in text
    assert "aws overlay-route" in text
    assert "the nodes are in several subnets" in text
    assert "198.18.0.101" not in text
    assert ended("explain", "198.19.0.100") == 0
    assert "is moved by aws overlay-route: the nodes are in several subnets" in capsys.readouterr().out


def test_a_part_that_leads_elsewhere_is_a_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told({**VIP, "missing": {"rtb-2": "AWS refused ReplaceRoute"}}, monkeypatch)
    assert ended("vip", "show", ADDRESS) == 3
    assert "rtb-2: AWS refused ReplaceRoute" in capsys.readouterr().out


def test_an_unknown_address_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(VIP, monkeypatch)
    assert ended("vip", "show", "198.18.0.9") == 2
    assert "HF7022" in capsys.readouterr().err


def test_a_policy_is_printed_as_the_cloud_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vip = "{address: 198.19.0.1/32, provider: aws, mode: overlay-route, settings: {route_tables: [rtb-1]}}"
    file = tmp_path / "hafarm.yaml"
    file.write_text(RIGHT.replace("{address: 198.18.0.100/24}", vip))
    assert ended("provider", "policy", "aws", str(file)) == 0
    document = json.loads(capsys.readouterr().out)
    (moves,) = [one for one in document["Statement"] if "ec2:ReplaceRoute" in one["Action"]]
    assert moves["Resource"] == ["arn:aws:ec2:*:*:route-table/rtb-1"]


def test_a_provider_that_moves_nothing_has_no_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hafarm.yaml"
    file.write_text(
        RIGHT.replace("{address: 198.18.0.100/24}", "{address: 198.18.0.100/24, provider: onprem}")
    )
    assert ended("provider", "policy", "aws", str(file)) == 2
    assert "HF7021" in capsys.readouterr().err
