"""The launcher's own program: starts processes for the agent; quickly, for it is small and has one thread.

    python -I -S launch.py SOCKET

SOCKET is the number of an inherited socket. A request is one message: JSON {argv, env, groups, uid, gid,
into, enter} with the descriptors of the output, of two pipes and, where `into`, of the control group's
directory. The answer is JSON {pid, errno}: a process that waits for a line in the first pipe, which it ends
without, to become the program. It writes the errno of what fails before into the second, and closes that once
it waits. Ends with whoever holds the socket's other end.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import warnings  # noqa: F401 - execvpe wants it, and a child between clone and exec must import nothing
from typing import Any

MESSAGE_BYTES_MAX = 128 << 10  # below the kernel's default buffer; a larger request is carried out elsewhere
CLONE_PARENT = 0x8000
CLONE_INTO_CGROUP = 0x200000000
WORD_FD = 3  # a shell redirects no descriptor of two digits
WAIT = f'read -r word <&{WORD_FD} && exec "$@" {WORD_FD}<&-'
"""Waits in a shell, which becomes another program in 0.4 ms where a copy of this interpreter takes 1.8."""
SYS_CLONE3 = 435  # the same number on every architecture
CLONE_ARGS = struct.Struct("<11Q")


class _Libc:
    """`clone3`, with the interpreter's lock held: the child goes on as the only thread of a copy."""

    def __init__(self) -> None:
        self._lib = ctypes.PyDLL(None, use_errno=True)
        self._lib.syscall.restype = ctypes.c_long

    def clone(self, into: int) -> int:
        """0 in the child. Its parent is our parent, who then learns of its end as of any child's.

        Born in its control group: moving there afterwards waits 5 to 15 ms for all processors.
        """
        flags, directory = CLONE_PARENT, 0
        if into >= 0:
            flags, directory = flags | CLONE_INTO_CGROUP, into
        arguments = CLONE_ARGS.pack(flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, directory)
        buffer = ctypes.create_string_buffer(arguments, CLONE_ARGS.size)
        pid: int = self._lib.syscall(SYS_CLONE3, buffer, CLONE_ARGS.size)
        if pid < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return pid


def main() -> None:
    """Serve until the other end is closed."""
    own = int(sys.argv[1])
    os.set_inheritable(own, False)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and an ignored signal outlives exec
    peer = socket.socket(fileno=own)
    libc, null = _Libc(), os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    while True:
        message, fds, _, _ = socket.recv_fds(peer, MESSAGE_BYTES_MAX, 4)
        for descriptor in fds:
            os.set_inheritable(descriptor, False)  # MSG_CMSG_CLOEXEC would be ignored before Python 3.12
        if not message:
            return
        try:
            answer = _launch(libc, json.loads(message), (null, own), *fds)
        finally:
            for descriptor in fds:
                os.close(descriptor)
        peer.send(json.dumps(answer).encode())


def _launch(
    libc: _Libc,
    request: dict[str, Any],
    ours: tuple[int, int],
    output: int,
    word: int,
    report: int,
    directory: int = -1,
) -> dict[str, int]:
    """Clone; the child goes its own way."""
    null, own = ours
    try:
        pid = libc.clone(directory if request["into"] else -1)
    except OSError as fault:
        return {"pid": 0, "errno": fault.errno or 0}
    if pid == 0:
        os.close(own)  # it may wait for long, and an agent must see that its helper is gone
        _become(request, null, output, word, report)
    return {"pid": pid, "errno": 0}


def _become(request: dict[str, Any], null: int, output: int, word: int, report: int) -> None:
    """In the child: take on what was asked for, wait for the word, then the program; never returns."""
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, 2 * WORD_FD)  # it must not be in the word's place
    try:
        if request["enter"]:
            group = os.open(request["enter"], os.O_WRONLY)
            os.write(group, b"0")
            os.close(group)
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # what we start is ordinary, whatever the agent is
        os.setsid()
        os.chdir("/")
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if request["uid"] != os.geteuid():
            os.setgroups(request["groups"])
            os.setgid(request["gid"])
            os.setuid(request["uid"])
        _check(request["argv"][0], request["env"])
        if word == WORD_FD:
            os.set_inheritable(word, True)
        else:
            os.dup2(word, WORD_FD)
        os.execve("/bin/sh", ["sh", "-c", WAIT, "sh", *request["argv"]], request["env"])
    except OSError as fault:
        os.write(report, struct.pack("<i", fault.errno or 1))
    finally:
        os._exit(127)


def _check(program: str, env: dict[str, str]) -> None:
    """OSError: no such program that this user may run; a shell would say so too late."""
    folders = [""] if "/" in program else env.get("PATH", os.defpath).split(":")
    found = [path for folder in folders if os.path.isfile(path := os.path.join(folder, program))]
    if not found:
        raise OSError(errno.EACCES if os.path.isdir(program) else errno.ENOENT, "")
    if not any(os.access(path, os.X_OK) for path in found):
        raise OSError(errno.EACCES, "")


if __name__ == "__main__":
    main()
