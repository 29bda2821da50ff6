"""All machines of one node behind one `step`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from orchestrator.farm import machine as farm_machine
from orchestrator.farm.state import Farm
from orchestrator.mirror import machine as mirror_machine
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
    farms: Mapping[ModuleName, Farm] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def create(cls, me: NodeName, config: ClusterConfig, timings: Timings | None = None) -> Node:
        """A node that knows its configuration and nothing else yet."""
        times = timings or derive(config.timing)
        mirrors = {
            module.name: mirror_machine.create(me, config, module, times)
            for module in config.mirrors
            if me in module.nodes
        }
        farms = {
            module.name: farm_machine.create(me, config, module, times)
            for module in config.farms
            if me in module.nodes
        }
        return cls(me, MappingProxyType(mirrors), MappingProxyType(farms))

    def step(self, now: Instant, event: Event) -> Decision[Node]:
        """Learn one event; say what follows."""
        if isinstance(
            event, TimePassed | Paused | PeerAlive | PeerSuspected | PeerLost | PeerLeft | PeerSaid
        ):
            return self._tell_all(now, event)
        module = self.mirrors.get(event.module) or self.farms.get(event.module)
        if module is None:
            return Decision(self)
        return self._tell(now, event, module)

    def _tell_all(self, now: Instant, event: Event) -> Decision[Node]:
        """What concerns every module; time only those for which something is due."""
        node = self
        effects: list[Effect] = []
        for module in self._modules():
            if isinstance(event, TimePassed):
                due = module.deadline()
                if due is None or due > now:
                    continue
            decision = node._tell(now, event, module)
            node = decision.state
            effects.extend(decision.effects)
        return Decision(node, tuple(effects))

    def _tell(self, now: Instant, event: Event, module: Mirror | Farm) -> Decision[Node]:
        if isinstance(module, Farm):
            farm = farm_machine.step(module, now, event)
            farms = MappingProxyType({**self.farms, module.module: farm.state})
            return Decision(replace(self, farms=farms), farm.effects)
        mirror = mirror_machine.step(module, now, event)
        mirrors = MappingProxyType({**self.mirrors, module.module: mirror.state})
        return Decision(replace(self, mirrors=mirrors), mirror.effects)

    def _modules(self) -> tuple[Mirror | Farm, ...]:
        return (*self.mirrors.values(), *self.farms.values())

    def deadline(self) -> Instant | None:
        """When `TimePassed` is next worth a step; None: not before something else happens."""
        dues = [due for module in self._modules() if (due := module.deadline()) is not None]
        return min(dues, default=None)
