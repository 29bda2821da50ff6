"""How often an application may be restarted here before another node gets its chance."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.model.names import Instant


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `restarts_max` restarts within any `window_s` seconds."""

    restarts_max: int
    window_s: float
    spent_at: tuple[Instant, ...] = ()

    def spend(self, now: Instant) -> tuple[Budget, bool]:
        """Ask for one restart: the budget afterwards, and whether it is allowed."""
        recent = tuple(at for at in self.spent_at if now - at < self.window_s)
        if len(recent) >= self.restarts_max:
            return replace(self, spent_at=recent), False
        return replace(self, spent_at=(*recent, now)), True
