"""What a node keeps beside the stream has an end too; and nobody changes a tree that follows."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.host import disk as host_disk
from orchestrator.host.lines import LINE_BYTES_MAX
from orchestrator.mirror.lineage import Position
from orchestrator.replicator import ops
from orchestrator.replicator.control import AGENTS_MAX, Control
from orchestrator.replicator.handles import Table
from orchestrator.replicator.logs import ChangeLogs
from tests.replicator.hostile import descriptors
from tests.replicator.mounted import Mounted
from tests.replicator.pair import LYON

STREAM = "0123456789abcdef" * 2


# --- sockets and journals ----------------------------------------------------------------------------------


def test_the_control_socket_takes_so_many_agents_lines_of_so_much_and_waits_for_none(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    control = Control(path, {"echo": lambda request: {"said": int(request["what"])}})
    control.start()

    def dial() -> socket.socket:
        agent = socket.socket(socket.AF_UNIX)
        agent.connect(path)
        agent.settimeout(10)
        return agent

    agents = [dial() for _ in range(AGENTS_MAX)]
    for agent in agents:
        agent.sendall(b'{"id": 1, "do": "echo", "what": 7}\n')
        assert json.loads(agent.recv(1000))["ok"] == {"said": 7}
    assert dial().recv(1) == b"", "one more than there are places for"
    agents[0].sendall(b'{"id": 2, "do": "echo", "what": "x"}\n')
    assert json.loads(agents[0].recv(1000))["error"]["code"] == "HF1000"
    agents[1].sendall(b"[" * 100_000 + b"\n")
    assert agents[1].recv(1) == b""
    try:
        for _ in range(2 * LINE_BYTES_MAX // 65536):
            agents[2].sendall(b"x" * 65536)
        assert agents[2].recv(1) == b""
    except OSError:
        pass  # closed while more was being sent
    # One that reads nothing is left behind, and the others hear everything.
    for agent in agents[5:]:
        agent.close()
    heard = threading.Event()

    def listen() -> None:
        while b"last" not in agents[3].recv(1 << 20):
            pass
        heard.set()

    threading.Thread(target=listen, daemon=True).start()
    for _ in range(40):
        control.tell("event", text="x" * 20_000)
    control.tell("last")
    assert heard.wait(30)
    for agent in agents:
        agent.close()


def test_the_file_of_a_log_stays_near_to_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.replicator.change_log._SLACK_BYTES", 1000)
    logs = ChangeLogs(str(tmp_path), [LYON])
    path = tmp_path / f"may-differ.{LYON}"
    for number in range(0, 12_800, 32):
        logs.before_change([(0, inode, ops.DATA, 1) for inode in range(number, number + 32)], number)
        if number % 320 == 0:
            logs.of[LYON].confirmed(Position(STREAM, number))
    assert len(logs.of[LYON].keys()) < 2000
    assert path.stat().st_size < 3 * 2000 * 24, "what is gone is still in the file"


def test_the_journal_stays_near_to_what_the_kernel_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.replicator.handles._JOURNAL_BYTES_MAX", 10_000)
    root = os.open(tmp_path, os.O_RDONLY)
    table = Table(root, str(tmp_path / "journal"), 100)
    table.load()
    for number in range(3000):
        table.note_outcome(number % 10, b"answer")
        table.keep()
    assert (tmp_path / "journal").stat().st_size < 15_000
    os.close(table._journal)
    os.close(root)


def test_objects_that_nobody_uses_are_closed_and_reached_again(disk: Path, tmp_path: Path) -> None:
    folder = disk / secrets.token_hex(4)
    folder.mkdir()
    root = os.open(folder, os.O_RDONLY)
    table = Table(root, str(tmp_path / "journal"), 20)
    table.load()
    table.add(host_disk.handle_of(root, b""), folder.stat().st_ino, stat.S_IFDIR, False)
    before = descriptors()
    nodes = []
    for number in range(200):
        (folder / f"{number}").touch()
        handle = host_disk.handle_of(root, b"%d" % number)
        nodes.append(table.add(handle, (folder / f"{number}").stat().st_ino, stat.S_IFREG, False))
        with nodes[-1] as fd:
            assert os.fstat(fd).st_ino == nodes[-1].inode
    assert descriptors() <= before + 22
    with nodes[0] as fd:
        assert os.fstat(fd).st_ino == nodes[0].inode
    for node in nodes:
        table.close(node)
    os.close(table._journal)
    os.close(root)


def test_exchanges_that_fail_are_not_remembered_for_ever(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    table = Table(root, str(tmp_path / "journal"), 100)
    table.load()
    for unique in range(5000):
        table.note_exchange(unique, b"key")
        table.note_outcome(unique + 1_000_000, b"")
    assert len(table.exchanges) <= 4096
    assert len(table.outcomes) <= 4096
    os.close(table._journal)
    os.close(root)


# --- a node that follows -----------------------------------------------------------------------------------

CHANGES = """
import os, sys, errno
os.chdir(sys.argv[1])
os.setgroups([])
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
def append():
    fd = os.open("open", os.O_WRONLY | os.O_APPEND); os.write(fd, b"x")
