"""A small shop with one mirror, told in order: who does what, what follows, who holds which bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.model.orders import Order, Start
from tests.sim.cluster import Cluster, link
from tests.sim.host import Host
from tests.sim.register import WITNESS

PATIENCE_S = 60.0
"""Simulated, so it costs nothing; everything here takes less than a detection, two bids and a copy."""


class Shop:
    """Two nodes or three, in sync and serving on `a`; every delay is the same, so each story is one story."""

    def __init__(self, nodes: int = 2, settled_s: float = 5.0, **module: Any) -> None:
        self.cluster = Cluster(1, nodes, jitter=False, **module)
        self.cluster.client = lambda: None  # type: ignore[method-assign]
        self.world = self.cluster.world
        for host in self.hosts.values():
            host.power_on()
        self.passes(12.0)
        self.log: list[str] = []
        self.world.log = self.log
        self.order("a", Start(first=True))
        for name in list(self.hosts)[1:]:
            self.order(name, Start())
        self.waits_until(lambda: not self.cluster.not_converged())
        self.passes(settled_s)

    @property
    def hosts(self) -> dict[str, Host]:
        return self.cluster.hosts

    def role(self, name: str) -> str:
        return self.hosts[name].agent.role

    def runs(self, name: str) -> bool:
        """The application runs there."""
        return self.hosts[name].service.application

    def in_sync(self) -> set[str]:
        record = self.cluster.register.record
        assert record is not None
        return set(record.in_sync)

    def disk(self, name: str, file: int = 0) -> int:
        """What this node's disk holds of one file."""
        return self.hosts[name].volume.disk[file]

    def told(self) -> list[str]:
        """The codes of the log, in their order."""
        return [line.split("code='")[1][:6] for line in self.log if "does Tell" in line]

    # --- what happens --------------------------------------------------------------------------------------

    def passes(self, seconds: float) -> None:
        self.world.disturb()
        self.world.run(self.world.now + seconds)

    def waits_until(self, holds: Callable[[], object]) -> None:
        end = self.world.now + PATIENCE_S
        while not holds():
            assert self.world.now < end, "\n".join(self.log[-40:])
            self.passes(0.01)

    def order(self, name: str, order: Order) -> str:
        """What the operator types, and the code of the refusal; empty: accepted."""
        seen = len(self.log)
        self.cluster.order(self.hosts[name], order)
        answers: list[str] = []

        def answered() -> bool:
            answers[:] = [line for line in self.log[seen:] if f"answer {name} " in line]
            return bool(answers) or self.world.log is None

        self.waits_until(answered)
        code = answers[-1].split()[-1]
        return "" if code == "accepted" else code

    def writes(self, name: str, file: int = 0) -> int:
        """The application writes and calls fsync; the value written, acknowledged or not."""
        keeper = self.hosts[name].keeper
        assert keeper is not None
        assert keeper.gate.write(file, durable=True), f"{name} takes no write"
        return self.hosts[name].volume.memory[file]

    def acknowledged(self, value: int, file: int = 0) -> bool:
        return any(f"acknowledges {value} of extent {file}" in line for line in self.log)

    def saves(self, name: str, file: int = 0) -> int:
        """A write that is acknowledged."""
        value = self.writes(name, file)
        self.waits_until(lambda: self.acknowledged(value, file))
        return value

    def loses_power(self, *names: str) -> None:
        for name in names:
            self.hosts[name].power_off()

    def loses_processes(self, name: str) -> None:
        """The agent, the keeper and its replicator; the pulse goes on."""
        self.hosts[name].agent.kill()
        self.hosts[name].launcher.kill(tell=False)
        self.cluster.watch_streams()

    def edits(self, name: str, file: int = 0) -> int:
        """Somebody changes a plain file there; what it holds then."""
        host = self.hosts[name]
        assert host.keeper is None, "hafarm covers it"
        volume = host.volume
        value = host.ghost.edit(name, file, {volume.memory[file], volume.disk[file]})
        volume.edit(file, value)
        return value

    def comes_back(self, *names: str) -> None:
        for name in names:
            self.cluster.revive(self.hosts[name])

    def cuts(self, one: str, two: str) -> None:
        for wire in link(one, two):
            self.cluster.cut(*wire)

    def heals(self) -> None:
        self.world.cuts.clear()
        self.world.disturb()

    def witness(self, answers: bool) -> None:
        self.cluster.register.down = not answers
        self.world.disturb()


__all__ = ["WITNESS", "Shop"]
