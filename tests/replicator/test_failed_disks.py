"""A disk that failed once: no sync of it is believed any more, by whomever, before it is mounted anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.setup.ca import make_authority
from tests.chaos import trees
from tests.replicator.pair import bundle
from tests.replicator.processes import Process, record, write_durably
from tests.replicator.test_mirror import ADDRESSES, Pair, begin, free_port
from tests.support.disks import LoopDisk, make_image, run_out, there_is_room, thin
from tests.support.waiting import eventually

LARGE = bytes(range(256)) * (32 << 10)
"""More than fits into what a file system holds already of the device below it."""


@dataclass
class OnThin:
    """A pair whose second node's disk promises more than there is."""

    pair: Pair
    disk: LoopDisk
    room: Path


@pytest.fixture
def found(tmp_path: Path) -> Iterator[OnThin]:
    authority, port = make_authority("shop"), free_port()
    with ExitStack() as held:
        room = held.enter_context(thin(tmp_path / "thin", "256m"))
        disks = {}
        for node, image in (("paris", tmp_path / "paris.img"), ("lyon", room / "lyon.img")):
            make_image("xfs", image)
            (tmp_path / node).mkdir()
            disks[node] = LoopDisk("xfs", image, tmp_path / node / "disk", tmp_path / node / "plain")
            held.callback(disks[node].close)
            disks[node].mount()

        def process(node: str, other: str) -> Process:
            tree = disks[node].at / "orders"
            tree.mkdir()
            return Process(
                tmp_path / node,
                tree,
                node,
                bundle=bundle(tmp_path / node / "bundle", authority, "shop", node),
                peers=[{"name": other, "addresses": [[ADDRESSES[node], ADDRESSES[other]]]}],
                port=port,
                detection_s=1.5,
            )

        pair = Pair(process("paris", "lyon"), process("lyon", "paris"))
        held.callback(pair.paris.end)
        held.callback(pair.lyon.end)
        yield OnThin(pair, disks["lyon"], room)


def why_not_again(process: Process) -> str:
    """Both processes die; what the next keeper says."""
    for pid in (process.keeper, process.replicator()):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not process.replicator())
    words = [sys.executable, "-m", "orchestrator.replicator.keeper", str(process.settings)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0, "it serves a disk whose memory and contents differ"
    return done.stderr


def mounted_anew(found: OnThin) -> None:
    found.pair.lyon.end()
    found.disk.unmount()
    there_is_room(found.room)
    found.disk.mount()


def test_a_follower_whose_disk_lost_a_write_is_no_member_before_the_disk_is_mounted_anew(
    found: OnThin,
) -> None:
    paris, lyon, both = begin(found.pair)
    run_out(found.room)
    tree = found.pair.paris.tree
    writing = threading.Thread(target=write_durably, args=(tree / "large", LARGE), daemon=True)
    writing.start()
    assert paris.event("member_lost")["peer"] == "lyon"
    assert writing.is_alive(), "acknowledged by a disk that does not have it"
    lyon.event("volume_failed")
    alone = record(3, "paris", both["nonce"], ["paris"])
    paris.ask("take_reign", record=alone)
    paris.event("reign_taken")
    writing.join(20)
    # Its memory holds what its disk has not: a copy would find nothing to send.
    lyon.ask("admit_reign", record=alone)
    lyon.ask("follow", record=alone)
    assert lyon.ask("status")["failed"]
    eventually(lambda: "follows nobody" in paris.ask("status")["peers"]["lyon"]["why"], 20)
    refused = why_not_again(found.pair.lyon)
    assert "HF4005" in refused
    assert "mount it anew" in refused
    mounted_anew(found)
    lyon = found.pair.lyon.start()
    lyon.ask("follow", record=alone)
    life = lyon.ask("status")["life"]
    while paris.event("member_ready")["life"] != life:
        pass
    found.pair.lyon.end()
    found.disk.unmount()
    found.disk.mount()
    here = dict(trees.entries(found.disk.plain / "orders"))
    assert here["large"] == dict(trees.entries(found.pair.paris.tree))["large"]


def test_an_application_is_not_told_twice_what_is_true_once(found: OnThin) -> None:
    """XFS says of a lost write that it is lost, and the next time that all is well."""
    lyon = found.pair.lyon.start()
    lyon.ask("take_reign", record=record(1, "lyon", lyon.ask("status")["life"], ["lyon"]))
    lyon.event("reign_taken")
    with (found.pair.lyon.tree / "large").open("wb", buffering=0) as file:
        os.fsync(file.fileno())
        run_out(found.room)
        file.write(LARGE)
        for _ in range(3):
            with pytest.raises(OSError, match=r"Input/output|No space"):
                os.fsync(file.fileno())
    lyon.event("volume_failed")
    assert not lyon.ask("status")["open"]
    assert "HF4005" in why_not_again(found.pair.lyon)
    mounted_anew(found)
    found.pair.lyon.start()
