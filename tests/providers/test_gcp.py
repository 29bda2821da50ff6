"""GCP beside its moves: how an address is moved where, what is refused beforehand, which rights it takes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.compute_engine import _metadata
from google.cloud import compute_v1

from orchestrator.model.config import VipConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import Epoch, NodeName
from orchestrator.providers.detect import provider_here
from orchestrator.providers.faults import (
    ForeignOwner,
    MetadataSilent,
    PlaceWrong,
    ProviderRefused,
    ProviderUnreachable,
)
from orchestrator.providers.gcp import account, mover
from orchestrator.providers.gcp.account import change_of
from orchestrator.providers.gcp.firewall import admits
from orchestrator.providers.gcp.ground import Nic
from orchestrator.providers.gcp.mover import Gcp, policy
from orchestrator.providers.gcp.routes import priority
from orchestrator.providers.mover import Choice, Place, Vip
from orchestrator.providers.provider import Finding, Owner, Sight
from tests.clouds.gcp.schemas import Json
from tests.clouds.knobs import Do
from tests.providers.gcp_scenes import (
    NETWORK,
    PROJECT,
    REGION,
    AliasIp,
    ForwardingRule,
    GcpScene,
    IlbProbe,
    Route,
    instance,
    simulated,
    subnet,
)
from tests.providers.nodes import BOTH, LYON, OWN, PARIS, SHOP, environ
from tests.providers.scenes import STRANGER
from tests.providers.test_aws import asked_for_policy

HEALTH = IlbProbe.health_port
UPDATE = "compute.instances.updateNetworkInterface"
ROLE = "a custom role for the nodes' service account"


class Leave:
    """Always yes, under one reign."""

    def __init__(self, epoch: int = 3) -> None:
        self.epoch = Epoch(epoch)
        self.asked: list[str] = []
        self.seconds = 5.0

    def check(self, what: str) -> None:
        self.asked.append(what)

    def left_s(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def scenes() -> Iterator[tuple[dict[type[GcpScene], GcpScene], ExitStack]]:
    """Each kind is built once, in a cloud of its own."""
    with ExitStack() as stack:
        yield {}, stack


@pytest.fixture
def scene_of(
    scenes: tuple[dict[type[GcpScene], GcpScene], ExitStack],
) -> Iterator[Callable[[type[GcpScene]], Any]]:
    built, stack = scenes

    def made(kind: type[GcpScene]) -> GcpScene:
        if kind not in built:
            built[kind] = kind(stack.enter_context(simulated()))
        built[kind].reset()
        return built[kind]

    yield made
    for scene in built.values():
        scene.knobs.clear()


@pytest.fixture
def routed(scene_of: Callable[[type[GcpScene]], Any]) -> Any:
    return scene_of(Route)


@pytest.fixture
def aliased(scene_of: Callable[[type[GcpScene]], Any]) -> Any:
    return scene_of(AliasIp)


@pytest.fixture
def probed(scene_of: Callable[[type[GcpScene]], Any]) -> Any:
    return scene_of(IlbProbe)


@contextmanager
def as_paris(scene: GcpScene, **changed: str) -> Iterator[None]:
    """In this process; Google's library reads one of the variables when it is imported."""
    told = scene.environment(PARIS) | changed
    before = _metadata._GCE_METADATA_HOST
    _metadata._GCE_METADATA_HOST = told["GCE_METADATA_HOST"]
    try:
        with environ(told):
            yield
    finally:
        _metadata._GCE_METADATA_HOST = before


def vip_of(config: VipConfig, **changed: Any) -> Vip:
    made = Vip(SHOP, config.address.partition("/")[0], config.mode, config.settings, (PARIS, LYON))
    return replace(made, **changed)


def place(*vips: Vip, own: Mapping[NodeName, str] = OWN, health_port: int = HEALTH) -> Place:
    addresses = {name: (text,) for name, text in own.items()}
    return Place("test", PARIS, addresses, vips, health_port)  # type: ignore[arg-type]


def made(scene: GcpScene, vip: Vip | None = None, **more: Any) -> Gcp:
    return Gcp(place(vip or vip_of(scene.vip), own=scene.own, **more))


def chosen(scene: GcpScene, vip: Vip, **more: Any) -> Choice:
    with as_paris(scene):
        found = made(scene, vip, **more).choices()[vip.address]
    if isinstance(found, Exception):
        raise found
    return found


