"""Starting processes through a small helper: to fork a large agent takes longer than a take-over may."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from orchestrator.host.launch import MESSAGE_BYTES_MAX

ANSWER_TIMEOUT_S: Final = 2.0
"""It takes two milliseconds; a helper that is stopped or starved is replaced."""
PROGRAM: Final = str(Path(__file__).with_name("launch.py"))


class CannotLaunch(Exception):
    """The helper is not there, or cannot do this one; start the process without it."""


class Launcher:
    """One helper process. Where it is not started, CannotLaunch: that costs time and nothing else."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Start the helper; it ends by itself when this process does."""
        assert self._process is None, "started once"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_TIMEOUT_S)
        with theirs:
            # Isolated and without site-packages: four modules of the standard library are all it needs.
            words = [sys.executable, "-I", "-S", PROGRAM, str(theirs.fileno())]
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._socket = ours

    def launch(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        output: int,
        identity: tuple[int, int, Sequence[int]],
        into: int,
        enter: str,
    ) -> int:
        """The new process, a child of ours. OSError: it cannot be run; CannotLaunch: try without us.

        `into`: the control group's directory to be born in, or -1; `enter`: a file to write 0 to instead.
        """
        if self._socket is None:
            raise CannotLaunch
        uid, gid, groups = identity
        request = {"argv": list(argv), "env": dict(env), "uid": uid, "gid": gid, "groups": list(groups)}
        message = json.dumps({**request, "into": into >= 0, "enter": enter}).encode()
        if len(message) > MESSAGE_BYTES_MAX:
            raise CannotLaunch
        answer = self._ask(message, [output, into] if into >= 0 else [output])
        if not answer["child"]:
            raise CannotLaunch(os.strerror(answer["errno"]))
        if answer["errno"]:
            os.waitpid(answer["pid"], 0)
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        return int(answer["pid"])

    def _ask(self, message: bytes, descriptors: list[int]) -> dict[str, int]:
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [message], descriptors)
        except OSError as fault:
            self._replace()
            raise CannotLaunch from fault
        try:
            answer: dict[str, int] = json.loads(self._socket.recv(1024))
        except (OSError, ValueError) as fault:
            # It may have started the process before it died, so another one must not be started beside it:
            # the caller's next attempt clears the control group first.
            self._replace()
            raise OSError(errno.EIO, "the helper that starts processes gave no answer") from fault
        return answer

    def _replace(self) -> None:
        self.close()
        self.start()

    def close(self) -> None:
        """End the helper; what it started goes on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None
