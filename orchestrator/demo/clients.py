"""The demonstration's clients: write numbered rows, remember each acknowledged number, measure each silence.

    clients.py ADDRESS PORT COUNT

prints one JSON object a line: every 100 ms {"at", "acknowledged", "node", "gaps": new ones}, and when
standard input ends {"done": true, "rows": {client: [numbers]}, "gaps": [[begin, end], ...]}.
Times are CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

CONNECT_TIMEOUT_S = 0.1
"""Short, so that the outage is measured and not the client's own SYN retransmission of a second."""
ANSWER_TIMEOUT_S = 0.5
PAUSE_S = 0.01
"""Between two rows of one client: a steady load, not a contest."""
GAP_MIN_S = 0.02
"""Shorter silences are the four clients' own rhythm."""


class Ledger:
    """What the service acknowledged, and when it did not."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.total = 0
        self.node = ""
        self.last_good = time.monotonic()
        self.gaps: list[list[float]] = []

    def acknowledged(self, client: str, number: int, node: str) -> None:
        now = time.monotonic()
        if now - self.last_good > GAP_MIN_S and self.total:
            self.gaps.append([self.last_good, now])
        self.last_good = now
        self.rows.setdefault(client, []).append(number)
        self.total += 1
        self.node = node


async def write_rows(name: str, address: str, port: int, ledger: Ledger) -> None:
    """One client: the same number again until it is acknowledged, then the next."""
    number = 0
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while True:
        try:
            if connection is None:
                dial = asyncio.open_connection(address, port)
                connection = await asyncio.wait_for(dial, CONNECT_TIMEOUT_S)
            node = await asyncio.wait_for(
                post(*connection, f"/rows/{name}/{number}", address), ANSWER_TIMEOUT_S
            )
            ledger.acknowledged(name, number, node)
            number += 1
            await asyncio.sleep(PAUSE_S)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            if connection is not None:
                connection[1].transport.abort()
                connection = None
            await asyncio.sleep(PAUSE_S)


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, host: str) -> str:
    """One POST; the node that answered 200. ValueError for any other answer."""
    writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = next(
        int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length")
    )
    body = await reader.readexactly(length)
    if " 200 " not in head.split("\r\n")[0]:
        raise ValueError(head)
    return str(json.loads(body)["node"])


async def report(ledger: Ledger) -> None:
    """Say how far it is, ten times a second: a person watches."""
    told = 0
    while True:
        await asyncio.sleep(0.1)
        new, told = ledger.gaps[told:], len(ledger.gaps)
        line = {"at": time.monotonic(), "acknowledged": ledger.total, "node": ledger.node, "gaps": new}
        print(json.dumps(line), flush=True)


async def run(address: str, port: int, count: int) -> None:
    """Write until standard input ends."""
    ledger = Ledger()
    crew = [asyncio.create_task(write_rows(f"client{one}", address, port, ledger)) for one in range(count)]
    crew.append(asyncio.create_task(report(ledger)))
    await asyncio.to_thread(sys.stdin.read)
    for task in crew:
        task.cancel()
    print(json.dumps({"done": True, "rows": ledger.rows, "gaps": ledger.gaps}), flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
