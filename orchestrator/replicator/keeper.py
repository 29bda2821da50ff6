"""Holds what must outlive a replicator: devices, directories, the gate's life and its facts. Nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from orchestrator.host import disk
from orchestrator.host.fuse import mount
from orchestrator.host.realtime import become_prompt
from orchestrator.model.config import UNFIT_FILE_SYSTEMS
from orchestrator.model.errors import HafarmError, Unsupported
from orchestrator.replicator.settings import Settings, load

STOPPED, GAVE_UP = 0, 3
"""How a replicator ends when it is not to be started again: asked to, or it cannot take its mount back."""
_RESTART_S = (
    0.0,
    0.1,
    0.5,
    2.0,
)  # the first at once: it is felt; the last for ever: a replicator that cannot run
_LONG_LIFE_S = 10.0  # a replicator that lived so long is restarted at once again


ELSEWHERE = "replicate a directory on a local ext4 or xfs"


@dataclass(eq=False)
class DirectoryUnfit(HafarmError):
    """A directory that a mirror could not keep its promises on; nothing was changed."""

    code: ClassVar[str] = "HF4005"
    path: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path} cannot be replicated: {self.why}; {self.fix}"


def main() -> int:
    """`python -m orchestrator.replicator.keeper SETTINGS.json`; returns when it has left its parent."""
    path = sys.argv[1]
    try:
        settings = load(path)
        lock = _only_one(settings)
        held = [_hold(volume.path, volume.journal) for volume in settings.volumes]
    except (HafarmError, OSError) as fault:
        code = f"{fault.code}: " if isinstance(fault, HafarmError) else ""
        print(f"{code}{fault}", file=sys.stderr)
        return 1
    if os.fork():
        return 0
    os.setsid()  # no signal to the agent's group or session reaches us
    become_prompt()  # applications wait for us: we are their file system
    os.chdir("/")
    for stream in (0, 1, 2):  # the agent's pipes must end when the agent does
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    _watch(path, held, lock)
    return 0


def _only_one(settings: Settings) -> int:
    run = Path(settings.socket).parent
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(run / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as fault:
        raise Unsupported(
            what=f"module {settings.module}", why="its keeper already runs", fix="stop it first"
        ) from fault
    return lock


def _hold(path: str, journal: str) -> list[int]:
    """Uncover what a dead keeper left covered, then open device and directory."""
    mount.uncover(path)
    Path(journal).unlink(missing_ok=True)  # it spoke of a connection that has ended
    if inside := mount.mounts_inside(path):
        raise Unsupported(
            what=path, why=f"{inside[0]} is mounted inside it", fix="unmount it or replicate elsewhere"
        )
    return [
        mount.open_device(),
        *_open_fit(path),
    ]


def _open_fit(path: str) -> tuple[int, int]:
    """The directory, once by name and once to read; DirectoryUnfit where no promise could be kept."""
    if os.path.realpath(path) != path:
        raise DirectoryUnfit(path, f"it leads to {os.path.realpath(path)}", "name the real directory")
    try:
        fds = (
            os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC),
            os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
        )
    except OSError as fault:
        why = fault.strerror or str(fault)
        raise DirectoryUnfit(path, why, "make it, or mount the disk that it is on") from fault
    kind = mount.file_system_of(fds[0])
    if kind in UNFIT_FILE_SYSTEMS:
        raise DirectoryUnfit(path, f"it is on {kind}: {UNFIT_FILE_SYSTEMS[kind]}", ELSEWHERE)
    try:
        disk.handle_of(fds[0], b"")
    except OSError as fault:
        raise DirectoryUnfit(path, f"{kind} gives no lasting handle to a file", ELSEWHERE) from fault
    if os.fstatvfs(fds[0]).f_flag & os.ST_RDONLY:
        raise DirectoryUnfit(path, "its file system is mounted read-only", "mount it writable")
    return fds


def _watch(path: str, held: list[list[int]], lock: int) -> None:
    facts = os.memfd_create("gate")
    given = {"volumes": held, "facts": facts, "life": secrets.token_hex(16), "keeper": os.getpid()}
    fds = [facts, *(fd for volume in held for fd in volume)]
    command = [sys.executable, "-m", "orchestrator.replicator.main", path, json.dumps(given)]
    failures = 0
    while True:
        born = time.monotonic()
        code = subprocess.Popen(command, pass_fds=fds).wait()
        if code in (STOPPED, GAVE_UP):
            break
        failures = 1 if time.monotonic() - born > _LONG_LIFE_S else failures + 1
        time.sleep(_RESTART_S[min(failures - 1, len(_RESTART_S) - 1)])
    os.close(lock)


if __name__ == "__main__":
    sys.exit(main())
