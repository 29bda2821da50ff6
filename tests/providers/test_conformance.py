"""What every way of moving an address keeps, whatever the cloud does meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from orchestrator.model.errors import HafarmError
from orchestrator.model.names import Epoch
from orchestrator.providers.clouds import CLAIM
from orchestrator.providers.faults import ForeignOwner, Superseded, WorkerSaid
from orchestrator.providers.mover import Wish
from orchestrator.providers.provider import Owner, Sight
from tests.providers.aws_scenes import AWS_SCENES
from tests.providers.azure_scenes import AZURE_SCENES
from tests.providers.gcp_scenes import GCP_SCENES
from tests.providers.nodes import LYON, PARIS, SHOP
from tests.providers.scenes import STRANGER, Scene
from tests.providers.stage import Stage, staged
from tests.support.waiting import until

LATE_S = 6.0
"""Longer than a request is waited for."""

SCENES: dict[str, type[Scene]] = {**AWS_SCENES, **AZURE_SCENES, **GCP_SCENES}
SHARED = [name for name, scene in SCENES.items() if scene.shared]
SEVERAL = [name for name, scene in SCENES.items() if scene.parts > 1]
"""The others are moved whole or not."""


@pytest.fixture(scope="module", params=SCENES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(SCENES[request.param], tmp_path_factory.mktemp("log")) as stage:
        yield stage


@pytest.fixture
def stage(built: Stage) -> Stage:
    """Nobody has the address, and nothing is remembered."""
    built.scene.reset()
    built.paris.forget()
    built.lyon.forget()
    return built


def test_a_claim_of_what_is_here_already_changes_nothing(stage: Stage) -> None:
    async def story() -> None:
        await stage.paris.claim(3)
        assert stage.scene.owners() == {PARIS}
        first = len(stage.knobs.changes(PARIS))
        assert first >= stage.scene.parts
        await stage.paris.claim(3)
        assert len(stage.knobs.changes(PARIS)) == first
        seen = await stage.lyon.look()
        assert isinstance(seen, Sight)
        assert (seen.owner, seen.nodes) == (Owner.NODE, {PARIS})

    stage.run(story())


def test_a_successor_takes_it_from_the_former_node(stage: Stage) -> None:
    async def story() -> None:
        await stage.paris.claim(3)
        stage.paris.held = None
        await stage.lyon.claim(4)
        assert stage.scene.owners() == {LYON}

    stage.run(story())


def test_a_foreign_owner_keeps_it(stage: Stage) -> None:
    async def story() -> None:
        stage.scene.give(STRANGER)
        stage.knobs.log.clear()
        with pytest.raises(WorkerSaid) as refused:
            await stage.paris.claim(3)
        assert refused.value.told == ForeignOwner.code
        assert stage.knobs.changes(PARIS) == []
        assert stage.scene.owners() == {STRANGER}

    stage.run(story())


def test_an_answer_that_is_lost_is_looked_for_and_not_asked_again(stage: Stage) -> None:
    async def story() -> None:
        stage.scene.give(LYON)
        stage.knobs.log.clear()
        lost = stage.knobs.turn("lost", action=stage.scene.change, who=PARIS, times=1, seconds=LATE_S)
        await stage.paris.claim(3)
        assert lost.hits == 1
        assert stage.scene.owners() == {PARIS}
        done = [each for each in stage.knobs.changes(PARIS) if stage.scene.leads(each)]
        assert len(done) == (stage.scene.requests or stage.scene.parts)

    stage.run(story())


def test_a_cloud_that_throttles_is_asked_more_slowly_and_in_the_end_agrees(stage: Stage) -> None:
    async def story() -> None:
        throttled = stage.knobs.turn("throttled", action="changes", who=PARIS, times=3)
        await stage.paris.claim(3)
        assert throttled.hits == 3
        await until(lambda: stage.scene.owners() == {PARIS}, 20)

    stage.run(story())


def test_a_cloud_that_shows_changes_late_is_believed_in_the_end(stage: Stage) -> None:
    async def story() -> None:
        stage.scene.give(LYON)
        await stage.paris.look()
        stage.knobs.log.clear()
        stale = stage.knobs.turn("stale", action=stage.scene.look, who=PARIS, times=2)
        await stage.paris.claim(3)
        assert stale.hits == 2
        assert stage.scene.owners() == {PARIS}

    stage.run(story())


def test_credentials_that_end_meanwhile_are_read_again(stage: Stage) -> None:
    async def story() -> None:
        expired = stage.knobs.turn("expired", action="changes", who=PARIS, times=1)
        await stage.paris.claim(3)
        assert expired.hits == 1
        await until(lambda: stage.scene.owners() == {PARIS}, 20)

    stage.run(story())


def test_a_primary_that_stood_still_ends_without_the_address(stage: Stage) -> None:
    async def story() -> None:
        stage.scene.give(LYON)
        held_up = stage.knobs.turn("delay", action=stage.scene.look, who=PARIS, times=1, seconds=0.5)
        claim = asyncio.create_task(stage.paris.claim(3))
        await until(lambda: held_up.hits == 1)
        os.kill(stage.paris.worker.pid, signal.SIGSTOP)
        try:
            stage.paris.held = None  # what its agent learns first when it goes on
            await stage.lyon.claim(4)
        finally:
            os.kill(stage.paris.worker.pid, signal.SIGCONT)
        with pytest.raises(HafarmError, match=r"held back|given up"):
            await claim
        assert stage.knobs.changes(PARIS) == []
        assert stage.scene.owners() == {LYON}

    stage.run(story())


def test_nothing_leaves_once_the_lease_has_ended(stage: Stage) -> None:
    async def story() -> None:
        stage.paris.lease_s = 0.0
        with pytest.raises(WorkerSaid) as refused:
            await stage.paris.claim(3)
        assert refused.value.told == Superseded.code
        assert stage.knobs.changes(PARIS) == []

    stage.run(story())


def test_a_worker_that_is_killed_between_request_and_answer_is_followed_by_another(stage: Stage) -> None:
    async def story() -> None:
        stage.scene.give(LYON)
        lost = stage.knobs.turn("lost", action="changes", who=PARIS, times=1, seconds=LATE_S)
        claim = asyncio.create_task(stage.paris.claim(3))
        await until(lambda: lost.hits == 1)
        os.kill(stage.paris.worker.pid, signal.SIGKILL)
        await claim
        assert stage.scene.owners() == {PARIS}
        assert "HF7014" in stage.paris.codes()

    stage.run(story())


def test_a_worker_ends_with_its_agent_and_sends_nothing_more(stage: Stage) -> None:
    async def story() -> None:
        stage.scene.give(LYON)
        held_up = stage.knobs.turn("delay", action=stage.scene.look, who=PARIS, times=1, seconds=1.0)
        claim = asyncio.create_task(stage.paris.claim(3))
        await until(lambda: held_up.hits == 1)
        ours = stage.paris.worker._process
        process, writer = ours._process, ours._writer
        assert process is not None
        assert writer is not None
        claim.cancel()
        writer.transport.abort()  # as the kernel does for a process that was killed
        await until(lambda: process.poll() is not None)
        assert stage.knobs.changes(PARIS) == []
        await stage.paris.look()

    stage.run(story())


def test_what_is_led_elsewhere_is_led_back_after_the_next_look(stage: Stage) -> None:
    async def story() -> None:
        await stage.paris.claim(3)
        stage.scene.give(LYON)
        await stage.paris.look()
        await until(lambda: stage.scene.owners() == {PARIS}, 20)
        await until(lambda: "HF7012" in stage.paris.codes(), 20)

    stage.run(story())


def test_a_standby_takes_nothing(stage: Stage) -> None:
    async def story() -> None:
        await stage.paris.claim(3)
        await stage.paris.release(3)
        stage.scene.give(LYON)
        stage.knobs.log.clear()
        await stage.paris.look()
        await stage.paris.look()
        assert stage.knobs.changes(PARIS) == []

    stage.run(story())


def test_a_late_release_does_not_hit_the_successor(stage: Stage) -> None:
    async def story() -> None:
        await stage.paris.claim(3)
        stage.paris.held = None
        await stage.lyon.claim(4)
        await stage.paris.release(3)
        assert stage.scene.owners() == {LYON}

    stage.run(story())


@pytest.mark.parametrize("built", SHARED, indirect=True, scope="module")
def test_two_owners_are_seen_and_one_claim_ends_it(stage: Stage) -> None:
    async def story() -> None:
        stage.scene.give(PARIS, LYON)
        seen = await stage.paris.look()
        assert isinstance(seen, Sight)
        assert (seen.owner, seen.nodes) == (Owner.AMBIGUOUS, {PARIS, LYON})
        await stage.paris.claim(5)
        assert stage.scene.owners() == {PARIS}

    stage.run(story())


@pytest.mark.parametrize("built", SEVERAL, indirect=True, scope="module")
def test_one_part_that_is_denied_keeps_no_other_and_is_named(stage: Stage) -> None:
    async def story() -> None:
        stage.scene.give(LYON)
        called, told = stage.scene.second_part()
        denied = stage.knobs.turn("denied", action="changes", about=called, who=PARIS)
        await stage.paris.claim(3)
        assert stage.scene.owners() == {PARIS, LYON}
        (text,) = [text for code, text in stage.paris.told if code == "HF7011"]
        assert told in text
        stage.knobs.knobs.remove(denied)
        await stage.paris.look()
        await until(lambda: stage.scene.owners() == {PARIS}, 20)
        await until(lambda: "HF7013" in stage.paris.codes(), 20)

    stage.run(story())


@pytest.mark.parametrize("built", ["route"], indirect=True, scope="module")
def test_an_agent_that_was_started_anew_leads_back_under_the_reign_it_serves(stage: Stage) -> None:
    async def story() -> None:
        paris = stage.paris
        paris.addresses._reign = Epoch(1)  # as long as it has not asked which it is
        paris.clouds.wish(SHOP, Wish(CLAIM, Epoch(1)))
        paris.held = Epoch(7)
        stage.scene.give(LYON)
        await paris.look()
        await until(lambda: stage.scene.owners() == {PARIS}, 20)
        assert paris.addresses._reign == Epoch(7)
        (route,) = [each for each in stage.scene.routes().values() if each["name"].startswith("hafarm")]  # type: ignore[attr-defined]
        assert route["priority"] == 65_535 - 7

    stage.run(story())


@pytest.mark.parametrize("built", ["route"], indirect=True, scope="module")
def test_a_node_of_an_earlier_reign_is_refused_by_the_route_of_a_later(stage: Stage) -> None:
    async def story() -> None:
        await stage.lyon.claim(5)
        stage.knobs.log.clear()
        with pytest.raises(WorkerSaid, match="of a later reign than 3") as refused:
            await stage.paris.claim(3)
        assert refused.value.told == Superseded.code
        assert stage.knobs.changes(PARIS) == []
        assert stage.scene.owners() == {LYON}

    stage.run(story())
