"""All machines of one node behind one `step`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from orchestrator.mirror import machine
from orchestrator.mirror.state import Mirror
from orchestrator.model.config import ClusterConfig
from orchestrator.model.decision import Decision
from orchestrator.model.effects import Effect
from orchestrator.model.events import (
    Event,
    Paused,
    PeerAlive,
    PeerLeft,
    PeerLost,
    PeerSaid,
    PeerSuspected,
    TimePassed,
)
from orchestrator.model.names import Instant, ModuleName, NodeName
from orchestrator.model.timings import Timings, derive


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine decides."""

    me: NodeName
    mirrors: Mapping[ModuleName, Mirror]

    @classmethod
    def create(cls, me: NodeName, config: ClusterConfig, timings: Timings | None = None) -> Node:
        """A node that knows its configuration and nothing else yet."""
        times = timings or derive(config.timing)
        mirrors = {
            module.name: machine.create(me, config, module, times)
            for module in config.modules
            if me in module.nodes
        }
        return cls(me, MappingProxyType(mirrors))

    def step(self, now: Instant, event: Event) -> Decision[Node]:
        """Learn one event; say what follows."""
        if isinstance(
            event, TimePassed | Paused | PeerAlive | PeerSuspected | PeerLost | PeerLeft | PeerSaid
        ):
            return self._tell_all(now, event)
        mirror = self.mirrors.get(event.module)
        if mirror is None:
            return Decision(self)
        decision = machine.step(mirror, now, event)
        return Decision(self._with(decision.state), decision.effects)

    def _tell_all(self, now: Instant, event: Event) -> Decision[Node]:
        """What concerns every module; time only those for which something is due."""
        node = self
        effects: list[Effect] = []
        for mirror in self.mirrors.values():
            if isinstance(event, TimePassed):
                due = mirror.deadline()
                if due is None or due > now:
                    continue
            decision = machine.step(mirror, now, event)
            node = node._with(decision.state)
            effects.extend(decision.effects)
        return Decision(node, tuple(effects))

    def _with(self, mirror: Mirror) -> Node:
        return replace(self, mirrors=MappingProxyType({**self.mirrors, mirror.module: mirror}))

    def deadline(self) -> Instant | None:
        """When `TimePassed` is next worth a step; None: not before something else happens."""
        dues = [due for mirror in self.mirrors.values() if (due := mirror.deadline()) is not None]
        return min(dues, default=None)
