"""AWS beside its moves: how an address is moved where, what is refused beforehand, which rights it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.host import clock
from orchestrator.model.config import VipConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName
from orchestrator.providers.aws import account, ground, mover, routes
from orchestrator.providers.aws.mover import Aws, policy
from orchestrator.providers.detect import provider_here
from orchestrator.providers.faults import PlaceWrong, ProviderRefused, Superseded
from orchestrator.providers.mover import Choice, Place, Vip
from orchestrator.providers.provider import Finding, Owner
from orchestrator.providers.worker import Order
from tests.providers.aws_scenes import AwsScene, Dns, ElasticIp, NlbRegister, Overlay, SecondaryIp
from tests.providers.nodes import BOTH, LYON, OWN, PARIS, SHOP, environ
from tests.support.clouds.aws import REGION, Simulated, Vpc, simulated


class Leave:
    """Always yes."""

    def check(self, what: str) -> None:
        return

    def left_s(self) -> float:
        return 2.0


@pytest.fixture(scope="module")
def aws() -> Iterator[Simulated]:
    with simulated() as made:
        yield made


@pytest.fixture(scope="module")
def scenes(aws: Simulated) -> dict[type[AwsScene], AwsScene]:
    """Each kind is built once: a VPC of its own, whose nodes have the same addresses as in the others."""
    return {}


@pytest.fixture
def scene_of(aws: Simulated, scenes: dict[type[AwsScene], AwsScene]) -> Callable[[type[AwsScene]], Any]:
    def made(kind: type[AwsScene]) -> AwsScene:
        if kind not in scenes:
            scenes[kind] = kind(aws)
        scenes[kind].reset()
        return scenes[kind]

    return made


@pytest.fixture
def overlay(scene_of: Callable[[type[AwsScene]], Any]) -> Any:
    return scene_of(Overlay)


def vip_of(config: VipConfig, **changed: Any) -> Vip:
    made = Vip(SHOP, config.address.partition("/")[0], config.mode, config.settings, (PARIS, LYON))
    return replace(made, **changed)


def place(*vips: Vip, own: Mapping[NodeName, str] = OWN, health_port: int = 0) -> Place:
    addresses = {name: (text,) for name, text in own.items()}
    return Place("test", PARIS, addresses, vips, health_port)  # type: ignore[arg-type]


def made(scene: AwsScene, vip: Vip, metadata: bool = True, health_port: int = 0) -> Aws:
    """In this process, as paris."""
    with environ(scene.aws.environment(PARIS, metadata)):
        return Aws(place(vip, own=scene.own, health_port=health_port))


def chosen(scene: AwsScene, vip: Vip, **more: Any) -> Choice:
    with environ(scene.aws.environment(PARIS)):
        found = made(scene, vip, **more).choices()[vip.address]
    if isinstance(found, Exception):
        raise found
    return found


# --- how ------------------------------------------------------------------------------------------


def test_in_one_subnet_an_address_of_it_is_a_secondary_one(scene_of: Callable[[type[AwsScene]], Any]) -> None:
    scene = scene_of(SecondaryIp)
    choice = chosen(scene, vip_of(scene.vip, mode=""))
    assert (choice.mode, choice.local) == ("secondary-ip", True)
    assert scene.vpc.subnets["a"] in choice.why


def test_in_several_subnets_it_is_a_route(overlay: Overlay) -> None:
    choice = chosen(overlay, vip_of(overlay.vip, mode=""))
    assert (choice.mode, choice.local) == ("overlay-route", True)
    assert all(subnet in choice.why for subnet in overlay.vpc.subnets.values())


def test_a_load_balancer_that_is_named_comes_before_a_route(
    scene_of: Callable[[type[AwsScene]], Any],
) -> None:
    scene = scene_of(NlbRegister)
    choice = chosen(scene, vip_of(scene.vip, mode=""), health_port=9702)
    assert (choice.mode, choice.local) == ("nlb-probe", False)


def test_an_elastic_ip_that_is_named_is_one(scene_of: Callable[[type[AwsScene]], Any]) -> None:
    scene = scene_of(ElasticIp)
    assert chosen(scene, vip_of(scene.vip, mode="")).mode == "elastic-ip"


def test_subnets_are_told_apart_by_name_and_not_by_range(scene_of: Callable[[type[AwsScene]], Any]) -> None:
    """Two VPCs with the same ranges: lyon's namesake in the other one is not lyon."""
    scene = scene_of(SecondaryIp)
    other = Vpc(scene.aws, "10.0.0.0/16", {"a": "10.0.1.0/24"})
    other.node("elsewhere", "a", "10.0.1.12")
    assert chosen(scene, vip_of(scene.vip, mode="")).mode == "secondary-ip"


