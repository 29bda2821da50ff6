"""Real processes of a real application: started, stopped, killed, found again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host import process as started
from orchestrator.host.application import Application
from orchestrator.host.cgroup import group, kill_all
from orchestrator.host.launcher import Launcher
from orchestrator.model.config import CheckConfig, MirrorConfig, RunConfig
from orchestrator.model.events import (
    ApplicationFailed,
    ApplicationStarted,
    ApplicationStopped,
    CheckFailed,
    ModuleEvent,
)
from orchestrator.model.names import Epoch, ModuleName, NodeName
from tests.support.waiting import eventually, until

SHOP = ModuleName(f"shop-{os.getpid()}")
PATIENT = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
DAEMON = "setsid sh -c '(trap \"\" TERM HUP; echo deaf; exec sleep 600) &' ; "


class Lab:
    """One application in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.events: list[ModuleEvent] = []

    def shell(self, text: str, **more: float) -> Application:
        return self.application(RunConfig(command=("/bin/sh", "-c", text), **more))  # type: ignore[arg-type]

    def scripts(self, start: str, stop: str, **more: float) -> Application:
        folder = self.home / "scripts"
        folder.mkdir(exist_ok=True)
        for name, text in (("start_prim", start), ("stop_prim", stop)):
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        return self.application(RunConfig(scripts=str(folder), **more))  # type: ignore[arg-type]

    def application(self, run: RunConfig, checks: tuple[CheckConfig, ...] = ()) -> Application:
        module = MirrorConfig(SHOP, (NodeName("a"),), (), run=run, checks=checks)
        return Application(
            module, NodeName("a"), str(self.home / "run"), str(self.home / "log"), self.events.append
        )

    def logged(self, name: str = "command") -> str:
        return "".join(path.read_text() for path in sorted((self.home / "log" / SHOP).glob(f"{name}-*.log")))

    def saw(self, kind: type[ModuleEvent]) -> bool:
        return any(isinstance(event, kind) for event in self.events)


def living() -> list[int]:
    return group(f"{SHOP}/app").pids()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield Lab(tmp_path)
    asyncio.run(kill_all(group(f"{SHOP}/app")))
    group(f"{SHOP}/app").remove()


def test_a_command_that_obeys_is_stopped_cleanly_and_nothing_lives(lab: Lab) -> None:
    async def story() -> None:
        application = lab.shell(PATIENT)
        await application.start(Epoch(3))
        await until(lambda: "ready" in lab.logged())
        await application.stop(force=False)

    asyncio.run(story())
    assert lab.events == [ApplicationStarted(SHOP), ApplicationStopped(SHOP, clean=True)]
    assert living() == []


def test_a_command_that_is_deaf_to_sigterm_is_killed_when_its_time_is_over(lab: Lab) -> None:
    async def story() -> None:
        application = lab.shell(DEAF, stop_timeout_s=0.3)
        await application.start(Epoch(1))
        await until(lambda: "ready" in lab.logged())
        await application.stop(force=False)

    asyncio.run(story())
    assert lab.events[-1] == ApplicationStopped(SHOP, clean=False)
    assert living() == []


def test_force_overtakes_a_gentle_stop_that_is_under_way(lab: Lab) -> None:
    async def story() -> None:
        application = lab.shell(DEAF, stop_timeout_s=3600)
        await application.start(Epoch(1))
        await until(lambda: "ready" in lab.logged())
        gentle = asyncio.create_task(application.stop(force=False))
        await asyncio.sleep(0)
        await asyncio.wait_for(application.stop(force=True), 15)
        await asyncio.wait_for(gentle, 15)

    asyncio.run(story())
    assert lab.events == [ApplicationStarted(SHOP), ApplicationStopped(SHOP, clean=False)]
    assert living() == []


def test_daemons_that_forked_twice_into_sessions_of_their_own_are_killed_too(lab: Lab) -> None:
    async def story() -> None:
        application = lab.shell(DAEMON + PATIENT, stop_timeout_s=0.3)
        await application.start(Epoch(1))
        await until(lambda: "ready" in lab.logged() and "deaf" in lab.logged())
        await application.stop(force=False)

    asyncio.run(story())
    assert lab.events[-1] == ApplicationStopped(SHOP, clean=False)
    assert living() == []


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    launcher = Launcher()
    monkeypatch.setattr(started, "LAUNCHER", launcher)
    launcher.start()
    yield
    launcher.close()


