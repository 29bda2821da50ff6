"""Clients that write numbered rows and remember each acknowledged number, over HTTP or to PostgreSQL.

    python -m tests.chaos.clients http|postgres ADDRESS PORT COUNT

Each client writes 0, 1, 2, ... and repeats a number until it is acknowledged, so `next` says all it was told.
Every 50 ms a line {"at", "next": {client: number}, "gaps": new ones, "idle"}; when standard input ends the
last one, with "done". The words `pause` and `go` on standard input are obeyed; a pause is no silence of the
service. Times are CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from typing import Protocol

from orchestrator.demo.clients import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, post

PAUSE_S = 0.02
"""Between two rows of one client: some 100 rows a second in all, so that an hour's rows can be read back."""
REPORT_S = 0.05
GAP_MIN_S = 0.05
"""Shorter silences are the clients' own rhythm on a busy machine."""


class Connection(Protocol):
    """What one client writes through."""

    async def write(self, client: str, number: int) -> None:
        """Returns when the row was acknowledged; anything else is an exception."""

    def close(self) -> None: ...


class Http:
    """The demonstration's application: one POST a row."""

    def __init__(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Http:
        return cls(host, *await asyncio.open_connection(host, port))

    async def write(self, client: str, number: int) -> None:
        await post(self._reader, self._writer, f"/rows/{client}/{number}", self._host)

    def close(self) -> None:
        self._writer.transport.abort()


class Postgres:
    """PostgreSQL's protocol, version 3, as much of it as an INSERT needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Postgres:
        connection = cls(*await asyncio.open_connection(host, port))
        try:
            words = b"user\0postgres\0database\0postgres\0\0"
            connection._writer.write(struct.pack("!II", 8 + len(words), 3 << 16) + words)
            await connection._until_ready()
        except BaseException:
            connection.close()
            raise
        return connection

    async def write(self, client: str, number: int) -> None:
        statement = f"INSERT INTO rows VALUES ('{client}', {number}) ON CONFLICT DO NOTHING"
        text = statement.encode() + b"\0"
        self._writer.write(b"Q" + struct.pack("!I", 4 + len(text)) + text)
        if not await self._until_ready():
            raise ValueError("no command was completed")

    async def _until_ready(self) -> bool:
        """Read until the server waits for a command; whether it completed one. ValueError: it refused."""
        completed = False
        while True:
            kind, length = struct.unpack("!cI", await self._reader.readexactly(5))
            body = await self._reader.readexactly(length - 4)
            match kind:
                case b"E":
                    raise ValueError(body.replace(b"\0", b" ").decode(errors="replace"))
                case b"C":
                    completed = True
                case b"Z":
                    return completed

    def close(self) -> None:
        self._writer.transport.abort()


KINDS: dict[str, type[Http] | type[Postgres]] = {"http": Http, "postgres": Postgres}


class Ledger:
    """What the service acknowledged, and when it did not."""

    def __init__(self) -> None:
        self.next: dict[str, int] = {}
        self.last_good = 0.0
        self.gaps: list[list[float]] = []
        self.busy = 0
        """Writes that are on their way."""
        self.may_write = asyncio.Event()
        self.may_write.set()

    @property
    def idle(self) -> bool:
        return not self.may_write.is_set() and self.busy == 0

    def obey(self, word: str) -> None:
        if word == "pause":
            self.may_write.clear()
        elif word == "go":
            self.last_good = time.monotonic()
            self.may_write.set()

    def acknowledged(self, client: str, number: int) -> None:
        now = time.monotonic()
        if self.last_good and now - self.last_good > GAP_MIN_S:
            self.gaps.append([self.last_good, now])
        self.last_good = now
        self.next[client] = number + 1


async def write_rows(kind: str, host: str, port: int, name: str, ledger: Ledger) -> None:
    """One client, for ever."""
    number = 0
    connection: Connection | None = None
    while True:
        await ledger.may_write.wait()
        ledger.busy += 1
        try:
            if connection is None:
                async with asyncio.timeout(CONNECT_TIMEOUT_S * 3):
                    connection = await KINDS[kind].open(host, port)
            # Not wait_for, which in Python 3.11 may swallow the cancellation that ends us.
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await connection.write(name, number)
            ledger.acknowledged(name, number)
            number += 1
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            if connection is not None:
                connection.close()
                connection = None
        finally:
            ledger.busy -= 1
        await asyncio.sleep(PAUSE_S)


async def listen(ledger: Ledger) -> None:
    """Obey until standard input ends."""
    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        ledger.obey(word)


def say(ledger: Ledger, told: int, **more: object) -> int:
    """One line; how many gaps have been told now."""
    new = ledger.gaps[told:]
    line = {"at": time.monotonic(), "next": ledger.next, "gaps": new, "idle": ledger.idle}
    print(json.dumps(line | more), flush=True)
    return told + len(new)


async def run(kind: str, host: str, port: int, count: int) -> None:
    """Write until standard input ends."""
    ledger = Ledger()
    crew = [asyncio.create_task(write_rows(kind, host, port, f"client{one}", ledger)) for one in range(count)]
    listener = asyncio.create_task(listen(ledger))
    told = 0
    while not listener.done():
        await asyncio.wait([listener], timeout=REPORT_S)
        told = say(ledger, told)
    for task in crew:
        task.cancel()
    await asyncio.gather(*crew, return_exceptions=True)
    say(ledger, told, done=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
