"""Real keepers and replicators: what outlives them, and what they let a user take of a disk."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fidelity.rig import DISKS
from tests.fidelity.test_directed import as_user, error_of
from tests.replicator.kills import Alone
from tests.support.disks import ext4, xfs
from tests.support.waiting import eventually

ANN = 1001


@contextmanager
def serving(base: Path, disk: Path) -> Iterator[Alone]:
    """A mirror of this node alone over `disk`/orders, that anybody may write to."""
    tree = disk / "orders"
    tree.mkdir()
    tree.chmod(0o777)
    thing = Alone(base, tree)
    try:
        thing.serve()
        yield thing
    finally:
        thing.end()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Alone]:
    with ext4(tmp_path / "image", tmp_path / "disk") as disk, serving(tmp_path, disk) as thing:
        yield thing


def kill_replicator(mirror: Alone) -> None:
    victim = mirror.replicator()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: mirror.replicator() not in (0, victim), 20)


def test_what_is_open_and_has_no_name_outlives_a_replicator(mirror: Alone) -> None:
    tree = mirror.tree
    unlinked = os.open(tree / "unlinked", os.O_CREAT | os.O_RDWR)
    os.write(unlinked, b"still")
    os.unlink(tree / "unlinked")
    nameless = os.open(tree, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(nameless, b"not yet")
    os.mkdir(tree / "removed")
    removed = os.open(tree / "removed", os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir(tree / "removed")
    kill_replicator(mirror)
    os.write(unlinked, b" here")
    os.fsync(unlinked)
    assert os.pread(unlinked, 20, 0) == b"still here"
    os.write(nameless, b" named")
    os.link(f"/proc/self/fd/{nameless}", tree / "named", src_dir_fd=nameless, follow_symlinks=True)
    kill_replicator(mirror)
    os.write(nameless, b", now")
    assert (tree / "named").read_bytes() == b"not yet named, now"
    assert os.fstat(nameless).st_nlink == 1
    assert os.fstat(unlinked).st_nlink == 0
    assert error_of(os.fstat, removed) == "ESTALE"  # nothing can keep a directory that is gone from the disk
    for fd in (unlinked, nameless, removed):
        os.close(fd)
    assert os.listdir(tree) == ["named"]


def test_an_application_may_open_more_files_than_a_service_manager_gives(tmp_path: Path) -> None:
    with ext4(tmp_path / "image", tmp_path / "disk") as disk:
        (disk / "orders").mkdir()
        thing = Alone(tmp_path, disk / "orders")
        keeper = [sys.executable, "-m", "orchestrator.replicator.keeper", str(thing.settings)]
        subprocess.run(["prlimit", "--nofile=1024:4096", *keeper], check=True, timeout=30)
        try:
            agent = thing.dial()
            limits = Path(f"/proc/{thing.replicator()}/limits").read_text()
            most = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max open files"))
            assert (
                int(most) >= 4096
            )  # more where the capability is there, that of any root outside containers
            agent.ask("stop")
            eventually(lambda: not thing.replicator())
        finally:
            thing.end()


# --- how much of a disk a user gets -------------------------------------------------------------------------

FILL = """
import errno
f = os.open('full', os.O_CREAT | os.O_WRONLY)
size, block = 0, bytes(65536)
while True:
    try:
        size += os.pwrite(f, block[:65536 - size % 65536], size)
    except OSError as fault:
        why = errno.errorcode[fault.errno]
        break
answers = [why, size]
for act in (
    lambda: os.posix_fallocate(f, size, 4 << 20),
    lambda: os.mkdir('d'),
    lambda: os.symlink('s' * 200, 's'),
):
    try:
        act()
        answers.append('')
    except OSError as fault:
        answers.append(errno.errorcode[fault.errno])
os.close(f)
print(repr(answers))
"""


@pytest.mark.parametrize("kind", sorted(DISKS))
def test_a_full_disk_is_full_for_a_user_at_the_same_byte(tmp_path: Path, kind: str) -> None:
    make, size = {"ext4": (ext4, "32M"), "xfs": (xfs, "300M")}[kind]
    answers = []
    for name in ("bare", "served"):
        base = tmp_path / name
        base.mkdir()
        with ExitStack() as stack:
            disk = stack.enter_context(make(base / "image", base / "disk", size))
            if name == "served":
                tree = stack.enter_context(serving(base, disk)).tree
            else:
                tree = disk / "orders"
                tree.mkdir()
                tree.chmod(0o777)
            answers.append(eval_list(as_user(FILL, tree, ANN, ANN)))
            if kind == "ext4":
                # What is reserved for root is there for him, on both.
                assert error_of((tree / "root").write_bytes, bytes(65536)) == ""
    bare, served = answers
    assert served[0] == bare[0] == "ENOSPC"
    assert abs(served[1] - bare[1]) <= 256 << 10  # journals and preallocations differ by some blocks
    assert served[2:] == bare[2:]


def eval_list(text: str) -> list[Any]:
    value: list[Any] = ast.literal_eval(text)
    return value


# --- how it is mounted --------------------------------------------------------------------------------------


def test_what_the_mount_below_forbids_is_forbidden_above(tmp_path: Path) -> None:
    options = "noexec,nosuid,nodev"
    with (
        ext4(tmp_path / "image", tmp_path / "disk", options=options) as disk,
        serving(tmp_path, disk) as mirror,
    ):
        (mirror.tree / "script").write_text("#!/bin/sh\n")
        (mirror.tree / "script").chmod(0o755)
        os.mknod(mirror.tree / "null", 0o20666, os.makedev(1, 3))
        assert error_of(lambda: subprocess.run([mirror.tree / "script"], check=False)) == "EACCES"
        assert error_of(lambda: os.open(mirror.tree / "null", os.O_WRONLY)) == "EACCES"
        assert os.statvfs(mirror.tree).f_flag & os.ST_NOSUID


def test_what_the_mount_below_allows_is_allowed_above(mirror: Alone) -> None:
    (mirror.tree / "script").write_text("#!/bin/sh\nexit 7\n")
    (mirror.tree / "script").chmod(0o755)
    os.mknod(mirror.tree / "null", 0o20666, os.makedev(1, 3))
    assert subprocess.run([mirror.tree / "script"], check=False).returncode == 7
    with open(mirror.tree / "null", "wb", buffering=0) as null:
        assert null.write(b"away") == 4
