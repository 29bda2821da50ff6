"""One stream from a primary to one other node: its frames, and how far each side knows it to be."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from orchestrator.mirror.lineage import Position
from orchestrator.model.record import Record, Reign

if TYPE_CHECKING:
    from tests.sim.follower import Follower
    from tests.sim.streams import Streams


class Frame:
    """One message of the ordered stream."""

    __slots__ = ("at", "clean", "extent", "joiner", "kind", "of", "record", "seq", "stream", "value")

    def __init__(
        self, kind: str, extent: int = 0, value: int = 0, record: Record | None = None, of: int | None = None
    ) -> None:
        """`of`: of a change of the directory, which file it names; of a sync, what it is for, None: all."""
        self.kind = kind
        self.extent = extent
        self.value = value
        self.record = record
        self.of = of
        self.clean: tuple[int, ...] = ()
        """Of a sync: the extents in which no other copy may differ."""
        self.joiner = ""
        """Of a barrier: whose copy ends with it; to others it is a sync."""
        self.at: Position | None = None
        """Of a sync: where the sender's own disk is."""


class Session:
    """Begun by a handshake, ended by either side."""

    __slots__ = (
        "alive", "applied", "arrives", "aside", "asked_at", "copying", "durable", "frames", "last", "named",
        "ready", "ready_at", "resending", "source", "start", "target",
    )  # fmt: skip

    def __init__(self, source: Streams, target: Follower, start: int, copying: list[int] | None) -> None:
        self.source = source
        self.target = target
        self.start = start
        self.applied = start
        self.durable = start if copying is not None else target.keeper.synced_seq
        self.named = min(self.durable, target.named_seq)
        """Up to where the directory is durable there too."""
        self.aside: set[int] = set()
        """What is set aside there before it is overwritten."""
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


def position_in(stream: Reign, seq: int) -> Position:
    """One life of a gate may begin several streams, each under an epoch of its own."""
    return Position(f"{stream.epoch:08x}{stream.nonce[:24]}", seq)
