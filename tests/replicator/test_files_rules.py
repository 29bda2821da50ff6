"""The rules that only show with other users, full or failing disks, mapped files and the writeback cache."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.replicator import ops
from orchestrator.replicator.volume import Mode
from tests.replicator.mounted import Mounted, sent
from tests.support.disks import ext4
from tests.support.waiting import eventually

NOBODY = 65534


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    yield from mount_one(tmp_path, writeback=False)


@pytest.fixture
def writeback(tmp_path: Path) -> Iterator[Mounted]:
    yield from mount_one(tmp_path, writeback=True)


def mount_one(base: Path, writeback: bool) -> Iterator[Mounted]:
    os.chmod(base, 0o755)
    os.chmod(base.parent, 0o755)
    os.chmod(base.parent.parent, 0o755)
    with ext4(base / "image", base / "at", "24M") as disk:
        (disk / "tree").mkdir()
        thing = Mounted(disk / "tree", base / "journal", writeback=writeback)
        try:
            yield thing
        finally:
            thing.close()


def as_nobody(code: str, tree: Path) -> str:
    """Run a few lines as another user; what they print."""
    become = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    command = [sys.executable, "-c", "import os, sys, mmap\nos.chdir(sys.argv[1])\n" + become + code, tree]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_write_without_privileges_ends_setuid_here_and_on_the_stream(mounted: Mounted) -> None:
    path = mounted.tree / "tool"
    path.write_bytes(b"#!")
    os.chown(path, NOBODY, NOBODY)
    os.chmod(path, 0o6775)
    as_nobody("f = os.open('tool', os.O_WRONLY); os.write(f, b'x'); os.close(f)", mounted.tree)
    assert stat.S_IMODE(os.stat(mounted.plain / "tool").st_mode) == 0o775
    told = [op for op in sent(mounted, ops.SetAttr) if isinstance(op, ops.SetAttr) and op.which & ops.MODE]
    assert told[-1].mode == 0o775


def test_a_file_that_becomes_setuid_between_two_writes_loses_it_as_well(mounted: Mounted) -> None:
    path = mounted.tree / "tool"
    path.write_bytes(b"#!")
    os.chown(path, NOBODY, NOBODY)
    write = "f = os.open('tool', os.O_WRONLY); os.write(f, b'x'); os.close(f)"
    as_nobody(write, mounted.tree)
    os.chmod(path, 0o6775)
    as_nobody(write, mounted.tree)
    assert stat.S_IMODE(os.stat(mounted.plain / "tool").st_mode) == 0o775
    told = [op for op in sent(mounted, ops.SetAttr) if isinstance(op, ops.SetAttr) and op.which & ops.MODE]
    assert told[-1].mode == 0o775


def test_a_file_deeper_than_recursion_goes_is_told_to_a_node_that_begins(mounted: Mounted) -> None:
    depth = 1200  # Python recurses a thousand times
    at = os.open(mounted.tree, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at)
    mounted.outlet.binding += 1
    mounted.outlet.sent.clear()
    os.write(file, b"x")
    told = [op for op in sent(mounted, ops.Bind) if isinstance(op, ops.Bind)]
    assert [op.name for op in told] == [b"d"] * depth + [b"file"]
    assert [op.parent for op in told] == [ops.ROOT, *(op.id for op in told[:-1])]
    os.close(file)
    os.close(at)


def test_owner_permissions_and_acls_bind(mounted: Mounted) -> None:
    os.chmod(mounted.tree, 0o777)
    as_nobody("open('mine', 'w').close()", mounted.tree)
    assert os.stat(mounted.plain / "mine").st_uid == NOBODY
    (mounted.tree / "secret").write_bytes(b"s")
    os.chmod(mounted.tree / "secret", 0o600)
    read = "try:\n print(open('secret').read())\nexcept PermissionError:\n print('denied')"
    assert as_nobody(read, mounted.tree) == "denied"
    entries = [
        (1, 6, 0xFFFFFFFF),
        (2, 4, NOBODY),
        (4, 0, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    ]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(mounted.tree / "secret", "system.posix_acl_access", acl)
    assert as_nobody(read, mounted.tree) == "s"


def test_a_default_acl_replaces_the_umask_and_travels(mounted: Mounted) -> None:
    entries = [(1, 7, 0xFFFFFFFF), (4, 7, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    (mounted.tree / "d").mkdir()
    os.setxattr(mounted.tree / "d", "system.posix_acl_default", acl)
    before = os.umask(0o077)
    try:
        (mounted.tree / "d/f").write_bytes(b"")
        (mounted.tree / "d/e").mkdir()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(mounted.tree / "d/f").st_mode) == 0o664
    told = [op for op in sent(mounted, ops.SetXattr) if isinstance(op, ops.SetXattr)]
    assert b"system.posix_acl_default" in [op.name for op in told[1:]]  # of the new directory too


def test_a_full_disk_is_an_answer_and_costs_no_role(mounted: Mounted) -> None:
    fd = os.open(mounted.tree / "big", os.O_CREAT | os.O_WRONLY)
    assert error_of_filling(fd) == errno.ENOSPC
    os.close(fd)
    assert mounted.files.mode is Mode.OPEN
    written = sum(len(op.data) for op in sent(mounted, ops.Write) if isinstance(op, ops.Write))
    assert written == os.stat(mounted.plain / "big").st_size  # what was refused here changes nothing there


def error_of_filling(fd: int) -> int | None:
    try:
        for _ in range(100):
            os.write(fd, bytes(1 << 20))
    except OSError as fault:
        return fault.errno
    return None


def test_a_failed_disk_costs_the_role_and_its_sync_is_never_believed_again(mounted: Mounted) -> None:
    why: list[str] = []
    mounted.files.volume_failed = why.append
    fd = os.open(mounted.tree / "a", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"x")
    below = os.open(mounted.plain, os.O_RDONLY)
    fcntl.ioctl(below, 0x8004587D, struct.pack("<I", 2))  # EXT4_IOC_SHUTDOWN, without a flush of the log
    os.close(below)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            os.fsync(fd)
        assert caught.value.errno == errno.EIO
    assert why
    with pytest.raises(OSError) as caught:
        os.write(fd, b"y")
    assert caught.value.errno == errno.EIO
    os.close(fd)


MAPPED = """
f = os.open('m', os.O_RDWR)
with mmap.mmap(f, 8192) as m:
    m[100:105] = b'MAPPD'
    m.flush()
