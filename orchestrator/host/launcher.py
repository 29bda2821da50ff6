"""Starting processes through a small helper: to fork a large agent takes longer than a take-over may.

What a take-over will start is born before the role is won, and then has only to become its program.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from orchestrator.host.launch import MESSAGE_BYTES_MAX

ANSWER_TIMEOUT_S: Final = 2.0
"""It takes a millisecond; a helper that is stopped or starved is replaced, as is a child that cannot exec."""
PROGRAM: Final = str(Path(__file__).with_name("launch.py"))


class CannotLaunch(Exception):
    """The helper is not there, or cannot do this one; start the process without it."""


class Waiting:
    """A child that waits for the word to become its program. Without it, it ends with this process."""

    def __init__(self, pid: int, word: int, report: int) -> None:
        self.pid = pid
        self._word = word
        self._report = report

    def run(self) -> None:
        """It becomes its program now. OSError: it cannot, and ends; CannotLaunch: it had ended before."""
        answered = select.poll()
        answered.register(self._report, select.POLLIN)
        said = answered.poll(ANSWER_TIMEOUT_S * 1000)
        number = _reported(self._report) if said else errno.ETIMEDOUT
        if number:
            self.dismiss()
            raise OSError(number, os.strerror(number))
        try:
            os.write(self._word, b"now\n")
        except BrokenPipeError as fault:
            self.dismiss()
            raise CannotLaunch("somebody has ended what waited") from fault
        _close((self._word, self._report))

    def dismiss(self) -> None:
        """It is not needed: it is killed, and the caller's to wait for."""
        _close((self._word, self._report))
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _reported(report: int) -> int:
    said = os.read(report, 4)
    return int(struct.unpack("<i", said)[0]) if said else 0


def _crossed_pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """The child's ends and ours, of a pipe to it and of one from it."""
    (there, word), (report, back) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    return (there, back), (word, report)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


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
            # Isolated and without site-packages: five modules of the standard library are all it needs.
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
    ) -> Waiting:
        """The new process, a child of ours. CannotLaunch: try without us; OSError: it may have been born.

        `into`: the control group's directory to be born in, or -1; `enter`: a file to write 0 to instead.
        """
        if self._socket is None:
            raise CannotLaunch
        uid, gid, groups = identity
        request = {"argv": list(argv), "env": dict(env), "uid": uid, "gid": gid, "groups": list(groups)}
        message = json.dumps({**request, "into": into >= 0, "enter": enter}).encode()
        if len(message) > MESSAGE_BYTES_MAX:
            raise CannotLaunch
        theirs, ours = _crossed_pipes()
        try:
            given = [output, *theirs]
            answer = self._ask(message, [*given, into] if into >= 0 else given)
            if not answer["pid"]:
                raise CannotLaunch(os.strerror(answer["errno"]))
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        return Waiting(answer["pid"], *ours)

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
