"""Run one script or command without a shell: known environment, own session, one log, a limit in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import select
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.host.cgroup import Group
from orchestrator.host.launcher import CannotLaunch, Launcher, Waiting
from orchestrator.model.errors import Unsupported

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOGS_KEPT = 20
"""Runs kept per name: enough to see a week of failed starts, small enough to forget about."""
LAUNCHER = Launcher()
"""The agent starts it; without it processes are started all the same, more slowly."""
DISMISS_S = 0.5
"""The agent's loop stands still meanwhile; what has not ended by then is reaped with the next start."""
TAIL_BYTES = 600
"""What of a log goes into an event: the last lines, to be read on one screen."""


def open_log(directory: Path, name: str) -> Path:
    """A new log for one run. `drop_old_logs` comes when nobody waits any more."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    now = time.time()
    # With the millisecond: two runs of one second are two runs.
    when = time.strftime("%Y%m%dT%H%M%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
    path = directory / f"{name}-{when}.log"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    return path


def drop_old_logs(directory: Path, name: str) -> None:
    """Remove the oldest beyond LOGS_KEPT."""
    stamp = "[0-9]" * 8 + "T" + "[0-9]" * 6 + "." + "[0-9]" * 3
    for old in sorted(directory.glob(f"{name}-{stamp}.log"))[:-LOGS_KEPT]:
        old.unlink(missing_ok=True)


def tail(path: Path) -> str:
    """The last lines of a log on one line, for an event; empty where there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return " | ".join(line for line in lines[-3:] if line.strip())


def trusted(path: Path) -> Path:
    """The real path of a script that only root (or we ourselves) can have written; else Unsupported."""
    real = Path(os.path.realpath(path))
    for part in (real, *real.parents):
        try:
            found = part.stat()
        except OSError as fault:
            raise Unsupported(
                f"script {path}", f"{part}: {fault.strerror}", "create it, mode 0755"
            ) from fault
        # A sticky directory (/tmp) lets nobody but the owner replace an entry.
        open_to_others = found.st_mode & 0o022 and not (
            stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        )
        if found.st_uid not in (0, os.geteuid()) or open_to_others:
            fix = f"chown root {part} && chmod go-w {part}: it runs with root's rights"
            raise Unsupported(f"script {path}", f"{part} can be changed by others than root", fix)
    if not os.access(real, os.X_OK):
        raise Unsupported(f"script {path}", "it is not executable", f"chmod 0755 {path}")
    return real


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a process runs as; resolved before the fork, because looking up takes locks."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    name: str

    @classmethod
    def of(cls, user: str) -> Identity:
        try:
            entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
        except KeyError as fault:
            raise Unsupported(
                f"user {user}", "no such user on this node", f"create it: useradd {user}"
            ) from fault
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return cls(entry.pw_uid, entry.pw_gid, groups, entry.pw_dir, entry.pw_name)

    def take_on(self) -> None:
        """In the child: drop root for good."""
        if os.geteuid() == 0 and self.uid != 0:
            os.setgroups(self.groups)
            os.setgid(self.gid)
            os.setuid(self.uid)


def environment(identity: Identity, group: Group, more: Mapping[str, str]) -> dict[str, str]:
    """Nothing is inherited from the agent: what runs at boot and by hand is the same."""
    known = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": identity.home, "USER": identity.name}
    return {**known, **more, **group.mark()}