def seen(scene: GcpScene, vip: Vip | None = None) -> Sight:
    vip = vip or vip_of(scene.vip)
    with as_paris(scene):
        found = made(scene, vip).observe()[vip.address]
    if isinstance(found, Exception):
        raise found
    return found


def claim(scene: GcpScene, epoch: int = 3, vip: Vip | None = None) -> Leave:
    """As paris; what leave was asked for."""
    leave, vip = Leave(epoch), vip or vip_of(scene.vip)
    with as_paris(scene):
        assert made(scene, vip).claim(vip.address, BOTH, leave).missing == {}
    return leave


def preflight(scene: GcpScene, vip: Vip | None = None) -> list[Finding]:
    with as_paris(scene):
        return made(scene, vip).preflight(False, Leave())


def told(found: list[Finding]) -> str:
    return "\n".join(f"{one.subject}: {one.problem}; {one.remedy}" for one in found)


# --- how ------------------------------------------------------------------------------------------


def test_in_one_subnetwork_an_address_of_it_is_an_alias(aliased: AliasIp) -> None:
    choice = chosen(aliased, vip_of(aliased.vip, mode=""))
    assert (choice.mode, choice.local) == ("alias-ip", True)
    assert "paris in a" in choice.why


def test_outside_of_all_subnetworks_it_is_a_route(routed: Route) -> None:
    choice = chosen(routed, vip_of(routed.vip, mode=""))
    assert (choice.mode, choice.local) == ("route", True)
    assert "lies in no subnetwork of net" in choice.why
    assert "paris in a" in choice.why
    assert "lyon in b" in choice.why


@pytest.mark.parametrize("kind", [IlbProbe, ForwardingRule])
def test_forwarding_rules_that_are_named_say_it(
    scene_of: Callable[[type[GcpScene]], Any], kind: type[GcpScene]
) -> None:
    scene = scene_of(kind)
    choice = chosen(scene, vip_of(scene.vip, mode=""))
    assert (choice.mode, choice.local) == (kind.mode, True)


def test_subnetworks_are_told_apart_by_name_and_not_by_range(aliased: AliasIp) -> None:
    """Another network has the same ranges: lyon's namesake in it is not lyon."""
    gcp = aliased.gcp
    other = f"projects/{PROJECT}/global/networks/other"
    gcp.put(other, {"autoCreateSubnetworks": False})
    gcp.put(subnet("c"), {"network": other, "ipCidrRange": "10.0.1.0/24"})
    body = {"networkInterfaces": [{"subnetwork": subnet("c"), "networkIP": "10.0.1.12"}]}
    gcp.put(f"projects/{PROJECT}/zones/{REGION}-d/instances/elsewhere", body)
    try:
        assert chosen(aliased, vip_of(aliased.vip, mode="")).mode == "alias-ip"
        network = {"network": ("other",)}
        with pytest.raises(PlaceWrong, match=r"no network interface in project shop-1, network other"):
            chosen(aliased, vip_of(aliased.vip, settings=network))
    finally:
        gcp.remove(f"projects/{PROJECT}/zones/{REGION}-d/instances/elsewhere")
        gcp.remove(subnet("c"))


def test_an_address_of_a_secondary_range_is_an_alias_of_that_range(aliased: AliasIp) -> None:
    more = {"secondaryIpRanges": [{"rangeName": "vips", "ipCidrRange": "10.7.0.0/24"}]}
    body = {"network": NETWORK, "ipCidrRange": "10.0.1.0/24"}
    aliased.gcp.put(subnet("a"), body | more)
    try:
        vip = vip_of(aliased.vip, address="10.7.0.9", mode="")
        assert chosen(aliased, vip).mode == "alias-ip"
        claim(aliased, vip=vip)
        assert aliased.aliases(PARIS) == [{"ipCidrRange": "10.7.0.9/32", "subnetworkRangeName": "vips"}]
    finally:
        aliased.gcp.put(subnet("a"), body)
        aliased.gcp.cloud.store.resources[instance(PARIS)]["networkInterfaces"][0]["aliasIpRanges"] = []


# --- what is refused beforehand -------------------------------------------------------------------


def test_an_address_of_one_subnetwork_does_not_reach_nodes_of_another(routed: Route) -> None:
    with pytest.raises(PlaceWrong, match=r"no way leads it from node to node: it lies in a, .*lyon in b"):
        chosen(routed, vip_of(routed.vip, address="10.0.1.100", mode=""))
    with pytest.raises(PlaceWrong, match="the nodes lie in several"):
        chosen(routed, vip_of(routed.vip, address="10.0.1.100", mode="alias-ip"))