# --- what is refused beforehand -------------------------------------------------------------------


def test_without_anything_to_move_it_by_the_reason_is_given(overlay: Overlay) -> None:
    with pytest.raises(PlaceWrong, match=r"no way leads it from node to node.*paris in subnet-"):
        chosen(overlay, vip_of(overlay.vip, mode="", settings={}))


def test_an_address_inside_the_vpc_is_no_overlay(overlay: Overlay) -> None:
    with pytest.raises(PlaceWrong, match=r"10\.0\.7\.7: lies in the VPC's own range 10\.0\.0\.0/16"):
        chosen(overlay, vip_of(overlay.vip, address="10.0.7.7"))


def test_a_route_table_of_another_vpc_is_refused(overlay: Overlay) -> None:
    table = Vpc(overlay.aws, "10.9.0.0/16", {}).tables[0]
    with pytest.raises(PlaceWrong, match=f"route table {table}: belongs to vpc-"):
        chosen(overlay, vip_of(overlay.vip, settings={"route_tables": (*overlay.vpc.tables, table)}))


def test_a_route_table_that_is_not_there_is_named(overlay: Overlay) -> None:
    with pytest.raises(PlaceWrong, match=r"region eu-west-1 .*rtb-00000000"):
        chosen(overlay, vip_of(overlay.vip, settings={"route_tables": ("rtb-00000000",)}))


def test_another_region_is_named(overlay: Overlay) -> None:
    settings = {**overlay.vip.settings, "region": ("us-east-2",)}
    with pytest.raises(PlaceWrong, match="no network interface in region us-east-2"):
        chosen(overlay, vip_of(overlay.vip, settings=settings))


def test_a_secondary_address_does_not_cross_subnets(overlay: Overlay) -> None:
    with pytest.raises(PlaceWrong, match="the nodes lie in several"):
        chosen(overlay, vip_of(overlay.vip, mode="secondary-ip", address="10.0.1.100", settings={}))


def test_another_allocations_address_is_refused(scene_of: Callable[[type[AwsScene]], Any]) -> None:
    scene = scene_of(ElasticIp)
    with pytest.raises(PlaceWrong, match=r"and the virtual IP 198.18.3.3"):
        chosen(scene, vip_of(scene.vip, address="198.18.3.3"))


def test_an_unknown_mode_of_a_running_worker_is_told(overlay: Overlay) -> None:
    with pytest.raises(PlaceWrong, match="AWS has no mode teleport"):
        chosen(overlay, vip_of(overlay.vip, mode="teleport"))


def test_a_right_that_is_missing_is_named_before_anything_changes(overlay: Overlay) -> None:
    rights = policy(place(vip_of(overlay.vip)))["this node's role"]
    for statement in rights["Statement"]:
        statement["Action"] = [one for one in statement["Action"] if one != "ec2:ReplaceRoute"]
    overlay.aws.knobs.rights[PARIS] = rights
    found = preflight(overlay)
    assert len(found) == len(overlay.vpc.tables)
    assert all("ReplaceRoute" in one.problem and "UnauthorizedOperation" in one.problem for one in found)
    assert overlay.aws.knobs.changes(PARIS) == []


def preflight(scene: AwsScene, repair: bool = False) -> list[Finding]:
    with environ(scene.aws.environment(PARIS)):
        return made(scene, vip_of(scene.vip)).preflight(repair, Leave())


def test_a_checked_interface_is_found_and_mended_by_order(overlay: Overlay) -> None:
    eni = overlay.vpc.enis[PARIS]
    words: Any = {"NetworkInterfaceId": eni, "SourceDestCheck": {"Value": True}}
    overlay.vpc.ec2.modify_network_interface_attribute(**words)
    (found,) = preflight(overlay)
    assert (found.subject, "source/destination check" in found.problem) == (eni, True)
    assert overlay.aws.knobs.changes(PARIS) == []
    assert preflight(overlay, repair=True) == []
    assert preflight(overlay) == []