os.close(f)
"""


def test_a_store_into_a_mapped_file_reaches_disk_and_stream(mounted: Mounted) -> None:
    (mounted.tree / "m").write_bytes(bytes(8192))
    os.chmod(mounted.tree / "m", 0o666)
    as_nobody(MAPPED, mounted.tree)
    assert (mounted.plain / "m").read_bytes()[100:105] == b"MAPPD"
    assert any(b"MAPPD" in op.data for op in sent(mounted, ops.Write) if isinstance(op, ops.Write))


def test_with_writeback_the_pages_travel_at_close_and_at_sync(writeback: Mounted) -> None:
    fd = os.open(writeback.tree / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in range(100):
        os.write(fd, b"%04d\n" % number)
    os.fsync(fd)
    lines = b"".join(b"%04d\n" % number for number in range(100))
    assert (writeback.plain / "log").read_bytes() == lines
    assert [type(op) for op in sent(writeback, (ops.Write, ops.Sync))][-1] is ops.Sync
    os.write(fd, b"more")
    os.close(fd)
    eventually(lambda: (writeback.plain / "log").read_bytes() == lines + b"more")
    os.utime(writeback.tree / "log", ns=(10**18, 10**18 + 7))
    assert os.stat(writeback.plain / "log").st_mtime_ns == 10**18 + 7


def test_with_writeback_what_is_not_written_yet_is_no_hole(writeback: Mounted) -> None:
    fd = os.open(writeback.tree / "log", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x" * 5000)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 5000
    os.close(fd)


def test_a_fault_of_the_may_differ_log_refuses_the_change(mounted: Mounted) -> None:
    def broken(keys: object) -> None:
        raise OSError(errno.EIO, "the log")

    mounted.outlet.before_change = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(OSError):
        (mounted.tree / "a").write_bytes(b"")
    assert os.listdir(mounted.plain) in ([], [".hafarm"])
    assert not mounted.outlet.sent


# A capability to open privileged ports, as setcap(8) writes it.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def test_a_capability_is_seen_as_soon_as_a_file_has_one_whoever_gave_it(mounted: Mounted) -> None:
    for name in ("here", "below"):
        path = mounted.tree / name
        path.write_bytes(b"made without one")
        with pytest.raises(OSError, match="No data"):
            os.getxattr(path, "security.capability")
    os.setxattr(mounted.tree / "here", "security.capability", CAPABILITY)
    assert os.getxattr(mounted.tree / "here", "security.capability") == CAPABILITY
    mounted.files.follow()
    os.setxattr(mounted.plain / "below", "security.capability", CAPABILITY)
    assert os.getxattr(mounted.tree / "below", "security.capability") == CAPABILITY


def test_a_write_takes_a_capability_away_here_as_below(mounted: Mounted) -> None:
    path = mounted.tree / "tool"
    path.write_bytes(b"#!")
    os.setxattr(path, "security.capability", CAPABILITY)
    with path.open("ab", buffering=0) as file:
        file.write(b"more")
    assert "security.capability" not in os.listxattr(mounted.plain / "tool")
    assert "security.capability" not in os.listxattr(path)


def test_times_travel_once_with_the_change_of_attributes_that_follows(mounted: Mounted) -> None:
    with (mounted.tree / "a").open("wb", buffering=0) as file:
        file.write(b"x")
        os.fchmod(file.fileno(), 0o600)
    eventually(lambda: not mounted.files.table.files)
    changes = [one for one in sent(mounted, ops.SetAttr) if isinstance(one, ops.SetAttr)]
    made = sent(mounted, ops.Create)[0]
    assert isinstance(made, ops.Create)
    told = [one for one in changes if one.id == made.id]
    assert [one.which for one in told] == [ops.MODE | ops.ATIME | ops.MTIME]
    assert told[0].mtime_ns == (mounted.plain / "a").stat().st_mtime_ns


def test_a_change_of_owner_that_changes_nothing_is_not_told(mounted: Mounted) -> None:
    def owners() -> int:
        return sum(
            bool(one.which & ops.UID) for one in sent(mounted, ops.SetAttr) if isinstance(one, ops.SetAttr)
        )

    path = mounted.tree / "a"
    path.write_bytes(b"x")
    os.chown(path, 0, 0)
    assert owners() == 0
    os.setxattr(path, "security.capability", CAPABILITY)
    os.chown(path, 0, 0)
    assert "security.capability" not in os.listxattr(mounted.plain / "a")
    assert owners() == 1, "the others still have the capability"
    os.chown(path, NOBODY, 0)
    assert owners() == 2


def test_what_is_only_partly_in_memory_is_read_whole(mounted: Mounted) -> None:
    data = os.urandom(256 << 10)
    (mounted.tree / "a").write_bytes(data)
    plain = os.open(mounted.plain / "a", os.O_RDWR)
    os.fsync(plain)
    os.posix_fadvise(plain, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pread(plain, 4096, 0)  # this much is, and what is read ahead with it
    os.close(plain)
    fd = os.open(mounted.tree / "a", os.O_RDONLY | os.O_DIRECT)
    room = mmap.mmap(-1, 64 << 10)
    for offset in range(0, len(data), len(room)):
        assert os.preadv(fd, [room], offset) == len(room)
        assert room[:] == data[offset : offset + len(room)]
    os.close(fd)
