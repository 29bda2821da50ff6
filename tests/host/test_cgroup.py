"""Each means of holding processes together keeps what it promises."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host.cgroup import Cgroup, Group, MarkedGroup, group, hierarchies, kill_all
from orchestrator.host.process import spawn
from tests.support.waiting import eventually

NAME = f"grouped-{os.getpid()}/app"
FORKS = "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP; sleep 600 & sleep 600' & done; wait"


@pytest.fixture(params=["cgroup2", "freezer", "marked"])
def kind(request: pytest.FixtureRequest) -> Iterator[Group]:
    if request.param == "marked":
        yield MarkedGroup(NAME)
        return
    mounts = dict(hierarchies())
    if request.param not in mounts:
        pytest.skip(f"no {request.param} hierarchy on this machine")
    yield Cgroup(mounts[request.param] / "hafarm" / NAME, unified=request.param == "cgroup2")


def test_whatever_forks_in_a_group_is_listed_and_killed(kind: Group) -> None:
    quiet = os.open("/dev/null", os.O_WRONLY)
    process = spawn(["/bin/sh", "-c", FORKS], kind, quiet)
    os.close(quiet)
    try:
        eventually(lambda: len(kind.pids()) >= 10)
        assert process.pid in kind.pids()
    finally:
        asyncio.run(kill_all(kind))
    assert kind.pids() == []
    asyncio.run(process.wait())
    process.close()
    kind.remove()


def test_the_group_that_is_chosen_is_certain_and_leaves_nothing_on_disk() -> None:
    chosen = group(NAME)
    assert chosen.certain
    chosen.create()
    chosen.remove()
    assert not [mount for _, mount in hierarchies() if Path(mount / "hafarm" / NAME).exists()]
