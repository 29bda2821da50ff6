"""What random sequences do not reach: programs, crowds of names, many writers, caches that are dropped."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fidelity.operations import acl
from tests.fidelity.rig import DISKS, Rig, rig
from tests.fidelity.walk import Walk
from tests.support.waiting import eventually

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
FICLONE = 0x40049409
FS_IOC_GETFLAGS, FS_IOC_FIEMAP = 0x80086601, 0xC020660B
COLLAPSE, INSERT = 8, 32


@pytest.fixture(scope="module", params=sorted(DISKS))
def hurt(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, rig(Path(folder), request.param) as made:
        yield made


def alike(hurt: Rig, act: Callable[[Path], Any]) -> Any:
    """What `act` returns in a bare directory and in a mounted one, which must be equal, as the trees are."""
    with hurt.case() as (bare, mounted):
        expected = act(bare)
        assert act(mounted) == expected
        assert hurt.compare(mounted.name) is None
        return expected


def error_of(act: Callable[..., object], *arguments: object) -> str:
    try:
        act(*arguments)
    except OSError as fault:
        return errno.errorcode[fault.errno or 0]
    return ""


def as_user(code: str, directory: Path, *users: int, exits: int = 0) -> str:
    """Run a few lines of Python in this directory as this user and group; what they print."""
    become = "".join(
        f"os.set{what}({number})\n" for what, number in zip(("gid", "uid"), reversed(users), strict=False)
    )
    script = f"import os, sys\nos.chdir(sys.argv[1])\nos.setgroups([])\n{become}{code}"
    command = [sys.executable, "-", str(directory)]
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == exits, done.stderr
    return done.stdout.strip()


# --- without a name -----------------------------------------------------------------------------------------


def test_an_unlinked_file_stays_writable_however_many_are_made_after_it(hurt: Rig) -> None:
    def act(at: Path) -> bytes:
        fd = os.open(at / "gone", os.O_CREAT | os.O_RDWR)
        os.write(fd, b"before")
        for number in range(300):  # more than a follower keeps open for writing
            (at / str(number)).write_bytes(b"%d" % number)
        os.unlink(at / "gone")
        os.write(fd, b" and after")
        os.ftruncate(fd, 12)
        os.fchmod(fd, 0o600)
        os.fsync(fd)
        (at / "last").write_bytes(b"")
        try:
            return os.pread(fd, 100, 0)
        finally:
            os.close(fd)

    assert alike(hurt, act) == b"before and a"


def test_a_removed_directory_that_is_open_can_still_be_changed(hurt: Rig) -> None:
    def act(at: Path) -> list[object]:
        os.mkdir(at / "d")
        (at / "d/f").write_bytes(b"x")
        fd = os.open(at / "d", os.O_RDONLY)
        os.rename(at / "d/f", at / "f")
        os.rmdir(at / "d")
        os.fchmod(fd, 0o711)
        os.fsync(fd)
        (at / "d").mkdir()
        facts = [os.listdir(fd), os.fstat(fd).st_nlink, oct(os.fstat(fd).st_mode)]
        facts.append(error_of(lambda: os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)))
        os.close(fd)
        return facts

    assert alike(hurt, act) == [[], 0, "0o40711", "ENOENT"]


def test_open_files_go_on_below_a_renamed_directory_and_under_another_name(hurt: Rig) -> None:
    def act(at: Path) -> list[object]:
        (at / "d/e").mkdir(parents=True)
        fds = [os.open(at / "d/e" / name, os.O_CREAT | os.O_RDWR) for name in ("over", "moved")]
        os.write(fds[0], b"loses its name")
        os.write(fds[1], b"one ")
        os.rename(at / "d", at / "g")
        os.rename(at / "g/e/moved", at / "g/e/over")
        for fd in fds:
            os.write(fd, b" more")
            os.fsync(fd)
        seen = [os.pread(fd, 100, 0) for fd in fds] + [os.fstat(fd).st_nlink for fd in fds]
        for fd in fds:
            os.close(fd)
        return [*seen, (at / "g/e/over").read_bytes()]

    assert alike(hurt, act)[2:] == [0, 1, b"one  more"]


def test_a_file_made_without_a_name_arrives_whole_once_it_has_one(hurt: Rig) -> None:
    def act(at: Path) -> list[object]:
        fd = os.open(at, os.O_TMPFILE | os.O_RDWR, 0o640)
        seen: list[object] = [os.fstat(fd).st_nlink, os.listdir(at)]
        os.write(fd, b"head")
        os.pwrite(fd, b"data" * (6 << 18), 16 << 20)  # more than one extent and one request
        os.ftruncate(fd, 40 << 20)
        os.fchmod(fd, 0o604)
        os.setxattr(fd, "user.k", b"v")
        os.utime(fd, ns=(1, 1_234_567_890_123_456_789))
        os.fsync(fd)
        os.link(f"/proc/self/fd/{fd}", at / "named", src_dir_fd=fd, follow_symlinks=True)
        seen += [os.fstat(fd).st_nlink, (at / "named").stat().st_size]
        os.link(at / "named", at / "again")
        os.pwrite(fd, b"tail", 40 << 20)
        os.fsync(fd)
        os.close(fd)
        os.close(os.open(at, os.O_TMPFILE | os.O_WRONLY, 0o600))
        return seen

    assert alike(hurt, act) == [0, [], 1, 40 << 20]
    orphans = Path(hurt.mirrored.plain) / ".hafarm/orphans"
    eventually(lambda: not list(orphans.iterdir()))


def test_a_file_made_without_a_name_for_good_gets_none(hurt: Rig) -> None:
    def act(at: Path) -> str:
        fd = os.open(at, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
        try:
            return error_of(
                lambda: os.link(f"/proc/self/fd/{fd}", at / "n", src_dir_fd=fd, follow_symlinks=True)
            )
        finally:
            os.close(fd)

    assert alike(hurt, act) == "ENOENT"


# --- rights -------------------------------------------------------------------------------------------------


def test_a_setuid_program_runs_as_its_owner(hurt: Rig) -> None:
    def act(at: Path) -> str:
        shutil.copy("/usr/bin/id", at / "id")
        os.chmod(at / "id", 0o4755)
        return as_user("os.execv('./id', ['id', '-u'])", at, 1001, 1001)

    assert alike(hurt, act) == "0"


def test_whoever_may_not_loses_setgid_by_an_acl_and_sees_no_trusted_attribute(hurt: Rig) -> None:
    everybody = 0xFFFFFFFF
    entries = ((1, 7, everybody), (2, 5, 1002), (4, 5, everybody), (16, 7, everybody), (32, 5, everybody))
    code = f"os.setxattr('f', 'system.posix_acl_access', {acl(*entries)!r})\nprint(os.listxattr('f'))"

    def act(at: Path) -> list[object]:
        (at / "f").write_bytes(b"")
        os.chown(at / "f", 1001, 2000)  # his own, of a group that he is not in
        os.chmod(at / "f", 0o2755)
        os.setxattr(at / "f", "trusted.t", b"x")
        os.setxattr(at / "f", "user.u", b"x")
        listed = sorted(ast_list(as_user(code, at, 1001, 1001)))
        return [listed, oct((at / "f").stat().st_mode), sorted(os.listxattr(at / "f"))]

    shown, mode, all_of_them = alike(hurt, act)
    assert shown == ["system.posix_acl_access", "user.u"]
    assert mode == "0o100775"
    assert "trusted.t" in all_of_them


def ast_list(text: str) -> list[str]:
    return [word.strip(" '") for word in text.strip("[]").split(",")]


def test_whoever_may_not_ends_setuid_by_writing_and_by_allocating(hurt: Rig) -> None:
    code = """