def test_an_address_inside_a_subnetwork_is_no_route(routed: Route) -> None:
    with pytest.raises(PlaceWrong, match=r"10\.0\.2\.77: lies in b \(10\.0\.2\.0/24\)"):
        chosen(routed, vip_of(routed.vip, address="10.0.2.77"))


def test_an_alias_lies_in_the_subnetwork_and_is_ipv4(aliased: AliasIp) -> None:
    with pytest.raises(PlaceWrong, match=r"does not lie in a \(10\.0\.1\.0/24\)"):
        chosen(aliased, vip_of(aliased.vip, address="10.9.9.9"))
    with pytest.raises(PlaceWrong, match="aliases for IPv4 alone"):
        chosen(aliased, vip_of(aliased.vip, address="2001:db8::9"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"project": ("other-1",)}, r"project other-1 has any of its addresses \(10\.0\.1\.11\)"),
        ({"network": ("nat",)}, "network nat has any of its addresses"),
        (
            {"forwarding_rules": ("shop-tcp", "shop-ucp")},
            f"shop-ucp: not in region {REGION} of project shop-1",
        ),
        ({"forwarding_rules": ("shop-tcp",), "region": ("us-east1",)}, "not in region us-east1"),
    ],
)
def test_a_wrong_name_is_named(
    scene_of: Callable[[type[GcpScene]], Any], settings: dict[str, tuple[str, ...]], said: str
) -> None:
    scene = scene_of(ForwardingRule)
    with pytest.raises(PlaceWrong, match=said):
        chosen(scene, vip_of(scene.vip, settings={**scene.vip.settings, **settings}))


def test_another_rules_address_and_another_kind_of_rule_are_refused(
    scene_of: Callable[[type[GcpScene]], Any], probed: IlbProbe
) -> None:
    scene = scene_of(ForwardingRule)
    with pytest.raises(PlaceWrong, match=r"has 198\.18\.60\.1, and the virtual IP is 198\.18\.60\.2"):
        chosen(scene, vip_of(scene.vip, address="198.18.60.2"))
    with pytest.raises(PlaceWrong, match="leads to no regional backend service"):
        chosen(scene, vip_of(scene.vip, mode="ilb-probe"))
    with pytest.raises(PlaceWrong, match="leads to the backend service shop"):
        chosen(probed, vip_of(probed.vip, mode="forwarding-rule"))
    with pytest.raises(PlaceWrong, match="needs a health port"):
        chosen(probed, vip_of(probed.vip), health_port=0)


def test_without_a_target_instance_the_command_that_makes_one_is_told(
    scene_of: Callable[[type[GcpScene]], Any],
) -> None:
    scene = scene_of(ForwardingRule)
    body = dict(scene.gcp.of("targetInstances")["to-paris"])
    scene.gcp.remove(scene.target(PARIS))
    try:
        with pytest.raises(PlaceWrong, match=r"gcloud compute target-instances create .*--instance paris"):
            chosen(scene, vip_of(scene.vip))
    finally:
        scene.gcp.put(scene.target(PARIS), {"instance": body["instance"]})


def test_an_unknown_mode_of_a_running_worker_is_told(routed: Route) -> None:
    with pytest.raises(PlaceWrong, match="GCP has no mode teleport"):
        chosen(routed, vip_of(routed.vip, mode="teleport"))


def test_an_instance_that_does_not_forward_is_found_and_changes_nothing(routed: Route) -> None:
    held = routed.gcp.cloud.store.resources
    held[instance(PARIS)]["canIpForward"] = held[instance(LYON)]["canIpForward"] = False
    try:
        with (
            pytest.raises(PlaceWrong, match=r"paris: it was made without canIpForward.*stop it"),
            as_paris(routed),
        ):
            made(routed).claim(routed.address, BOTH, Leave())
        assert routed.knobs.changes(PARIS) == []
        held[instance(PARIS)]["canIpForward"] = True
        (found,) = preflight(routed)
        assert found.subject == "lyon"
        assert "GCP changes that on a stopped instance only" in found.remedy
    finally:
        held[instance(LYON)]["canIpForward"] = True


