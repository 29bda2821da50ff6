"""The demonstration told in steps, each a check that can fail; "lost" is counted from what clients heard."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.model.config import ACK_MEMORY

MODULE = "orders"


class Machinery(Protocol):
    """A cluster that can be hurt; `demo.cluster` builds it from network namespaces."""

    @property
    def nodes(self) -> tuple[str, str]: ...
    def status(self, node: str) -> dict[str, Any] | None: ...
    def all_hear(self) -> bool: ...
    def hafarm(self, node: str, *words: str) -> subprocess.CompletedProcess[str]: ...
    def lose(self, node: str) -> None: ...
    def bring_back(self, node: str) -> None: ...
    def split(self) -> None: ...
    def heal(self) -> None: ...
    def start_clients(self, count: int) -> subprocess.Popen[str]: ...
    def read_rows(self) -> dict[str, Any]: ...


@dataclass
class Check:
    """One thing that had to be true."""

    name: str
    ok: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "detail": self.detail}


@dataclass
class Report:
    """What came of it; `--json FILE` holds `as_dict`."""

    acknowledged: int = 0
    lost: int = 0
    outage_ms: dict[str, float] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        return {
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "outage_ms": {name: round(gap, 1) for name, gap in self.outage_ms.items()},
            "checks": [check.as_dict() for check in self.checks],
        }


class Clients:
    """The clients' process, followed line by line; it knows every acknowledged number."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.acknowledged = 0
        self.node = ""
        self.gaps: list[list[float]] = []
        self.final: dict[str, Any] | None = None
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said.get("done"):
                self.final = said
            else:
                self.acknowledged, self.node = said["acknowledged"], said["node"]
                self.gaps += said["gaps"]

    def finish(self) -> dict[str, Any]:
        """End the clients; all acknowledged rows and all silences."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join(timeout=30)
        self._process.wait(timeout=30)
        assert self.final is not None, "the clients did not report"
        return self.final


class Story:
    """Runs the steps; `tell` shows a person what happens."""

    def __init__(self, cluster: Machinery, tell: Callable[[str], None], fast: bool) -> None:
        self.cluster = cluster
        self.tell = tell
        self.fast = fast
        self.report = Report()
        self.clients: Clients | None = None

    def run(self) -> Report:
        """Everything, in order; a step that fails ends the story, the report says at which."""
        steps = [
            self.begins,
            self.serves,
            self.loses_its_primary,
            self.takes_it_back,
            self.swaps_back,
            self.is_split,
            self.has_lost_nothing,
        ]
        for step in steps:
            try:
                step()
            except TimeoutError as fault:
                self.check(step.__name__.replace("_", " "), False, str(fault))
                break
        return self.report

    # --- the steps ----------------------------------------------------------------------------------------

    def begins(self) -> None:
        first, second = self.cluster.nodes
        self.tell(f"hafarm start {MODULE} --first {first}")
        self.await_true("both agents hear each other", self.cluster.all_hear, 30)
        done = self.cluster.hafarm(first, "start", MODULE, "--first", first)
        self.check("the first start is accepted", done.returncode == 0, last_words(done))
        self.await_true(f"{second} is in sync", lambda: self.role(second) == ("SECOND", "ready"), 40)
        self.await_true(f"{first} is primary", lambda: self.role(first) == ("PRIM", "ready"), 40)
        self.check("two nodes in sync", True, f"{first} PRIM, {second} SECOND{self.label()}")

    def serves(self) -> None:
        self.tell(
            "four clients write numbered rows through the virtual IP and remember each acknowledged number"
        )
        self.clients = Clients(self.cluster.start_clients(4))
        self.await_true("rows are acknowledged", lambda: self.written() > 20, 20)
        self.linger()
        self.check("normal service", True, f"{self.written()} rows acknowledged by {self.clients.node}")

    def loses_its_primary(self) -> None:
        lost, heir = self.primary(), self.other(self.primary())
        self.tell(f"{lost}: SIGKILL to every process, cable cut, disk gone at once")
        with self.outage("node loss"):
            self.cluster.lose(lost)
        self.await_true(f"{heir} serves alone", lambda: self.role(heir) == ("ALONE", "degraded"), 20)
        self.linger()
        gap = self.report.outage_ms["node loss"]
        self.check("the service survives the loss of its node", True, f"back after {gap:.0f} ms on {heir}")
        self.compare("nothing acknowledged is missing after the loss", heir)

    def takes_it_back(self) -> None:
        gone = self.other(self.primary())
        self.tell(f"{gone} returns and is resynchronised while clients go on writing")
        before = self.written()
        self.cluster.bring_back(gone)
        self.await_true(f"{gone} is in sync again", lambda: self.role(gone) == ("SECOND", "ready"), 60)
        self.check(
            "the lost node is back in sync", True, f"{self.written() - before} rows were written meanwhile"
        )

    def swaps_back(self) -> None:
        source = self.primary()
        self.tell(f"hafarm swap {MODULE}")
        with self.outage("swap"):
            done = self.cluster.hafarm(source, "swap", MODULE, "--wait=30s")
            assert_ok(done)
        target = self.other(source)
        self.await_true(f"{target} is primary", lambda: self.role(target) == ("PRIM", "ready"), 30)
        self.check("a planned swap", True, f"{source} to {target} in {self.report.outage_ms['swap']:.0f} ms")

    def is_split(self) -> None:
        self.tell("the network between the two nodes is cut; both still reach the witness and the clients")
        self.cluster.split()
        self.await_true("one side serves alone", lambda: self.serving() == 1 and self.roles("ALONE") == 1, 30)
        counts = []
        end = time.monotonic() + (2 if self.fast else 6)
        while time.monotonic() < end:
            counts.append(self.serving())
            time.sleep(0.1)
        self.check("exactly one side serves during the split", max(counts) == 1, f"{len(counts)} looks")
        self.cluster.heal()
        self.await_true(
            "redundant again", lambda: self.roles("PRIM") == 1 and self.roles("SECOND", "ready") == 1, 60
        )
        self.check("the split heals by itself", True, f"{self.primary()} PRIM")

    def has_lost_nothing(self) -> None:
        assert self.clients is not None
        self.await_true("rows are acknowledged again", self.growing, 20)
        final = self.clients.finish()
        stored = self.cluster.read_rows()
        present = {(client, number) for client, numbers in stored["rows"].items() for number in numbers}
        told = {(client, number) for client, numbers in final["rows"].items() for number in numbers}
        self.report.acknowledged = len(told)
        self.report.lost = len(told - present)
        self.check(
            "nothing acknowledged was lost",
            told <= present,
            f"acknowledged {len(told)}, lost {len(told - present)}",
        )
        self.check(
            "the database is whole", stored["integrity"] == "ok", f"integrity_check: {stored['integrity']}"
        )
        done = self.cluster.hafarm(self.primary(), "verify", MODULE, "--wait=60s")
        self.check("both trees are equal", done.returncode == 0, last_words(done))

    # --- words for the steps ------------------------------------------------------------------------------

    def check(self, name: str, ok: bool, detail: str) -> None:
        self.report.checks.append(Check(name, ok, detail))
        self.tell(f"{'✔' if ok else '✘'} {name}: {detail}")

    def compare(self, name: str, heir: str) -> None:
        """The rows that clients were told of so far are there, read through the virtual IP."""
        assert self.clients is not None
        told = self.written()
        stored = sum(len(numbers) for numbers in self.cluster.read_rows()["rows"].values())
        self.check(name, stored >= told, f"{told} acknowledged, {stored} stored on {heir}")

    def linger(self) -> None:
        """Let a person see it."""
        time.sleep(1.0 if self.fast else 4.0)

    def written(self) -> int:
        return self.clients.acknowledged if self.clients else 0

    def growing(self) -> bool:
        before = self.written()
        time.sleep(0.5)
        return self.written() > before

    def role(self, node: str) -> tuple[str, str]:
        """Role and phase of the module as the node itself says, or nothing."""
        status = self.cluster.status(node)
        for module in (status or {}).get("modules", []):
            for entry in module["nodes"]:
                if module["name"] == MODULE and entry["node"] == node:
                    return entry["role"], entry["phase"]
        return "", ""

    def label(self) -> str:
        """What is to be said beside the module wherever it is shown; mostly nothing."""
        told = [self.cluster.status(node) or {} for node in self.cluster.nodes]
        modules = [module for status in told for module in status.get("modules", [])]
        memory = any(module["name"] == MODULE and module.get("ack") == "memory" for module in modules)
        return f"; {ACK_MEMORY}" if memory else ""

    def roles(self, role: str, phase: str = "") -> int:
        found = [self.role(node) for node in self.cluster.nodes]
        return sum(1 for one in found if one[0] == role and phase in ("", one[1]))

    def serving(self) -> int:
        return self.roles("PRIM") + self.roles("ALONE")

    def primary(self) -> str:
        for node in self.cluster.nodes:
            if self.role(node)[0] in ("PRIM", "ALONE"):
                return node
        raise TimeoutError("no node is primary")

    def other(self, node: str) -> str:
        return next(name for name in self.cluster.nodes if name != node)

    def await_true(self, what: str, condition: Callable[[], bool], limit_s: float) -> None:
        """Wait for a condition, never for a time."""
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {limit_s:.0f} s: {what}")
            time.sleep(0.05)

    @contextmanager
    def outage(self, name: str) -> Iterator[None]:
        """The clients' longest silence around what is done in the block, in ms."""
        assert self.clients is not None
        begun = time.monotonic()
        yield
        # Rows that were on their way when it happened are counted as before: the silence begins after them.
        self.await_true("a second has passed", lambda: time.monotonic() > begun + 1.0, 5)
        self.await_true("rows are acknowledged again", self.growing, 30)
        gaps = [end - begin for begin, end in self.clients.gaps if end > begun]
        self.report.outage_ms[name] = 1000 * max(gaps, default=0.0)


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said last, or why it failed."""
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1] if done.returncode == 0 and lines else " ".join(lines)[:300]


def assert_ok(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode != 0:
        raise TimeoutError((done.stderr or done.stdout).strip()[-300:] or f"exit code {done.returncode}")
