"""The event log: what happened on this node, for people; a bounded file that outlives the agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any, Protocol

REPEATED = frozenset(
    {"HF1002", "HF1114", "HF2001", "HF4002", "HF4004", "HF4012", "HF5003", "HF5004", "HF5005"}
    | {"HF7000", "HF7001", "HF7002", "HF7004", "HF7005", "HF7006", "HF7014"}
    | {"HF7100", "HF7101", "HF7102"}
)
"""What is tried several times a second and fails the same way each time."""
REPEAT_S = 60.0
"""The same words of these are told once a minute: a log full of them hides everything else."""
EVENTS_MAX = 5_000
"""Some months of a calm cluster, two megabytes; beyond, the oldest half of the file is dropped."""
WRITE_AFTER_S = 0.02
"""Longer than a decision takes to be carried out, which is what an event is mostly about."""
CLOSE_TIMEOUT_S = 2.0
"""A disk that takes longer for some lines is dying, and the log is no reason to stay."""


class Telling(Protocol):
    """What most of the agent needs of it."""

    def tell(self, module: str, code: str, text: str) -> None: ...


class Journal:
    """Lines of JSON: id, at (seconds since the epoch), node, module, code, text.

    They are written by a thread of their own, a moment later: no decision waits for the log's disk.
    """

    def __init__(self, path: str, node: str) -> None:
        self._path = path
        self._node = node
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._lines = 0
        self._torn = False
        """The file's last line has no end: the next event must not become a part of it."""
        self._new = asyncio.Event()
        self._told: dict[tuple[str, str, str], float] = {}
        self._recall()
        self._unwritten: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_until_closed, name="journal", daemon=True)
        self._writer.start()

    def _recall(self) -> None:
        """What can be read; a log is no reason not to run."""
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    self._lines += 1
                    self._torn = not line.endswith("\n")
                    event = _event(line)
                    if event is not None:
                        self._events.append(event)
        except OSError:
            return

    def tell(self, module: str, code: str, text: str) -> None:
        """Add one event. A log that cannot be written is no reason to fail over: it is kept in memory."""
        if code in REPEATED and self._was_told((module, code, text)):
            return
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
        self._unwritten.put(event)
        self._new.set()
        self._new = asyncio.Event()

    def close(self) -> None:
        """What was told is in the file; nothing may be told afterwards."""
        self._unwritten.put(None)
        self._writer.join(CLOSE_TIMEOUT_S)

    def _write_until_closed(self) -> None:
        while (event := self._unwritten.get()) is not None:
            time.sleep(WRITE_AFTER_S)
            self._write([event, *self._taken()])

    def _taken(self) -> Iterator[dict[str, Any]]:
        """What was told meanwhile."""
        with contextlib.suppress(Empty):
            while (event := self._unwritten.get_nowait()) is not None:
                yield event
            self._unwritten.put(None)

    def _write(self, events: list[dict[str, Any]]) -> None:
        try:
            if self._lines > 2 * EVENTS_MAX:
                self._shorten(events[0]["id"])
            with open(self._path, "a", encoding="utf-8") as file:
                file.write("\n" * self._torn + "".join(json.dumps(event) + "\n" for event in events))
            self._torn = False
            self._lines += len(events)
        except OSError:
            pass

    def _was_told(self, words: tuple[str, str, str]) -> bool:
        now = time.monotonic()
        self._told = {each: at for each, at in self._told.items() if now - at < REPEAT_S}
        if words in self._told:
            return True
        self._told[words] = now
        return False

    def _shorten(self, before: int) -> None:
        draft = f"{self._path}.new"
        with open(draft, "w", encoding="utf-8") as file:
            kept = [json.dumps(event) + "\n" for event in self._events.copy() if event["id"] < before]
            file.writelines(kept)
        os.rename(draft, self._path)
        self._lines = len(kept)

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


def _event(line: str) -> dict[str, Any] | None:
    """A line as we write it; None for a torn or damaged one: the others stand."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    kinds = {"id": int, "at": int | float, "node": str, "module": str, "code": str, "text": str}
    return event if all(isinstance(event.get(key), kind) for key, kind in kinds.items()) else None
