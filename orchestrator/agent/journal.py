"""The event log: what happened on this node, for people; a bounded file that outlives the agent."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from typing import Any

EVENTS_MAX = 5_000
"""Some months of a calm cluster, two megabytes; beyond, the oldest half of the file is dropped."""


class Journal:
    """Lines of JSON: id, at (seconds since the epoch), node, module, code, text."""

    def __init__(self, path: str, node: str) -> None:
        self._path = path
        self._node = node
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._lines = 0
        self._new = asyncio.Event()
        self._recall()

    def _recall(self) -> None:
        try:
            with open(self._path, encoding="utf-8") as file:
                for line in file:
                    self._lines += 1
                    try:
                        self._events.append(json.loads(line))
                    except ValueError:
                        continue  # a torn last line of a crash; the others stand
        except FileNotFoundError:
            return

    def tell(self, module: str, code: str, text: str) -> None:
        """Add one event. A log that cannot be written is no reason to fail over: it is kept in memory."""
        number = self._events[-1]["id"] + 1 if self._events else 1
        event = {
            "id": number,
            "at": time.time(),
            "node": self._node,
            "module": module,
            "code": code,
            "text": text,
        }
        self._events.append(event)
        try:
            if self._lines > 2 * EVENTS_MAX:
                self._shorten()
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
            self._lines += 1
        except OSError:
            pass
        self._new.set()
        self._new = asyncio.Event()

    def _shorten(self) -> None:
        draft = f"{self._path}.new"
        with open(draft, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(event) + "\n" for event in self._events)
        os.rename(draft, self._path)
        self._lines = len(self._events)

    def since(self, number: int, module: str = "") -> list[dict[str, Any]]:
        """Events after this one, oldest first."""
        return [event for event in self._events if event["id"] > number and module in ("", event["module"])]

    async def wait(self, timeout_s: float) -> None:
        """Until the next event, or this long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._new.wait()
        except TimeoutError:
            pass