def test_a_node_without_an_instance_is_found(aliased: AliasIp) -> None:
    body = dict(aliased.gcp.cloud.store.resources[instance(LYON)])
    aliased.gcp.remove(instance(LYON))
    try:
        (found,) = preflight(aliased)
        assert (found.subject, "no instance of project shop-1" in found.problem) == ("lyon", True)
    finally:
        aliased.gcp.cloud.store.resources[instance(LYON)] = body


def test_a_foreign_owner_is_told_beforehand(aliased: AliasIp) -> None:
    aliased.give(STRANGER)
    (found,) = preflight(aliased)
    assert "instances/stranger, no node of this cluster" in found.problem
    assert "take it away there" in found.remedy


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        (Route, "compute.instances.use"),
        (AliasIp, UPDATE),
        (AliasIp, "compute.subnetworks.use"),
        (ForwardingRule, "compute.targetInstances.use"),
    ],
)
def test_a_right_that_is_missing_is_named_before_anything_changes(
    scene_of: Callable[[type[GcpScene]], Any], kind: type[GcpScene], lacking: str
) -> None:
    scene = scene_of(kind)
    scene.knobs.rights[PARIS] = set(policy(place(vip_of(scene.vip)))[ROLE]["includedPermissions"]) - {lacking}
    found = preflight(scene)
    assert found
    assert all(f"{lacking}: this node's service account lacks it on" in one.problem for one in found)
    assert all("hafarm provider policy gcp" in one.remedy for one in found)
    assert scene.knobs.changes(PARIS) == []


def test_a_right_that_is_missing_is_told_by_the_claim_that_needs_it(routed: Route) -> None:
    routed.knobs.turn(Do.DENIED, "compute.routes.create", who=PARIS)
    with (
        pytest.raises(ProviderRefused, match=r"lacks the right to it.*compute\.routes\.create"),
        as_paris(routed),
    ):
        made(routed).claim(routed.address, BOTH, Leave())


# --- routes ---------------------------------------------------------------------------------------


def test_the_successors_route_is_there_before_the_formers_is_deleted(routed: Route) -> None:
    routed.lead(LYON, priority(Epoch(2)))
    leave = claim(routed, 3)
    assert [each.action for each in routed.knobs.changes(PARIS)] == [
        "compute.routes.create",
        "compute.routes.delete",
    ]
    assert leave.asked == ["routes of global", f"delete given-lyon-{priority(Epoch(2))} of routes"]
    (mine,) = routed.routes().values()
    assert mine["priority"] == priority(Epoch(3))
    assert json.loads(mine["description"].removeprefix("hafarm ")) == {
        "cluster": "test", "module": "shop", "node": "paris", "epoch": 3,
    }  # fmt: skip


def test_a_stale_primarys_route_does_not_win(routed: Route) -> None:
    claim(routed, 7)
    routed.lead(LYON, priority(Epoch(6)))  # its request was under way for long
    assert routed.owners() == {PARIS}
    assert seen(routed).owner is Owner.MINE
    claim(routed, 8)
    assert len(routed.routes()) == 1


def test_the_same_nodes_next_reign_has_a_better_route(routed: Route) -> None:
    """Else what a reign between them asked for late would win."""
    claim(routed, 3)
    claim(routed, 9)
    (mine,) = routed.routes().values()
    assert mine["priority"] == priority(Epoch(9))
    assert claim(routed, 9).asked == []


def test_a_deletion_that_is_denied_is_named_and_the_address_is_here(routed: Route) -> None:
    routed.lead(LYON, priority(Epoch(2)))
    routed.knobs.turn(Do.DENIED, "compute.routes.delete", who=PARIS)
    with as_paris(routed):
        node = made(routed)
        for _ in range(2):
            moved = node.claim(routed.address, BOTH, Leave(3))
            assert list(moved.missing) == [f"given-lyon-{priority(Epoch(2))}"]
    assert routed.owners() == {PARIS}


def test_a_route_of_ours_to_what_is_no_node_any_more_is_taken_over(routed: Route) -> None:
    claim(routed, 3)
    (name,) = routed.routes()
    path = f"projects/{PROJECT}/global/routes/{name}"
    routed.gcp.cloud.store.resources[path]["nextHopInstance"] = f"https://x/compute/v1/{instance(STRANGER)}"
    assert seen(routed).owner is Owner.NOBODY
    claim(routed, 4)
    (mine,) = routed.routes().values()
    assert mine["nextHopInstance"].endswith(instance(PARIS))


