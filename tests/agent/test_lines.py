"""One of our processes answers, says no, says nothing, or goes away: the agent learns which."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.lines import Lines, Refused
from orchestrator.host.lines import LineBuffer, encode
from orchestrator.model.errors import ProcessUnreachable

Reply = Callable[[dict[str, Any]], bytes]


def asked(work: Path, reply: Reply, timeout_s: float = 5.0) -> Any:
    """What one request to a process that replies so comes to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = LineBuffer()
        while data := await reader.read(65536):
            for message in buffer.receive_data(data):
                writer.write(reply(dict(message)))
        writer.close()

    async def story() -> Any:
        server = await asyncio.start_unix_server(serve, work / "socket")
        lines = Lines(str(work / "socket"), lambda _: None, lambda: None)
        await lines.open()
        try:
            return await lines.ask("status", timeout_s)
        finally:
            await lines.close()
            server.close()

    return asyncio.run(story())


def test_an_answer_is_found_among_events(tmp_path: Path) -> None:
    def reply(message: dict[str, Any]) -> bytes:
        return encode({"event": "paused", "seconds": 1.0}) + encode({"id": message["id"], "ok": {"a": 1}})

    assert asked(tmp_path, reply) == {"a": 1}


def test_a_refusal_carries_its_code_and_its_words(tmp_path: Path) -> None:
    def reply(message: dict[str, Any]) -> bytes:
        return encode({"id": message["id"], "error": {"code": "HF4001", "text": "the disk failed"}})

    with pytest.raises(Refused, match="the disk failed") as caught:
        asked(tmp_path, reply)
    assert caught.value.refusal == "HF4001"


@pytest.mark.parametrize("noise", [b"", b"nonsense\n", b"\xff\xfe\n"])
def test_silence_and_nonsense_are_a_process_that_does_not_answer(tmp_path: Path, noise: bytes) -> None:
    with pytest.raises(ProcessUnreachable):
        asked(tmp_path, lambda _: noise, timeout_s=0.2)
