"""A real mount over ext4: the application, the plain tree and the stream agree on what was done."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from orchestrator.host.fuse.mount import mounts_of_ours
from orchestrator.replicator import ops
from orchestrator.replicator.ops import ChangeKey, Named
from tests.replicator.mounted import Mounted, sent
from tests.support.waiting import eventually


def test_what_is_written_through_the_mount_is_in_the_plain_tree_and_on_the_stream(mounted: Mounted) -> None:
    assert mounts_of_ours(str(mounted.tree)) == 1
    (mounted.tree / "a").write_bytes(b"hello")
    assert (mounted.plain / "a").read_bytes() == b"hello"
    made, wrote = sent(mounted, ops.Create)[0], sent(mounted, ops.Write)[0]
    assert isinstance(made, ops.Create)
    assert isinstance(wrote, ops.Write)
    assert (made.parent, made.name, wrote.id, wrote.data) == (ops.ROOT, b"a", made.id, b"hello")
    inode = os.stat(mounted.plain / "a").st_ino
    assert (0, inode, ops.FRESH, 0) in mounted.outlet.keys


def test_an_fsync_returns_only_when_the_other_disks_have_it(mounted: Mounted) -> None:
    mounted.outlet.hold = True
    done = threading.Event()

    def work() -> None:
        with (mounted.tree / "a").open("wb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        done.set()

    threading.Thread(target=work, daemon=True).start()
    eventually(lambda: mounted.outlet.held)
    assert not done.wait(0.1)
    mounted.outlet.held.pop()(0)
    eventually(done.is_set)


def test_when_the_own_disk_has_a_durable_point_is_told(mounted: Mounted) -> None:
    with (mounted.tree / "a").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    sent = mounted.outlet.sent
    points = [number for number, operation in enumerate(sent, 1) if isinstance(operation, ops.Sync)]
    assert len(points) == 1
    eventually(lambda: mounted.outlet.synced_here == points)


def test_a_write_leaves_together_with_the_durable_point_behind_it(mounted: Mounted) -> None:
    fd = os.open(mounted.tree / "a", os.O_CREAT | os.O_WRONLY)
    outlet = mounted.outlet
    for number in range(3):
        os.pwrite(fd, b"x", number)
        os.fdatasync(fd)
        assert [op.offset for op in outlet.hurried if isinstance(op, ops.Write)] == list(range(number + 1))
    os.close(fd)
    assert {type(op) for op in outlet.promised} == {ops.Sync}, (
        "each other way through the wire is one too many"
    )
    assert not outlet.owes()


def test_of_a_file_that_is_synced_all_the_time_the_times_go_along_now_and_then_and_come_in_the_end(
    mounted: Mounted,
) -> None:
    fd = os.open(mounted.tree / "a", os.O_CREAT | os.O_WRONLY)
    for number in range(20):
        os.pwrite(fd, b"x", number)
        os.fsync(fd)
    points = [op for op in sent(mounted, ops.Sync) if isinstance(op, ops.Sync)]
    assert points[0].times is not None
    assert [op.times for op in points].count(None) > 0
    final = os.stat(mounted.plain / "a").st_mtime_ns

    def told() -> set[int | None]:
        """By themselves, or with the last of the points where that one came late enough."""
        later = [op.mtime_ns for op in sent(mounted, ops.SetAttr) if isinstance(op, ops.SetAttr)]
        return {*later, *(op.times[1] for op in points if op.times is not None)}

    eventually(lambda: final in told())
    os.close(fd)


def test_the_first_durable_point_after_a_new_name_names_its_directory(mounted: Mounted) -> None:
    (mounted.tree / "d").mkdir()
    with (mounted.tree / "d/a").open("wb") as file:
        for _ in range(2):
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        os.rename(mounted.tree / "d/a", mounted.tree / "a")
        os.fsync(file.fileno())
    made = [sent.id for sent in mounted.outlet.sent if isinstance(sent, ops.Mkdir)]
    points = [sent.directories for sent in mounted.outlet.sent if isinstance(sent, ops.Sync)]
    assert points[:2] == [tuple(made), ()]
    assert ops.ROOT in points[2]


def test_a_closed_gate_answers_held_requests_and_new_writes_with_eio(mounted: Mounted) -> None:
    mounted.outlet.hold = True
    errors: list[int | None] = []
    fd = os.open(mounted.tree / "a", os.O_CREAT | os.O_WRONLY)

    def work() -> None:
        try:
            os.fsync(fd)
        except OSError as fault:
            errors.append(fault.errno)

    threading.Thread(target=work, daemon=True).start()
    eventually(lambda: mounted.outlet.held)
    mounted.files.close_writes()
    mounted.outlet.held.pop()(errno.EIO)
    eventually(lambda: errors == [errno.EIO])
    with pytest.raises(OSError) as caught:
        os.write(fd, b"late")
    assert caught.value.errno == errno.EIO
    os.close(fd)


def test_what_was_written_in_a_reign_is_not_called_safe_after_it(mounted: Mounted) -> None:
    fd = os.open(mounted.tree / "a", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"nobody else has it")
    mounted.files.follow()
    with pytest.raises(OSError) as caught:
        os.fsync(fd)
    assert caught.value.errno == errno.EIO
    os.close(fd)


def test_a_log_that_its_disk_does_not_take_costs_the_role_and_a_closed_gate_does_not(
    mounted: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    mounted.files.volume_failed = said.append
    mounted.files.close_writes()
    with pytest.raises(OSError, match="Input/output"):
        (mounted.tree / "late").write_bytes(b"")
    assert not said
    mounted.files.open_writes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(mounted.outlet, "before_change", fail)
    with pytest.raises(OSError, match="Input/output"):
        (mounted.tree / "new").write_bytes(b"")
    assert said
    assert mounted.files.failed


def test_what_loses_one_of_its_names_is_noted_as_its_time_of_change_moves_on(mounted: Mounted) -> None:
    """After a crash it would be taken for an edit from outside."""
    (mounted.tree / "a").write_bytes(b"x")
    os.link(mounted.tree / "a", mounted.tree / "b")
    inode = os.stat(mounted.plain / "a").st_ino
    mounted.outlet.keys.clear()
    os.unlink(mounted.tree / "b")
    assert inode in {key[1] for key in mounted.outlet.keys}


def test_an_o_sync_write_is_a_durable_point(mounted: Mounted) -> None:
    fd = os.open(mounted.tree / "log", os.O_CREAT | os.O_WRONLY | os.O_DSYNC)
    os.write(fd, b"commit")
    assert [type(operation) for operation in sent(mounted, (ops.Write, ops.Sync))][:2] == [
        ops.Write,
        ops.Sync,
    ]
    os.close(fd)


def test_a_follower_refuses_changes_and_shows_what_others_wrote(mounted: Mounted) -> None:
    (mounted.tree / "a").write_bytes(b"old")
    mounted.files.follow()
    with pytest.raises(OSError) as caught:
        (mounted.tree / "b").write_bytes(b"")
    assert caught.value.errno == errno.EROFS
    (mounted.plain / "a").write_bytes(b"newer")
    assert (mounted.tree / "a").read_bytes() == b"newer"
    mounted.files.forget_followed()
    mounted.files.open_writes()
    assert (mounted.tree / "a").read_bytes() == b"newer"
    (mounted.tree / "a").write_bytes(b"mine")


def test_excluded_names_stay_local_and_do_not_cross_the_border(mounted: Mounted) -> None:
    (mounted.tree / "x.tmp").write_bytes(b"scratch")
    assert not mounted.outlet.sent
    with pytest.raises(OSError) as caught:
        os.rename(mounted.tree / "x.tmp", mounted.tree / "x")
    assert caught.value.errno == errno.EXDEV
    assert (mounted.tree / "x.tmp").read_bytes() == b"scratch"


def test_an_unlinked_open_file_lives_until_it_is_closed(mounted: Mounted) -> None:
    fd = os.open(mounted.tree / "gone", os.O_CREAT | os.O_RDWR)
    os.unlink(mounted.tree / "gone")
    os.write(fd, b"still here")
    assert os.fstat(fd).st_nlink == 0
    assert os.pread(fd, 20, 0) == b"still here"
    assert os.listdir(mounted.tree) == []
    os.close(fd)
    eventually(lambda: os.listdir(mounted.plain / ".hafarm/orphans") == [])


@pytest.mark.parametrize("takes", [os.unlink, lambda path: os.replace(path.with_name("other"), path)])
def test_an_open_file_is_noted_before_it_gets_its_refuge(
    mounted: Mounted, takes: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between leaves its name, and a time of change that is nobody's without an entry."""
    (mounted.tree / "other").touch()
    fd = os.open(mounted.tree / "goes", os.O_CREAT | os.O_RDWR)
    before = (mounted.plain / "goes").stat()
    noted: list[os.stat_result] = []

    def note(keys: Iterable[ChangeKey], names: Sequence[Named] | None = None) -> None:
        if before.st_ino in {key[1] for key in keys}:
            noted.append((mounted.plain / "goes").stat())

    monkeypatch.setattr(mounted.outlet, "before_change", note)
    takes(mounted.tree / "goes")
    os.close(fd)
    assert [(each.st_nlink, each.st_ctime_ns) for each in noted[:1]] == [(1, before.st_ctime_ns)]