def test_a_worse_route_of_a_stranger_is_foreign_too(routed: Route) -> None:
    claim(routed, 3)
    routed.lead(STRANGER, 65_535)
    assert seen(routed).owner is Owner.FOREIGN
    with pytest.raises(ForeignOwner, match="given-stranger-65535"):
        claim(routed, 4)


def test_priorities_fall_with_each_reign_and_stay_in_their_range() -> None:
    assert [priority(Epoch(each)) for each in (0, 1, 65_535)] == [65_535, 65_534, 0]
    assert priority(Epoch(65_536)) == 65_535


def test_an_ipv6_address_is_led_by_a_route(routed: Route) -> None:
    vip = vip_of(routed.vip, address="2001:db8:50::1")
    claim(routed, vip=vip)
    assert seen(routed, vip).owner is Owner.MINE
    found = [each for each in routed.gcp.of("routes").values() if each["destRange"] == "2001:db8:50::1/128"]
    assert len(found) == 1


def test_several_addresses_are_looked_at_in_one_request(routed: Route) -> None:
    one = vip_of(routed.vip)
    with as_paris(routed):
        node = Gcp(place(one, replace(one, address="198.18.50.2")))
        node.choices()
        routed.knobs.forget()
        assert {each.owner for each in node.observe().values()} == {Owner.NOBODY}  # type: ignore[union-attr]
    assert [each.action for each in routed.knobs.log] == ["compute.routes.list"]


# --- aliases --------------------------------------------------------------------------------------


def test_the_last_alias_leaves_and_others_stay(aliased: AliasIp) -> None:
    """Google's library leaves an empty list out, and then nothing changes."""
    claim(aliased)
    with as_paris(aliased):
        made(aliased).release(aliased.address, Leave())
    assert aliased.aliases(PARIS) == []
    other: Json = {"ipCidrRange": "10.0.1.50/32"}
    aliased.gcp.cloud.store.resources[instance(PARIS)]["networkInterfaces"][0]["aliasIpRanges"] = [other]
    claim(aliased)
    assert aliased.aliases(PARIS) == [other, {"ipCidrRange": "10.0.1.100/32"}]
    with as_paris(aliased):
        made(aliased).release(aliased.address, Leave())
    assert aliased.aliases(PARIS) == [other]
    aliased.gcp.cloud.store.resources[instance(PARIS)]["networkInterfaces"][0]["aliasIpRanges"] = []


def test_who_reads_an_old_fingerprint_looks_again(aliased: AliasIp) -> None:
    aliased.give(LYON)
    overtaken = aliased.knobs.turn(Do.OVERTAKEN, UPDATE, who=PARIS, times=1)
    with as_paris(aliased):
        node = made(aliased)
        with pytest.raises(ProviderUnreachable, match=r"conditionNotMet: .*Invalid fingerprint"):
            node.claim(aliased.address, BOTH, Leave())
        assert overtaken.hits == 1
        assert aliased.owners() == {LYON}
        node.claim(aliased.address, BOTH, Leave())
    assert aliased.owners() == {PARIS}


def test_a_wider_range_with_the_address_in_it_is_not_taken(aliased: AliasIp) -> None:
    held = aliased.gcp.cloud.store.resources[instance(LYON)]["networkInterfaces"][0]
    held["aliasIpRanges"] = [{"ipCidrRange": "10.0.1.96/28"}]
    try:
        with pytest.raises(ForeignOwner, match=r"lyon with 10\.0\.1\.96/28"):
            claim(aliased)
    finally:
        held["aliasIpRanges"] = []


# --- what the cloud says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knob", "kind", "said"),
    [
        ({"effect": "broken", "status": 403, "code": "rateLimitExceeded"}, ProviderUnreachable, "rateLimit"),
        ({"effect": "throttled"}, ProviderUnreachable, "rateLimitExceeded"),
        ({"effect": "broken", "status": 503}, ProviderUnreachable, "backendError"),
        (
            {"effect": "broken", "status": 403, "code": "accessNotConfigured"},
            ProviderRefused,
            "accessNotConf",
        ),
        ({"effect": "fails", "code": "QUOTA_EXCEEDED"}, ProviderRefused, "QUOTA_EXCEEDED"),
        ({"effect": "fails", "code": "INTERNAL_ERROR"}, ProviderUnreachable, "INTERNAL_ERROR"),
        ({"effect": "slow", "seconds": 30}, ProviderUnreachable, "its operation is not over yet"),
    ],
)
def test_a_no_for_now_is_told_from_a_no_for_good(
    routed: Route, knob: dict[str, Any], kind: type[Exception], said: str
) -> None:
    routed.knobs.turn(knob.pop("effect"), "compute.routes.create", who=PARIS, times=1, **knob)
    leave = Leave()
    leave.seconds = 0.2
    with as_paris(routed), pytest.raises(kind, match=said):
        made(routed).claim(routed.address, BOTH, leave)
    assert len([each for each in leave.asked if each == "routes of global"]) == 1


