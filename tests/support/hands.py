"""Which deed each effect of a mirror asks for; the simulator and the model search say how theirs is done."""

from __future__ import annotations

from abc import ABC, abstractmethod

from orchestrator.model import effects as do
from orchestrator.model.names import Epoch, NodeName, RequestId
from orchestrator.model.record import Record
from orchestrator.model.report import ModuleState


class Hands(ABC):
    """One method for each effect; which effect it is, is asked here alone."""

    def carry_out(self, effect: do.Effect) -> bool:
        """The one place where an effect becomes a deed; False: refused."""
        match effect:
            case do.StoreModule(_, epoch, wanted):
                return self.store(epoch, wanted)
            case do.ReadRegister():
                self.read()
            case do.Bid(_, expected, record):
                self.bid(expected, record)
            case do.StartReplicator():
                self.start_replicator()
            case do.StopReplicator():
                self.stop_replicator()
            case do.CloseGate(_, drain):
                # A gate that is gone is closed.
                self.close(drain)
            case do.WidenRequired() | do.TakeReign() | do.Follow() | do.AdmitReign():
                return self.has_gate() and self._order_gate(effect)
            case do.AdoptCopy() | do.CompareInFull():
                # Copies of unknown history are not modelled: every baseline fits.
                return self.has_gate()
            case _:
                self._order_service(effect)
        return True

    def _order_gate(self, effect: do.Effect) -> bool:
        match effect:
            case do.WidenRequired(_, members):
                return self.widen(members)
            case do.TakeReign(_, record):
                self.take(record)
            case do.Follow(_, record):
                self.follow(record)
            case do.AdmitReign(_, record):
                self.admit(record)
        return True

    def _order_service(self, effect: do.Effect) -> None:
        match effect:
            case do.Lease(_, epoch, members):
                self.lease(epoch, members)
            case do.Mute():
                self.mute()
            case do.Unmute():
                self.unmute()
            case do.ClaimAddresses():
                self.claim_addresses()
            case do.ReleaseAddresses():
                self.release_addresses()
            case do.StartApplication():
                self.start_application()
            case do.StopApplication(_, force):
                self.stop_application(force)
            case do.Announce(_, state):
                self.announce(state)
            case do.Answer(request, code):
                self.answer(request, code)
            case do.Tell(_, code):
                self.say(code)
            case _:
                raise AssertionError(f"no hand knows {effect}")

    # --- this node's disk and its gate ---------------------------------------------------------------------

    @abstractmethod
    def store(self, epoch: Epoch, wanted: bool) -> bool: ...

    @abstractmethod
    def start_replicator(self) -> None: ...

    @abstractmethod
    def stop_replicator(self) -> None: ...

    @abstractmethod
    def has_gate(self) -> bool:
        """A life of the gate is there; without one, whatever needs it is refused."""

    @abstractmethod
    def close(self, drain: bool) -> None: ...

    @abstractmethod
    def widen(self, members: frozenset[NodeName]) -> bool: ...

    @abstractmethod
    def take(self, record: Record) -> None: ...

    @abstractmethod
    def follow(self, record: Record) -> None: ...

    @abstractmethod
    def admit(self, record: Record) -> None: ...

    # --- addresses and application ------------------------------------------------------------------------

    @abstractmethod
    def claim_addresses(self) -> None: ...

    @abstractmethod
    def release_addresses(self) -> None: ...

    @abstractmethod
    def start_application(self) -> None: ...

    @abstractmethod
    def stop_application(self, force: bool) -> None: ...

    # --- the register, the pulse, people ------------------------------------------------------------------

    @abstractmethod
    def read(self) -> None: ...

    @abstractmethod
    def bid(self, expected: Record | None, record: Record) -> None: ...

    @abstractmethod
    def lease(self, epoch: Epoch, members: frozenset[NodeName]) -> None: ...

    @abstractmethod
    def mute(self) -> None: ...

    @abstractmethod
    def unmute(self) -> None: ...

    @abstractmethod
    def announce(self, state: ModuleState) -> None: ...

    @abstractmethod
    def answer(self, request: RequestId, code: str) -> None: ...

    @abstractmethod
    def say(self, code: str) -> None: ...
