"""A node and the place it runs in: who moves addresses, switches nodes off, announces what."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from orchestrator.agent.fencing import Fencing
from orchestrator.agent.hands import Hands
from orchestrator.agent.journal import Journal
from orchestrator.agent.lines import Refused
from orchestrator.agent.notices import Begin, Notices, here
from orchestrator.agent.settings import AgentSettings
from orchestrator.model.config import ClusterConfig
from orchestrator.model.names import ModuleName, NodeName
from orchestrator.node import Node
from orchestrator.providers.clouds import Clouds, Standing


class Platform:
    """Nothing of it runs where hafarm.yaml asks for nothing."""

    def __init__(
        self,
        config: ClusterConfig,
        settings: AgentSettings,
        standing: Callable[[ModuleName], Awaitable[Standing]],
        node: Callable[[], Node],
        begin: Begin,
        journal: Journal,
    ) -> None:
        self._config = config
        self._me = me = NodeName(settings.node)
        self.clouds = Clouds(config, me, settings.log_dir, standing, journal.tell)
        self.fencing = Fencing(config, me, self.clouds, lambda: node().mirrors, journal)
        path = os.path.join(settings.state_dir, "notices.json")
        self.notices = Notices(config.scheduled_events, me, path, lambda: here(node()), begin, journal)

    def start(self) -> None:
        """The agent runs."""
        self.fencing.start()
        self.notices.start()

    def stepped(self) -> None:
        """After each step of the node."""
        self.fencing.stepped()

    def tell(self, status: dict[str, Any]) -> None:
        """Add to `hafarm status` what is known here."""
        for node in status["nodes"]:
            node["fence"] = self.fencing.told(node["name"], node["alive"])
        status["notices"] = self.notices.told()

    async def test(self, name: str, repair: bool, hands: Iterable[Hands]) -> list[dict[str, str]]:
        """What of one provider would refuse what this node may ask of it."""
        used = {
            self.clouds.taken(vip)
            for module in self._config.mirrors
            if self._me in module.nodes
            for vip in module.vip
        }
        if self._config.fence is not None:
            used.add(self._config.fence.provider)
        if name not in used:
            raise Refused("HF7021", f"provider {name} moves no address of this node")
        if name == "onprem":
            found = [one for each in hands for one in await each.provider.preflight_here()]
        else:
            found = await self.clouds.preflight(name, repair)
        return [dataclasses.asdict(one) for one in found]

    async def close(self) -> None:
        """The agent ends."""
        await self.notices.close()
        await self.fencing.close()
        await self.clouds.close()
