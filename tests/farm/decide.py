"""Short words for stories about one farm on one node: what the world says, and what it orders."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.farm import machine
from orchestrator.farm.state import Farm
from orchestrator.farm.view import Rules, View
from orchestrator.model.config import (
    PRESETS,
    CheckConfig,
    ClusterConfig,
    FarmConfig,
    FarmVipConfig,
    NodeConfig,
    PortsConfig,
)
from orchestrator.model.effects import Announce, Answer, AskShares, Effect, KeepShares, Steer, Tell
from orchestrator.model.events import (
    ApplicationStarted,
    Event,
    FarmLoaded,
    OperatorAsked,
    PeerAlive,
    PeerSaid,
    SharesLearned,
    Steered,
    TimePassed,
)
from orchestrator.model.names import ClusterName, Instant, ModuleName, NodeName, RequestId
from orchestrator.model.orders import Order
from orchestrator.model.report import FarmRole, FarmState, Phase, Shares
from orchestrator.model.timings import derive

A, B, C = NodeName("a"), NodeName("b"), NodeName("c")
WEB = ModuleName("web")
ADDRESS = "198.18.0.101/24"
TIMINGS = derive(PRESETS["lan"])


def config(*nodes: NodeName, checks: bool = False, **more: Any) -> ClusterConfig:
    """A cluster with one farm over these nodes."""
    group = PortsConfig(((80, 80),), dict.fromkeys(nodes, 1), (nodes,))
    farm = FarmConfig(
        WEB,
        nodes,
        (FarmVipConfig(ADDRESS, (group,)),),
        checks=(CheckConfig("tcp 80", "tcp", "80"),) if checks else (),
        **more,
    )
    members = tuple(NodeConfig(name, {}) for name in nodes)
    return ClusterConfig(ClusterName("test"), members, farms=(farm,))


@dataclass
class Told:
    """One farm, told what happens; remembers what it ordered last, without the words for people."""

    farm: Farm
    now: float = 100.0
    did: tuple[Effect, ...] = ()
    codes: list[str] = field(default_factory=list)
    serial: int = 0
    kept: list[KeepShares] = field(default_factory=list)
    """What the next agent would find."""
    asks: list[NodeName] = field(default_factory=list)
    """Whom it asked who had the buckets."""
    teaches: bool = True
    """Whoever is asked who had the buckets goes by the same view, and knows of nobody."""

    def hears(self, *events: Event, after: float = 0.0) -> tuple[Effect, ...]:
        self.now += after
        did: list[Effect] = []
        for event in events:
            decision = machine.step(self.farm, Instant(self.now), event)
            self.farm = decision.state
            self.codes += [effect.code for effect in decision.effects if isinstance(effect, Tell)]
            self.kept += [effect for effect in decision.effects if isinstance(effect, KeepShares)]
            self.asks += [effect.node for effect in decision.effects if isinstance(effect, AskShares)]
            if self.teaches and any(isinstance(effect, AskShares) for effect in decision.effects):
                did += self.hears(SharesLearned(WEB, self.shares()))
            silent = Tell | Announce | KeepShares | AskShares
            did += [effect for effect in decision.effects if not isinstance(effect, silent)]
        self.did = tuple(did)
        return self.did

    def shares(self, *former: dict[int, tuple[NodeName, ...]]) -> Shares:
        """What another node of the same mind says."""
        view = (self.farm.taught and self.farm.meeting) or self.farm.committed
        members = tuple((each.name, each.percent, each.live) for each in view.members)
        return Shares(self.farm.rules.digest, members, former)

    def passes(self, seconds: float) -> tuple[Effect, ...]:
        """Time goes by, and whatever becomes due is learned when it does."""
        end, did = self.now + seconds, []
        while (due := self.farm.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            did += self.hears(TimePassed())
        self.now = end
        self.did = tuple(did)
        return self.did

    def asked(self, order: Order) -> str:
        """The code of the answer; empty: accepted."""
        self.hears(OperatorAsked(RequestId("r"), WEB, order))
        (answer,) = [effect for effect in self.did if isinstance(effect, Answer)]
        return answer.code

    def ordered(self, kind: type) -> list[Any]:
        return [effect for effect in self.did if isinstance(effect, kind)]

    def obeys(self) -> tuple[Effect, ...]:
        """The kernel does what it was told last."""
        return self.hears(Steered(WEB, self.farm.steering))

    def says(self, name: NodeName, **facts: Any) -> tuple[Effect, ...]:
        """Another node is heard; unless told otherwise it is UP, and goes by the same words as this one."""
        self.serial += 1
        return self.hears(PeerSaid(name, {WEB: self.word(**facts)}), PeerAlive(name))

    def word(self, **facts: Any) -> FarmState:
        usual = {
            "role": FarmRole.UP, "phase": Phase.READY, "open": True, "config": self.farm.rules.digest,
            "serial": self.serial,
        }  # fmt: skip
        return FarmState(**{**usual, **facts})

    def agrees(self, name: NodeName) -> tuple[Effect, ...]:
        """It says that its kernel is prepared for what follows from the words of now."""
        said = self.farm.peers[name].said
        assert said is not None
        state = replace(said, prepared=self.farm.stamp, done=self.farm.stamp)
        return self.hears(PeerSaid(name, {WEB: state}))

    @property
    def newest(self) -> Steer:
        assert self.farm.ordered is not None
        return Steer(WEB, self.farm.steering, *self.farm.ordered, False)

    def owned(self, name: NodeName) -> int:
        """How many buckets the kernel gives to a node."""
        return self.newest.groups[0].owners.count(name)


def fresh(*nodes: NodeName, me: NodeName = A, wanted: bool = True, **more: Any) -> Told:
    """A node that has just read its disk."""
    cluster = config(*(nodes or (A, B)), **more)
    told = Told(machine.create(me, cluster, cluster.farms[0], TIMINGS))
    told.hears(FarmLoaded(WEB, wanted))
    return told


def serving(*others: NodeName, **more: Any) -> Told:
    """A node that shares the traffic with these, all being of one mind."""
    told = fresh(A, *others, **more)
    for name in others:
        told.says(name)
    told.hears(ApplicationStarted(WEB))
    told.obeys()
    for name in others:
        told.agrees(name)
    told.obeys()
    for name in others:
        told.agrees(name)
    told.obeys()
    assert told.farm.committed.names == {A, *others}, told.farm
    return told


def view(*names: NodeName) -> View:
    return View.of(dict.fromkeys(names, 100))


def rules(*nodes: NodeName) -> Rules:
    return Rules.of(config(*nodes).farms[0])
