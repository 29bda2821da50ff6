"""What clouds announce of a machine: read in each one's form, told, and heeded where the file wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.notices import Notices
from orchestrator.agent.operations import Operation
from orchestrator.cluster.departure import Here
from orchestrator.cluster.orders import Wish
from orchestrator.model.names import ModuleName, NodeName
from orchestrator.model.notice import Notice
from orchestrator.providers.faults import MetadataSilent
from orchestrator.providers.notices import here as finding
from orchestrator.providers.notices.aws import AwsNotices
from orchestrator.providers.notices.azure import AzureNotices
from orchestrator.providers.notices.gcp import GcpNotices
from orchestrator.providers.notices.service import Source
from tests.clouds.azure.arm import Arm
from tests.clouds.azure.site import machine
from tests.clouds.gcp.compute import Compute
from tests.clouds.gcp.site import build, instance
from tests.clouds.knobs import Do
from tests.clouds.metadata.aws import Aws
from tests.clouds.metadata.azure import Azure
from tests.clouds.metadata.gcp import Gcp
from tests.clouds.serving import Served
from tests.support.waiting import until

SHOP, WEB, ME = ModuleName("shop"), ModuleName("web"), NodeName("paris")
PRIMARY, STANDBY = Here("mirror", serves=True, gone=False), Here("mirror", serves=False, gone=True)


def read(source: Source) -> tuple[Notice, ...]:
    return asyncio.run(source.read())


# --- each cloud's form ----------------------------------------------------------------------------------


@pytest.fixture
def aws() -> Iterator[Served[Aws]]:
    with Served(Aws()) as served:
        yield served


@pytest.fixture
def azure(arm: Served[Arm]) -> Iterator[Served[Azure]]:
    with Served(Azure(arm=arm.face, machine=machine("n1"))) as served:
        yield served


@pytest.fixture
def gcp() -> Iterator[Served[Gcp]]:
    cloud = Compute()
    build(cloud)
    with Served(Gcp(cloud=cloud, machine=instance("n1"))) as served:
        yield served


def test_aws_announces_spot_and_maintenance(aws: Served[Aws]) -> None:
    source = AwsNotices(aws.url)
    assert read(source) == ()
    aws.face.action_soon = "terminate"
    aws.face.rebalance = "2026-11-30T23:50:00Z"
    aws.face.maintenance = [
        {
            "Code": "instance-retirement",
            "NotBefore": "15 Dec 2026 09:00:43 GMT",
            "EventId": "instance-event-1",
            "Description": "retirement",
            "State": "active",
        },
        {"Code": "system-reboot", "NotBefore": "1 Nov 2026 09:00:00 GMT", "State": "completed"},
    ]
    spot, rebalance, retired = read(source)
    assert (spot.kind, spot.at) == ("spot interruption: terminate at 2026-12-01T00:00:00Z", 1796083200.0)
    assert (rebalance.at, "rebalance" in rebalance.kind) == (None, True)
    assert (retired.key, retired.at) == ("instance-event-1", 1797325243.0)
    assert {each.answer for each in (spot, rebalance, retired)} == {""}


def test_a_token_that_ended_is_renewed(aws: Served[Aws]) -> None:
    source = AwsNotices(aws.url)
    aws.face.action_soon = "stop"
    assert len(read(source)) == 1
    aws.do(aws.face.tokens.clear)
    assert len(read(source)) == 1
    assert len(aws.face.tokens) == 1


def test_azure_announces_what_names_this_machine(azure: Served[Azure]) -> None:
    source = AzureNotices(azure.url)
    assert read(source) == ()
    azure.do(lambda: azure.face.schedule("Reboot", "n2"))
    event = azure.do(lambda: azure.face.schedule("Freeze", "n1"))
    (found,) = read(source)
    assert (found.key, found.answer) == (event, event)
    assert found.kind == "Freeze by Platform, not before Tue, 01 Dec 2026 00:15:00 GMT"
    assert found.at == 1796084100.0
    azure.do(lambda: azure.face.events[-1].update(EventStatus="Started", NotBefore=""))
    (begun,) = read(source)
    assert (begun.key, begun.answer, begun.at) == (event, "", None), "it need not be answered any more"
    assert "has begun" in begun.kind


def test_azure_is_told_that_it_may_go_on(azure: Served[Azure]) -> None:
    source = AzureNotices(azure.url)
    event = azure.do(lambda: azure.face.schedule("Redeploy", "n1"))
    (found,) = read(source)
    asyncio.run(source.ready(found))
    assert azure.face.approved == [event]


def test_gcp_announces_maintenance_and_preemption(gcp: Served[Gcp]) -> None:
    source = GcpNotices(gcp.url)
    assert read(source) == ()
    gcp.face.maintenance, gcp.face.preempted = "TERMINATE_ON_HOST_MAINTENANCE", True
    stopped, preempted = read(source)
    assert stopped.kind == "host maintenance: the machine is stopped"
    assert preempted.key == "preempted"
    assert (stopped.at, preempted.at) == (None, None)


@pytest.mark.parametrize("cloud", ["aws", "azure", "gcp"])
@pytest.mark.parametrize("status", [500, 429])
def test_a_service_that_is_broken_announces_nothing_and_calls_nothing_off(
    request: pytest.FixtureRequest, cloud: str, status: int
) -> None:
    served: Served[Any] = request.getfixturevalue(cloud)
    source = {"aws": AwsNotices, "azure": AzureNotices, "gcp": GcpNotices}[cloud](served.url)
    served.face.knobs.turn(Do.BROKEN, "read", status=status)
    with pytest.raises(MetadataSilent):
        read(source)


@pytest.mark.parametrize("words", [[{"NotBefore": 5}, "reboot"], {"Code": "x"}, 7])
def test_words_that_are_not_known_end_nothing(aws: Served[Aws], tmp_path: Path, words: Any) -> None:
    aws.face.maintenance = words
    node = Node(tmp_path, AwsNotices(aws.url))

    async def story() -> None:
        with pytest.raises(MetadataSilent):
            await AwsNotices(aws.url).read()
        aws.face.maintenance, aws.face.action_soon = [], "stop"
        await until(lambda: len(node.operations) == 1, 20)

    play(node, story())


@pytest.mark.parametrize(
    ("dmi", "cloud"),
    [
        ({"sys_vendor": "Amazon EC2"}, "aws"),
        ({"product_name": "Google Compute Engine"}, "gcp"),
        (
            {
                "sys_vendor": "Microsoft Corporation",
                "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77",
            },
            "azure",
        ),
        ({"sys_vendor": "Microsoft Corporation"}, ""),
        ({}, ""),
    ],
)
def test_the_hardware_says_whom_to_ask(tmp_path: Path, dmi: dict[str, str], cloud: str) -> None:
    for name, text in dmi.items():
        (tmp_path / name).write_text(f"{text}\n")
    found = finding.source_here({}, tmp_path)
    assert (found.cloud if found else "") == cloud


def test_who_names_a_service_is_in_its_cloud(tmp_path: Path) -> None:
    found = finding.source_here({"GCE_METADATA_HOST": "127.0.0.1:1"}, tmp_path)
    assert found is not None
    assert found.cloud == "gcp"


# --- heeded ---------------------------------------------------------------------------------------------


class Node:
    """Modules whose orders end as the test says."""

    def __init__(self, folder: Path, source: Source | None, choice: str = "swap") -> None:
        self.here: dict[ModuleName, Here] = {SHOP: PRIMARY}
        self.orders: list[tuple[str, str, str | None]] = []
        self.operations: list[Operation] = []
        self.events: list[tuple[str, str]] = []
        self.notices = Notices(
            choice,
            ME,
            str(folder / "notices.json"),
            lambda: self.here,
            self.begin,
            self,
            lambda: source,
            poll_s=0.02,
        )

    def begin(self, module: ModuleName, wish: Wish) -> Operation:
        self.orders.append((module, wish.action, wish.node))
        self.operations.append(Operation(module, wish))
        return self.operations[-1]

    def tell(self, module: str, code: str, text: str) -> None:
        self.events.append((code, text))

    def codes(self) -> list[str]:
        return [code for code, _ in self.events]


def play(node: Node, story: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        node.notices.start()
        try:
            await asyncio.wait_for(story, 60)
        finally:
            await node.notices.close()

    asyncio.run(whole())


def test_azure_is_answered_after_the_role_is_gone_and_not_before(
    azure: Served[Azure], tmp_path: Path
) -> None:
    node = Node(tmp_path, AzureNotices(azure.url))

    async def story() -> None:
        azure.do(lambda: azure.face.schedule("Reboot", "n1"))
        await until(lambda: node.orders == [(SHOP, "swap", None)], 20)
        assert node.notices.told()[0]["kind"].startswith("Reboot by Platform")
        asked = len(azure.face.knobs.done)
        await until(lambda: len(azure.face.knobs.done) > asked + 3, 20)
        assert azure.face.approved == [], "its role is here still"
        node.here[SHOP] = STANDBY
        node.operations[0].end("done")
        await until(lambda: azure.face.approved == ["event-1"], 20)
        await until(lambda: "HF7075" in node.codes(), 20)
        assert node.codes() == ["HF7070", "HF7071", "HF7075"]
        azure.do(azure.face.events.clear)
        await until(lambda: node.codes()[-1] == "HF7073", 20)
        assert node.notices.told() == []

    play(node, story())


def test_without_another_node_that_is_said_aloud_and_azure_is_not_answered(
    azure: Served[Azure], tmp_path: Path
) -> None:
    node = Node(tmp_path, AzureNotices(azure.url))

    async def story() -> None:
        azure.do(lambda: azure.face.schedule("Preempt", "n1"))
        await until(lambda: len(node.operations) == 1, 20)
        node.operations[0].end("refused", "HF1206", "no other node is in sync")
        await until(lambda: "HF7072" in node.codes(), 20)
        asked = len(azure.face.knobs.done)
        await until(lambda: len(azure.face.knobs.done) > asked + 3, 20)
        assert azure.face.approved == []
        assert any("no other node is in sync" in text for _, text in node.events)

    play(node, story())


def test_by_choice_it_is_told_and_nothing_moves(aws: Served[Aws], tmp_path: Path) -> None:
    node = Node(tmp_path, AwsNotices(aws.url), choice="tell")

    async def story() -> None:
        aws.face.action_soon = "terminate"
        await until(lambda: node.codes() == ["HF7070"], 20)
        asked = len(aws.face.knobs.done)
        await until(lambda: len(aws.face.knobs.done) > asked + 6, 20)
        assert node.orders == []

    play(node, story())


def test_a_farm_that_was_left_is_taken_up_again_by_the_next_agent(gcp: Served[Gcp], tmp_path: Path) -> None:
    first, second = Node(tmp_path, GcpNotices(gcp.url)), Node(tmp_path, GcpNotices(gcp.url))
    first.here, second.here = {WEB: Here("farm", True, False)}, {WEB: Here("farm", False, True)}
    gcp.face.maintenance = "TERMINATE_ON_HOST_MAINTENANCE"

    async def leaves() -> None:
        await until(lambda: first.orders == [(WEB, "drain", ME)], 20)

    async def returns() -> None:
        asked = len(gcp.face.knobs.done)
        await until(lambda: len(gcp.face.knobs.done) > asked + 6, 20)
        assert second.orders == [], "it stands still"
        gcp.face.maintenance = "NONE"
        await until(lambda: second.orders == [(WEB, "undrain", ME)], 20)
        second.operations[0].end("done")
        await until(lambda: second.notices._recalled() == frozenset(), 20)

    play(first, leaves())
    play(second, returns())


def test_a_service_that_hangs_holds_up_nobody_and_calls_nothing_off(aws: Served[Aws], tmp_path: Path) -> None:
    node = Node(tmp_path, AwsNotices(aws.url), choice="tell")

    async def story() -> None:
        aws.face.action_soon = "stop"
        await until(lambda: node.codes() == ["HF7070"], 20)
        knob = aws.face.knobs.turn(Do.DELAY, "read", seconds=1.0)
        before = asyncio.get_running_loop().time()
        ticks = 0
        while asyncio.get_running_loop().time() < before + 0.5:
            await asyncio.sleep(0.001)
            ticks += 1
        assert ticks > 20, "the loop went on"
        assert knob in aws.face.knobs.knobs
        assert node.codes() == ["HF7070"]

    play(node, story())


def test_on_a_machine_of_no_cloud_that_is_told(tmp_path: Path) -> None:
    node = Node(tmp_path, None)

    async def story() -> None:
        assert node.codes() == ["HF7074"]

    play(node, story())


def test_a_damaged_memory_of_it_is_told_and_no_reason_to_stop(aws: Served[Aws], tmp_path: Path) -> None:
    (tmp_path / "notices.json").write_text("nonsense")
    node = Node(tmp_path, AwsNotices(aws.url))

    async def story() -> None:
        aws.face.action_soon = "stop"
        await until(lambda: len(node.operations) == 1, 20)

    play(node, story())
    assert node.codes()[1:] == ["HF7070", "HF7071"]
