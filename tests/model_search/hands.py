"""One node's hands: they carry out what its machine decides, effect by effect, and may die between two."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from orchestrator.mirror.state import Mirror
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.names import Epoch, ModuleName, NodeName, Nonce
from orchestrator.model.record import Record
from tests.model_search import replica
from tests.model_search.values import Call, Hint, Keeper, Mirrors, Node, Request
from tests.support.hands import Hands

WORDS: Final = (do.Tell, do.Announce, do.Answer, do.Lease)
"""Nothing that this search looks at depends on them, so a death just before one is no other death."""
SILENT: Final = (do.Announce, do.Lease)
"""A story does not tell them."""
EFFECTS_MAX: Final = 64
"""One decision and what its own deeds cause at once; more would be a machine that turns in a circle."""


class Died(Exception):
    """The agent was killed between two effects."""


@dataclass
class Turn(Hands):
    """What one node does at one moment: begun from its state, ended as the next one."""

    mirrors: Mirrors
    create: Callable[[NodeName], Mirror]
    module: ModuleName
    node: Node
    me: NodeName
    dies_after: int | None = None
    sent: list[Request] = field(default_factory=list)
    facts: list[replica.Fact] = field(default_factory=list)
    log: list[do.Effect | str] = field(default_factory=list)
    did: int = 0
    _todo: deque[deque[do.Effect]] = field(default_factory=deque)
    _busy: bool = False

    @property
    def keeper(self) -> Keeper:
        assert self.node.keeper is not None
        return self.node.keeper

    def change(self, **changes: object) -> None:
        """Change the gate's values."""
        self.node = self.node._replace(keeper=self.keeper._replace(**changes))

    def tell(self, event: ev.Event | Hint) -> None:
        """The machine learns an event; what it decides is done."""
        mirror, effects = self.mirrors.step(self.node.mirror, event)
        self.node = self.node._replace(mirror=mirror)
        self._todo.append(deque(effects))
        if not self._busy:
            self._work()

    def _work(self) -> None:
        self._busy = True
        while self._todo:
            effects = self._todo[0]
            if not effects:
                self._todo.popleft()
                continue
            effect = effects.popleft()
            if not isinstance(effect, WORDS):
                self.did += 1
                assert self.did < EFFECTS_MAX, f"{self.me} never comes to rest: {effect}"
                if self.dies_after is not None and self.did > self.dies_after:
                    raise Died
            if not self.carry_out(effect):
                effects.clear()
                self.tell(ev.EffectFailed(self.module, type(effect).__name__, "refused by the gate"))
        self._busy = False
        mirror, keeper = self.mirrors.values[self.node.mirror], self.node.keeper
        if mirror.serving and not mirror.taking and not mirror.shut and not (keeper and keeper.is_open):
            self.facts.append(("no gate", f"{self.me} serves on a gate that is closed"))

    def carry_out(self, effect: do.Effect) -> bool:
        if not isinstance(effect, SILENT):
            self.log.append(effect)
        return super().carry_out(effect)

    # --- the register and the gate ------------------------------------------------------------------------

    def store(self, epoch: Epoch, wanted: bool) -> bool:
        replica.store(self, epoch, wanted)
        return True

    def bid(self, expected: Record | None, record: Record) -> None:
        self.node = self.node._replace(call=Call(expected, record))
        self.sent.append(Request(self.me, expected, record))

    def stop_replicator(self) -> None:
        self._end_life()
        self.tell(ev.ReplicatorStopped(self.module))

    def has_gate(self) -> bool:
        return self.node.keeper is not None

    def close(self, drain: bool) -> None:
        if self.node.keeper is None or replica.close(self, drain):
            self.tell(ev.GateClosed(self.module))

    def widen(self, members: frozenset[NodeName]) -> bool:
        return replica.widen(self, members)

    def take(self, record: Record) -> None:
        self.change(taking=record)

    def follow(self, record: Record) -> None:
        replica.follow(self, record)

    def admit(self, record: Record) -> None:
        replica.admit(self, record)

    # --- addresses and application: at once ---------------------------------------------------------------

    def claim_addresses(self) -> None:
        self.tell(ev.AddressesClaimed(self.module))

    def start_application(self) -> None:
        self.tell(ev.ApplicationStarted(self.module))

    def stop_application(self, force: bool) -> None:
        self.tell(ev.ApplicationStopped(self.module, clean=True))

    def _leave_out(self, *what: object) -> None:
        """It changes nothing that this search looks at; a read of the register is a turn of its own."""

    read = lease = mute = unmute = release_addresses = announce = answer = say = _leave_out

    # --- lives --------------------------------------------------------------------------------------------

    def start_replicator(self) -> None:
        """A new life of the gate, or the one that is there."""
        if self.node.keeper is None:
            lives = self.node.lives + 1
            self.node = self.node._replace(lives=lives, keeper=Keeper(name_life(self.me, lives)))
        self.find_replicator()

    def find_replicator(self) -> None:
        """What a running gate tells an agent that meets it."""
        keeper = self.keeper
        serves = keeper.is_open and not keeper.draining
        self.tell(
            ev.ReplicatorUp(
                self.module,
                keeper.life,
                keeper.record,
                keeper.required,
                keeper.is_open,
                keeper.following,
                application=serves,
                addresses=serves,
            )
        )
        for name, _ in keeper.sessions:
            self.tell(ev.StreamUp(self.module, name))
        if keeper.source is not None:
            self.tell(ev.StreamUp(self.module, keeper.source))

    def _end_life(self) -> None:
        self.node = self.node._replace(keeper=None)

    def kill_agent(self) -> None:
        """Every intention is forgotten; the agent starts again and takes back what still lives."""
        self._todo.clear()
        self._busy = False
        self.dies_after = None
        self.did = 0
        self.node = self.node._replace(call=None, seen=None)
        self.node = self.node._replace(mirror=self.mirrors.number(self.create(self.me)))
        self.tell(ev.ModuleLoaded(self.module, self.node.epoch, self.node.wanted))
        for name in self.mirrors.values[self.node.mirror].peers:
            self.tell(ev.PeerAlive(name))
        if self.node.keeper is not None:
            self.find_replicator()

    def kill_keeper(self) -> None:
        """The gate's life is over; what it had not synced is still in the page cache."""
        self._end_life()
        self.tell(ev.ReplicatorLost(self.module, "killed"))

    def lose_power(self) -> None:
        """Everything but the disk is gone."""
        self._end_life()
        self.node = self.node._replace(memory=self.node.disk)
        self.kill_agent()


def name_life(me: NodeName, number: int) -> Nonce:
    """The nonce of one life of a gate: random in the product; here equal stories give equal states."""
    return Nonce(f"{me}{number}")