def test_a_claim_lets_the_interface_pass_what_it_is_to_take(overlay: Overlay) -> None:
    words: Any = {"NetworkInterfaceId": overlay.vpc.enis[PARIS], "SourceDestCheck": {"Value": True}}
    overlay.vpc.ec2.modify_network_interface_attribute(**words)
    with environ(overlay.aws.environment(PARIS)):
        made(overlay, vip_of(overlay.vip)).claim(Overlay.address, BOTH, Leave())
    names = [each.action for each in overlay.aws.knobs.changes(PARIS)]
    assert names[0] == "ModifyNetworkInterfaceAttribute"
    assert overlay.owners() == {PARIS}


def test_a_probe_that_asks_elsewhere_is_found(scene_of: Callable[[type[AwsScene]], Any]) -> None:
    scene = scene_of(NlbRegister)
    scene.give(PARIS)
    with environ(scene.aws.environment(PARIS)):
        found = made(scene, vip_of(scene.vip, mode="nlb-probe"), health_port=9702).preflight(False, Leave())
    told = " ".join(one.problem for one in found)
    assert "health check is not this module's" in told
    assert "lyon is not registered" in told
    with environ(scene.aws.environment(PARIS)):
        probing = made(scene, vip_of(scene.vip, mode="nlb-probe"), health_port=9702)
        probing.choices()  # the agent asks when it starts
        before = len(scene.aws.knobs.log)
        assert probing.claim("198.18.60.1", BOTH, Leave()).changes == 0
    assert len(scene.aws.knobs.log) == before, "a move asks nothing of AWS"


# --- the metadata service -------------------------------------------------------------------------


def test_the_region_comes_from_the_metadata_service(overlay: Overlay) -> None:
    settings = {"route_tables": tuple(overlay.vpc.tables)}
    assert chosen(overlay, vip_of(overlay.vip, settings=settings)).mode == "overlay-route"


def test_a_silent_metadata_service_is_told_where_it_is_needed(overlay: Overlay) -> None:
    overlay.aws.metadata.dead = True
    settings = {"route_tables": tuple(overlay.vpc.tables)}
    with pytest.raises(HafarmError, match=r"the metadata service .* does not answer"):
        chosen(overlay, vip_of(overlay.vip, settings=settings))
    # What hafarm.yaml says need not be asked for.
    said = {**overlay.vip.settings, "vpc": (overlay.vpc.id,)}
    assert chosen(overlay, vip_of(overlay.vip, settings=said)).mode == "overlay-route"


def test_a_token_is_kept_and_renewed_once_when_it_is_refused(overlay: Overlay) -> None:
    with environ(overlay.aws.environment(PARIS)):
        asked = made(overlay, vip_of(overlay.vip))._prepared().metadata
        before = overlay.aws.metadata.tokens
        assert asked.get("placement/region") == REGION
        assert overlay.aws.metadata.tokens == before
        overlay.aws.metadata.refuse_tokens = 1
        assert asked.get("placement/region") == REGION
        assert overlay.aws.metadata.tokens == before + 1


@pytest.mark.parametrize(
    ("dmi", "provider"),
    [
        ({"sys_vendor": "Amazon EC2"}, "aws"),
        ({"sys_vendor": "QEMU", "product_name": "Standard PC"}, "onprem"),
        ({"sys_vendor": "Microsoft Corporation"}, "onprem"),
        ({"product_name": "Google"}, "onprem"),
        ({}, "onprem"),
    ],
)
def test_the_hardware_says_where_it_is(tmp_path: Path, dmi: dict[str, str], provider: str) -> None:
    for name, text in dmi.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert provider_here({}, tmp_path)[0] == provider


# --- rights ---------------------------------------------------------------------------------------


