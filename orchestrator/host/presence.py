"""Says that an agent runs in this network, for as long as it does."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

SIGN: Final = "hafarm-agent:"


def show(where: str) -> socket.socket:
    """Present until the socket is closed, or its process dead.

    A socket with an abstract name belongs to the network, as packet rules and addresses do, whatever file
    systems its owner sees; the kernel forgets it at once.
    """
    sign = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # Cut where a name may not be longer: it is for people.
        sign.bind(f"\0{SIGN}{where}".encode(errors="surrogateescape")[:100])
    except OSError:
        sign.close()
        raise
    return sign


def present() -> list[str]:
    """The directories with which agents run in this network."""
    text = Path("/proc/net/unix").read_text(errors="replace")
    names = (line.partition(f"@{SIGN}")[2] for line in text.splitlines())
    return sorted({name for name in names if name})
