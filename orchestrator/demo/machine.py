"""One machine of the demonstration: namespaces of its own for network, mounts, processes, and a disk."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from orchestrator.host.netns import Network

FS_IOC_SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = (2).to_bytes(4, "little")
"""What was not synced is gone, as when the current fails; the journal is replayed at the next mount."""
DISK_BYTES: Final = 512 << 20
START_TIMEOUT_S: Final = 20.0


class Machine:
    """A node that can lose its power and come back with what its disk kept.

    `work` holds all of it: `disk/` (an ext4 image of its own where `image` is true), `run/` and `log/`.
    `binds` are pairs (directory on its disk, where it appears inside).
    """

    def __init__(self, name: str, work: Path, network: Network, image: bool, binds: dict[str, Path]) -> None:
        self.name = name
        self.work = work
        self.disk = work / "disk"
        self.run_dir = work / "run"
        self.log_dir = work / "log"
        self._network = network
        self._image = work / "disk.img" if image else None
        self._binds = binds
        self._holder: subprocess.Popen[str] | None = None
        self._dark = False
        """The disk had its power cut, the processes are next."""
        self._processes: list[subprocess.Popen[str]] = []
        self._cgroup = _cgroup_for(f"{network.prefix}-{name}")
        for folder in (self.disk, self.log_dir):
            folder.mkdir(parents=True, exist_ok=True)
        if self._image is not None and not self._image.exists():
            with self._image.open("wb") as file:
                file.truncate(DISK_BYTES)
            _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(self._image))

    @property
    def up(self) -> bool:
        return self._holder is not None

    @property
    def cgroup(self) -> Path | None:
        """All control groups of this machine are below it; None where there are none."""
        return self._cgroup[1] if self._cgroup is not None else None

    def power_on(self) -> None:
        """Boot: an empty /run, the disk mounted, no process but the first."""
        assert self._holder is None
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir(mode=0o700)
        plan = {
            "hostname": self.name,
            "image": str(self._image) if self._image else "",
            "disk": str(self.disk),
            "binds": [[str(self.disk / source), str(target)] for source, target in self._binds.items()],
        }
        if self._cgroup is not None:
            self._cgroup[1].mkdir(exist_ok=True)
            plan["binds"] = [[str(self._cgroup[1]), str(self._cgroup[0])], *plan["binds"]]
        plan_file = self.work / "plan.json"
        plan_file.write_text(json.dumps(plan))
        self._holder = subprocess.Popen(
            self._network.inside(
                self.name,
                *["unshare", "--mount", "--propagation", "private", "--uts", "--ipc"],
                *["--pid", "--fork", "--kill-child", "--mount-proc"],
                *[sys.executable, "-m", "orchestrator.demo.init", str(plan_file)],
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != "ready":
            assert self._holder.stderr is not None
            why = self._holder.stderr.read()
            self._holder = None
            raise RuntimeError(f"{self.name} does not boot: {why.strip()}")

    def power_off(self) -> None:
        """The current fails: what was not synced is gone, and every process with it.

        May be called again where an interrupt ended it half-way.
        """
        if self._holder is None:
            return
        first = self._first_child()
        if first is not None:
            if self._image is not None and not self._dark:
                self.shut_down_disk(first)
                self._dark = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
        for process in self._processes:
            process.kill()  # an entry whose process was stopped stopped with it, and would never reap it
        for process in (self._holder, *self._processes):
            process.wait()
            for stream in (process.stdout, process.stderr, process.stdin):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        self._processes.clear()
        if self._cgroup is not None:
            _remove_cgroup(self._cgroup[1])
        self._holder = None
        self._dark = False

    def shut_down_disk(self, first: int) -> None:
        """From here on the file system forgets whatever was not synced, and answers EIO."""
        fd = os.open(f"/proc/{first}/root{self.disk}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(fd)

    def first_pid(self) -> int:
        """The machine's first process, as the outside numbers it."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            first = self._first_child()
            if first is not None:
                return first
            time.sleep(0.01)
        raise RuntimeError(f"{self.name} has no first process")

    def _first_child(self) -> int | None:
        assert self._holder is not None
        outer = self._holder.pid
        try:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def inside(self, *words: str) -> list[str]:
        """The command line that runs something on this machine."""
        return ["nsenter", "-t", str(self.first_pid()), "-m", "-n", "-p", "-u", "-i", *words]

    def start(self, *words: str, log: str = "", pipes: bool = False) -> subprocess.Popen[str]:
        """Start a process here; its output goes to a log file, or through pipes."""
        out = None if pipes else (self.log_dir / f"{log or 'process'}.log").open("a")
        process = subprocess.Popen(
            self.inside(*words),
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else out,
            stderr=subprocess.DEVNULL if pipes else out,
            text=True,
            start_new_session=True,
        )
        if out is not None:
            out.close()
        self._processes.append(process)
        return process

    def call(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end."""
        return subprocess.run(self.inside(*words), capture_output=True, text=True, timeout=timeout_s)

    def pids(self, *needles: str) -> list[int]:
        """Processes of this machine whose command line has all of these, as the outside numbers them."""
        if self._holder is None:
            return []
        space = os.readlink(f"/proc/{self.first_pid()}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if os.readlink(entry / "ns" / "pid") == space and all(
                        needle in line for needle in needles
                    ):
                        found.append(int(entry.name))
        return found


def _cgroup_for(name: str) -> tuple[Path, Path] | None:
    """Where control groups are mounted, and a group of this machine's own there; None where neither works."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "cgroup2" and os.access(where, os.W_OK):
            return Path(where), Path(where) / name
    return None


def _remove_cgroup(path: Path) -> None:
    """The killed processes leave it one by one: some are still held by the kernel for a moment."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while path.exists():
        with contextlib.suppress(OSError):
            (path / "cgroup.kill").write_text("1")
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