def truncate():
    os.truncate("open", 0)
deeds = {
    "create": lambda: os.open("new", os.O_CREAT | os.O_WRONLY),
    "append": append, "truncate": truncate,
    "mkdir": lambda: os.mkdir("newdir"), "symlink": lambda: os.symlink("x", "newlink"),
    "mkfifo": lambda: os.mkfifo("newfifo"), "link": lambda: os.link("open", "newname"),
    "unlink": lambda: os.unlink("open"), "rmdir": lambda: os.rmdir("dir"),
    "rename": lambda: os.rename("open", "other"),
    "chmod": lambda: os.chmod("own", 0o600), "utime": lambda: os.utime("own", (1, 1)),
    "setxattr": lambda: os.setxattr("own", "user.k", b"v"),
    "fallocate": lambda: os.posix_fallocate(os.open("open", os.O_RDWR), 0, 1 << 20),
}
if sys.argv[2] == "0":
    deeds["chown"] = lambda: os.chown("open", 5, 5)
    deeds["mknod"] = lambda: os.mknod("newnode", 0o20600, os.makedev(1, 3))
for name, deed in deeds.items():
    try:
        deed()
        print(name, "was done")
    except OSError as fault:
        if fault.errno != errno.EROFS:
            print(name, errno.errorcode[fault.errno])
"""


@pytest.mark.parametrize("user", [0, 1000])
def test_nobody_changes_a_tree_that_follows_and_who_tried_is_named_in_the_log(
    mounted: Mounted,
    caplog: pytest.LogCaptureFixture,
    user: int,
) -> None:
    os.chmod(mounted.tree, 0o777)
    for name in ("open", "own"):
        (mounted.tree / name).write_bytes(b"kept")
        os.chmod(mounted.tree / name, 0o666)
    os.chown(mounted.tree / "own", user, user)
    (mounted.tree / "dir").mkdir()
    os.chmod(mounted.tree / "dir", 0o777)
    mounted.files.follow()
    before = {path: os.stat(mounted.plain / path) for path in ("open", "own", "dir")}
    with caplog.at_level(logging.WARNING):
        found = subprocess.run(
            [sys.executable, "-c", CHANGES, mounted.tree, str(user)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (found.stdout, found.stderr) == ("", "")
    assert set(os.listdir(mounted.plain)) - {".hafarm"} == before.keys()
    for path, status in before.items():
        now = os.stat(mounted.plain / path)
        assert (now.st_mode, now.st_size, now.st_ctime_ns) == (
            status.st_mode,
            status.st_size,
            status.st_ctime_ns,
        )
    assert stat.S_ISREG(before["open"].st_mode)
    (line,) = [each.getMessage() for each in caplog.records if "not primary" in each.getMessage()]
    assert "pid=" in line
    assert "python" in line
    assert "path=" in line
