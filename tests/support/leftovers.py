"""What a session of tests left: processes, mounts, loop devices, namespaces, control groups."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "HAFARM_TEST_SESSION"
"""In the environment of everything that a session starts; ours is what carries our process id."""
PATIENCE_S = 6.0
"""The kernel takes namespaces, mounts and loop devices apart in the background."""
_roots: list[Path] = []
_shared_before: set[str] = set()


def remember(root: Path) -> Path:
    """Whatever refers to this directory at the end of the session was left by it."""
    _roots.append(root)
    return root


def mark() -> None:
    """Call at the session's beginning: what it starts from now on can be told from other people's."""
    os.environ[MARK] = str(os.getpid())
    _shared_before.update(_segments())


def left() -> list[str]:
    """What of this session is still there and does not go away, each by its kind and name."""
    end = time.monotonic() + PATIENCE_S
    while True:
        found = [
            *processes(),
            *mounts(),
            *loop_devices(),
            *namespaces(),
            *control_groups(),
            *shared_memory(),
        ]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def _ours(text: str) -> bool:
    return any(str(root) in text for root in _roots)


def processes() -> Iterator[str]:
    """By the mark, by a directory of ours in the command line, or because we are its parent."""
    wanted = f"{MARK}={os.getpid()}".encode()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        if int(name) == os.getpid():
            continue
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            marked = wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended between the list and the look
        if state not in "ZX" and (marked or _ours(words) or int(parent) == os.getpid()):
            yield f"process {name} ({words.strip()[:120]})"


def mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if _ours(line):
            yield f"mount {line.split()[4]}"


def loop_devices() -> Iterator[str]:
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = path.read_text().strip()
        except OSError:
            continue
        if _ours(file):
            yield f"loop device {path.parts[3]} of {file}"


def namespaces() -> Iterator[str]:
    """Networks carry our process id behind `hf` (demo.cluster, tests.support.netns)."""
    folder = Path("/var/run/netns")
    for path in folder.iterdir() if folder.is_dir() else ():
        if _is_tagged(path.name):
            yield f"network namespace {path.name}"


def control_groups() -> Iterator[str]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind in ("cgroup", "cgroup2"):
            for path in Path(where).glob("hf*"):
                if _is_tagged(path.name):
                    yield f"control group {path}"
            # Of modules whose names our tests end with their process id.
            for path in Path(where).glob(f"hafarm/*-{os.getpid()}"):
                yield f"control group {path}"


def shared_memory() -> Iterator[str]:
    """What a killed PostgreSQL leaves where its machine has no memory of its own."""
    for name in sorted(_segments() - _shared_before):
        yield f"shared memory {name}"


def _segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("PostgreSQL.*")}


def _is_tagged(name: str) -> bool:
    digits = str(os.getpid() % 100000)  # as demo.cluster shortens it
    return any(name.startswith(f"hf{number}{end}") for number in (digits, os.getpid()) for end in "-x")
