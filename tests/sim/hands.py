"""One agent's hands: they carry out exactly what effects say, on the simulated machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.mirror.serving import PROMOTED_OFFLINE
from orchestrator.model.effects import AdmitReign, Announce, Effect, Follow
from orchestrator.model.events import BidAnswered, ModuleStored, RegisterAnswered, RegisterSilent
from orchestrator.model.names import Epoch, NodeName, RequestId
from orchestrator.model.record import Outcome, Record
from orchestrator.model.report import ModuleState
from tests.sim.world import TwoHistories
from tests.support import hands
from tests.support.brief import brief

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.keeper import Keeper


class Hands(hands.Hands):
    """What came of an effect returns to the agent as an event."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.cluster = host.cluster
        self.module = host.module
        self._doubted = False

    def carry_out(self, effect: Effect) -> bool:
        if self.world.log is not None and not isinstance(effect, Announce):
            self.world.say(f"{self.host.name} does {brief(effect)}")
        if self._doubted and isinstance(effect, Follow | AdmitReign):
            return False  # R4: decided before it was known that the epoch was not kept
        return super().carry_out(effect)

    @property
    def _keeper(self) -> Keeper:
        assert self.host.keeper is not None
        return self.host.keeper

    # --- the gate -----------------------------------------------------------------------------------------

    def store(self, epoch: Epoch, wanted: bool) -> bool:
        stored = self.host.store(epoch, wanted)
        if stored and self._doubted:
            self.host.agent.tell(ModuleStored(self.module))
        self._doubted = not stored
        return stored

    def start_replicator(self) -> None:
        self.host.launcher.start()

    def stop_replicator(self) -> None:
        self.world.after(0.05, self.host, self.host.launcher.stop, self.host.keeper)

    def has_gate(self) -> bool:
        return self.host.keeper is not None

    def close(self, drain: bool) -> None:
        if self.host.keeper is not None:
            self.host.keeper.gate.close(drain)

    def widen(self, members: frozenset[NodeName]) -> bool:
        return self._keeper.gate.widen(members)

    def take(self, record: Record) -> None:
        if record.reason == PROMOTED_OFFLINE:
            raise TwoHistories
        self._keeper.gate.take(record)

    def follow(self, record: Record) -> None:
        self._keeper.follower.follow(record)

    def admit(self, record: Record) -> None:
        self._keeper.follower.admit(record)

    # --- addresses and application ------------------------------------------------------------------------

    def claim_addresses(self) -> None:
        self.host.service.claim()

    def release_addresses(self) -> None:
        self.host.service.release()
        self.host.pulse.release()

    def start_application(self) -> None:
        self.host.service.start()

    def stop_application(self, force: bool) -> None:
        self.host.service.stop(force)

    # --- what is said, to the other nodes and to people ---------------------------------------------------

    def announce(self, state: ModuleState) -> None:
        if self.host.pulse.heart is not None:
            self.host.pulse.heart.announce(self.module, state)

    def lease(self, epoch: Epoch, members: frozenset[NodeName]) -> None:
        if self.host.pulse.heart is not None:
            self.host.pulse.heart.lease(self.module, epoch, members)

    def mute(self) -> None:
        if self.host.pulse.heart is not None:
            self.host.pulse.heart.mute(self.module)

    def unmute(self) -> None:
        if self.host.pulse.heart is not None:
            self.host.pulse.heart.unmute(self.module)

    def answer(self, request: RequestId, code: str) -> None:
        self.cluster.answered(request, code)

    def say(self, code: str) -> None:
        self.world.counts["told " + code] += 1

    # --- the register, as seen from here ------------------------------------------------------------------

    def read(self) -> None:
        self._ask(None, self._read_answered, self._read_timed_out)

    def bid(self, expected: Record | None, record: Record) -> None:
        self.world.counts["bid " + record.reason] += 1
        self.cluster.bids.append(record)
        keeper = self.host.keeper
        if keeper is not None:
            keeper.gate.may_land(record)
            if record.primary == self.host.name and not keeper.gate.open:
                keeper.follower.leave_source("its primary's role is bid for")
        self._ask((expected, record), self._bid_answered, self._bid_timed_out, record)

    def _ask(
        self, bid: tuple[Record | None, Record] | None, answered: Any, timed_out: Any, *context: Any
    ) -> None:
        """One question; either its answer or the time-out counts, whichever comes first."""
        open_ = [True]
        life = self.host.agent.life

        def answer(*said: Any) -> None:
            if open_[0] and self.host.agent.life == life and self.host.powered:
                open_[0] = False
                if self.host.frozen:
                    self.host.backlog.append((False, answered, (*context, *said)))
                else:
                    answered(*context, *said)

        def silent() -> None:
            if open_[0] and self.host.agent.life == life:
                open_[0] = False
                timed_out(*context)

        self.cluster.register.ask(self.host.name, answer, *(bid or ()))
        self.world.much_later(self.host.timings.register_timeout_s / self.host.rate, self.host, silent)

    def _read_answered(self, record: Record | None) -> None:
        self.host.agent.tell(RegisterAnswered(self.module, record))

    def _read_timed_out(self) -> None:
        self.host.agent.tell(RegisterSilent(self.module))

    def _bid_answered(self, bid: Record, outcome: Outcome, current: Record | None) -> None:
        self.host.agent.tell(BidAnswered(self.module, bid, outcome, current))

    def _bid_timed_out(self, bid: Record) -> None:
        self.world.counts["bid without an answer"] += 1
        self.host.agent.tell(BidAnswered(self.module, bid, Outcome.UNKNOWN))
