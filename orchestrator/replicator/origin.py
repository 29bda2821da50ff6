"""What the link to one other node needs of its primary."""

from __future__ import annotations

from typing import Protocol

from orchestrator.mirror.frames import Acknowledged
from orchestrator.model.names import NodeName
from orchestrator.model.record import Record
from orchestrator.replicator.history import History
from orchestrator.replicator.link import LinkSettings
from orchestrator.replicator.sender import Source


class Origin(Source, Protocol):
    """The primary as its links see it."""

    settings: LinkSettings
    history: History
    record: Record | None
    stream: str

    @property
    def required(self) -> frozenset[NodeName]: ...

    def oldest_held(self) -> int: ...

    def acknowledged(self, peer: NodeName, progress: Acknowledged) -> None: ...

    def lost(self, peer: NodeName, why: str) -> None: ...

    def flush(self) -> int: ...