def test_an_operation_that_outlives_the_order_is_found_by_the_next(routed: Route) -> None:
    routed.knobs.turn(Do.SLOW, "compute.routes.create", who=PARIS, times=1, seconds=30)
    leave = Leave()
    leave.seconds = 0.2
    with as_paris(routed):
        node = made(routed)
        with pytest.raises(ProviderUnreachable):
            node.claim(routed.address, BOTH, leave)
        routed.gcp.served.do(routed.gcp.cloud.store.hasten)
        assert node.claim(routed.address, BOTH, Leave()).changes == 0
    assert routed.owners() == {PARIS}


def test_a_token_that_ends_is_read_again(routed: Route) -> None:
    with as_paris(routed):
        node = made(routed)
        before = routed.gcp.cloud.tokens.asked
        routed.knobs.turn(Do.EXPIRED, "*", who=PARIS, times=1)
        assert isinstance(node.observe()[routed.address], Sight)
        assert routed.gcp.cloud.tokens.asked == before + 1


def test_without_credentials_the_remedy_is_told(routed: Route, tmp_path: Path) -> None:
    with as_paris(routed, NO_GCE_CHECK="true", HOME=str(tmp_path), CLOUDSDK_CONFIG=str(tmp_path)):
        mine = account.Account(PROJECT)
        before, _metadata._NO_GCE_CHECK = _metadata._NO_GCE_CHECK, True
        try:
            with pytest.raises(ProviderRefused, match="give its instance a service account"):
                mine.ask("list", compute_v1.RoutesClient, "the list of routes", project=PROJECT)
        finally:
            _metadata._NO_GCE_CHECK = before


def test_a_change_without_an_order_is_a_mistake_of_ours(routed: Route) -> None:
    with as_paris(routed), pytest.raises(AssertionError, match="delete x of routes without leave"):
        account.Account(PROJECT).ask("delete_unary", compute_v1.RoutesClient, "x", project=PROJECT, route="x")


def test_what_only_asks_needs_no_leave() -> None:
    base = "/compute/v1/projects/p"
    assert change_of("GET", f"{base}/global/routes") == ""
    assert change_of("POST", f"{base}/regions/r/backendServices/b/getHealth") == ""
    assert change_of("POST", f"{base}/zones/z/instanceGroups/g/listInstances") == ""
    assert change_of("POST", f"{base}/zones/z/instances/i/testIamPermissions") == ""
    assert change_of("POST", f"{base}/global/routes") == "routes of global"
    assert change_of("DELETE", f"{base}/global/routes/x") == "delete x of routes"
    assert (
        change_of("PATCH", f"{base}/zones/z/instances/i/updateNetworkInterface")
        == "updateNetworkInterface of i"
    )


# --- the metadata service -------------------------------------------------------------------------


def test_a_silent_metadata_service_is_told_where_it_is_needed(routed: Route, tmp_path: Path) -> None:
    nowhere = {"GCE_METADATA_HOST": "127.0.0.1:9", "GCE_METADATA_IP": "127.0.0.1:9"}
    with as_paris(routed, **nowhere):
        found = made(routed).choices()[routed.address]
    assert isinstance(found, MetadataSilent)
    assert "http://127.0.0.1:9 does not answer" in str(found)


def test_what_the_file_says_need_not_be_asked_for(routed: Route, tmp_path: Path) -> None:
    """The project in hafarm.yaml, and the key of an account in a file."""
    vip = vip_of(routed.vip, settings={"project": (PROJECT,), "network": ("net",)})
    with as_paris(routed, GOOGLE_APPLICATION_CREDENTIALS=key_file(routed, tmp_path)):
        routed.gcp.metadata[PARIS].face.knobs.turn(Do.BROKEN, "*")
        try:
            with pytest.raises(MetadataSilent, match="HTTP 503"):
                raise made(routed).choices()[routed.address]  # type: ignore[misc]
            node = made(routed, vip)
            assert node.claim(routed.address, BOTH, Leave()).missing == {}
        finally:
            routed.gcp.metadata[PARIS].face.knobs.clear()
    assert routed.owners() == {PARIS}


