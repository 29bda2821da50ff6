"""A cluster of several modules on plain directories: for the data path, and for what idling costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.demo.cluster import Cluster, ask
from tests.bench.rig import UP_S, Served

MIRROR = {"kind": "mirror", "nodes": ["paris", "lyon"], "checks": []}


class Many(Cluster):
    """Each module's directory is `srv/NAME` on every node; disks are directories here."""

    def __init__(self, work: Path, modules: dict[str, dict[str, Any]], preset: str = "lan") -> None:
        self.modules = modules
        super().__init__(work, preset=preset, images=False)

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        config = super()._make_config(preset, module)
        config["modules"] = [
            {"name": name, **MIRROR, "replicate": [{"path": str(self.directory(name))}], **keys}
            for name, keys in self.modules.items()
        ]
        return config

    def directory(self, name: str) -> Path:
        return self.data / name

    def up(self) -> None:
        for node in self.names:
            for name in self.modules:
                (self.machines[node].disk / "data" / name).mkdir(parents=True, exist_ok=True)
        super().up()

    def begin(self) -> None:
        """Every module in sync, with the first node as its primary."""
        served = Served(self)
        first = self.names[0]
        served.story.await_true("both nodes hear each other", self.all_hear, UP_S)
        for name in self.modules:
            path = f"/api/v1/modules/{name}/actions"
            ask(
                str(self.machines[first].run_dir / "agent.sock"),
                "POST",
                path,
                {"action": "start", "first": first},
            )
        served.story.await_true("every module is in sync", self._all_redundant, UP_S)

    def _all_redundant(self) -> bool:
        status = self.status(self.names[0])
        return status is not None and all(
            {(entry["role"], entry["phase"]) for entry in module["nodes"]}
            == {("PRIM", "ready"), ("SECOND", "ready")}
            for module in status["modules"]
        )
