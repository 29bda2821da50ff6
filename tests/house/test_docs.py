"""The reference pages say what the product does: same keys, same defaults, same commands, same exit codes."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from orchestrator.agent.files import AgentFile
from orchestrator.cli.main import COMMANDS
from orchestrator.config import shape, shape_witness
from orchestrator.config.shape_farm import Farm, FarmVip
from tests.house.rules import ROOT

SECTIONS: dict[str, type[BaseModel]] = {
    "cluster": shape.Cluster,
    "witness": shape_witness.WitnessProcess,
    "etcd": shape_witness.Etcd,
    "s3": shape_witness.S3,
    "gcs": shape_witness.Gcs,
    "blob": shape_witness.Blob,
    "fence": shape.Fence,
    "nodes": shape.Node,
    "modules": shape.Module,
    "farms": Farm,
    "farm vip": FarmVip,
    "replicate": shape.Replicate,
    "run": shape.Run,
    "vip": shape.Vip,
    "checks": shape.Check,
    "agent.yaml": AgentFile,
}


def _page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def _tables(page: str) -> dict[str, dict[str, str]]:
    """Heading to key to its default."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"^#+ ", page, flags=re.M)[1:]:
        heading, _, text = section.partition("\n")
        rows = [
            [cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| `")
        ]
        found[heading] = {row[1].strip("`"): row[2].strip("`") for row in rows}
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_described_and_no_other(section: str) -> None:
    assert set(_tables(_page("configuration.md"))[section]) == set(SECTIONS[section].model_fields)


@pytest.mark.parametrize("section", SECTIONS)
def test_defaults_are_the_real_ones(section: str) -> None:
    for key, told in _tables(_page("configuration.md"))[section].items():
        default = SECTIONS[section].model_fields[key].default
        if isinstance(default, bool):
            assert told == str(default).lower(), key
        elif isinstance(default, float):
            assert told == f"{default:g}s", key
        elif isinstance(default, str | int) and default != "":
            assert told == str(default), key


def test_every_command_is_described_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z]+)", _page("cli.md"), flags=re.M)
    assert set(rows) == set(COMMANDS)


def test_every_role_may_become_what_the_page_says() -> None:
    """docs/architecture.md holds the table of moves."""
    from orchestrator.farm.state import MOVES as FARM_MOVES
    from orchestrator.mirror.state import MOVES

    mirrors, farms = _page("architecture.md").split("a farm's node may become")
    for page, moves in ((mirrors, MOVES), (farms, FARM_MOVES)):
        rows = re.findall(r"^\| ([A-Z]+) \| ([A-Z, ]+) \|$", page, flags=re.M)
        told = {role: set(others.split(", ")) for role, others in rows}
        assert told == {role.value: {other.value for other in others} for role, others in moves.items()}
