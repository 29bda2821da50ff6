"""A node that comes to follow is asked who owns the files there; what is somebody else's is told."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.agent import owners as agent_owners
from orchestrator.agent.care import Care
from orchestrator.agent.journal import Journal
from orchestrator.agent.owners import Owners
from orchestrator.host import names
from orchestrator.model.errors import ProcessUnreachable
from orchestrator.model.names import ModuleName, NodeName
from orchestrator.replicator.owners import owners
from orchestrator.replicator.trees import nothing_excluded

PARIS, LYON = NodeName("paris"), NodeName("lyon")
ORDERS = ModuleName("orders")
UP = {"event": "stream_up", "peer": "lyon"}


class Copy:
    """What `Care` needs of the replicator here: root owns the files."""

    async def ask_at_leisure(self, what: str, timeout_s: float, **fields: Any) -> Any:
        assert what == "owners"
        return {"users": [0], "groups": [0]}


class Wires:
    """Lyon's agent: what it says of its users, after so many times without an answer."""

    def __init__(self, silent: int = 0) -> None:
        self.silent = silent
        self.root = "root"
        self.asked = 0

    async def call(self, node: NodeName, method: str, path: str, body: Any, timeout_s: float) -> Any:
        self.asked += 1
        if self.asked <= self.silent:
            raise ProcessUnreachable(f"the agent of {node}", "no route")
        known = names.known(**{key: value for key, value in body.items() if key != "do"})
        known["users"]["0"] = self.root
        return {"result": known}


def told(folder: Path, wires: Wires, times: int = 1) -> list[str]:
    """What the journal says after so many streams."""
    folder.mkdir(exist_ok=True)
    journal = Journal(str(folder / "events"), "paris")
    care = Care(PARIS, {ORDERS: Copy()}, lambda module: (PARIS, LYON), lambda module: {}, wires)  # type: ignore[arg-type, dict-item]
    found = Owners(care, journal)

    async def hear() -> None:
        for _ in range(times):
            found.heard(ORDERS, UP)
            found.heard(ORDERS, {"event": "stream_down", "peer": "lyon"})
            await asyncio.gather(*found._tasks.values())
        await found.close()

    asyncio.run(hear())
    journal.close()
    lines = (folder / "events").read_text().splitlines() if (folder / "events").exists() else []
    return [line for line in lines if "HF4022" in line]


def test_a_number_with_another_name_there_is_told_once(tmp_path: Path) -> None:
    wires = Wires()
    wires.root = "toor"
    lines = told(tmp_path, wires, times=2)
    assert len(lines) == 1
    assert "user 0 is root here and toor on lyon" in lines[0]
    assert wires.asked == 2, "each time that it comes"


def test_nothing_is_told_of_a_node_with_the_same_users(tmp_path: Path) -> None:
    assert told(tmp_path, Wires()) == []


def test_a_node_whose_agent_comes_later_is_asked_again_and_not_for_ever(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(agent_owners, "AGAIN_S", 0.0)
    late, never = Wires(silent=2), Wires(silent=1000)
    late.root = never.root = "toor"
    assert len(told(tmp_path / "late", late)) == 1
    assert told(tmp_path / "never", never) == []
    assert never.asked == agent_owners.TRIES


def test_the_owners_are_those_of_the_directory_and_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    os.chown(tmp_path / "a" / "b", 4242, 4343)
    os.chown(tmp_path, 4141, 0)
    (tmp_path / ".hafarm").mkdir()
    os.chown(tmp_path / ".hafarm", 1, 1)
    root = os.open(tmp_path, os.O_RDONLY)

    source = SimpleNamespace(
        volumes=1, excluded=nothing_excluded, tree=SimpleNamespace(root=lambda volume: root)
    )
    assert owners(source) == {"users": [0, 4141, 4242], "groups": [0, 4343]}  # type: ignore[arg-type]
    os.close(root)
