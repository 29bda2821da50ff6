"""What it costs to bring a copy up to date: by what changed, and by what exists; rsync beside it."""

from __future__ import annotations

import functools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.demo.machine import Machine
from tests.bench import trees
from tests.bench.many import Many
from tests.bench.rig import UP_S, Served

BIG = "big"
COPY_S = 300.0
"""A full compare of a million files takes seconds; whoever needs longer than this has other troubles."""
SPARE_INODES = 20_000
"""For state, logs and what a file system keeps for itself."""
CHANGED_BYTES = trees.CHANGED * trees.FILE_BYTES
BIG_BYTES = len(trees.TOUCHED) << 20


@dataclass(frozen=True, slots=True)
class Resync:
    """From the handshake until the joiner is equal, on disk."""

    seconds: float
    sent_bytes: int
    """By all of the primary's interfaces: questions, acknowledgements and life signs included."""
    full: bool


class Aside:
    """Two nodes whose directories hold the same trees; one node goes away and comes back."""

    def __init__(self, work: Path, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        names = [*map(name_of, sizes), BIG]
        self._cluster = Many(work, {name: {} for name in names})
        self._served = Served(self._cluster)
        self.names = names
        self._number = 0

    def __enter__(self) -> Aside:
        try:
            self._make()
            self._cluster.up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.down()
        for node in self._cluster.names:
            # Held by nobody any more; absent where it was never mounted.
            subprocess.run(["umount", self._cluster.machines[node].disk], capture_output=True)
        self._cluster.remove()

    def _make(self) -> None:
        """The trees, below the file system and before anything of ours runs: made once, on their own disk.

        The second disk is a copy of the first one: so the trees are equal, and were made in half the time.
        """
        first, second = (self._cluster.machines[node].disk for node in self._cluster.names)
        image, copy = (disk.with_name("disk.img") for disk in (first, second))
        # A new file system makes a million names in seconds; one where as many were removed lately does not.
        inodes = 2 * sum(self.sizes) + SPARE_INODES
        subprocess.run(["truncate", "-s", "32G", image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-N", str(inodes), image], check=True)
        subprocess.run(["mount", "-o", "loop", image, first], check=True)
        for size in self.sizes:
            _trees("make", str(first / "data" / name_of(size)), str(size))
        _trees("big", str(first / "data" / BIG))
        subprocess.run(["umount", first], check=True)
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        for each, disk in ((image, first), (copy, second)):
            subprocess.run(["mount", "-o", "loop", each, disk], check=True)

    # --- the first meeting: all is compared ----------------------------------------------------------------

    def first_meetings(self) -> dict[str, Resync]:
        """Every module starts with files that the other node has too, of unknown history: all is compared."""
        served, first, second = self._served, *self._cluster.names
        for node in self._cluster.names:
            # Nobody pays for a cold cache: what is measured is the comparison, not the disk.
            data = self._cluster.machines[node].disk / "data"
            subprocess.run(["find", data, "-printf", "%s"], check=True, stdout=subprocess.DEVNULL)
        served.story.await_true("both nodes hear each other", self._cluster.all_hear, UP_S)
        found = {}
        for name in self.names:
            self._hafarm(first, "start", name, "--first", first)
            served.story.await_true(f"{name} serves", functools.partial(self._is_alone, name), UP_S)
            with self._followed(name) as copy:
                what = f"{second} takes its files of {name} for a copy"
                served.story.await_true(what, functools.partial(self._adopts, name), UP_S)
                copy.wait()
            found[name] = copy.result()
        served.story.await_true("every module is in sync", self._cluster._all_redundant, UP_S)
        return found

    def _adopts(self, name: str) -> bool:
        second = self._cluster.names[1]
        return self._cluster.hafarm(second, "resync", name, "--adopt", "--node", second).returncode == 0

    # --- away and back -------------------------------------------------------------------------------------

    def away_and_back(self, name: str) -> Resync:
        """What changes while the second node is away is brought to it."""
        served, first, second = self._served, *self._cluster.names
        self._number += 1
        self._cluster.lose(second)
        for each in self.names:
            what = f"{each} goes on alone"
            served.story.await_true(what, functools.partial(self._is_alone, each), UP_S)
        place = str(self._cluster.directory(name))
        if name == BIG:
            words = ["touch", place, str(self._number)]
        else:
            words = ["change", place, name.removeprefix("files"), str(self._number)]
        done = self._cluster.machines[first].call(
            sys.executable, "-m", "tests.bench.trees", *words, timeout_s=120
        )
        if done.returncode != 0:
            raise RuntimeError(f"nothing could be changed: {done.stderr.strip()[-300:]}")
        with self._followed(name) as copy:
            self._cluster.bring_back(second)
            copy.wait()
        served.story.await_true("every module is in sync", self._cluster._all_redundant, UP_S)
        return copy.result()

    def rsync_s(self, size: int) -> float:
        """`rsync -a` from one plain tree to the other, after as many changes; the cluster is over then."""
        self._cluster.down()
        self._number += 1
        source, target = (
            str(self._cluster.machines[node].disk / "data" / name_of(size)) for node in self._cluster.names
        )
        _trees("change", source, str(size), str(self._number))
        begin = time.monotonic()
        subprocess.run(
            ["rsync", "-a", "--delete", "--exclude=/.hafarm", f"{source}/", f"{target}/"], check=True
        )
        return time.monotonic() - begin

    def check_equal(self, name: str) -> None:
        """`hafarm verify` finds nothing, or RuntimeError."""
        self._hafarm(self._cluster.names[0], "verify", name)

    def _hafarm(self, node: str, *words: str) -> None:
        done = self._cluster.hafarm(node, *words)
        if done.returncode != 0:
            raise RuntimeError(f"hafarm {' '.join(words)}: {done.stderr.strip()[-300:]}")

    def _is_alone(self, name: str) -> bool:
        first = self._cluster.names[0]
        status = self._cluster.status(first)
        return "ALONE" in [
            node["role"]
            for module in (status or {"modules": []})["modules"]
            if module["name"] == name
            for node in module["nodes"]
            if node["node"] == first
        ]

    @contextmanager
    def _followed(self, name: str) -> Iterator[Copy]:
        machine = self._cluster.machines[self._cluster.names[0]]
        copy = Copy(machine, machine.run_dir / name / "replicator.sock")
        try:
            yield copy
        finally:
            copy.close()


class Copy:
    """One copy, as the primary's replicator tells of it."""

    def __init__(self, machine: Machine, path: Path) -> None:
        self._network = Path(f"/proc/{machine.first_pid()}/net/dev")
        self._sent = 0
        self._began = self._ended = 0.0
        self._last: dict[str, Any] = {}
        self._over = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            for line in self._socket.makefile("rb"):
                now = time.monotonic()
                message = json.loads(line)
                if message.get("event") == "copy_begins":
                    self._began, self._last, self._sent = now, message, _sent_bytes(self._network)
                elif message.get("event") == "member_ready" and self._began:
                    self._ended, self._sent = now, _sent_bytes(self._network) - self._sent
                    self._over.set()
        except (OSError, ValueError):
            pass  # closed below

    def wait(self) -> None:
        if not self._over.wait(COPY_S):
            raise TimeoutError(f"a copy did not end in {COPY_S:g} s")

    def result(self) -> Resync:
        return Resync(self._ended - self._began, self._sent, bool(self._last.get("full")))

    def close(self) -> None:
        self._socket.close()


def name_of(size: int) -> str:
    return f"files{size}"


def _trees(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "tests.bench.trees", *words], check=True)


def _sent_bytes(network: Path) -> int:
    """By all interfaces but the loopback, as a machine's own kernel counts."""
    columns = [line.split() for line in network.read_text().splitlines()[2:]]
    return sum(int(words[9]) for words in columns if words[0] != "lo:")
