"""How fast one other node has durable points on its disk, as the product judges it by the sender's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.mirror.pace import REST_MAX_S, REST_S, Finding, Pace
from orchestrator.model.config import SlowPeerConfig
from orchestrator.model.names import Instant

if TYPE_CHECKING:
    from tests.sim.host import Host


class Pacing:
    """Follows one durable point after the other, as the replicator does."""

    def __init__(self, host: Host, policy: SlowPeerConfig) -> None:
        self.host = host
        self.pace = Pace(policy)
        self.point = 0
        """The number of the one that is followed; 0: none."""
        self.asked_at = Instant(0.0)
        self.own_s: float | None = None

    def asked(self, seq: int) -> None:
        if not self.point:
            self.point, self.asked_at, self.own_s = seq, self.host.now(), None

    def synced(self, seq: int) -> None:
        """This node's own disk has it."""
        if seq == self.point:
            self.own_s = self.host.now() - self.asked_at

    def forget(self) -> None:
        """What was awaited says nothing of the disk any more."""
        self.point = 0

    def look(self, reached: int) -> Finding | None:
        """What is new; `reached`: up to where its disk has every point."""
        now = self.host.now()
        if self.point and self.point <= reached:
            self.pace = self.pace.answered(now, now - self.asked_at, self.own_s)
            self.point = 0
        waited_s = now - self.asked_at if self.point else 0.0
        self.pace, finding = self.pace.looked_at(now, waited_s, self.own_s)
        return finding

    def may_join(self) -> bool:
        return self.pace.may_join(self.host.now())

    def rest_s(self) -> float:
        """How long at most until it may, once its disk is fast."""
        return 0.0 if self.may_join() else min(REST_S * (1 << (self.pace.given_up - 1)), REST_MAX_S)
