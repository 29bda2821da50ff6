"""The agent's real API and operations on a Unix socket, with a cluster behind them that the test plays."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from orchestrator.agent import api
from orchestrator.agent.care import Care
from orchestrator.agent.fencing import Fence
from orchestrator.agent.journal import Journal
from orchestrator.agent.lines import Refused
from orchestrator.agent.operations import Operations
from orchestrator.cluster.orders import Step
from orchestrator.host import names
from orchestrator.model.errors import ProcessUnreachable
from orchestrator.model.names import Epoch, ModuleName, NodeName
from orchestrator.model.orders import Order
from orchestrator.model.report import ModuleState, Phase, Role

PARIS, LYON = NodeName("paris"), NodeName("lyon")


def entry(node: str, role: str, phase: str, in_sync: bool, serving: bool) -> dict[str, Any]:
    return {
        "node": node,
        "role": role,
        "phase": phase,
        "epoch": 7,
        "in_sync": in_sync,
        "serving": serving,
        "reason": "",
        "resync": None,
    }


STATUS: dict[str, Any] = {
    "cluster": "shop",
    "node": "paris",
    "witness": {"kind": "witness", "url": "https://198.18.0.20:9700", "ok": True, "rtt_ms": 1.25},
    "nodes": [
        {"name": "paris", "alive": True, "here": True, "paths": []},
        {"name": "lyon", "alive": True, "here": False, "paths": [{"path": "lan", "heard_ago_s": 0.031}]},
    ],
    "modules": [
        {
            "name": "orders",
            "kind": "mirror",
            "headline": "paris serves; if it fails, lyon takes over",
            "nodes": [
                entry("paris", "PRIM", "ready", True, True),
                entry("lyon", "SECOND", "ready", True, False),
            ],
            "record": {"epoch": 7, "primary": "paris", "in_sync": ["lyon", "paris"], "reason": "swap"},
            "vip": [{"address": "198.18.0.100/24", "here": True, "interface": "eth0", "conflict": ""}],
            "application": {"running": True, "checks": []},
            "hint": "",
        }
    ],
}


ASIDE: dict[str, Any] = {
    "id": "1780000000-3",
    "at": 1780000000.0,
    "verdict": "diverged",
    "why": "diverged",
    "lost": "lyon",
    "kept_by": "paris",
    "lineages": {"lyon": [[1, "a" * 32], [2, "b" * 32]], "paris": [[1, "a" * 32], [3, "c" * 32]]},
    "files": 2,
    "bytes": 2048,
    "names": ["a/b", "c"],
    "ended": True,
}


def verified(*differing: tuple[str, str], **more: Any) -> dict[str, Any]:
    """What the primary answers of its comparison with lyon."""
    report = {
        "complete": True,
        "differing": [{"path": path, "what": what} for path, what in differing],
        "began": 1780000000.0,
        "files": 120,
        "bytes": 3 << 20,
        "covered_files": 120,
        "covered_bytes": 3 << 20,
        "files_total": 120,
        "percent": 100.0,
        "position": "",
        "seconds": 1.5,
        **more,
    }
    return {"differing": {"lyon": [path for path, _ in differing]}, "reports": {"lyon": report}}


COPYING: dict[str, Any] = {
    "files": 120,
    "files_total": 400,
    "bytes": 3 << 20,
    "bytes_total": 9 << 20,
    "sent": 1 << 20,
    "rate": 2 << 20,
    "eta_s": 3.0,
    "current": "a/b",
    "full": False,
    "why": "",
    "paused": False,
}
ESTIMATE: dict[str, Any] = {
    "files": 3,
    "bytes": 4 << 20,
    "directories": 0,
    "state": "away",
    "full": False,
    "why": "",
    "rate": 2 << 20,
    "rate_is_measured": True,
    "seconds": 2.0,
}


class PlayedCare(Care):
    """The real way to the nodes; what their disks hold is the test's."""

    def __init__(self) -> None:
        serving = {PARIS: ModuleState(Role.PRIM, Phase.READY, serving=True)}
        nodes = (PARIS, LYON)
        super().__init__(PARIS, {}, lambda _: nodes, lambda _: serving, None)  # type: ignore[arg-type]
        self.kept: dict[str, list[dict[str, Any]]] = {"paris": [], "lyon": [ASIDE]}
        self.files: list[dict[str, Any]] = [
            {
                "path": "a/b",
                "why": "changed here",
                "size": 2048,
                "kept": "000001",
                "attributes": None,
                "volume": 0,
            },
            {
                "path": "c",
                "why": "changed here",
                "size": 0,
                "kept": "",
                "attributes": {"mode": 384},
                "volume": 0,
            },
        ]
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.names: dict[str, Any] = {}
        """By node, what it says of users and groups, where that is not what this machine says."""

    @property
    def modules(self) -> list[ModuleName]:
        return [ModuleName("orders")]

    async def at(self, node: NodeName, module: ModuleName, body: Any) -> Any:
        self.said.append((node, dict(body)))
        if node not in self.kept:
            raise ProcessUnreachable(f"the agent of {node}", "no route")
        match body["do"]:
            case "divergences":
                return self.kept[node]
            case "divergence":
                at = body["after"]
                more = at + 1 if at + 1 < len(self.files) else None
                return {"id": body["id"], "files": self.files[at : at + 1], "next": more}
            case "resync":
                known = {"state": "copying", "why": "", "progress": COPYING}
                return {"paused": False, "rate_max": 50 << 20, "workers": 6, "nodes": {"lyon": known}}
            case "estimate":
                return {"nodes": {"lyon": {**ESTIMATE, "full": body["full"]}}}
            case "pause_resync":
                return {"paused": body["paused"]}
            case "names":
                if node in self.names:
                    return self.names[node]
                asked = {key: value for key, value in body.items() if key != "do"}
                return names.known(**asked)
            case "release":
                (gone,) = [each for each in self.kept[node] if each["id"] == body["id"]]
                self.kept[node].remove(gone)
                return {"id": gone["id"], "files": gone["files"], "bytes": gone["bytes"]}


