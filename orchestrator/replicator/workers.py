"""Standing threads for work that waits for a disk, so that nobody who serves requests has to."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Workers:
    """Runs what it is given, in any order; the threads are made when the first work comes."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()

    @property
    def waiting(self) -> int:
        """How much was given that nobody has begun."""
        return self._work.qsize()

    def put(self, work: Callable[[], None]) -> None:
        """`work` raises nothing: there is nobody to hear of it."""
        if not self._threads:
            self._start()
        self._work.put(work)

    def _start(self) -> None:
        with self._starting:
            while len(self._threads) < self._count:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def close(self) -> None:
        """Return when everything given before is done."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
