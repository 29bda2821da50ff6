"""The one clock that verdicts are counted in: it runs on through suspend and never steps."""

from __future__ import annotations

import time

from orchestrator.model.names import Instant


def now() -> Instant:
    """Seconds of CLOCK_BOOTTIME."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))
