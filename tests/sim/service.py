"""What the clients of one machine see: the module's addresses and its application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.model.events import (
    AddressesClaimed,
    AddressesRefused,
    ApplicationFailed,
    ApplicationStarted,
    ApplicationStopped,
)
from orchestrator.model.names import Nonce

if TYPE_CHECKING:
    from tests.sim.host import Host


class Service:
    """Each order makes void what an earlier one has begun."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.cluster = host.cluster
        self.module = host.module
        self.application = False
        self.mount: Nonce | None = None
        """The life of the gate on whose mount the application runs."""
        self.application_turn = 0
        self.application_bad = 0.0
        self.address_bad = 0.0
        self.claimed = False
        self.claim_turn = 0

    def end(self) -> None:
        """Whatever stood here is gone, and nobody is told."""
        self.application = self.claimed = False
        self.application_turn += 1

    def claim(self) -> None:
        """ClaimAddresses."""
        self.claim_turn += 1
        self.world.after(0.02, self.host, self._claimed, self.claim_turn)

    def _claimed(self, turn: int) -> None:
        if turn != self.claim_turn:
            return
        if self.world.random.random() < self.address_bad:
            self.host.agent.tell(AddressesRefused(self.module, "another machine has it"))
            return
        self.claimed = True
        self.cluster.one_answers()
        self.host.agent.tell(AddressesClaimed(self.module))

    def release(self) -> None:
        """ReleaseAddresses."""
        self.claim_turn += 1
        self.claimed = False

    def start(self) -> None:
        """StartApplication."""
        self.application_turn += 1
        self.world.after(0.3, self.host, self._started, self.application_turn)

    def _started(self, turn: int) -> None:
        if turn != self.application_turn:
            return
        if self.host.keeper is None or self.world.random.random() < self.application_bad:
            self.host.agent.tell(ApplicationFailed(self.module, "it ended at once"))
            return
        self.application = True
        self.mount = self.host.keeper.life
        self.cluster.started(self.host)
        self.host.agent.tell(ApplicationStarted(self.module))

    def stop(self, force: bool) -> None:
        """StopApplication: gently, or at once."""
        self.application_turn += 1
        if force or not self.application:
            was, self.application = self.application, False
            self.host.agent.tell(ApplicationStopped(self.module, clean=not was))
            return
        self.world.after(0.3 * self.world.random.random(), self.host, self._stopped, self.application_turn)

    def _stopped(self, turn: int) -> None:
        if turn == self.application_turn and self.application:
            self.application = False
            self.host.agent.tell(ApplicationStopped(self.module, clean=True))

    def dies(self) -> None:
        """It ends although nobody asked it to."""
        if self.application:
            self.application = False
            self.application_turn += 1
            self.host.agent.tell(ApplicationFailed(self.module, "it ended by itself"))
