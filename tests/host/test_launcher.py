"""Starting a process through the helper is the same as starting it oneself, only faster."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host import process as started
from orchestrator.host.cgroup import Cgroup, Group, MarkedGroup, hierarchies, kill_all
from orchestrator.host.launcher import CannotLaunch, Launcher, Waiting
from orchestrator.host.process import begin, dismiss, prepare, spawn, spawn_logged
from orchestrator.model.errors import Unsupported
from tests.support.waiting import eventually

NAME = f"launched-{os.getpid()}/app"
TELL = "id -u; id -G; pwd; readlink /proc/self/fd/0; echo $WORD; ls /proc/self/fd | wc -l; ps -o ppid= -p $$"


@pytest.fixture(params=["helped", "unhelped"])
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    launcher = Launcher()
    monkeypatch.setattr(started, "LAUNCHER", launcher)
    if request.param == "helped":
        launcher.start()
    yield launcher
    launcher.close()


@pytest.fixture(params=["cgroup2", "freezer", "marked"])
def kind(request: pytest.FixtureRequest) -> Iterator[Group]:
    mounts = dict(hierarchies())
    if request.param == "marked":
        yield MarkedGroup(NAME)
        return
    if request.param not in mounts:
        pytest.skip(f"no {request.param} hierarchy on this machine")
    group = Cgroup(mounts[request.param] / "hafarm" / NAME, unified=request.param == "cgroup2")
    yield group
    asyncio.run(kill_all(group))
    group.remove()


def run(group: Group, log: Path, *argv: str, user: str = "") -> tuple[int | None, list[str]]:
    log.touch()
    process = spawn_logged(argv, group, log, user, {"WORD": "kept"})
    try:
        return asyncio.run(process.wait()), log.read_text().splitlines()
    finally:
        process.close()


def test_what_is_started_has_its_identity_environment_and_nothing_else(
    launcher: Launcher, kind: Group, tmp_path: Path
) -> None:
    status, said = run(kind, tmp_path / "log", "/bin/sh", "-c", TELL)
    assert status == 0
    assert said[0] == str(os.geteuid())
    # Input, two outputs, and the directory that ls itself reads.
    assert said[2:6] == ["/", "/dev/null", "kept", "4"]
    assert int(said[6]) == os.getpid(), "it is our child, whoever started it"


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_is_taken_on_for_good(launcher: Launcher, kind: Group, tmp_path: Path) -> None:
    status, said = run(kind, tmp_path / "log", "/bin/sh", "-c", TELL, user="nobody")
    assert (status, said[0]) == (0, "65534")
    assert "0" not in said[1].split(), "no group of root's is kept"


def test_it_is_in_its_group_from_the_first_instruction(launcher: Launcher, kind: Group) -> None:
    quiet = os.open("/dev/null", os.O_WRONLY)
    process = spawn(["/bin/sleep", "600"], kind, quiet)
    os.close(quiet)
    try:
        assert kind.pids() == [process.pid]
        assert os.getsid(process.pid) == process.pid
    finally:
        asyncio.run(kill_all(kind))
    assert asyncio.run(process.wait()) == -signal.SIGKILL
    process.close()


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/passwd"], ["no-such-program"]])
def test_what_cannot_be_run_is_said_at_once(launcher: Launcher, argv: list[str]) -> None:
    quiet = os.open("/dev/null", os.O_WRONLY)
    with pytest.raises(Unsupported, match=r"cannot be run: (No such file|Permission denied)"):
        spawn(argv, MarkedGroup(NAME), quiet)
    os.close(quiet)


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    launcher = Launcher()
    monkeypatch.setattr(started, "LAUNCHER", launcher)
    launcher.start()
    yield launcher
    launcher.close()


def prepared(group: Group, tmp_path: Path) -> tuple[Waiting, Path]:
    argv = ["/bin/sh", "-c", "echo ran; exec sleep 600"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        return prepare(argv, group, output.fileno()), log


def test_what_is_prepared_is_in_its_group_and_runs_nothing_before_its_word(
    helped: Launcher, kind: Group, tmp_path: Path
) -> None:
    waiting, log = prepared(kind, tmp_path)
    command = Path(f"/proc/{waiting.pid}/cmdline")
    eventually(lambda: command.read_bytes().startswith(b"sh\0-c\0read "))
    eventually(lambda: "pipe" in Path(f"/proc/{waiting.pid}/wchan").read_text())
    assert kind.pids() == [waiting.pid]
    assert log.read_bytes() == b""
    process = begin(waiting, ["/bin/sh"])
    eventually(lambda: log.read_bytes() == b"ran\n")
    assert kind.pids() == [process.pid]
    asyncio.run(kill_all(kind))
    process.close()


def test_what_is_dismissed_is_gone_and_has_run_nothing(helped: Launcher, kind: Group, tmp_path: Path) -> None:
    waiting, log = prepared(kind, tmp_path)
    dismiss(waiting)
    assert kind.pids() == []
    assert not Path(f"/proc/{waiting.pid}").exists()
    assert log.read_bytes() == b""


def test_what_waits_ends_with_whoever_prepared_it() -> None:
    script = (
        "import os\n"
        "from orchestrator.host import process\n"
        "from orchestrator.host.cgroup import MarkedGroup\n"
        "process.LAUNCHER.start()\n"
        "print(process.prepare(['/bin/sleep', '600'], MarkedGroup('x'), 1).pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=10)
    pid = int(done.stdout)
    eventually(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())


def test_a_helper_that_died_is_seen_although_what_it_bore_waits(helped: Launcher, tmp_path: Path) -> None:
    waiting, _ = prepared(MarkedGroup(NAME), tmp_path)
    before = helper_of(helped)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: " Z " in Path(f"/proc/{before}/stat").read_text())
    with pytest.raises((CannotLaunch, OSError)) as fault:
        helped.launch(["/bin/true"], {}, 1, (0, 0, ()), -1, "")
    assert "Broken pipe" in str(fault.value.__cause__) or "reset" in str(fault.value.__cause__)
    dismiss(waiting)


def test_what_was_killed_while_it_waited_has_run_nothing_and_says_so(
    helped: Launcher, kind: Group, tmp_path: Path
) -> None:
    waiting, log = prepared(kind, tmp_path)
    os.kill(waiting.pid, signal.SIGKILL)
    eventually(lambda: " Z " in Path(f"/proc/{waiting.pid}/stat").read_text())
    with pytest.raises(CannotLaunch):
        begin(waiting, ["/bin/sh"])
    assert log.read_bytes() == b""


def test_an_exit_status_is_known_to_everybody_who_waits(launcher: Launcher, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    process = spawn_logged(["/bin/sh", "-c", "exit 7"], MarkedGroup(NAME), log)

    async def twice() -> list[int | None]:
        return await asyncio.gather(process.wait(), process.wait())

    assert asyncio.run(twice()) == [7, 7]
    process.close()


def test_a_child_that_nobody_waits_for_is_reaped_with_the_next_start(
    launcher: Launcher, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()
    forgotten = spawn_logged(["/bin/true"], MarkedGroup(NAME), log)
    forgotten.close()
    eventually(lambda: " Z " in Path(f"/proc/{forgotten.pid}/stat").read_text())
    run(MarkedGroup(NAME), log, "/bin/true")
    assert not Path(f"/proc/{forgotten.pid}").exists()


def helper_of(launcher: Launcher) -> int:
    assert launcher._process is not None
    return launcher._process.pid


def test_a_dead_helper_is_replaced_and_nothing_is_started_twice(tmp_path: Path) -> None:
    launcher = Launcher()
    launcher.start()
    try:
        before = helper_of(launcher)
        os.kill(before, signal.SIGKILL)
        eventually(lambda: " Z " in Path(f"/proc/{before}/stat").read_text())
        with pytest.raises((CannotLaunch, OSError)):
            launcher.launch(["/bin/true"], {}, 1, (0, 0, ()), -1, "")
        assert helper_of(launcher) != before
        process = begin(launcher.launch(["/bin/true"], {}, 1, (os.geteuid(), 0, ()), -1, ""), ["/bin/true"])
        assert asyncio.run(process.wait()) == 0
        process.close()
    finally:
        launcher.close()


def test_a_helper_that_hangs_is_an_error_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.host.launcher.ANSWER_TIMEOUT_S", 0.2)
    launcher = Launcher()
    launcher.start()
    try:
        before = helper_of(launcher)
        os.kill(before, signal.SIGSTOP)
        with pytest.raises(OSError, match="gave no answer"):
            launcher.launch(["/bin/true"], {}, 1, (0, 0, ()), -1, "")
        assert helper_of(launcher) != before
    finally:
        launcher.close()


def test_a_request_that_is_too_large_for_the_helper_is_carried_out_without_it(tmp_path: Path) -> None:
    launcher = Launcher()
    launcher.start()
    try:
        with pytest.raises(CannotLaunch):
            launcher.launch(["/bin/true", "x" * 200_000], {}, 1, (0, 0, ()), -1, "")
    finally:
        launcher.close()


def test_the_helper_ends_with_whoever_started_it() -> None:
    script = (
        "import os, time\n"
        "from orchestrator.host.launcher import Launcher\n"
        "launcher = Launcher(); launcher.start(); print(launcher._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pid, end = int(done.stdout), time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < end, "the helper outlives its agent"
        time.sleep(0.01)