def prepare(
    argv: Sequence[str], group: Group, output: int, user: str = "", more: Mapping[str, str] | None = None
) -> Waiting:
    """A process inside `group` that waits to become `argv`, both outputs to the descriptor `output`.

    CannotLaunch: there is no helper that could make it. Unsupported, OSError: it cannot be.
    """
    assert argv, "nothing to run"
    identity = Identity.of(user)
    variables = environment(identity, group, more or {})
    group.create()
    _reap()
    who = (identity.uid, identity.gid, identity.groups)
    into = os.open(group.born_in, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if group.born_in else -1
    try:
        return LAUNCHER.launch(argv, variables, output, who, into, group.entered_by)
    finally:
        if into >= 0:
            os.close(into)


def begin(waiting: Waiting, argv: Sequence[str]) -> Process:
    """It becomes `argv`, for which it was prepared.

    Unsupported: that cannot be run. CannotLaunch: somebody has ended it, and it has run nothing.
    """
    try:
        waiting.run()
    except (OSError, CannotLaunch) as fault:
        _FORGOTTEN.add(waiting.pid)
        if isinstance(fault, CannotLaunch):
            raise
        raise _cannot_run(argv, fault) from fault
    return Process(waiting.pid, is_child=True)


def dismiss(waiting: Waiting) -> None:
    """It is not needed any more."""
    waiting.dismiss()
    _FORGOTTEN.add(waiting.pid)
    # Killed in a pipe it is gone at once; only a frozen control group keeps it.
    ended = select.poll()
    descriptor = os.pidfd_open(waiting.pid)
    try:
        ended.register(descriptor, select.POLLIN)
        ended.poll(DISMISS_S * 1000)
    finally:
        os.close(descriptor)
    _reap()


def spawn(
    argv: Sequence[str], group: Group, output: int, user: str = "", more: Mapping[str, str] | None = None
) -> Process:
    """Exec `argv` inside `group`, both outputs to the descriptor `output`; Unsupported when it cannot be."""
    try:
        try:
            return begin(prepare(argv, group, output, user, more), argv)
        except CannotLaunch:
            return _fork(argv, group, output, user, more or {})
    except (OSError, subprocess.SubprocessError) as fault:
        raise _cannot_run(argv, fault) from fault


def _cannot_run(argv: Sequence[str], fault: Exception) -> Unsupported:
    why = getattr(fault, "strerror", None) or str(fault)
    return Unsupported(f"command {argv[0]}", f"it cannot be run: {why}", "check path and mode")


def _fork(argv: Sequence[str], group: Group, output: int, user: str, more: Mapping[str, str]) -> Process:
    """A copy of this process that becomes the other one: slowly, where this one is large."""
    identity = Identity.of(user)

    def enter() -> None:
        # The group first, while we are still root; only system calls here, we are between fork and exec.
        group.enter()
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # what we start is ordinary, whatever the agent is
        identity.take_on()

    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        env=environment(identity, group, more),
        close_fds=True,
        start_new_session=True,
        preexec_fn=enter,
    )
    child.returncode = 0  # it is waited for by its pid: the Popen must not do that too
    return Process(child.pid, is_child=True)


def spawn_logged(
    argv: Sequence[str], group: Group, log: Path, user: str = "", more: Mapping[str, str] | None = None
) -> Process:
    """`spawn` with the log file as output."""
    with opened(log) as output:
        return spawn(argv, group, output, user, more)


@contextlib.contextmanager
def opened(log: Path) -> Iterator[int]:
    """A log to be appended to."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        yield output
    finally:
        os.close(output)


class Process:
    """One process, a child of ours or one found again; its end is seen at once through a pidfd."""

    def __init__(self, pid: int, is_child: bool = False) -> None:
        """ProcessLookupError when there is no such process."""
        self.pid = pid
        self._is_child = is_child
        self._status: int | None = None
        self._pidfd = os.pidfd_open(pid)

    async def wait(self) -> int | None:
        """The exit status, negative for a signal; None where it was not our child."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        # A descriptor of its own, because two may wait for the same process.
        watched = os.dup(self._pidfd)
        loop.add_reader(watched, _settle, ended)
        try:
            await ended
        finally:
            loop.remove_reader(watched)
            os.close(watched)
        if self._is_child and self._status is None:
            self._status = _status_of(self.pid)
        return self._status

    async def wait_for(self, limit_s: float) -> tuple[bool, int | None]:
        """Whether it ended within the limit, and its exit status."""
        try:
            return True, await asyncio.wait_for(self.wait(), limit_s)
        except TimeoutError:
            return False, None

    def kill_session(self) -> None:
        """SIGKILL to the process group that it leads."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Forget the process; it goes on."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
            if self._is_child and self._status is None:
                _FORGOTTEN.add(self.pid)


def _status_of(ended: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1])


_FORGOTTEN: set[int] = set()
"""Children that nobody waits for any more: each is reaped when the next process is started."""


def _reap() -> None:
    for pid in list(_FORGOTTEN):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                continue
        _FORGOTTEN.discard(pid)


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def started_at(pid: int) -> int | None:
    """The kernel's start time of a process in ticks since boot: with the pid, unique within one boot."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Another one after every boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def ending(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "ended (its status is unknown: it was found running when the agent started)"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def ours(room: str, settings: str) -> list[int]:
    """Processes of this room (`orchestrator.pulse`) that were started with this settings file."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
                if settings.encode() in words and any(word.startswith(room.encode()) for word in words):
                    found.append(int(name))
    return found
