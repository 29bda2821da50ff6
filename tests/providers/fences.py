"""A node that may switch another one off: a real worker, and mirrors that say what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.agent.fencing import Fence, Fencing
from orchestrator.mirror.serving import TAKEOVER
from orchestrator.mirror.state import Mirror, Peer, Reach
from orchestrator.model.config import PRESETS, FenceConfig
from orchestrator.model.names import Epoch, ModuleName, NodeName
from orchestrator.model.record import Record
from orchestrator.model.report import ModuleState, Phase, Role
from orchestrator.model.timings import derive
from orchestrator.node import Node as Machines
from tests.providers.aws_scenes import Overlay
from tests.providers.nodes import LYON, OWN, PARIS, SHOP, Node, cluster
from tests.support.clouds.aws import REGION, SLOW_TO_STOP

FENCE = FenceConfig("aws", "takeover", "off", {"region": (REGION,)})
SERVES = ModuleState(Role.PRIM, Phase.READY, serving=True)
SILENT = Peer(Reach.LOST, SERVES)
LATE_S = 6.0
"""Longer than a request is waited for."""
NICE = NodeName("nice")


class Stage:
    """paris with a warm worker, a mirror as the test says, and what it told."""

    def __init__(self, scene: Overlay, work: Path) -> None:
        self.scene, self.knobs, self.vpc = scene, scene.knobs, scene.vpc
        self.loop = asyncio.new_event_loop()
        self.config = replace(cluster(scene.vip), fence=FENCE)
        self.paris = Node(PARIS, self.config, scene.environment(PARIS), work)
        self.mirror = Machines.create(PARIS, self.config, derive(PRESETS["lan"])).mirrors[SHOP]
        self.mirrors: dict[ModuleName, Mirror] = {}
        self.fencing = self.made()

    def made(self, verb: Any = "off", when: Any = "takeover", **more: Any) -> Fencing:
        config = replace(self.config, fence=replace(FENCE, verb=verb, when=when))
        if "mirrors" in more:
            config = replace(config, mirrors=(*config.mirrors, *more.pop("mirrors")))
        clouds = self.paris.clouds
        self.fencing = Fencing(config, PARIS, clouds, lambda: self.mirrors, self, 120, **more)
        return self.fencing

    def tell(self, module: str, code: str, text: str) -> None:
        self.paris.told.append((code, text))

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(story, 200))

    def reset(self) -> None:
        self.knobs.clear()
        SLOW_TO_STOP.clear()
        self.scene.aws.metadata.nodes = dict(self.scene._metadata)
        instances = [self.vpc.instances[name] for name in OWN]
        self.vpc.ec2.stop_instances(InstanceIds=instances)
        self.vpc.ec2.start_instances(InstanceIds=instances)
        self.knobs.log.clear()
        self.paris.forget()
        self.made()
        self.holds(8)

    def holds(self, epoch: int, reason: str = TAKEOVER, peer: Peer = SILENT) -> None:
        """paris has the record alone, and lyon is silent."""
        held = record(epoch, PARIS, reason)
        self.mirrors = {SHOP: self.mirror.changed(held=held, record=held, peers={LYON: peer})}
        self.paris.held = Epoch(epoch)

    def follows(self, epoch: int) -> None:
        """lyon has it."""
        self.mirrors = {SHOP: self.mirror.changed(held=None, record=record(epoch, LYON))}
        self.paris.held = None

    def state(self, name: NodeName = LYON) -> str:
        answer = self.vpc.ec2.describe_instances(InstanceIds=[self.vpc.instances[name]])
        return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])

    def changes(self) -> list[str]:
        return [each.action for each in self.knobs.changes(PARIS)]

    async def over(self, fence: Fence | None) -> Fence:
        assert fence is not None
        await fence.over.wait()
        return fence


def record(epoch: int, primary: NodeName, reason: str = "") -> Record:
    return Record(
        "test",  # type: ignore[arg-type]
        SHOP,
        Epoch(epoch),
        primary,
        frozenset({primary}),
        (PARIS, LYON),
        "a" * 32,  # type: ignore[arg-type]
        reason=reason,
    )
