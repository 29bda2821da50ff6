"""A server over TLS that gives one whole answer at once, with whatever bundle it was handed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.host.tls import server_context


class Answering:
    """Where it listens, and how many requests reached it."""

    port = 0
    requests = 0


@asynccontextmanager
async def answering(
    bundle: Path, answer: Any, name: str = "node", status: str = "200 OK"
) -> AsyncIterator[Answering]:
    """Head and body leave in one write, so that a client has all of it before it can look at anything.

    Text is sent as text, everything else as JSON.
    """
    served = Answering()
    kind = "text/plain" if isinstance(answer, str) else "application/json"
    body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                served.requests += 1
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client has seen enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context(str(bundle), name))
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