f = os.open('f', os.O_RDWR)
os.posix_fallocate(f, 0, 10000) if WHAT else os.pwrite(f, b'x', 0)
print(oct(os.fstat(f).st_mode))
"""

    def act(at: Path) -> list[str]:
        modes = []
        for what in ("True", "False"):
            (at / "f").write_bytes(b"")
            os.chown(at / "f", 1001, 1001)
            os.chmod(at / "f", 0o6777)
            os.stat(at / "f")  # the kernel may believe it for a while now
            modes.append(as_user(code.replace("WHAT", what), at, 1002, 1002))
            modes.append(oct((at / "f").stat().st_mode))
            os.rename(at / "f", at / what)
        return modes

    assert alike(hurt, act) == ["0o100777"] * 4


def test_group_and_setgid_come_from_the_directory(hurt: Rig) -> None:
    code = "open('g/f', 'w'); os.mkdir('g/d'); os.mkfifo('g/p'); os.symlink('x', 'g/s')"

    def act(at: Path) -> None:
        (at / "g").mkdir()
        os.chown(at / "g", 0, 2000)
        os.chmod(at / "g", 0o2777)
        as_user(code, at, 1001, 1001)

    alike(hurt, act)


# --- data ---------------------------------------------------------------------------------------------------

APPEND = """
f = os.open('log', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
for number in range(300):
    os.write(f, b'%s:%04d\\n' % (os.fsencode(sys.argv[2]), number) * 20)
"""


def test_what_several_processes_append_is_all_there_in_whole_pieces(hurt: Rig) -> None:
    with hurt.case() as (_, at):
        script = f"import os, sys\nos.chdir(sys.argv[1])\n{APPEND}"
        writers = [subprocess.Popen([sys.executable, "-c", script, at, str(number)]) for number in range(3)]
        assert [writer.wait() for writer in writers] == [0, 0, 0]
        lines = (at / "log").read_bytes().splitlines()
        for number in range(3):
            mine = [line for line in lines if line.startswith(b"%d:" % number)]
            assert mine == sorted(mine)
            assert len(mine) == 300 * 20
        assert hurt.compare(at.name, bare=False) is None


def test_direct_io_writes_and_reads_what_others_see(hurt: Rig) -> None:
    def act(at: Path) -> list[object]:
        import mmap

        page = mmap.mmap(-1, 8192)
        page[:] = b"d" * 8192
        fd = os.open(at / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        written = os.pwritev(fd, [page], 4096)
        page[:] = bytes(8192)
        got = os.preadv(fd, [page], 8192)
        os.close(fd)
        return [written, got, page[:4096], (at / "f").read_bytes()[4090:4100]]

    assert alike(hurt, act) == [8192, 4096, b"d" * 4096, b"\0" * 6 + b"d" * 4]


def test_a_mapped_file_and_a_written_one_are_the_same_file(hurt: Rig) -> None:
    code = """
import mmap
f = os.open('m', os.O_CREAT | os.O_RDWR)
os.ftruncate(f, 20000)
m = mmap.mmap(f, 20000)
m[0:5] = b'first'
os.pwrite(f, b'WRITTEN', 10000)
seen = m[10000:10007]
m[19990:20000] = b'unflushed!'
print(seen == b'WRITTEN', os.pread(f, 5, 0) == b'first')
"""
    assert alike(hurt, lambda at: as_user(code, at)) == "True True"


def test_an_allocation_that_a_full_disk_ends_half_way_leaves_equal_files(hurt: Rig) -> None:
    with hurt.case() as (_, at):
        fd = os.open(at / "f", os.O_CREAT | os.O_RDWR)
        os.write(fd, b"head")
        assert _libc.fallocate(fd, 0, 0, 2 << 30) == -1
        assert ctypes.get_errno() == errno.ENOSPC
        os.close(fd)
        assert hurt.compare(at.name, bare=False, holes=False) is None


def test_holes_stay_where_they_are(hurt: Rig) -> None:
    def act(at: Path) -> list[int]:
        fd = os.open(at / "f", os.O_CREAT | os.O_RDWR)
        for place in (1 << 20, 8 << 20):
            os.pwrite(fd, b"x" * (1 << 20), place)
        os.ftruncate(fd, 1 << 34)
        os.fsync(fd)
        assert _libc.fallocate(fd, 3, (1 << 20) + 65536, 131072) == 0
        edges, place = [], 0
        for whence in (os.SEEK_DATA, os.SEEK_HOLE) * 3:
            place = os.lseek(fd, place, whence)
            edges.append(place)
        assert error_of(os.lseek, fd, place, os.SEEK_DATA) == "ENXIO"
        os.close(fd)
        return edges

    assert alike(hurt, act)[:3] == [1 << 20, (1 << 20) + 65536, (1 << 20) + 196608]


# --- times --------------------------------------------------------------------------------------------------


def test_times_arrive_although_the_kernel_forgets_the_object_first(hurt: Rig) -> None:
    with hurt.case() as (_, at):
        os.mkdir(at / "d")
        os.utime(at / "d", ns=(1, 1))
        assert hurt.compare(at.name, bare=False) is None
        (at / "d/f").write_bytes(b"changes the directory's time")
        Path("/proc/sys/vm/drop_caches").write_text("2")
        assert hurt.compare(at.name, bare=False) is None


def test_reading_tells_the_other_node_nothing(hurt: Rig) -> None:
    with hurt.case() as (_, at):
        (at / "f").write_bytes(b"x")
        os.utime(at / "f", ns=(1_000_000_001, 2))
        assert hurt.mirrored.arrive() == ""
        there = hurt.elsewhere / at.name / "f"
        assert there.stat().st_atime_ns == 1_000_000_001
        primary = hurt.mirrored.primary
        assert primary is not None
        before = primary.status()["sequence"]
        assert (at / "f").read_bytes() == b"x"
        hurt.mirrored.files.settle_all()
        assert primary.status()["sequence"] == before


# --- names --------------------------------------------------------------------------------------------------


def test_names_and_targets_up_to_their_longest(hurt: Rig) -> None:
    def act(at: Path) -> list[str]:
        names = (b"n" * 255, b"n" * 256, b"\xff" * 255, b"\x01\n\t\\ \xc3", b"n" * 4096)
        base = os.fsencode(at) + b"/"
        answers = [error_of(os.mkdir, base + name) for name in names]
        for size in (1, 59, 60, 1023, 1024, 4095, 4096):
            answers.append(error_of(os.symlink, b"t" * size, base + b"link-%d" % size))
        return answers + [str(len(os.readlink(at / f"link-{size}"))) for size in (1, 59, 60, 1023)]

    assert alike(hurt, act)[:5] == ["", "ENAMETOOLONG", "", "", "ENAMETOOLONG"]


def test_ten_thousand_names_are_read_once_each_while_others_go(hurt: Rig) -> None:
    with hurt.case() as (_, at):
        names = {f"entry-{number:05d}-{'x' * (number % 40)}" for number in range(10_000)}
        as_user(f"for name in {sorted(names)!r}: os.mknod(name)", at)
        walk = Walk(at)
        first = [walk.next() for _ in range(500)]
        place = walk.tell()
        expected = [walk.next() for _ in range(50)]
        removed = set(sorted(names - set(first) - set(expected))[::2])
        as_user(f"for name in {sorted(removed)!r}: os.unlink(name)", at)
        walk.seek(place)
        rest = list(iter(walk.next, None))
        walk.close()
        assert rest[:50] == expected
        seen = [name for name in [*first, *rest] if name not in (".", "..")]
        assert len(seen) == len(set(seen))
        assert set(seen) >= names - removed
        assert hurt.mirrored.arrive() == ""
        assert set(os.listdir(hurt.elsewhere / at.name)) == set(os.listdir(at)) == names - removed


def test_inode_numbers_are_those_below_and_stay(hurt: Rig) -> None:
    with hurt.case() as (_, at):
        (at / "d").mkdir()
        for name in ("a", "d/b"):
            (at / name).write_bytes(b"")
        os.link(at / "a", at / "d/a")
        paths = [at, at / "a", at / "d", at / "d/b", at / "d/a"]
        numbers = [path.stat().st_ino for path in paths]
        plain = Path(hurt.mirrored.plain)
        assert numbers == [(plain / path.relative_to(at.parent)).stat().st_ino for path in paths]
        assert {entry.name: entry.inode() for entry in os.scandir(at)} == {"a": numbers[1], "d": numbers[2]}
        Path("/proc/sys/vm/drop_caches").write_text("2")
        os.rename(at / "d", at / "e")
        moved = [Path(str(path).replace(f"{at}/d", f"{at}/e")) for path in paths]
        assert [path.stat().st_ino for path in moved] == numbers


def test_the_space_that_is_left_is_that_below(hurt: Rig) -> None:
    above, below = os.statvfs(hurt.tree), os.statvfs(hurt.mirrored.plain)
    for what in ("f_blocks", "f_files", "f_namemax", "f_frsize", "f_bsize"):
        assert getattr(above, what) == getattr(below, what)
    assert abs(above.f_bavail - below.f_bavail) < 1000


# --- what the kernel refuses, as docs/guarantees.md says ----------------------------------------------------


def test_what_a_fuse_mount_cannot_do_is_refused_and_changes_nothing(hurt: Rig) -> None:
    with hurt.case() as (_, at):
        (at / "f").write_bytes(bytes(16384))
        (at / "g").write_bytes(b"")
        with open(at / "f", "r+b") as file, open(at / "g", "r+b") as other:
            for mode in (COLLAPSE, INSERT):
                ctypes.set_errno(0)
                assert _libc.fallocate(file.fileno(), mode, 4096, 4096) == -1
                assert ctypes.get_errno() == errno.EOPNOTSUPP
            assert error_of(fcntl.ioctl, other.fileno(), FICLONE, file.fileno()) == "ENOTSUP"
            assert error_of(fcntl.ioctl, file.fileno(), FS_IOC_GETFLAGS, bytes(8)) == "ENOTTY"
            where = struct.pack("<QQIIII", 0, 1 << 20, 0, 0, 0, 0)
            assert error_of(fcntl.ioctl, file.fileno(), FS_IOC_FIEMAP, where) == "ENOTSUP"
        whiteout = 4
        assert _libc.syscall(316, -100, bytes(at / "f"), -100, bytes(at / "h"), whiteout) == -1
        assert ctypes.get_errno() == errno.EINVAL
        assert error_of(os.mkdir, at.parent / ".hafarm") in ("EPERM", "EEXIST")
        assert hurt.compare(at.name, bare=False) is None


def test_a_directory_fsync_is_a_durable_point_of_its_names(
    hurt: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def when_durable(number: int, call: Callable[[int], None]) -> None:
        synced.append(number)
        call(0)

    monkeypatch.setattr(hurt.mirrored.primary, "when_durable", when_durable)
    with hurt.case() as (_, at):
        (at / "f").write_bytes(b"")
        fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
        assert len(synced) == 1
        assert synced[0] > 0
