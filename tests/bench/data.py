"""The data path beside the bare directory, the limit and GlusterFS, all on one file system of a real disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.bench import tls
from tests.bench.gluster import SETTINGS, Gluster
from tests.bench.idle import TICKS_S, ticks
from tests.bench.many import Many
from tests.bench.rig import compiled

LIMIT_PORT = 9601
REPLICATOR = "orchestrator.replicator.main"
RUN_S = 300.0
"""GlusterFS unpacks the tree in about a minute; nothing else comes near."""
GOOD = ("ext4", "xfs")
THROUGH, WRITEBACK = "through", "writeback"


class UnfitDisk(Exception):
    """What was asked to be measured on is no disk."""


def refuse_memory(place: Path) -> str:
    """What the place lies on, in words; UnfitDisk unless it is a file system on a block device."""
    words = ["findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", str(place)]
    kind, source = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split(maxsplit=1)
    if kind not in GOOD or not source.startswith("/dev/"):
        raise UnfitDisk(f"{place} is {kind} on {source.strip()}: name a directory on a disk with --at")
    return f"{kind} on {source.strip()}"


class Contenders:
    """Who competes: each runs a workload of one measure and gives its figure, more is better."""

    def __init__(self, work: Path, with_gluster: bool) -> None:
        self._cluster = Many(work, {THROUGH: {"cache": THROUGH}, WRITEBACK: {"cache": WRITEBACK}})
        self._limit = compiled("limit", work.parent)
        disks = [self._cluster.machines[name].disk for name in self._cluster.names]
        bricks = (disks[0] / "brick", disks[1] / "brick")
        self._gluster = Gluster(work, bricks) if with_gluster else None
        self._first, self._second = (self._cluster.machines[name] for name in self._cluster.names)
        self._bare = disks[0] / "bare"
        self._limits = [disk / "limit" for disk in disks]

    def __enter__(self) -> Contenders:
        try:
            for folder in (self._bare, *self._limits):
                folder.mkdir(parents=True, exist_ok=True)
            self._cluster.up()
            self._cluster.begin()
            server = self._second.start(
                str(self._limit), "serve", str(LIMIT_PORT), str(self._limits[1]), pipes=True
            )
            assert server.stdout is not None
            server.stdout.readline()
            if self._gluster is not None:
                self._gluster.__enter__()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._gluster is not None:
            self._gluster.__exit__()
        self._cluster.remove()

    def bare(self, workload: str, measure: float) -> float:
        """The same file system without anything of ours."""
        return self._on_first(workload, self._bare, measure)

    def ours(self, workload: str, measure: float) -> float:
        return self._on_first(workload, self._cluster.directory(THROUGH), measure)

    def ours_writeback(self, workload: str, measure: float) -> float:
        return self._on_first(workload, self._cluster.directory(WRITEBACK), measure)

    def gluster(self, workload: str, measure: float) -> float:
        assert self._gluster is not None
        return _figure(self._gluster.inside(0, *_words(workload, self._gluster.mount, measure)))

    def limit(self, workload: str, measure: float) -> float:
        """Write here and send to a peer, both fsync: over the same wire and to the same disks, in C."""
        kind, _, jobs = workload.partition("_")
        much = [jobs, str(max(1.0, 4 * measure))] if jobs else [str(max(64, int(512 * measure)))]
        at = [self._address(), str(LIMIT_PORT), str(self._limits[0])]
        return _figure(self._first.inside(str(self._limit), kind, *at, *much))

    def cpu_s(self) -> float:
        """What all replicators of both nodes have used so far."""
        pids = [pid for each in (self._first, self._second) for pid in each.pids(REPLICATOR)]
        return sum(map(ticks, pids)) / TICKS_S

    def tls_share(self, measure: float) -> float:
        """What of a stream's bare speed is left when it is encrypted as ours is, both ends in Python."""
        return tls.share(self._first, self._second, self._address(), self._cluster.work / "keys", measure)

    def _address(self) -> str:
        return "198.18.0.12"

    def _on_first(self, workload: str, place: Path, measure: float) -> float:
        return _figure(self._first.inside(*_words(workload, place, measure)))


def _words(workload: str, place: Path, measure: float) -> list[str]:
    return [sys.executable, "-m", "tests.bench.workloads", workload, str(place), str(measure)]


def _figure(words: list[str]) -> float:
    done = subprocess.run(words, capture_output=True, text=True, timeout=RUN_S, env=os.environ)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words[-5:])}: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


def turns(names: list[str], number: int) -> list[str]:
    """The same contenders, another one first in each round: nobody always has the warm machine."""
    start = number % len(names)
    return names[start:] + names[:start]


def about() -> str:
    """The rival's version and settings."""
    words = ["gluster", "--version"]
    version = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    return f"{version}, replica 2, {', '.join(SETTINGS)}"
