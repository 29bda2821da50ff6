"""The current fails under the witness at any moment: what it granted stands."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.demo.machine import FS_IOC_SHUTDOWN, NO_LOG_FLUSH
from orchestrator.model.errors import RegisterUnreachable
from orchestrator.model.names import ClusterName, Nonce
from orchestrator.model.record import Outcome, Record
from orchestrator.providers.onprem.register import WitnessRegister
from orchestrator.setup.bundle import init
from tests.mirror.words import CLUSTER, SHOP, A, B, record
from tests.support.disks import enter_private_mounts
from tests.witness.test_witness import Served

CYCLES = 10
"""Some dozen bids each; the canary below is caught within the first few."""
CANARY_CYCLES = 5

FORGETFUL = """
import os, sys
os.fsync = os.fdatasync = lambda fd: None
from orchestrator.witness.__main__ import main
sys.exit(main())
"""
"""The same witness without fsync and fdatasync."""


class Careless(Served):
    """Answers before its disk has it."""

    program = ("-c", FORGETFUL)


class Disk:
    """An ext4 of its own whose current can fail."""

    def __init__(self, work: Path) -> None:
        self._image, self.at = work / "disk.img", work / "disk"
        self.at.mkdir()
        with self._image.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._image], check=True)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Replays its journal, as a machine does that boots."""
        subprocess.run(["mount", "-o", "loop", self._image, self.at], check=True)
        try:
            yield self.at
        finally:
            subprocess.run(["umount", self.at], check=True)

    def cut(self) -> None:
        """What was not synced is gone, and whatever is asked of it from now on fails."""
        fd = os.open(self.at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(fd)


def _after(stands: Record | None, chance: random.Random) -> Record:
    if stands is None:
        return record(1, A, A)
    nonce = Nonce(f"{chance.getrandbits(128):032x}")
    return stands.following(primary=A, in_sync=frozenset({A, B}), nonce=nonce)


async def _bid_until_the_cut(
    served: Served, keys: Path, disk: Disk, granted: Record | None, chance: random.Random
) -> tuple[bool, Record | None, int]:
    """Whether what was granted before stands, the newest grant, and how many there were."""
    client = WitnessRegister(served.url, ClusterName(CLUSTER), str(keys / A), 5.0)
    won = 0
    try:
        stands = await client.read(SHOP)
        # A bid whose answer was lost may have landed: then more stands than was told, never less.
        if granted is not None and (stands is None or stands.epoch < granted.epoch):
            return False, granted, won
        if granted is not None and stands is not None and stands.epoch == granted.epoch:
            assert stands == granted
        asyncio.get_running_loop().call_later(chance.uniform(0.0, 0.25), disk.cut)
        while True:
            wish = _after(stands, chance)
            if (await client.swap(stands, wish)).outcome is not Outcome.WON:
                return True, granted, won
            stands = granted = wish
            won += 1
    except RegisterUnreachable:
        return True, granted, won
    finally:
        await client.close()


def _remembers(kind: type[Served], work: Path, cycles: int) -> tuple[bool, int]:
    """Whether every grant outlived every cut, and how many grants there were."""
    enter_private_mounts()
    init(CLUSTER, [A, B], str(work / "keys"))
    keys, disk, chance = work / "keys", Disk(work), random.Random(11)
    granted: Record | None = None
    total = 0
    for _ in range(cycles):
        with disk.mounted() as at:
            served = kind(at, keys / "witness")
            served.start()
            try:
                held, granted, won = asyncio.run(_bid_until_the_cut(served, keys, disk, granted, chance))
            finally:
                served.kill()
        total += won
        if not held:
            return False, total
    return True, total


def test_whatever_was_granted_outlives_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    held, granted = _remembers(Served, tmp_path, CYCLES)
    assert held
    assert granted > CYCLES, "a test of nothing proves nothing"


def test_a_witness_that_leaves_out_its_fsync_is_caught(tmp_path: Path) -> None:
    held, granted = _remembers(Careless, tmp_path, CANARY_CYCLES)
    assert granted > 0
    assert not held