def test_links_renames_and_attributes_look_as_below(mounted: Mounted) -> None:
    tree = mounted.tree
    (tree / "a").write_bytes(b"1")
    os.link(tree / "a", tree / "b")
    os.symlink("a", tree / "s")
    os.mkdir(tree / "d")
    os.rename(tree / "b", tree / "d/b")
    os.chmod(tree / "a", 0o640)
    os.chown(tree / "a", 1, 2)
    os.utime(tree / "a", ns=(1_500_000_000_123_456_789, 1_600_000_000_987_654_321))
    os.setxattr(tree / "a", "user.k", b"v")
    assert snapshot(tree) == snapshot(mounted.plain)
    assert os.stat(tree / "d/b").st_ino == os.stat(tree / "a").st_ino
    assert os.getxattr(tree / "d/b", "user.k") == b"v"
    assert os.readlink(tree / "s") == "a"
    assert sent(mounted, ops.Link)
    assert sent(mounted, ops.Rename)
    assert sent(mounted, ops.SetXattr)


def test_setgid_directories_and_umask_bind(mounted: Mounted) -> None:
    os.mkdir(mounted.tree / "g")
    os.chown(mounted.tree / "g", 0, 77)
    os.chmod(mounted.tree / "g", 0o2775)
    before = os.umask(0o027)
    try:
        (mounted.tree / "g/f").write_bytes(b"")
        os.mkdir(mounted.tree / "g/d")
    finally:
        os.umask(before)
    file, directory = os.stat(mounted.tree / "g/f"), os.stat(mounted.tree / "g/d")
    assert (file.st_gid, stat.S_IMODE(file.st_mode)) == (77, 0o640)
    assert (directory.st_gid, stat.S_IMODE(directory.st_mode)) == (77, 0o2750)