class PlayedFencing:
    """Fences that end as the test says."""

    def __init__(self) -> None:
        self.ordered: list[str] = []
        self.refused = ""
        """A code, instead of an order."""
        self.ends: tuple[str, str, str] | None = ("off", "HF7061", "i-1 is stopped")
        """None: it goes on."""
        self.fence: Fence | None = None

    def order(self, node: NodeName) -> Fence:
        if self.refused:
            raise Refused(self.refused, f"{node} is not switched off")
        self.ordered.append(node)
        self.fence = Fence(node, ModuleName("orders"), Epoch(8), ordered=True)
        if self.ends:
            self.fence.end(*self.ends)
        return self.fence

    def get(self, node: str) -> Fence | None:
        return self.fence


class Played:
    """What `api.local` needs of an agent. `give` is how the nodes take an order."""

    def __init__(self, folder: Path) -> None:
        self.status_now = STATUS
        self.care = PlayedCare()
        self.fencing = PlayedFencing()
        self.journal = Journal(str(folder / "events"), "paris")
        self.states: dict[NodeName, ModuleState | None] = {
            PARIS: ModuleState(Role.PRIM, Phase.READY, serving=True),
            LYON: ModuleState(Role.SECOND, Phase.READY),
        }
        self.orders: list[Step] = []
        self.give: Callable[[Step], tuple[str, str]] = lambda step: ("", "")
        self.verified: Any = verified()
        self.budgets: list[float | None] = []
        self.changed = asyncio.Event()
        self.operations = Operations(lambda module: self.states, self._given, lambda: self.changed)

    async def _given(self, module: ModuleName, step: Step) -> tuple[str, str]:
        self.orders.append(step)
        return self.give(step)

    async def status(self) -> dict[str, Any]:
        return self.status_now

    async def timings(self) -> dict[str, Any]:
        path = {"peer": "lyon", "path": "lan", "worst_gap_s": 0.064, "safe_detection_s": 0.164}
        return {"preset": "lan", "paths": [path], "register_rtt_s": 0.002, "loop_lag_s": 0.0}

    def nodes_of(self, module: ModuleName) -> tuple[NodeName, ...] | None:
        return (PARIS, LYON) if module == "orders" else None

    async def order_here(self, module: ModuleName, order: Order) -> tuple[str, str]:
        return "", ""

    async def verify(self, module: ModuleName, budget_s: float | None) -> Any:
        self.budgets.append(budget_s)
        return self.verified

    async def verify_here(self, module: ModuleName, budget_s: float | None) -> Any:
        return await self.verify(module, budget_s)


class Server:
    """Runs the API in a thread of its own for as long as the block lasts."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "agent.sock")
        self._folder = folder
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self.played: Played

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)
        self._loop.close()

    async def _serve(self) -> None:
        self.played = Played(self._folder)
        self._over = asyncio.Event()
        runner = web.AppRunner(api.local(self.played), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, self.socket).start()
        self._up.set()
        await self._over.wait()
        await runner.cleanup()
        await self.played.operations.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:  # pages that are followed without end: the agent's own process ends with them
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=10)
        assert not left, left  # asyncio would tell of each when it is destroyed, in some other test

    def do(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something in the server's loop."""
        asyncio.run_coroutine_threadsafe(_awaited(work), self._loop).result(10)


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()
