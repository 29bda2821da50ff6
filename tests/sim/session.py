"""One stream from a primary to one other node: its frames, and how far each side knows it to be."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from orchestrator.model.record import Record

if TYPE_CHECKING:
    from tests.sim.follower import Follower
    from tests.sim.streams import Streams


class Frame:
    """One message of the ordered stream."""

    __slots__ = ("clean", "extent", "kind", "record", "seq", "stream", "value")

    def __init__(self, kind: str, extent: int = 0, value: int = 0, record: Record | None = None) -> None:
        self.kind = kind
        self.extent = extent
        self.value = value
        self.record = record
        self.clean: tuple[int, ...] = ()


class Session:
    """Begun by a handshake, ended by either side."""

    __slots__ = (
        "alive", "applied", "arrives", "asked_at", "copying", "durable", "frames", "last", "ready",
        "ready_at", "resending", "source", "start", "target",
    )  # fmt: skip

    def __init__(self, source: Streams, target: Follower, start: int, copying: list[int] | None) -> None:
        self.source = source
        self.target = target
        self.start = start
        self.applied = start
        self.durable = start if copying is not None else target.keeper.synced_seq
        self.frames: deque[Frame] = deque()
        self.copying = copying
        """Extents still to be copied; None: in sync, nothing was to be copied."""
        self.ready_at = 0
        self.ready = copying is None
        self.last: dict[int, int] = {}
        self.alive = True
        self.resending = False
        self.arrives = 0.0
        """When the newest frame arrives: a connection keeps the order."""
        self.asked_at: float | None = None