def key_file(scene: GcpScene, where: Path) -> str:
    """As an operator downloads it; the simulator knows the account."""
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    scene.gcp.cloud.keys["paris@shop-1.test"] = public.decode()
    account_of = {
        "type": "service_account",
        "project_id": PROJECT,
        "client_email": "paris@shop-1.test",
        "private_key": private.decode(),
        "token_uri": f"{scene.gcp.served.url}/token",
    }
    path = where / "key.json"
    path.write_text(json.dumps(account_of))
    return str(path)


def test_a_web_server_that_is_not_googles_is_not_believed(routed: Route) -> None:
    """Another service answers there, without Google's header."""
    with as_paris(routed, GCE_METADATA_HOST=routed.gcp.served.address, http_proxy="http://127.0.0.1:9"):
        found = made(routed).choices()[routed.address]
    assert isinstance(found, MetadataSilent)


def test_it_is_asked_past_a_proxy(routed: Route) -> None:
    with as_paris(routed, http_proxy="http://127.0.0.1:9", no_proxy=routed.gcp.served.address.split(":")[0]):
        assert made(routed)._prepared().has_metadata


@pytest.mark.parametrize(
    ("environment", "dmi", "provider"),
    [
        ({}, {"product_name": "Google Compute Engine"}, "gcp"),
        ({"GCE_METADATA_HOST": "127.0.0.1:1"}, {}, "gcp"),
        ({}, {"product_name": "Google"}, "onprem"),
    ],
)
def test_the_hardware_says_where_it_is(
    tmp_path: Path, environment: dict[str, str], dmi: dict[str, str], provider: str
) -> None:
    for name, text in dmi.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert provider_here(environment, tmp_path)[0] == provider


# --- a load balancer ------------------------------------------------------------------------------


def test_a_balancer_that_is_as_it_should_be_gives_nothing_to_mend(probed: IlbProbe) -> None:
    assert told(preflight(probed)) == ""
    probed.give(LYON)
    assert (seen(probed).owner, seen(probed).nodes) == (Owner.NODE, {LYON})
    with as_paris(probed):
        node = made(probed)
        node.choices()  # the agent asks when it starts
        probed.knobs.forget()
        assert node.claim(probed.address, BOTH, Leave()).changes == 0
    assert probed.knobs.log == [], "a move asks nothing of GCP"


def test_what_a_balancer_does_otherwise_is_found(probed: IlbProbe) -> None:
    held = probed.gcp.cloud.store.resources
    base = f"projects/{PROJECT}/regions/{REGION}"
    kept = {path: json.loads(json.dumps(each)) for path, each in held.items()}
    held[f"{base}/healthChecks/shop"]["httpHealthCheck"] = {"port": 80, "requestPath": "/"}
    held[f"{base}/backendServices/shop"] |= {"failoverPolicy": {}, "connectionTrackingPolicy": {}}
    del held[f"projects/{PROJECT}/global/firewalls/probes"]
    probed.gcp.cloud.changes.groups[probed.group(LYON)] = [instance(STRANGER)]
    try:
        text = told(preflight(probed))
    finally:
        held.clear()
        held.update(kept)
        probed.give()
    for said in (
        "it asks HTTP /; HTTP, path /m/shop/primary",
        "asks port 80; port 9702",
        "no group behind it has lyon",
        "stranger is no node of this cluster",
        "sends to all groups where no node is healthy",
        "leaves established connections",
        "paris: no firewall rule of net lets probes from 130.211.0.0/22, 35.191.0.0/16 in; allow tcp:9702",
    ):
        assert said in text


def firewall(**words: Any) -> compute_v1.Firewall:
    base = {"direction": "INGRESS", "priority": 1000, "source_ranges": ["35.191.0.0/16"]}
    return compute_v1.Firewall({**base, **words})