TELL_EPOCH = 'echo "epoch $HAFARM_EPOCH"; exec sleep 600'


def test_what_was_prepared_runs_once_it_is_started_and_not_before(lab: Lab, helped: None) -> None:
    async def story() -> None:
        application = lab.shell(TELL_EPOCH)
        await application.prepare(Epoch(3))
        (child,) = living()
        await application.prepare(Epoch(3))
        assert living() == [child]
        assert lab.logged() == ""
        assert not application.running
        await application.start(Epoch(3))
        await until(lambda: lab.logged() == "epoch 3\n")
        assert living() == [child]
        assert lab.events == [ApplicationStarted(SHOP)]
        await application.prepare(Epoch(4))
        assert living() == [child], "nothing is prepared beside what runs"
        await application.stop(force=True)

    asyncio.run(story())
    assert living() == []


def test_a_start_script_is_prepared_too(lab: Lab, helped: None) -> None:
    async def story() -> None:
        application = lab.scripts("(echo started $HAFARM_EPOCH; exec sleep 600) &", "true")
        await application.prepare(Epoch(3))
        assert lab.logged("start_prim") == ""
        await application.start(Epoch(3))
        await until(lambda: lab.logged("start_prim") == "started 3\n")
        await application.stop(force=True)

    asyncio.run(story())


def test_what_was_prepared_for_another_epoch_is_dismissed(lab: Lab, helped: None) -> None:
    async def story() -> None:
        application = lab.shell(TELL_EPOCH)
        await application.prepare(Epoch(3))
        before = living()
        await application.start(Epoch(5))
        await until(lambda: lab.logged() == "epoch 5\n")
        assert living() != before
        assert len(living()) == 1
        await application.stop(force=True)

    asyncio.run(story())


def test_what_was_killed_while_it_waited_is_replaced(lab: Lab, helped: None) -> None:
    async def story() -> None:
        application = lab.shell(TELL_EPOCH)
        await application.prepare(Epoch(3))
        (child,) = living()
        os.kill(child, signal.SIGKILL)
        await until(lambda: living() == [])
        await application.start(Epoch(3))
        await until(lambda: lab.logged() == "epoch 3\n")
        assert lab.events == [ApplicationStarted(SHOP)]
        await application.stop(force=True)

    asyncio.run(story())


def test_a_script_that_was_changed_since_is_the_one_that_runs(lab: Lab, helped: None) -> None:
    async def story() -> None:
        application = lab.scripts("echo old", "true")
        scripts, other = lab.home / "scripts", lab.home / "other"
        scripts.rename(lab.home / "first")
        scripts.symlink_to(lab.home / "first")
        await application.prepare(Epoch(3))
        other.mkdir()
        (other / "start_prim").write_text("#!/bin/sh\necho new\n")
        (other / "start_prim").chmod(0o755)
        scripts.unlink()
        scripts.symlink_to(other)
        await application.start(Epoch(3))
        assert lab.logged("start_prim") == "new\n"
        assert living() == [], "nothing waits beside what was started"
        await application.stop(force=True)

    asyncio.run(story())


