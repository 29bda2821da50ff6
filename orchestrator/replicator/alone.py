"""The gate's local half: what a durable point waits for when no stream carries it to another node."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable

from orchestrator.mirror.gate import Gate
from orchestrator.model.names import NodeName
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.ops import ChangeKey, Operation

Callback = Callable[[int], None]


class LocalOutlet:
    """Counts operations and keeps the may-differ logs; a point that needs another member is held."""

    def __init__(self, me: NodeName, logs: ChangeLogs) -> None:
        self.binding = 1
        self._gate: Gate[Callback] = Gate(me)
        self._logs = logs
        self._lock = threading.Lock()
        self._sequence = 0

    @property
    def held(self) -> int:
        return self._gate.held

    def emit(self, operation: Operation) -> int:
        with self._lock:
            self._sequence += 1
            return self._sequence

    def before_change(self, keys: Iterable[ChangeKey]) -> None:
        self._logs.before_change(keys, self._sequence)

    def when_durable(self, sequence: int, callback: Callback) -> None:
        error = 0
        with self._lock:
            if not self._gate.is_open:
                error = errno.EIO
            elif not self._gate.hold(sequence, callback):
                return
        callback(error)

    def widen(self, members: Iterable[NodeName]) -> None:
        with self._lock:
            self._gate.widen(members)

    def serve(self, members: Iterable[NodeName]) -> None:
        with self._lock:
            settled = self._gate.serve(members)
        for callback in settled:
            callback(0)

    def close(self) -> None:
        """Every held point is answered EIO."""
        with self._lock:
            refused = self._gate.close()
        for callback in refused:
            callback(errno.EIO)
