"""One request over a Unix socket and its answer: what the standard library's client costs 30 ms to import."""

from __future__ import annotations

import json
import socket
from typing import Any, Final

HEAD_BYTES_MAX: Final = 64 << 10  # status and headers; the agent's are some hundred bytes
ANSWER_BYTES_MAX: Final = 64 << 20


def ask(path: str, method: str, target: str, body: Any, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of the answer; OSError when nobody answers there, or not in HTTP.

    HTTP/1.0, so that the answer comes in one piece and its end is that of the connection. Each wait for the
    other side is bounded by `timeout_s`.
    """
    if not target.isascii() or any(letter <= " " for letter in target):
        raise OSError(f"{target!r} is nothing that can be asked for")
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {target} HTTP/1.0\r\nHost: agent\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(path)
        connection.sendall(head.encode("ascii") + b"\r\n" + content)
        return _understood(_everything(connection))


def _everything(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    length = 0
    while data := connection.recv(1 << 16):
        parts.append(data)
        length += len(data)
        if length > HEAD_BYTES_MAX + ANSWER_BYTES_MAX:
            raise OSError(f"an answer of more than {ANSWER_BYTES_MAX >> 20} MiB")
    return b"".join(parts)


def _understood(answer: bytes) -> tuple[int, bytes]:
    head, end, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    words = status.split(None, 2)
    if not end or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise OSError("the answer ended early" if answer else "the connection was closed without an answer")
    for field in fields:
        name, _, value = field.partition(b":")
        if name.lower() == b"content-length" and value.strip() != b"%d" % len(body):
            raise OSError(f"the answer has {len(body)} bytes and announced {value.strip().decode('latin-1')}")
    return int(words[1]), body