def life(scene: AwsScene) -> list[str]:
    """Everything that a node asks for in its life; what went wrong."""
    faults = []
    with environ(scene.aws.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
        address = scene.vip.address.partition("/")[0]
        steps: list[Callable[[], Any]] = [
            lambda: node.claim(address, BOTH, Leave()),
            lambda: node.release(address, Leave()),
            lambda: node.claim(address, BOTH, Leave()),
        ]
        for step in steps:
            try:
                missing = getattr(step(), "missing", {})
                faults += list(missing.values())
            except HafarmError as fault:
                faults.append(str(fault))
        faults += [one.problem for one in node.preflight(True, Leave())]
        faults += [str(seen) for seen in node.observe().values() if isinstance(seen, Exception)]
    return faults


def begin(scene: AwsScene) -> None:
    """The other has it, and the interface is as AWS makes it: everything that may be needed is."""
    scene.give(LYON)
    if isinstance(scene, Overlay):
        words: Any = {"RouteTableId": scene.vpc.tables[0], "DestinationCidrBlock": f"{scene.address}/32"}
        scene.vpc.ec2.delete_route(**words)  # one table has no route yet
        words = {"NetworkInterfaceId": scene.vpc.enis[PARIS], "SourceDestCheck": {"Value": True}}
        scene.vpc.ec2.modify_network_interface_attribute(**words)


@pytest.mark.parametrize("kind", [Overlay, SecondaryIp, ElasticIp, NlbRegister, Dns])
def test_the_printed_policy_is_enough_and_every_action_in_it_is_needed(
    scene_of: Callable[[type[AwsScene]], Any], kind: type[AwsScene]
) -> None:
    scene = scene_of(kind)
    whole = policy(place(vip_of(scene.vip), own=scene.own))["this node's role"]
    scene.aws.knobs.rights[PARIS] = whole
    begin(scene)
    assert life(scene) == []
    actions = sorted({action for statement in whole["Statement"] for action in statement["Action"]})
    for action in actions:
        less = json.loads(json.dumps(whole))
        for statement in less["Statement"]:
            statement["Action"] = [one for one in statement["Action"] if one != action]
        scene.aws.knobs.rights.clear()
        begin(scene)
        scene.aws.knobs.rights[PARIS] = less
        assert life(scene) != [], f"{action} is not needed"


def test_a_policy_names_the_tables_and_no_others(overlay: Overlay) -> None:
    rights = policy(place(vip_of(overlay.vip)))["this node's role"]
    overlay.aws.knobs.rights[PARIS] = rights
    other = overlay.vpc.table()
    vip = vip_of(overlay.vip, settings={"route_tables": (other,), "region": (REGION,)})
    with environ(overlay.aws.environment(PARIS)), pytest.raises(ProviderRefused, match="lacks the right"):
        made(overlay, vip).claim(overlay.address, BOTH, Leave())


def test_tables_of_another_account_are_reached_by_the_role_that_is_named(overlay: Overlay) -> None:
    role = "arn:aws:iam::123456789012:role/network"
    vip = vip_of(overlay.vip, settings={**overlay.vip.settings, "role": (role,)})
    told = policy(place(vip))
    assert set(told) == {"this node's role", role}
    own = {action for statement in told["this node's role"]["Statement"] for action in statement["Action"]}
    assert "sts:AssumeRole" in own
    assert "ec2:ReplaceRoute" not in own
    overlay.aws.knobs.rights[PARIS] = told["this node's role"]
    with environ(overlay.aws.environment(PARIS)):
        made(overlay, vip).claim(overlay.address, BOTH, Leave())
    assert overlay.owners() == {PARIS}
    assert overlay.aws.knobs.changes(PARIS) == [], "the other account's role moved it"


# --- a route that leads nowhere, IPv6 -------------------------------------------------------------


class Nobody:
    """As far as it is known whose interfaces are."""

    def __init__(self, nodes: Mapping[str, NodeName]) -> None:
        self.node_of = nodes.get


def test_a_route_to_what_was_terminated_is_nobodys() -> None:
    vip = Vip(SHOP, "198.18.50.1", "overlay-route", {"route_tables": ("rtb-1",)}, (PARIS, LYON))
    gone = {"DestinationCidrBlock": "198.18.50.1/32", "State": "blackhole"}
    assert routes._owners({"Routes": [gone]}, vip) == frozenset()
    stopped = {**gone, "NetworkInterfaceId": "eni-1"}
    assert routes._owners({"Routes": [stopped]}, vip) == {"eni-1"}
    stopped_node = Nobody({"eni-1": LYON})
    assert routes.Routes(stopped_node)._living(frozenset({"eni-1"}), {"Routes": [stopped]}, vip) == {"eni-1"}  # type: ignore[arg-type]
    terminated = Nobody({})
    assert routes.Routes(terminated)._living(frozenset({"eni-1"}), {"Routes": [stopped]}, vip) == frozenset()  # type: ignore[arg-type]
    elsewhere = {**gone, "State": "active", "GatewayId": "igw-1"}
    assert routes._owners({"Routes": [elsewhere]}, vip) == {"igw-1"}


def test_an_ipv6_address_is_led_by_a_route_of_its_own(overlay: Overlay) -> None:
    vip = vip_of(overlay.vip, address="2001:db8:50::1")
    with environ(overlay.aws.environment(PARIS)):
        node = made(overlay, vip)
        node.claim(vip.address, BOTH, Leave())
        assert node.observe()[vip.address].owner is Owner.MINE  # type: ignore[union-attr]
    found = overlay.vpc.ec2.describe_route_tables(RouteTableIds=overlay.vpc.tables)["RouteTables"]
    assert all(
        any(route.get("DestinationIpv6CidrBlock") == "2001:db8:50::1/128" for route in table["Routes"])
        for table in found
    )


def test_what_belongs_to_an_address_is_judged_together() -> None:
    nodes = {"e1": PARIS, "e2": LYON, "e9": None}

    def owner(**parts: str) -> Owner:
        made = {name: frozenset(owners.split()) for name, owners in parts.items()}
        return ground.sight(made, nodes, PARIS).owner

    assert owner(a="e1", b="e1") is Owner.MINE
    assert owner(a="", b="") is Owner.NOBODY
    assert owner(a="e2", b="e2") is Owner.NODE
    assert owner(a="e1", b="") is Owner.AMBIGUOUS
    assert owner(a="e1", b="e2") is Owner.AMBIGUOUS
    assert owner(a="e1 e2") is Owner.AMBIGUOUS
    assert owner(a="e1", b="e9") is Owner.FOREIGN


# --- leave ----------------------------------------------------------------------------------------


class Says:
    """An agent that says this."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.answer = answer

    def may(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({}, "does not answer"),
        ({"yes": False, "why": "another serves"}, "another serves"),
        ({"yes": True, "until": 1.0}, "the lease ended before it left"),
    ],
)
def test_nothing_leaves_without_a_leave_that_still_holds(answer: dict[str, Any], why: str) -> None:
    order = Order(Says(answer), {"module": "shop", "verb": "claim", "epoch": 3, "time_s": 5})  # type: ignore[arg-type]
    with pytest.raises(Superseded, match=why):
        order.check("ReplaceRoute")
    good = {"yes": True, "until": clock.now() + 5}
    Order(Says(good), {"module": "shop", "verb": "claim", "epoch": 3, "time_s": 5}).check("x")  # type: ignore[arg-type]


def test_a_change_without_an_order_is_a_mistake_of_ours(overlay: Overlay) -> None:
    with environ(overlay.aws.environment(PARIS)):
        ec2 = account.Account(REGION).client("ec2")
        with pytest.raises(AssertionError, match="CreateVpc without leave"):
            ec2.create_vpc(CidrBlock="10.5.0.0/16")


# --- what is installed ----------------------------------------------------------------------------


def test_the_agent_loads_no_cloud_library() -> None:
    code = (
        "import orchestrator.agent.agent, sys\n"
        "sys.exit(' '.join(n for n in ('boto3', 'botocore', 'azure', 'google') if n in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def asked_for_policy(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    vip = {"module": "shop", "address": "198.18.50.1", "mode": "", "settings": {}, "nodes": ["paris"]}
    told = {"cluster": "c", "me": "paris", "addresses": {"paris": []}, "vips": [vip], "health_port": 0}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.providers.policy", name],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise ImportError('No module named boto3')\n")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    answer = asked_for_policy("aws", {"PYTHONPATH": path})
    assert answer["error"]["code"] == "HF7004"
    assert "pip install 'hafarm[aws]'" in answer["error"]["text"]


def test_another_packages_provider_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """The example of docs/providers.md."""
    page = Path(__file__).parents[2] / "docs" / "providers.md"
    code = page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    (tmp_path / "rack_provider.py").write_text(code)
    info = tmp_path / "rack_provider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rack-provider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hafarm.providers]\nrack = rack_provider:Rack\n")
    answer = asked_for_policy("rack", {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    assert answer == {"ok": {"the rack's controller": ["move 198.18.50.1"]}}
    assert asked_for_policy("shelf", {})["error"]["code"] == "HF7004"


def test_modes_of_the_file_and_of_the_provider_are_the_same() -> None:
    from orchestrator.config.clouds import MODES

    assert set(MODES["aws"]) == set(mover.MODES)
    for name, mode in MODES["aws"].items():
        assert mode.needed == set(mover.MODES[name].settings)
        assert mode.probed == mover.MODES[name].by_probe
