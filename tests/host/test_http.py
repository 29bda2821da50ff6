"""One request over a Unix socket, against peers that answer well, badly, or not at all."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.host import http

Answering = Callable[[bytes], None]


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[tuple[str, list[bytes], Answering]]:
    """A socket's path, what was asked there, and how to give the next answer."""
    path = str(tmp_path / "agent.sock")
    asked: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threads: list[threading.Thread] = []

    def answer(reply: bytes) -> None:
        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                asked.append(peer.recv(65536))
                peer.sendall(reply)

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()

    yield path, asked, answer
    for thread in threads:
        thread.join(10)
    listener.close()


def test_a_request_with_a_body_and_its_answer(answering: tuple[str, list[bytes], Answering]) -> None:
    path, asked, answer = answering
    answer(b'HTTP/1.0 202 Accepted\r\ncontent-length: 8\r\n\r\n{"op":1}')
    assert http.ask(path, "POST", "/api/v1/x", {"action": "stop"}, 10) == (202, b'{"op":1}')
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/v1/x HTTP/1.0\r\n")
    assert b"Content-Length: 18" in head
    assert body == b'{"action": "stop"}'


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.0 200",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.0 fine\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: two\r\n\r\n{}",
    ],
)
def test_what_is_no_whole_answer_is_an_error(
    answering: tuple[str, list[bytes], Answering], reply: bytes
) -> None:
    path, _, answer = answering
    answer(reply)
    with pytest.raises(OSError):
        http.ask(path, "GET", "/", None, 10)


@pytest.mark.parametrize("target", ["/api/v1/modules/a b/actions", "/x\r\nHost: other", "/modules/\u00e9"])
def test_what_is_no_path_is_never_sent(tmp_path: Path, target: str) -> None:
    with pytest.raises(OSError, match="nothing that can be asked for"):
        http.ask(str(tmp_path / "nobody"), "GET", target, None, 10)


def test_the_commands_start_without_the_heavy_half_of_the_library() -> None:
    heavy = "http.client", "email", "ssl", "asyncio", "urllib.request", "yaml", "rich", "aiohttp", "pydantic"
    code = (
        "import sys, orchestrator.cli.main, orchestrator.cli.status, orchestrator.cli.actions\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
