"""GCP beside its moves: how an address is moved where, what is refused beforehand, which rights it takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.model.errors import HafarmError
from orchestrator.providers.detect import provider_here
from orchestrator.providers.faults import (
    MetadataSilent,
    PlaceWrong,
    ProviderRefused,
)
from orchestrator.providers.gcp import mover
from orchestrator.providers.gcp.mover import policy
from orchestrator.providers.mover import Vip
from tests.clouds.knobs import Do
from tests.providers.gcp_here import (
    ROLE,
    UPDATE,
    Leave,
    Stand,
    as_paris,
    chosen,
    claim,
    key_file,
    made,
    place,
    preflight,
    vip_of,
)
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
    subnet,
)
from tests.providers.nodes import BOTH, LYON, PARIS, SHOP
from tests.providers.scenes import STRANGER
from tests.providers.test_aws import asked_for_policy

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
def test_forwarding_rules_that_are_named_say_it(stand: Stand, kind: type[GcpScene]) -> None:
    scene = stand(kind)
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


def test_where_zones_are_named_the_nodes_are_looked_for_there_alone(routed: Route) -> None:
    zones = {"zones": (f"{REGION}-b", f"{REGION}-c")}
    assert chosen(routed, vip_of(routed.vip, settings=zones, mode="")).mode == "route"
    assert {
        each.target.rpartition("projects/")[2] for each in routed.knobs.log if "instances" in each.action
    } == {
        f"{PROJECT}/zones/{REGION}-b/instances",
        f"{PROJECT}/zones/{REGION}-c/instances",
    }
    with pytest.raises(PlaceWrong, match=r"no network interface .* has any of its addresses"):
        chosen(routed, vip_of(routed.vip, settings={"zones": (f"{REGION}-c",)}))


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
def test_a_wrong_name_is_named(stand: Stand, settings: dict[str, tuple[str, ...]], said: str) -> None:
    scene = stand(ForwardingRule)
    with pytest.raises(PlaceWrong, match=said):
        chosen(scene, vip_of(scene.vip, settings={**scene.vip.settings, **settings}))


def test_another_rules_address_and_another_kind_of_rule_are_refused(stand: Stand, probed: IlbProbe) -> None:
    scene = stand(ForwardingRule)
    with pytest.raises(PlaceWrong, match=r"has 198\.18\.60\.1, and the virtual IP is 198\.18\.60\.2"):
        chosen(scene, vip_of(scene.vip, address="198.18.60.2"))
    with pytest.raises(PlaceWrong, match="leads to no regional backend service"):
        chosen(scene, vip_of(scene.vip, mode="ilb-probe"))
    with pytest.raises(PlaceWrong, match="leads to the backend service shop"):
        chosen(probed, vip_of(probed.vip, mode="forwarding-rule"))
    with pytest.raises(PlaceWrong, match="needs a health port"):
        chosen(probed, vip_of(probed.vip), health_port=0)


def test_without_a_target_instance_the_command_that_makes_one_is_told(
    stand: Stand,
) -> None:
    scene = stand(ForwardingRule)
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
    stand: Stand, kind: type[GcpScene], lacking: str
) -> None:
    scene = stand(kind)
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


def test_a_web_server_that_is_not_googles_is_not_believed(routed: Route) -> None:
    """Another service answers there, without Google's header."""
    with as_paris(routed, GCE_METADATA_HOST=routed.gcp.served.address, http_proxy="http://127.0.0.1:9"):
        found = made(routed).choices()[routed.address]
    assert isinstance(found, MetadataSilent)


def test_it_is_asked_past_a_proxy(routed: Route) -> None:
    """For who it is as well as for a token; only Compute Engine may be asked through one."""
    direct = {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": routed.gcp.served.url.replace("127.0.0.1", "localhost")
    }
    with as_paris(routed, http_proxy="http://127.0.0.1:9", no_proxy="localhost", **direct):
        before = routed.gcp.cloud.tokens.asked
        assert made(routed)._prepared().has_metadata
        assert routed.gcp.cloud.tokens.asked > before


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
    stand: Stand, kind: type[GcpScene]
) -> None:
    scene = stand(kind)
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
