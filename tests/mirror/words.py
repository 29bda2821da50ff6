"""Short words for stories about one mirror: two nodes, one record, and what the world says."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.mirror import machine
from orchestrator.mirror.state import Mirror
from orchestrator.model.config import PRESETS, ClusterConfig, DirectoryConfig, MirrorConfig, NodeConfig
from orchestrator.model.effects import (
    Announce,
    Answer,
    ClaimAddresses,
    Effect,
    Lease,
    StoreModule,
    TakeReign,
    Tell,
)
from orchestrator.model.events import (
    AddressesClaimed,
    ApplicationStarted,
    Event,
    ModuleLoaded,
    OperatorAsked,
    PeerAlive,
    PeerSaid,
    RegisterAnswered,
    ReignTaken,
    ReplicatorUp,
    StreamUp,
)
from orchestrator.model.names import ClusterName, Epoch, Instant, ModuleName, NodeName, Nonce, RequestId
from orchestrator.model.orders import Order
from orchestrator.model.record import Record
from orchestrator.model.report import ModuleState, Phase, Role
from orchestrator.model.timings import derive

A, B, C = NodeName("a"), NodeName("b"), NodeName("c")
SHOP = ModuleName("shop")
CLUSTER = ClusterName("test")
LIFE = {A: Nonce("a" * 32), B: Nonce("b" * 32), C: Nonce("c" * 32)}
TAKING = [StoreModule, TakeReign, ClaimAddresses, Lease]
"""What a won role begins with, where nobody else can be serving any more."""


def config(*nodes: NodeName, **module: object) -> ClusterConfig:
    """A cluster with one mirror over these nodes."""
    mirror = MirrorConfig(SHOP, nodes, (DirectoryConfig("/srv/shop"),), **module)  # type: ignore[arg-type]
    return ClusterConfig(CLUSTER, tuple(NodeConfig(name, {}) for name in nodes), (mirror,))


def record(
    epoch: int, primary: NodeName, *in_sync: NodeName, nonce: Nonce | None = None, nodes=(A, B)
) -> Record:
    """The record of this epoch."""
    return Record(
        CLUSTER, SHOP, Epoch(epoch), primary, frozenset(in_sync), tuple(nodes), nonce or LIFE[primary]
    )


@dataclass
class Story:
    """One mirror, told what happens; remembers what it ordered last, without the words for people."""

    mirror: Mirror
    now: float = 100.0
    did: tuple[Effect, ...] = ()
    told: list[str] = field(default_factory=list)

    def hears(self, *events: Event, after: float = 0.0) -> tuple[Effect, ...]:
        """Learn these; what was ordered, words and announcements left out."""
        self.now += after
        did: list[Effect] = []
        for event in events:
            decision = machine.step(self.mirror, Instant(self.now), event)
            self.mirror = decision.state
            self.told += [effect.code for effect in decision.effects if isinstance(effect, Tell)]
            did += [effect for effect in decision.effects if not isinstance(effect, Tell | Announce)]
        self.did = tuple(did)
        return self.did

    def ordered(self, kind: type) -> list:
        """The effects of this kind among the last ones."""
        return [effect for effect in self.did if isinstance(effect, kind)]


def fresh(me: NodeName = A, *nodes: NodeName, epoch: int = 0, wanted: bool = True, **module: object) -> Story:
    """A node that has just read its disk."""
    cluster = config(*(nodes or (A, B)), **module)
    story = Story(machine.create(me, cluster, cluster.mirrors[0], derive(PRESETS["lan"])))
    story.hears(ModuleLoaded(SHOP, Epoch(epoch), wanted))
    return story


def says(
    role: Role, epoch: int = 0, primary: NodeName | None = None, *in_sync: NodeName, **more: object
) -> ModuleState:
    """What a peer tells."""
    facts: dict = {
        "phase": Phase.READY,
        "virgin": epoch == 0,
        "nonce": LIFE[primary] if primary else None,
        **more,
    }
    return ModuleState(role=role, epoch=Epoch(epoch), primary=primary, in_sync=frozenset(in_sync), **facts)


def primary(me: NodeName = A, other: NodeName = B, epoch: int = 7, **module: object) -> Story:
    """A primary with its member beside it, serving, everything in order."""
    story = fresh(me, me, other, epoch=epoch, **module)
    held = record(epoch, me, me, other)
    story.hears(
        PeerAlive(other),
        ReplicatorUp(SHOP, LIFE[me], held, held.in_sync, open=True, application=True, addresses=True),
        PeerSaid(other, {SHOP: says(Role.SECOND, epoch, me, me, other, life=LIFE[other])}),
        StreamUp(SHOP, other),
        RegisterAnswered(SHOP, held),
    )
    assert story.mirror.role is Role.PRIM
    return story


def secondary(me: NodeName = B, other: NodeName = A, epoch: int = 7) -> Story:
    """A member that follows its primary."""
    story = fresh(me, other, me, epoch=epoch)
    held = record(epoch, other, me, other)
    story.hears(
        PeerAlive(other),
        ReplicatorUp(SHOP, LIFE[me]),
        RegisterAnswered(SHOP, held),
        PeerSaid(other, {SHOP: says(Role.PRIM, epoch, other, me, other, life=LIFE[other], serving=True)}),
        StreamUp(SHOP, other),
    )
    assert story.mirror.role is Role.SECOND
    return story


def alone(me: NodeName = A, epoch: int = 7) -> Story:
    """A primary without a member."""
    story = fresh(me, A, B, epoch=epoch)
    held = record(epoch, me, me)
    story.hears(
        ReplicatorUp(SHOP, LIFE[me], held, held.in_sync, open=True, application=True, addresses=True),
        RegisterAnswered(SHOP, held),
    )
    assert story.mirror.role is Role.ALONE
    return story


def serves(story: Story, taken: Record) -> None:
    """The gate opens, the addresses come, the application starts."""
    story.hears(ReignTaken(SHOP, taken), AddressesClaimed(SHOP), ApplicationStarted(SHOP))


def asks(order: Order) -> OperatorAsked:
    """The operator orders something."""
    return OperatorAsked(RequestId("r1"), SHOP, order)


def answer(story: Story) -> str:
    """The code of the one answer among the last effects; empty: accepted."""
    (given,) = story.ordered(Answer)
    return given.code
