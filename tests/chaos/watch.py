"""What is seen from outside, all the time: where the application lives, and who answers the address."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.host import launch, launcher

LOOK_S = 0.02
"""Between two looks at every machine's processes."""


@dataclass
class Spell:
    """From when to when something was so; `end` is the last look that saw it."""

    begin: float
    end: float
    nodes: tuple[str, ...]

    @property
    def length_s(self) -> float:
        return self.end - self.begin


class Applications:
    """Where the application has processes: a look at each machine's control group every 20 ms."""

    def __init__(self, lives: Mapping[str, Callable[[], bool]]) -> None:
        self._lives = lives
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.looks = 0
        self.overlaps: list[Spell] = []
        """Every time in which more than one node had it."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def _look(self) -> None:
        open_spell: Spell | None = None
        while not self._over.wait(LOOK_S):
            now = time.monotonic()
            nodes = tuple(name for name, lives in self._lives.items() if lives())
            self.looks += 1
            if len(nodes) < 2:
                open_spell = None
            elif open_spell is None:
                open_spell = Spell(now, now, nodes)
                self.overlaps.append(open_spell)
            else:
                open_spell.end = now


def group_lives(folder: Path) -> bool:
    """Whether a control group has a process of the application.

    One that was born for a start that may never come has not become its program yet.
    """
    try:
        pids = (folder / "cgroup.procs").read_text().split()
    except OSError:
        return False
    return any(not _waits(pid) for pid in pids)


def _waits(pid: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it has just ended: it is gone at the next look
    # No words at all: it is becoming another program, or is a zombie; the next look tells.
    return words == [b""] or launcher.PROGRAM.encode() in words or launch.WAIT.encode() in words


@dataclass
class Answers:
    """Follows `answers.py`: owners of the address in turn, and every question with two answers."""

    process: subprocess.Popen[str]
    owners: list[tuple[float, str]] = field(default_factory=list)
    doubles: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if "owner" in said:
                self.owners.append((said["at"], said["owner"]))
            else:
                self.doubles.append(said)

    @property
    def failovers(self) -> int:
        """How often the address went to another machine."""
        names = [name for _, name in self.owners]
        return sum(1 for before, after in itertools.pairwise(names) if before != after)

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def finish(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self._thread.join(timeout=10)


class Clients:
    """Follows `clients.py`: what they were told, and their silences."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.next: dict[str, int] = {}
        self.gaps: list[tuple[float, float]] = []
        self.idle = False
        self.done = False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            self.gaps += [(begin, end) for begin, end in said["gaps"]]
            self.next = said["next"]
            self.idle = said["idle"]
            self.done = said.get("done", False)

    @property
    def acknowledged(self) -> int:
        return sum(self.next.values())

    def longest_gap_s(self, since: float) -> float:
        """The longest silence that ended after `since`."""
        return max((end - max(begin, since) for begin, end in self.gaps if end > since), default=0.0)

    def tell(self, word: str) -> None:
        """`pause` or `go`."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """End them; `next` is complete then."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        self._thread.join(timeout=30)
        self._process.wait(timeout=30)
        assert self.done, "the clients did not report to their end"
