"""Nodes switched off by the cloud: by right of the record, once, and done when the cloud says so."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.agent.lines import Refused
from orchestrator.mirror.serving import TAKEOVER
from orchestrator.mirror.state import Peer, Reach
from orchestrator.model.config import FenceConfig, MirrorConfig
from orchestrator.model.names import Epoch, ModuleName, NodeName
from orchestrator.model.report import ModuleState, Role
from orchestrator.providers.aws.mover import Aws, policy
from orchestrator.providers.faults import PlaceWrong, ProviderUnreachable
from orchestrator.providers.fencing import Power
from orchestrator.providers.mover import Place
from orchestrator.providers.provider import Finding
from tests.providers.aws_scenes import Overlay
from tests.providers.fences import FENCE, LATE_S, NICE, SERVES, Stage, record
from tests.providers.nodes import LYON, OWN, PARIS, SHOP, environ
from tests.providers.test_aws import Leave, vip_of
from tests.support.clouds.aws import REGION, SLOW_TO_STOP, Vpc, simulated
from tests.support.waiting import until


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with simulated() as aws:
        stage = Stage(Overlay(aws), tmp_path_factory.mktemp("log"))
        stage.run(stage.paris.start())
        yield stage
        stage.run(stage.paris.close())
        stage.loop.close()


@pytest.fixture
def stage(built: Stage) -> Stage:
    built.reset()
    return built


# --- the request ----------------------------------------------------------------------------------------


def test_a_node_is_off_when_the_cloud_says_so(stage: Stage) -> None:
    async def story() -> None:
        fence = await stage.over(stage.fencing.order(LYON))
        assert (fence.state, fence.code) == ("off", "HF7061")
        assert fence.text == f"{stage.vpc.instances[LYON]} is stopped"
        assert stage.changes() == ["StopInstances"]
        (sent,) = stage.knobs.changes(PARIS)
        assert (sent.words["Force"], sent.words["SkipOsShutdown"]) == ("true", "true")
        assert (stage.state(), stage.state(PARIS)) == ("stopped", "running")
        assert stage.paris.codes() == ["HF7060", "HF7061"]
        assert stage.fencing.told(LYON, alive=False) == f"switched off: {fence.text}"
        assert stage.fencing.told(LYON, alive=True) == "", "it is back"

    stage.run(story())


def test_what_is_off_already_is_sent_nothing(stage: Stage) -> None:
    async def story() -> None:
        stage.vpc.ec2.stop_instances(InstanceIds=[stage.vpc.instances[LYON]])
        fence = await stage.over(stage.fencing.order(LYON))
        assert fence.state == "off"
        assert stage.changes() == []

    stage.run(story())


def test_what_is_terminated_is_off(stage: Stage) -> None:
    """A machine of its own: it does not come back for the other tests."""
    vpc, node = elsewhere(stage, "10.7", {PARIS: "11", LYON: "12"}, {PARIS: "11", LYON: "12"})
    with environ(stage.scene.environment(PARIS)):
        vpc.ec2.terminate_instances(InstanceIds=[vpc.instances[LYON]])
        power, seen = node._machines().power(vpc.instances[LYON])
    assert (power, seen) == (Power.OFF, "terminated")


def test_a_right_that_is_lacking_is_not_taken_for_off(stage: Stage) -> None:
    async def story() -> None:
        stage.knobs.turn("denied", action="StopInstances", who=PARIS)
        fence = await stage.over(stage.fencing.order(LYON))
        assert (fence.state, fence.code) == ("failed", "HF7062")
        assert "StopInstances" in fence.text
        assert "lacks the right" in fence.text
        assert stage.state() == "running"
        assert "NOT known to be off" in stage.fencing.told(LYON, alive=False)

    stage.run(story())


def test_an_answer_that_is_lost_is_neither_off_nor_asked_again(stage: Stage) -> None:
    async def story() -> None:
        lost = stage.knobs.turn("lost", action="StopInstances", who=PARIS, times=1, seconds=LATE_S)
        fence = await stage.over(stage.fencing.order(LYON))
        assert lost.hits == 1
        assert fence.state == "off"
        assert stage.changes() == ["StopInstances"]

    stage.run(story())


def test_a_cloud_that_throttles_is_asked_more_slowly(stage: Stage) -> None:
    async def story() -> None:
        throttled = stage.knobs.turn("throttled", action="StopInstances", who=PARIS, times=2)
        fence = await stage.over(stage.fencing.order(LYON))
        assert throttled.hits == 2
        assert fence.state == "off"
        assert stage.changes() == ["StopInstances"]

    stage.run(story())


def test_what_stops_for_ever_is_not_known_to_be_off(stage: Stage) -> None:
    async def story() -> None:
        SLOW_TO_STOP.add(stage.vpc.instances[LYON])
        stage.made(attempt_s=3.0)
        stage.fencing._total_s = 8.0
        fence = await stage.over(stage.fencing.order(LYON))
        assert (fence.state, fence.code) == ("failed", "HF7062")
        assert "stopping still" in fence.text
        assert stage.changes() == ["StopInstances"], "what is on its way is not asked again"

    stage.run(story())


def test_what_is_asked_gently_may_end_by_itself(stage: Stage) -> None:
    async def story() -> None:
        fence = await stage.over(stage.made("stop").order(LYON))
        (sent,) = stage.knobs.changes(PARIS)
        assert fence.state == "off"
        assert sent.words["Force"] == "true"
        assert "SkipOsShutdown" not in sent.words

    stage.run(story())


def test_a_reset_is_seen_off_in_between(stage: Stage) -> None:
    async def story() -> None:
        fence = await stage.over(stage.made("reset").order(LYON))
        assert fence.state == "off"
        assert fence.text == "{0} is stopped; then {0} is being started".format(stage.vpc.instances[LYON])
        assert stage.changes() == ["StopInstances", "StartInstances"]
        assert stage.state() == "running"
        stage.knobs.turn("denied", action="StartInstances", who=PARIS)
        fence = await stage.over(stage.fencing.order(LYON))
        assert (fence.state, stage.state()) == ("off", "stopped")
        assert "not started again" in fence.text

    stage.run(story())


def test_a_reset_does_not_start_what_somebody_else_had_stopped(stage: Stage) -> None:
    async def story() -> None:
        stage.vpc.ec2.stop_instances(InstanceIds=[stage.vpc.instances[LYON]])
        fence = await stage.over(stage.made("reset").order(LYON))
        assert (fence.state, stage.state()) == ("off", "stopped")
        assert stage.changes() == []

    stage.run(story())


# --- the right to it ------------------------------------------------------------------------------------


def test_without_the_record_nothing_is_ordered(stage: Stage) -> None:
    async def story() -> None:
        stage.follows(9)
        with pytest.raises(Refused) as refused:
            stage.fencing.order(LYON)
        assert refused.value.refusal == "HF7065"
        stage.mirrors = {SHOP: stage.mirror}
        with pytest.raises(Refused) as refused:
            stage.fencing.order(LYON)
        assert refused.value.refusal == "HF7064"
        assert stage.changes() == []

    stage.run(story())


def test_a_reign_that_ended_meanwhile_sends_nothing(stage: Stage) -> None:
    """The worker stands still between its look and its request; the agent knows better when it goes on."""

    async def story() -> None:
        held_up = stage.knobs.turn("delay", action="DescribeInstances", who=PARIS, times=1, seconds=0.5)
        fence = stage.fencing.order(LYON)
        await until(lambda: held_up.hits == 1, 30)
        os.kill(stage.paris.worker.pid, signal.SIGSTOP)
        try:
            stage.follows(9)
        finally:
            os.kill(stage.paris.worker.pid, signal.SIGCONT)
        await fence.over.wait()
        assert (fence.state, fence.code) == ("given up", "HF7063")
        assert stage.changes() == []
        assert stage.state() == "running"

    stage.run(story())


def test_nothing_leaves_once_the_lease_has_ended(stage: Stage) -> None:
    async def story() -> None:
        stage.paris.lease_s = 0.0
        stage.fencing._total_s = 4.0
        fence = await stage.over(stage.fencing.order(LYON))
        assert (fence.state, fence.code) == ("failed", "HF7062")
        assert "the lease has ended" in fence.text
        assert stage.changes() == []

    stage.run(story())


def test_a_fence_that_nobody_ordered_gets_no_leave(stage: Stage) -> None:
    async def story() -> None:
        clouds = stage.paris.clouds
        until_at, why = await clouds._may(SHOP, f"fence {LYON}", Epoch(8))
        assert (until_at, why) == (0.0, "no fence is under way")

    stage.run(story())


def test_two_orders_for_one_node_are_one(stage: Stage) -> None:
    async def story() -> None:
        first, second = stage.fencing.order(LYON), stage.fencing.order(LYON)
        assert first is second
        await stage.over(first)
        assert stage.changes() == ["StopInstances"]

    stage.run(story())


# --- after a take-over ----------------------------------------------------------------------------------


def takes_over(stage: Stage, **more: Any) -> None:
    stage.follows(7)
    stage.fencing.stepped()
    stage.holds(8, **more)
    stage.fencing.stepped()


def test_the_former_primary_is_switched_off_after_a_take_over(stage: Stage) -> None:
    async def story() -> None:
        takes_over(stage)
        fence = await stage.over(stage.fencing.get(LYON))
        assert (fence.state, fence.ordered) == ("off", False)
        assert stage.state() == "stopped"
        assert any("after the take-over of shop, under epoch 8" in text for _, text in stage.paris.told)

    stage.run(story())


@pytest.mark.parametrize(
    "more",
    [
        {"reason": "swap"},
        {"peer": Peer(Reach.ALIVE, ModuleState(Role.WAIT))},
        {"peer": Peer(Reach.LEFT, SERVES)},
    ],
    ids=["it gave the role away", "it has let go", "it said goodbye"],
)
def test_who_let_go_is_not_switched_off(stage: Stage, more: dict[str, Any]) -> None:
    async def story() -> None:
        takes_over(stage, **more)
        assert stage.fencing.get(LYON) is None

    stage.run(story())


def test_where_the_file_says_never_a_take_over_switches_nobody_off(stage: Stage) -> None:
    async def story() -> None:
        stage.made(when="never")
        takes_over(stage)
        assert stage.fencing.get(LYON) is None

    stage.run(story())


def test_who_comes_back_and_lets_go_before_the_request_leaves_stays_on(stage: Stage) -> None:
    async def story() -> None:
        throttled = stage.knobs.turn("throttled", action="StopInstances", who=PARIS)
        takes_over(stage)
        await until(lambda: throttled.hits > 0, 30)
        stage.holds(8, peer=Peer(Reach.ALIVE, ModuleState(Role.WAIT)))
        throttled.times = 0
        fence = await stage.over(stage.fencing.get(LYON))
        assert (fence.state, fence.code) == ("given up", "HF7063")
        assert stage.state() == "running"

    stage.run(story())


def test_it_waits_until_the_nodes_other_roles_are_taken_over_too(stage: Stage) -> None:
    async def story() -> None:
        other = ModuleName("other")
        takes_over(stage)
        theirs = record(4, LYON)
        stage.mirrors[other] = stage.mirror.changed(module=other, record=theirs)
        await asyncio.sleep(0.6)
        fence = stage.fencing.get(LYON)
        assert fence is not None
        assert (fence.state, stage.changes()) == ("running", [])
        mine = record(5, PARIS, TAKEOVER)
        stage.mirrors[other] = stage.mirror.changed(module=other, record=mine, held=mine)
        await stage.over(fence)
        assert fence.state == "off"

    stage.run(story())


def test_a_node_of_a_mirror_that_is_not_known_here_is_left_to_people(stage: Stage) -> None:
    async def story() -> None:
        (mirror,) = stage.config.mirrors
        stage.made(mirrors=(MirrorConfig(ModuleName("far"), (LYON, NICE), mirror.replicate),))
        takes_over(stage)
        assert stage.fencing.get(LYON) is None
        assert stage.paris.codes() == ["HF7063"]
        assert (await stage.over(stage.fencing.order(LYON))).state == "off"

    stage.run(story())


# --- beforehand -----------------------------------------------------------------------------------------


def in_process(stage: Stage, fence: FenceConfig | None = FENCE, own: Any = OWN) -> Aws:
    addresses = {name: (text,) if isinstance(text, str) else text for name, text in own.items()}
    return Aws(Place("test", PARIS, addresses, (vip_of(stage.scene.vip),), fence=fence))  # type: ignore[arg-type]


def preflight(stage: Stage, fence: FenceConfig | None = FENCE) -> list[Finding]:
    with environ(stage.scene.environment(PARIS)):
        return in_process(stage, fence).preflight(False, Leave())


def without(rights: dict[str, Any], action: str) -> dict[str, Any]:
    less: dict[str, Any] = json.loads(json.dumps(rights))
    for each in less["Statement"]:
        each["Action"] = [one for one in each["Action"] if one != action]
    return less


def test_the_rights_for_it_are_asked_only_where_it_is_configured_and_each_is_needed(stage: Stage) -> None:
    def rights(fence: FenceConfig | None) -> dict[str, Any]:
        place = Place("test", PARIS, {}, (vip_of(stage.scene.vip),), fence=fence)  # type: ignore[arg-type]
        return dict(policy(place)["this node's role"])

    def actions(fence: FenceConfig | None) -> set[str]:
        return {action for each in rights(fence)["Statement"] for action in each["Action"]}

    reset = replace(FENCE, verb="reset")
    assert actions(FENCE) - actions(None) == {"ec2:StopInstances", "ec2:DescribeInstances"}
    assert actions(reset) - actions(FENCE) == {"ec2:StartInstances"}
    stage.knobs.rights[PARIS] = rights(reset)
    assert preflight(stage, reset) == []
    for action in actions(reset) - actions(None):
        stage.knobs.rights[PARIS] = without(rights(reset), action)
        (found,) = preflight(stage, reset)
        assert found.subject == "fencing of lyon"
        assert action.partition(":")[2] in found.problem
    assert stage.changes() == []


def elsewhere(
    stage: Stage, net: str, machines: dict[NodeName, str], own: dict[NodeName, str]
) -> tuple[Vpc, Aws]:
    """A VPC with these machines, and paris in it; `own`: the addresses of each node, as the file says."""
    vpc = Vpc(stage.scene.aws, f"{net}.0.0/16", {"a": f"{net}.1.0/24"})
    for name, last in machines.items():
        vpc.node(name, "a", f"{net}.1.{last}")
    fence = replace(FENCE, settings={"region": (REGION,), "vpc": (vpc.id,)})
    addresses = {name: tuple(f"{net}.1.{last}" for last in text.split()) for name, text in own.items()}
    with environ(stage.scene.environment(PARIS)):
        return vpc, Aws(Place("test", PARIS, addresses, (), fence=fence))  # type: ignore[arg-type]


def test_one_machine_with_the_addresses_of_both_is_never_switched_off(stage: Stage) -> None:
    vpc, node = elsewhere(stage, "10.8", {PARIS: "11"}, {PARIS: "11", LYON: "12"})
    more = vpc.ec2.create_network_interface(SubnetId=vpc.subnets["a"], PrivateIpAddress="10.8.1.12")
    vpc.ec2.attach_network_interface(
        DeviceIndex=1,
        InstanceId=vpc.instances[PARIS],
        NetworkInterfaceId=more["NetworkInterface"]["NetworkInterfaceId"],
    )
    with (
        environ(stage.scene.environment(PARIS)),
        pytest.raises(PlaceWrong, match="has the addresses of this node too"),
    ):
        node.switch_off(LYON, False, Leave())
    assert stage.changes() == []


def test_of_several_instances_none_is_guessed(stage: Stage) -> None:
    machines = {PARIS: "11", LYON: "12", NICE: "13"}
    _, node = elsewhere(stage, "10.9", machines, {PARIS: "11", LYON: "12 13"})
    with (
        environ(stage.scene.environment(PARIS)),
        pytest.raises(PlaceWrong, match="several instances have its addresses"),
    ):
        node.switch_off(LYON, False, Leave())
    assert stage.changes() == []


def test_a_node_whose_addresses_nothing_has_is_not_called_off(stage: Stage) -> None:
    _, node = elsewhere(stage, "10.6", {PARIS: "11"}, {PARIS: "11", LYON: "12"})
    with (
        environ(stage.scene.environment(PARIS)),
        pytest.raises(PlaceWrong, match="no instance has any of its addresses"),
    ):
        node.switch_off(LYON, False, Leave())


def test_an_order_that_has_no_time_left_does_not_say_off(stage: Stage) -> None:
    class Hurried(Leave):
        def left_s(self) -> float:
            return 0.1

    SLOW_TO_STOP.add(stage.vpc.instances[LYON])
    with environ(stage.scene.environment(PARIS)):
        node = in_process(stage)
        with pytest.raises(ProviderUnreachable, match="it is running still"):
            node.switch_off(LYON, False, Hurried())