def test_a_large_directory_is_listed_once_each(mounted: Mounted) -> None:
    names = {f"file-{number:05d}" for number in range(1500)}
    for name in names:
        os.close(os.open(mounted.tree / name, os.O_CREAT | os.O_WRONLY))
    listed = os.listdir(mounted.tree)
    assert len(listed) == len(names)
    assert set(listed) == names


DATABASE = """
import sqlite3, sys
for journal in ("wal", "delete"):
    base = sqlite3.connect(f"{sys.argv[1]}/{journal}.db")
    base.execute(f"pragma journal_mode={journal}")
    base.execute("pragma synchronous=full")
    base.execute("create table t (n integer)")
    for number in range(30):
        with base:
            base.execute("insert into t values (?)", (number,))
    base.close()
"""


def test_sqlite_commits_and_finds_its_rows_again(mounted: Mounted) -> None:
    # A process of its own: it maps files of the mount, and a process must not wait for itself to serve them.
    subprocess.run([sys.executable, "-c", DATABASE, mounted.tree], check=True, timeout=60)
    for journal in ("wal", "delete"):
        base = sqlite3.connect(f"file:{mounted.plain}/{journal}.db?mode=ro&immutable=1", uri=True)
        assert base.execute("select count(*), sum(n) from t").fetchone() == (30, 435)
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)
        base.close()


