"""One JSON object a line: how our own processes on one node talk over Unix sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.model.errors import CorruptState

LINE_BYTES_MAX = 4 << 20  # the largest honest line is a list of differing files, cut to 10,000 names


def encode(message: Mapping[str, Any]) -> bytes:
    """One message as it travels."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


class LineBuffer:
    """Bytes in, messages out, whatever the cuts between them."""

    def __init__(self) -> None:
        self._held = b""

    def receive_data(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that these bytes complete; CorruptState when they are not ours."""
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > LINE_BYTES_MAX:
            raise CorruptState(what="a message", why=f"longer than {LINE_BYTES_MAX} bytes")
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError) as fault:
                raise CorruptState(what="a message", why=str(fault)) from fault
            if not isinstance(message, dict):
                raise CorruptState(what="a message", why="not an object")
            messages.append(message)
        return messages