def test_a_start_that_waits_for_the_last_ones_end_is_overtaken_by_a_stop(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.host.cgroup.KILL_POLL_S", 0.5)  # as if it took long to die

    async def story() -> None:
        application = lab.shell(PATIENT)
        await application.start(Epoch(3))
        await until(lambda: "ready" in lab.logged())
        again = asyncio.create_task(application.start(Epoch(4)))
        await until(lambda: living() == [])
        assert not again.done()
        await application.stop(force=True)
        assert isinstance(lab.events[-1], ApplicationStopped)
        await again
        assert living() == []
        assert not application.running

    asyncio.run(story())


def test_what_was_prepared_in_vain_leaves_nothing(lab: Lab, helped: None) -> None:
    async def story() -> None:
        application = lab.shell(TELL_EPOCH)
        for end in (application.dismiss, application.detach):
            await application.prepare(Epoch(3))
            assert living()
            end()
            assert living() == []
        await application.prepare(Epoch(3))
        await application.stop(force=True)
        assert living() == []

    asyncio.run(story())
    assert list((lab.home / "log" / SHOP).iterdir()) == []


def test_death_is_told_with_its_signal_and_the_last_lines(lab: Lab) -> None:
    async def story() -> None:
        application = lab.shell("echo out of cheese; kill -SEGV $$")
        await application.start(Epoch(1))
        await until(lambda: lab.saw(ApplicationFailed))
        await application.stop(force=True)

    asyncio.run(story())
    failed = next(event for event in lab.events if isinstance(event, ApplicationFailed))
    assert "SIGSEGV" in failed.why
    assert "out of cheese" in failed.why


def test_a_command_that_does_not_exist_fails_to_start(lab: Lab) -> None:
    asyncio.run(lab.application(RunConfig(command=("/nowhere/at-all",))).start(Epoch(1)))
    assert [type(event) for event in lab.events] == [ApplicationFailed]
    assert "/nowhere/at-all" in str(lab.events[0])


def test_the_command_gets_a_clean_environment_and_its_own_session(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the agent")

    async def story() -> None:
        application = lab.shell("env; pwd; echo fds $(ls /proc/self/fd | wc -l); " + PATIENT)
        await application.start(Epoch(42))
        await until(lambda: "ready" in lab.logged())
        await application.stop(force=True)

    asyncio.run(story())
    lines = lab.logged().splitlines()
    assert {f"HAFARM_MODULE={SHOP}", "HAFARM_NODE=a", "HAFARM_ROLE=PRIM", "HAFARM_EPOCH=42", "/"} <= set(
        lines
    )
    assert "of the agent" not in lab.logged()
    # 0, 1, 2, and the one that lists the directory.
    assert "fds 4" in lines or "fds 5" in lines


def test_the_command_runs_as_its_user(lab: Lab) -> None:
    async def story() -> None:
        application = lab.application(
            RunConfig(command=("/bin/sh", "-c", "id -u; id -g; echo ready; sleep 600"), user="nobody")
        )
        await application.start(Epoch(1))
        await until(lambda: "ready" in lab.logged() or lab.saw(ApplicationFailed))
        await application.stop(force=True)

    asyncio.run(story())
    assert lab.logged().splitlines()[:2] == ["65534", "65534"]


def test_logs_are_for_root_only_and_the_oldest_go(lab: Lab) -> None:
    folder = lab.home / "log" / SHOP
    folder.mkdir(parents=True)
    for day in range(10, 31):
        (folder / f"command-202001{day}T000000.000.log").write_text("old")
    asyncio.run(lab.application(RunConfig(command=("/bin/true",))).start(Epoch(1)))
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 20
    assert "command-20200110T000000.000.log" not in names
    assert (folder / names[-1]).stat().st_mode & 0o777 == 0o600


def test_scripts_start_daemons_and_stop_asks_them(lab: Lab) -> None:
    async def story() -> None:
        application = lab.scripts(
            f'(sh -c "{PATIENT.replace("$", chr(92) + "$")}") &', f"kill $(cat {lab.home}/pid)"
        )
        (lab.home / "scripts/start_prim").write_text(
            f"#!/bin/sh\nsleep 600 &\necho $! > {lab.home}/pid\nexit 0\n"
        )
        await application.start(Epoch(1))
        assert lab.saw(ApplicationStarted)
        assert len(living()) == 1
        await application.stop(force=False)

    asyncio.run(story())
    assert lab.events[-1] == ApplicationStopped(SHOP, clean=True)
    assert living() == []


def test_a_start_script_that_fails_leaves_nothing_behind(lab: Lab) -> None:
    asyncio.run(lab.scripts("sleep 600 & echo no disk; exit 7", "exit 0").start(Epoch(1)))
    assert [type(event) for event in lab.events] == [ApplicationFailed]
    assert "status 7" in str(lab.events[0])
    assert "no disk" in str(lab.events[0])
    assert living() == []


def test_a_start_script_that_takes_too_long_is_ended(lab: Lab) -> None:
    asyncio.run(lab.scripts("sleep 600", "exit 0", start_timeout_s=0.2).start(Epoch(1)))
    assert "longer than 0.2 s" in str(lab.events[0])
    assert living() == []


def test_daemons_that_all_died_are_told(lab: Lab) -> None:
    async def story() -> None:
        application = lab.scripts("sleep 600 & exit 0", "exit 0")
        await application.start(Epoch(1))
        os.kill(living()[0], signal.SIGKILL)
        await until(lambda: lab.saw(ApplicationFailed))

    asyncio.run(story())


def test_a_script_that_others_can_write_is_refused(lab: Lab) -> None:
    application = lab.scripts("exit 0", "exit 0")
    (lab.home / "scripts/start_prim").chmod(0o777)
    asyncio.run(application.start(Epoch(1)))
    assert [type(event) for event in lab.events] == [ApplicationFailed]
    assert "changed by others" in str(lab.events[0])


DRIVER = """
import asyncio, sys
from orchestrator.host.application import Application
from orchestrator.model.config import MirrorConfig, RunConfig
home, module, kind, what = sys.argv[1:]
run = RunConfig(scripts=what) if kind == "scripts" else RunConfig(command=("/bin/sh", "-c", what))
async def main():
    config = MirrorConfig(module, ("a",), (), run=run)
    tell = lambda event: print(event, flush=True)
    application = Application(config, "a", home + "/run", home + "/log", tell)
    print("begun", flush=True)
    await application.start(7)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def left_behind(lab: Lab, kind: str, what: str, until: str) -> None:
    """Start it in an agent of its own, and kill -9 that agent."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(lab.home), SHOP, kind, what], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    try:
        for line in driver.stdout:
            if until in line:
                break
        if until == "begun":
            eventually(lambda: '"starting"' in _record(lab))
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()


def _record(lab: Lab) -> str:
    path = lab.home / "run" / SHOP / "application.json"
    return path.read_text() if path.exists() else ""


def test_an_application_outlives_its_agent_and_is_found_again(lab: Lab) -> None:
    left_behind(lab, "command", PATIENT, "ApplicationStarted")
    before = living()

    async def story() -> None:
        application = lab.shell(PATIENT)
        assert await application.adopt()
        assert living()[0] == before[0]
        assert lab.events == []
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: lab.saw(ApplicationFailed))
        await application.stop(force=True)

    asyncio.run(story())
    assert living() == []


def test_an_application_that_died_with_its_agent_is_not_adopted_and_its_rest_is_cleared(lab: Lab) -> None:
    left_behind(lab, "command", DAEMON + PATIENT, "ApplicationStarted")
    eventually(lambda: len(living()) >= 2)
    os.kill(living()[0], signal.SIGKILL)
    main = int(_record(lab).split('"pid": ')[1].split(",")[0])
    if main in living():
        os.kill(main, signal.SIGKILL)
    eventually(lambda: main not in living())
    assert asyncio.run(lab.shell(PATIENT).adopt()) is False
    assert living() == []


def test_a_start_script_under_way_is_taken_back_and_not_run_twice(lab: Lab) -> None:
    go = lab.home / "go"
    application = lab.scripts(
        f"echo ran >> {lab.home}/runs; while [ ! -e {go} ]; do sleep 0.02; done; sleep 600 & exit 0", "exit 0"
    )
    left_behind(lab, "scripts", str(lab.home / "scripts"), "begun")

    async def story() -> None:
        adopting = asyncio.create_task(application.adopt())
        await until(lambda: (lab.home / "runs").exists())
        assert not adopting.done()
        go.touch()
        assert await adopting
        await application.stop(force=True)

    asyncio.run(story())
    assert (lab.home / "runs").read_text() == "ran\n"


def test_nothing_to_run_is_started_at_once_and_found_again(lab: Lab) -> None:
    async def story() -> None:
        first = lab.application(RunConfig())
        assert not await first.adopt()
        await first.start(Epoch(1))
        first.detach()
        assert await lab.application(RunConfig()).adopt()

    asyncio.run(story())
    assert lab.events == [ApplicationStarted(SHOP)]


def test_checks_begin_with_the_application_and_end_before_it(lab: Lab) -> None:
    check = CheckConfig(
        "fails", "custom", "sh -c 'echo broken; exit 3'", every_s=0.02, timeout_s=5, fail_after=2
    )

    async def story() -> None:
        run = RunConfig(command=("/bin/sh", "-c", PATIENT), start_timeout_s=0.1)
        application = lab.application(run, (check,))
        await application.start(Epoch(1))
        await until(lambda: lab.saw(CheckFailed))
        assert application.checks.results["fails"].text == "broken"
        await application.stop(force=False)

    asyncio.run(story())
    assert isinstance(lab.events[0], ApplicationStarted)
    assert CheckFailed(SHOP, "fails", "restart") in lab.events
    assert isinstance(lab.events[-1], ApplicationStopped)
