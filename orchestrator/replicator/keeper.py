"""Holds what must outlive a replicator: devices, directories, the gate's life and its facts. Nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

from orchestrator.host import disk
from orchestrator.host.fuse import mount
from orchestrator.host.realtime import become_prompt
from orchestrator.model.config import UNFIT_FILE_SYSTEMS
from orchestrator.model.errors import HafarmError, Unsupported
from orchestrator.replicator import failed, sentinel, watch
from orchestrator.replicator.settings import Settings, load

ELSEWHERE = "replicate a directory on a local ext4 or xfs"
REPAIR = "repair the disk, and mount it anew while the module is stopped here, or boot"


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
        run = Path(settings.socket).parent
        held = [_hold(volume.path, volume.journal, run) for volume in settings.volumes]
        sentinel.check_known(settings, [root for _, root, _ in held])
        failed.forget(run)
    except (HafarmError, OSError) as fault:
        code = f"{fault.code}: " if isinstance(fault, HafarmError) else ""
        print(f"{code}{fault}", file=sys.stderr)
        return 1
    if not os.fork():
        _stay(path, held, lock)
    return 0


def _stay(path: str, held: list[list[int]], lock: int) -> NoReturn:
    os.setsid()  # no signal to the agent's group or session reaches us
    become_prompt()  # applications wait for us: we are their file system
    os.chdir("/")
    for stream in (0, 1, 2):  # the agent's pipes must end when the agent does
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    os.execv(sys.executable, _watching(path, held, lock))  # of this program nothing has to stay


def _watching(path: str, held: list[list[int]], lock: int) -> list[str]:
    """The command of the program that watches, which inherits everything that was opened."""
    facts = os.memfd_create("gate")
    given = {"volumes": held, "facts": facts, "life": secrets.token_hex(16), "keeper": os.getpid()}
    for fd in (lock, facts, *(fd for volume in held for fd in volume)):
        os.set_inheritable(fd, True)
    words = ["orchestrator.replicator.keeper", path, json.dumps(given), str(lock)]
    return [sys.executable, "-I", "-S", watch.__file__, *words]


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


def _hold(path: str, journal: str, run: Path) -> list[int]:
    """Uncover what a dead keeper left covered, then open device and directory."""
    mount.uncover(path)
    Path(journal).unlink(missing_ok=True)  # it spoke of a connection that has ended
    if inside := mount.mounts_inside(path):
        raise Unsupported(
            what=path, why=f"{inside[0]} is mounted inside it", fix="unmount it or replicate elsewhere"
        )
    return [
        mount.open_device(),
        *_open_fit(path, run),
    ]


def _open_fit(path: str, run: Path) -> tuple[int, int]:
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
    if why := failed.known(run, fds[0]):
        raise DirectoryUnfit(
            path, f"its disk failed ({why}): what memory holds of it may not be on it", REPAIR
        )
    return fds


if __name__ == "__main__":
    sys.exit(main())