TCP = {"I_p_protocol": "tcp", "ports": ["9700-9709"]}


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        ([], False),
        ([firewall(allowed=[TCP])], True),
        ([firewall(allowed=[{"I_p_protocol": "all"}], source_ranges=[])], True),
        ([firewall(allowed=[{"I_p_protocol": "tcp", "ports": ["9702"]}])], True),
        ([firewall(allowed=[{"I_p_protocol": "tcp", "ports": ["970"]}])], False),
        ([firewall(allowed=[{"I_p_protocol": "udp"}])], False),
        ([firewall(allowed=[TCP], disabled=True)], False),
        ([firewall(allowed=[TCP], direction="EGRESS")], False),
        ([firewall(allowed=[TCP], source_ranges=["35.191.0.0/17"])], False),
        ([firewall(allowed=[TCP], source_ranges=["0.0.0.0/0"], target_tags=["web"])], False),
        ([firewall(allowed=[TCP], target_tags=["shop"])], True),
        ([firewall(allowed=[TCP], target_service_accounts=["a@b"])], True),
        ([firewall(allowed=[TCP], source_ranges=[], source_tags=["shop"])], False),
        ([firewall(allowed=[TCP]), firewall(denied=[TCP])], False),
        ([firewall(allowed=[TCP], priority=900), firewall(denied=[TCP])], True),
        (
            [firewall(allowed=[TCP]), firewall(denied=[TCP], priority=900, source_ranges=["35.191.7.0/24"])],
            False,
        ),
        ([firewall(allowed=[TCP], source_ranges=["::/0"])], False),
    ],
)
def test_the_rule_with_the_lowest_number_decides(rules: list[Any], admitted: bool) -> None:
    nic = Nic(
        PARIS, instance(PARIS), "nic0", "10.0.1.11", "s", "n", True, frozenset({"shop"}), frozenset({"a@b"})
    )
    assert admits(rules, "35.191.0.0/16", 9702, nic) is admitted


# --- rights ---------------------------------------------------------------------------------------


def life(scene: GcpScene) -> list[str]:
    """Everything that a node asks for in its life; what went wrong."""
    faults: list[str] = []
    with as_paris(scene):
        node = made(scene, vip_of(scene.vip))
        leave = Leave()
        leave.seconds = 1.0
        steps: list[Callable[[], Any]] = [
            lambda: node.claim(scene.address, BOTH, leave),
            lambda: node.release(scene.address, leave),
            lambda: node.claim(scene.address, BOTH, leave),
        ]
        for step in steps:
            try:
                faults += list(getattr(step(), "missing", {}).values())
            except HafarmError as fault:
                faults.append(str(fault))
        faults += [one.problem for one in node.preflight(True, leave)]
        faults += [str(one) for one in node.observe().values() if isinstance(one, Exception)]
    return faults


@pytest.mark.parametrize("kind", [Route, AliasIp, ForwardingRule, IlbProbe])
def test_the_printed_role_is_enough_and_every_permission_in_it_is_needed(
    scene_of: Callable[[type[GcpScene]], Any], kind: type[GcpScene]
) -> None:
    scene = scene_of(kind)
    permissions = policy(place(vip_of(scene.vip), own=scene.own))[ROLE]["includedPermissions"]

    def lived(allowed: list[str]) -> list[str]:
        scene.reset()
        scene.give(LYON)
        scene.knobs.rights[PARIS] = allowed
        return life(scene)

    assert lived(permissions) == []
    assert {each for each in scene.knobs.used if not each.endswith("testIamPermissions")} == set(permissions)
    for one in permissions:
        assert lived([each for each in permissions if each != one]) != [], f"{one} is not needed"


def test_a_role_without_a_mode_has_what_the_choice_may_come_to() -> None:
    def printed(**words: Any) -> set[str]:
        return set(
            policy(place(Vip(SHOP, "10.0.1.1", "", words, (PARIS, LYON))))[ROLE]["includedPermissions"]
        )

    assert {"compute.routes.create", UPDATE} <= printed()
    rules = printed(forwarding_rules=("shop",))
    assert {"compute.forwardingRules.setTarget", "compute.firewalls.list"} <= rules
    assert "compute.routes.create" not in rules


# --- what is installed ----------------------------------------------------------------------------


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "__init__.py").write_text("raise ImportError('No module named google')\n")
    answer = asked_for_policy("gcp", {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    assert answer["error"]["code"] == "HF7004"
    assert "pip install 'hafarm[gcp]'" in answer["error"]["text"]


def test_modes_of_the_file_and_of_the_provider_are_the_same() -> None:
    from orchestrator.config.clouds import MODES

    assert set(MODES["gcp"]) == set(mover.MODES)
    for name, mode in MODES["gcp"].items():
        assert mode.needed == set(mover.MODES[name].settings)
        assert mode.probed == mover.MODES[name].by_probe
