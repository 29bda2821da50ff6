"""After a kill: requests that the kernel sends anew, and the journal that the successor reads."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.host import disk as host_disk
from orchestrator.host.fuse import wire
from orchestrator.host.fuse.session import Caller
from orchestrator.replicator.files import Files
from orchestrator.replicator.handles import Table
from orchestrator.replicator.ops import ROOT, orphan_name
from tests.replicator.mounted import Mounted
from tests.support.waiting import eventually

Request = Callable[[Files, Caller], object]


def caller(unique: int, resent: bool) -> Caller:
    asking = Caller()
    asking.unique = unique | (wire.RESENT if resent else 0)
    return asking


def node_of(files: Files, name: bytes) -> int:
    with files.names:
        root = files.table.nodes[ROOT]
        with root as fd:
            return files.find(root, fd, name).id


def xattr_body(name: bytes, value: bytes, flags: int) -> memoryview:
    return memoryview(wire.XATTR_IN.pack(len(value), flags) + bytes(8) + name + b"\0" + value)


REQUESTS: dict[str, Request] = {
    "create": lambda files, asking: files.create(
        asking, ROOT, memoryview(wire.CREATE_IN.pack(os.O_RDWR | os.O_EXCL, 0o100600, 0, 0) + b"new\0")
    ),
    "mkdir": lambda files, asking: files.mkdir(
        asking, ROOT, memoryview(wire.MKDIR_IN.pack(0o700, 0) + b"new\0")
    ),
    "symlink": lambda files, asking: files.symlink(asking, ROOT, memoryview(b"new\0there\0")),
    "link": lambda files, asking: files.link(
        asking, ROOT, memoryview(wire.ID_IN.pack(node_of(files, b"one")) + b"new\0")
    ),
    "unlink": lambda files, asking: files.unlink(asking, ROOT, memoryview(b"one\0")),
    "rmdir": lambda files, asking: files.rmdir(asking, ROOT, memoryview(b"folder\0")),
    "rename": lambda files, asking: files.rename(
        asking, ROOT, memoryview(wire.ID_IN.pack(ROOT) + b"one\0new\0")
    ),
    "exchange": lambda files, asking: files.rename2(
        asking,
        ROOT,
        memoryview(wire.RENAME2_IN.pack(ROOT, host_disk.RENAME_EXCHANGE, 0) + b"one\0two\0"),
    ),
    "set xattr": lambda files, asking: files.set_xattr(
        asking, node_of(files, b"one"), xattr_body(b"user.new", b"value", os.XATTR_CREATE)
    ),
    "remove xattr": lambda files, asking: files.remove_xattr(
        asking, node_of(files, b"one"), memoryview(b"user.old\0")
    ),
}


def ask(files: Files, name: str, resent: bool) -> None:
    """As a thread of the session does, which has an umask of its own."""
    with ThreadPoolExecutor(1) as session:
        session.submit(REQUESTS[name], files, caller(1 << 40, resent)).result(20)


def look(plain: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in sorted(os.listdir(plain)):
        if name == ".hafarm":
            continue
        path = plain / name
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        marks = {key: os.getxattr(path, key) for key in os.listxattr(path, follow_symlinks=False)}
        found[name] = (status.st_ino, status.st_mode, status.st_nlink, content, marks)
    return found


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_was_done_and_is_sent_anew_is_done_once(mounted: Mounted, name: str) -> None:
    (mounted.tree / "one").write_bytes(b"1")
    (mounted.tree / "two").write_bytes(b"2")
    (mounted.tree / "folder").mkdir()
    os.setxattr(mounted.tree / "one", "user.old", b"")
    before = look(mounted.plain)
    ask(mounted.files, name, resent=False)
    after = look(mounted.plain)
    assert after != before
    ask(mounted.files, name, resent=True)
    assert look(mounted.plain) == after


def test_an_exchange_that_was_killed_before_it_was_done_is_done_when_it_is_sent_anew(
    mounted: Mounted,
) -> None:
    (mounted.tree / "one").write_bytes(b"1")
    (mounted.tree / "two").write_bytes(b"2")
    table = mounted.files.table
    table.note_exchange(1 << 40, table.nodes[node_of(mounted.files, b"one")].key)
    ask(mounted.files, "exchange", resent=True)
    assert (mounted.plain / "one").read_bytes() == b"2"


def test_a_refuge_belongs_to_the_object_of_its_number_or_goes(mounted: Mounted) -> None:
    files = mounted.files
    opened = [os.open(mounted.tree / name, os.O_CREAT | os.O_RDWR) for name in ("lost", "kept", "other")]
    lost, kept, other = (node_of(files, name) for name in (b"lost", b"kept", b"other"))
    refuge = files.orphan_directory()
    path = host_disk.path_of(refuge)
    # The life before was killed when it had taken the name of one, and was about to take that of another.
    for number in (lost, kept):
        with files.names, files.table.nodes[number] as fd:
            host_disk.link(fd, refuge, orphan_name(number))
    os.unlink(mounted.plain / "lost")
    # It had made a third thing of whose number nothing is noted: another object has that now.
    with files.names, files.table.nodes[kept] as fd:
        host_disk.link(fd, refuge, orphan_name(other))
    files.settle_refuges()
    assert os.listdir(path) == [orphan_name(lost).decode()]
    assert [files.table.nodes[number].orphan for number in (lost, kept, other)] == [True, False, False]
    os.unlink(mounted.tree / "other")
    assert set(os.listdir(path)) == {orphan_name(number).decode() for number in (lost, other)}
    for fd in opened:
        os.close(fd)
    eventually(lambda: not os.listdir(path))
    os.close(refuge)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return loaded(tmp_path)


def loaded(folder: Path) -> Table:
    found = Table(os.open(folder, os.O_RDONLY), str(folder / "journal"), 100)
    found.load()
    status = os.stat(folder)
    found.add(host_disk.handle_of(found.mount_fd, b""), status.st_ino, stat.S_IFDIR, False)
    return found


def fill(pipe: int) -> None:
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(4096))
    os.set_blocking(pipe, True)


def test_a_reply_waits_for_what_another_thread_writes_of_it(table: Table) -> None:
    table.keep()
    read_end, write_end = os.pipe()
    fill(write_end)
    os.dup2(write_end, table._journal)
    table.note_outcome(7, b"answer")
    other = threading.Thread(target=table.keep, daemon=True)
    other.start()
    eventually(lambda: not table._notes)  # the other one has taken it, and writes
    mine = threading.Thread(target=table.keep, daemon=True)
    mine.start()
    mine.join(0.3)
    assert mine.is_alive()  # nothing is in the file yet: no reply
    os.read(read_end, 1 << 20)  # more than a pipe holds
    for each in (mine, other):
        each.join(20)
        assert not each.is_alive()
    for fd in (read_end, write_end):
        os.close(fd)


def test_the_number_of_a_file_that_was_closed_is_never_given_again(tmp_path: Path, table: Table) -> None:
    root = table.nodes[ROOT]
    opened = table.open_file(root, os.O_RDONLY, os.open(tmp_path, os.O_RDONLY)).number
    table.close_file(opened)
    table.keep()
    later = loaded(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY)
    assert later.open_file(later.nodes[ROOT], os.O_RDONLY, fd).number > opened


def test_an_exchange_that_began_is_known_to_the_next_life(tmp_path: Path, table: Table) -> None:
    table.note_exchange(7, b"first")
    later = loaded(tmp_path)
    assert later.exchanges == {7: b"first"}
    later.note_outcome(7, b"")
    later.keep()
    assert not loaded(tmp_path).exchanges
