"""Every time-out, derived from two knobs, with the formula that gives it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.model.config import TimingConfig

CLOCK_RATE_BOUND = 0.01
"""How far two clocks' rates may differ; far above the 500 ppm that NTP disciplines."""
TIMER_TICK_S = 0.01
"""The kernel's timer granularity at HZ=100, the coarsest in use."""


@dataclass(frozen=True, slots=True)
class Timings:
    """All in seconds."""

    period_s: float
    """Between two beats on each path."""
    detection_s: float
    """T: silence on all paths after which a secondary may bid."""
    suspect_s: float
    """A primary gives up a member that echoed nothing for so long, and bids it out."""
    lease_s: float
    """An address is answered for so long after the sending of the oldest echoed beat."""
    agent_grace_s: float = 5.0
    """The pulse renews so long without its agent: a restart or upgrade is not felt."""
    start_grace_s: float = 0.0
    """No verdict on a peer that was never heard before so long after the start of the pulse."""
    register_timeout_s: float = 0.0
    """A read or bid without an answer for so long is unknown."""
    retry_s: float = 0.0
    """Between two attempts on a register that does not answer."""
    ack_timeout_s: float = 5.0
    """A member that acknowledged nothing for so long while asked is bid out."""

    @property
    def register_budget_s(self) -> float:
        """What a bid may take so that a healthy primary that lost its member is never silent (T3)."""
        return self.lease_s - self.suspect_s - self.period_s

    @property
    def renew_after_s(self) -> float:
        """The kernel is told of a lease that grew by so much: every second time that one grows.

        Each time would cost twice as much, and keep an address through a stall of the pulse that is longer by
        one period at the most; each third would lose what a timer a trifle late never gave.
        """
        return 1.5 * self.period_s

    @property
    def renew_below_s(self) -> float:
        """With less left in the kernel it is told of whatever the lease grew by.

        The next look is a period away; a pulse that comes two periods late calls it a pause, and what a
        member granted before a pause counts for nothing. So no lease ends between two looks that any pulse
        survives.
        """
        return 3 * self.period_s + TIMER_TICK_S

    @property
    def successor_is_later(self) -> bool:
        """T2: the lease ends before a successor may bid, with drifting clocks and coarse timers."""
        drift = (1 + CLOCK_RATE_BOUND) / (1 - CLOCK_RATE_BOUND)
        return self.detection_s >= self.lease_s * drift + TIMER_TICK_S


def derive(knobs: TimingConfig, register_rtt_s: float = 0.0) -> Timings:
    """Derive all time-outs; T is stretched where the register's round trip does not fit (T3).

    0.5 T and 0.8 T leave 0.3 T for the bid, and 0.2 T between the lease's end and a successor's bid.
    """
    # 0.3 T - period must hold two round trips: one bid, and one more when the first answer is lost.
    detection = max(knobs.detection_s, (2 * register_rtt_s + knobs.period_s) / 0.3 if register_rtt_s else 0.0)
    return Timings(
        period_s=knobs.period_s,
        detection_s=detection,
        suspect_s=0.5 * detection,
        lease_s=0.8 * detection,
        # Three T: two agents that start at the same moment on slow machines find each other first.
        start_grace_s=max(3 * detection, 1.5),
        register_timeout_s=max(detection, 0.5),
        retry_s=max(detection / 2, 0.2),
    )
