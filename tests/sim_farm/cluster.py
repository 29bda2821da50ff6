"""A whole farm of the real machines, what must always be true of it, and what once it is left alone."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import Literal

from orchestrator.farm.state import Farm
from orchestrator.farm.view import FULL, Rules, View, maps
from orchestrator.model import effects as do
from orchestrator.model.config import (
    PRESETS,
    CheckConfig,
    ClusterConfig,
    FarmConfig,
    FarmVipConfig,
    NodeConfig,
    PortsConfig,
)
from orchestrator.model.events import OperatorAsked
from orchestrator.model.names import ClusterName, ModuleName, NodeName, RequestId
from orchestrator.model.orders import Order
from orchestrator.model.timings import derive
from tests.sim.world import Violation, World
from tests.sim_farm.clients import Clients
from tests.sim_farm.host import FarmHost

WEB = ModuleName("web")
CONVERGED_S = 160.0
"""After all is healed: the longest wait of a node that came and went, one rest, one change in two phases."""
ROUND_S = 2.0
"""Two heartbeats and more: what a node says has come to all, and their answers back."""
APART_S = 0.3
"""Longer than what one node says needs to come to all."""
SEND_S = 0.25
"""Between two packets of a connection, beside those that it sends whenever a kernel changed."""


class FarmCluster:
    """Some nodes, and for each group of ports an address of its own."""

    def __init__(
        self,
        seed: int,
        names: Iterable[str],
        groups: tuple[PortsConfig, ...] = (),
        together: bool = False,
        mode: Literal["directed", "invisible"] = "directed",
    ) -> None:
        nodes = tuple(NodeName(name) for name in names)
        if not groups:
            groups = (PortsConfig(((80, 80),), dict.fromkeys(nodes, 1), (nodes,)),)
        self.farm = FarmConfig(
            WEB,
            nodes,
            tuple(
                FarmVipConfig(f"198.18.0.{101 + place}/24", (group,)) for place, group in enumerate(groups)
            ),
            checks=(CheckConfig("tcp 80", "tcp", "80"),),
            mode=mode,
        )
        timing = PRESETS["cloud"]
        members = tuple(NodeConfig(name, {}) for name in nodes)
        self.config = ClusterConfig(
            ClusterName("sim"), members, timing=timing, preset="cloud", farms=(self.farm,)
        )
        self.timings = derive(timing)
        self.world = World(seed, self.timings.start_grace_s + self.timings.detection_s)
        self.together = together
        """Every deed takes the same time on all nodes: many nodes then start as one, and not one by one."""
        self.clocks = random.Random(seed ^ 0xC10C)
        self.hosts = {str(name): FarmHost(self, name) for name in nodes}
        self.clients = Clients(self)
        self.answers: dict[RequestId, str] = {}
        self.rules = Rules.of(self.farm)

    # --- what must always be true ------------------------------------------------------------------------

    def steering(self, host: FarmHost, order: do.Steer) -> None:
        """A kernel is about to be told. Traffic is open only where the application is ready."""
        if not host.ready:
            raise Violation(f"{host.name} lets traffic in, and its application is not ready")
        if not self.clients.calm or host.kernel is None:
            return
        for number, (old, new) in enumerate(zip(host.kernel.groups, order.groups, strict=True)):
            if old.owners is not new.owners:
                self._moves(number, old.owners, new.owners)

    def _moves(self, group: int, old: Collection[NodeName | None], new: Collection[NodeName | None]) -> None:
        """A planned move: whoever gets a living node's bucket knows where its connections are."""
        for bucket, (source, target) in enumerate(zip(old, new, strict=True)):
            if source == target or source is None or target is None:
                continue
            giver, taker = self.hosts[source], self.hosts[target]
            if giver.kernel is None:
                continue
            knows = taker.kernel is not None and bucket in taker.kernel.groups[group].previous
            if not knows:
                raise Violation(f"bucket {bucket} goes from {source} to {target}, which is not prepared")

    def stopping(self, host: FarmHost) -> None:
        """Traffic closes before the application stops."""
        if host.kernel is not None:
            raise Violation(f"{host.name} stops its application, and traffic still comes")

    # --- the network -------------------------------------------------------------------------------------

    def directors(self, group: int) -> list[FarmHost]:
        """Who answers for the address of this group: one on each side of a split."""
        address = self.farm.vip[group].address
        return [
            host
            for host in self.hosts.values()
            if host.kernel is not None and not host.frozen and address in host.kernel.directs
        ]

    def cut(self, one: str, two: str) -> None:
        self.world.cuts |= {(one, two), (two, one)}

    def stir(self) -> None:
        """Something is said, and all are well: the words come round before anything is jumped over."""
        world = self.world
        world.disturbed_at = max(world.disturbed_at, world.at - world.settle_s + ROUND_S)

    # --- the operator ------------------------------------------------------------------------------------

    def order(self, name: str, order: Order) -> str:
        """What was answered: empty when accepted; `?` where no agent is."""
        request = RequestId(f"r{len(self.answers)}")
        self.stir()
        self.world.counts[f"order {type(order).__name__}"] += 1
        self.hosts[name].tell(OperatorAsked(request, WEB, order))
        return self.answers.setdefault(request, "?")

    # --- once it is left alone ---------------------------------------------------------------------------

    def begin(self) -> None:
        for host in self.hosts.values():
            host.power_on()
            if self.together:
                # All at once each of many would hear the others in an order of its own: thousands of views.
                self.world.run(self.world.now + APART_S)
        self.converge()

    def takers(self, side: Collection[str] = ()) -> View:
        """The view that a side should have: all that are ready, not draining, and can be reached."""
        hosts = [self.hosts[name] for name in side or self.hosts]
        return View.of(
            {
                host.name: host.stored[1]
                for host in hosts
                if host.stored[0] and not host.stored[2] and host.powered
            }
        )

    def trouble(self, side: Collection[str] = ()) -> str:
        """What is missing to a farm that shares everything out once; empty: nothing."""
        view = self.takers(side)
        wanted = maps(self.rules, view)
        answering: dict[str, list[str]] = {vip.address: [] for vip in self.farm.vip}
        for name in side or self.hosts:
            host = self.hosts[name]
            if not host.powered or not host.stored[0]:
                continue
            kernel = host.kernel
            if kernel is None or not host.ready:
                return f"{name} lets nothing in"
            if host.node is not None and (held := self._held_out(host.node.farms[WEB])):
                # One with weight 0 has no bucket either way; its drain would wait for that.
                return f"{name} holds {held} out"
            if tuple(group.owners for group in kernel.groups) != wanted:
                return f"{name} shares out otherwise than among {sorted(view.names)}"
            for address in kernel.directs:
                answering[address].append(name)
        for address, names in answering.items():
            if len(names) != 1 and view.members:
                return f"{names} answer for {address}"
        return ""

    @staticmethod
    def _held_out(farm: Farm) -> list[NodeName]:
        """Who came and went too often, and is left out for a moment."""
        return [name for name, peer in farm.peers.items() if peer.held_until is not None]

    def converge(self, sides: Collection[Collection[str]] = ((),), within_s: float = CONVERGED_S) -> None:
        """Every bucket has one owner, on each side, within the bound; or it is a fault of ours."""
        until = self.world.now + within_s
        while found := next((bad for side in sides if (bad := self.trouble(side))), ""):
            if self.world.now > until:
                raise Violation(f"not converged {within_s:.0f} s after all was left alone: {found}")
            self.world.disturb()
            self.world.run(self.world.now + 0.25)

    def calmly(self, seconds: float, heard: bool = True) -> None:
        """Nothing is broken meanwhile: packets flow, and (`heard`) none is lost for long."""
        self.clients.calm, self.clients.heard = True, heard
        try:
            self.stir()
            until = self.world.now + seconds
            while self.world.now < until:
                self.world.run(min(until, self.world.now + SEND_S))
                self.clients.send()
        finally:
            self.clients.calm, self.clients.heard = False, True

    def kernel_changed(self) -> None:
        """A packet of each connection meets every state that the kernels are in together."""
        if self.clients.calm:
            self.clients.send()


__all__ = ["FULL", "WEB", "FarmCluster"]