def test_random_operations_leave_the_same_tree_as_on_plain_ext4(mounted: Mounted, disk: Path) -> None:
    reference = disk / f"reference-{os.getpid()}"
    reference.mkdir()
    for seed in range(3):
        dice, twin = random.Random(seed), random.Random(seed)
        for _ in range(250):
            assert step(dice, mounted.tree) == step(twin, reference)
    assert snapshot(mounted.plain) == snapshot(reference)
    assert snapshot(mounted.tree) == snapshot(reference)


def step(dice: random.Random, tree: Path) -> int | None:
    """One random operation; the error number that it met."""
    names = [tree / name for name in ("a", "b", "c", "d/a", "d/b", "d", "e")]
    one, two = dice.choice(names), dice.choice(names)
    what, at, length = dice.randrange(13), dice.randrange(20000), dice.randrange(9000)
    data = dice.randbytes(dice.randrange(1, 5000))
    acts: list[Callable[[], object]] = [
        lambda: write_at(one, at, data),
        lambda: write_at(one, at, data),
        lambda: os.truncate(one, at),
        lambda: os.mkdir(one),
        lambda: os.rmdir(one),
        lambda: os.unlink(one),
        lambda: os.rename(one, two),
        lambda: os.rename(one, two),
        lambda: os.link(one, two, follow_symlinks=False),
        lambda: os.symlink("target", one),
        lambda: os.chmod(one, at & 0o777),
        lambda: punch(one, at, length + 1),
        lambda: os.setxattr(one, "user.x", data[:50]),
    ]
    try:
        acts[what]()
    except OSError as fault:
        return fault.errno
    return None


def write_at(path: Path, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def punch(path: Path, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if libc.fallocate(fd, 3, offset, length):
            raise OSError(ctypes.get_errno(), "fallocate")
    finally:
        os.close(fd)


def snapshot(tree: Path) -> list[tuple[object, ...]]:
    """Everything that a user would miss, our hidden directory left out; times apart."""
    found: list[tuple[object, ...]] = []
    for base, directories, files in os.walk(tree):
        if ".hafarm" in directories:
            directories.remove(".hafarm")
        for name in [*directories, *files]:
            path = Path(base) / name
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = sorted((key, os.getxattr(path, key, follow_symlinks=False)) for key in _xattrs(path))
            links = status.st_nlink
            found.append((str(path.relative_to(tree)), status.st_mode, status.st_uid, links, content, xattrs))
    return sorted(found, key=lambda item: str(item[0]))


def _xattrs(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def test_without_the_right_to_open_by_handle_names_lead_to_the_same_objects(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "only root may")

    monkeypatch.setattr("orchestrator.host.disk.open_handle", refuse)
    tree = disk / f"names-{tmp_path.name}"
    tree.mkdir()
    thing = Mounted(tree, tmp_path / "journal")
    try:
        (tree / "d").mkdir()
        (tree / "d" / "f").write_bytes(b"one")
        os.rename(tree / "d", tree / "e")
        os.link(tree / "e" / "f", tree / "g")
        with open(tree / "e" / "f", "r+b") as file:
            os.unlink(tree / "e" / "f")
            os.unlink(tree / "g")
            file.write(b"two")
            os.fsync(file.fileno())
            file.seek(0)
            assert file.read() == b"two"
        with sqlite3.connect(tree / "rows.db") as base:
            base.execute("create table rows (n)")
            base.execute("insert into rows values (7)")
        assert sqlite3.connect(thing.plain / "rows.db").execute("select n from rows").fetchall() == [(7,)]
        assert (thing.plain / "e").is_dir()
    finally:
        thing.close()
