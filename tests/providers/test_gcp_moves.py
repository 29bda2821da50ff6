"""What GCP's own ways of moving keep beside the contract: priorities, fingerprints, operations, tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.auth.compute_engine import _metadata
from google.cloud import compute_v1

from orchestrator.model.names import Epoch
from orchestrator.providers.faults import (
    ForeignOwner,
    ProviderRefused,
    ProviderUnreachable,
    Superseded,
)
from orchestrator.providers.gcp import account
from orchestrator.providers.gcp.account import change_of
from orchestrator.providers.gcp.mover import Gcp
from orchestrator.providers.gcp.routes import priority
from orchestrator.providers.provider import Owner, Sight
from tests.clouds.gcp.schemas import Json
from tests.clouds.knobs import Do
from tests.providers.gcp_here import (
    UPDATE,
    Leave,
    Stand,
    as_paris,
    claim,
    made,
    place,
    seen,
    vip_of,
)
from tests.providers.gcp_scenes import (
    PROJECT,
    AliasIp,
    ForwardingRule,
    Route,
    instance,
    rule,
)
from tests.providers.nodes import BOTH, LYON, PARIS
from tests.providers.scenes import STRANGER

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


def name_of(scene: Route, epoch: int) -> str:
    """As the provider calls a route of this reign, of whichever node."""
    with as_paris(scene):
        mode: Any = made(scene)
        mode._prepared()
        prefix: str = mode._made["route"]._prefix(vip_of(scene.vip))
    return f"{prefix}{epoch}-lyon"


def test_a_stale_primarys_route_does_not_win(routed: Route) -> None:
    claim(routed, 7)
    routed.lead(LYON, priority(Epoch(6)), name_of(routed, 6))  # its request was under way for long
    assert routed.owners() == {PARIS}
    assert seen(routed).owner is Owner.MINE
    claim(routed, 8)
    assert len(routed.routes()) == 1


def test_who_finds_the_route_of_a_later_reign_changes_nothing(routed: Route) -> None:
    """Although he was given leave."""
    routed.lead(LYON, priority(Epoch(9)), name_of(routed, 9))
    with pytest.raises(Superseded, match=r"of a later reign than 3; .*delete that route"):
        claim(routed, 3)
    assert routed.knobs.changes(PARIS) == []
    assert routed.owners() == {LYON}


def test_priorities_that_begin_anew_leave_no_hole(routed: Route) -> None:
    claim(routed, 65_535)
    routed.lead(LYON, priority(Epoch(65_534)), name_of(routed, 65_534))
    claim(routed, 65_536)
    (mine,) = routed.routes().values()
    assert mine["priority"] == 65_535
    actions = [each.action for each in routed.knobs.changes(PARIS)]
    assert actions[-3:] == ["compute.routes.create", "compute.routes.delete", "compute.routes.delete"]


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


# --- forwarding rules -----------------------------------------------------------------------------


def test_an_ipv6_rule_has_a_range_and_leads_the_address_in_it(stand: Stand) -> None:
    scene = stand(ForwardingRule)
    body = {"IPAddress": "2001:db8:60::/96", "ipVersion": "IPV6", "loadBalancingScheme": "EXTERNAL"}
    scene.gcp.put(rule("shop-v6"), body)
    vip = vip_of(scene.vip, address="2001:db8:60::1", settings={"forwarding_rules": ("shop-v6",)})
    leave = claim(scene, vip=vip)
    assert leave.asked == ["setTarget of shop-v6"]
    assert (seen(scene, vip).owner, scene.owners()) == (Owner.MINE, set())


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
    routed.lead(LYON, priority(Epoch(2)))
    leave = Leave()
    leave.seconds = 0.2
    with as_paris(routed):
        node = made(routed)
        for _ in range(2):
            with pytest.raises(ProviderUnreachable, match="its operation is not over yet"):
                node.claim(routed.address, BOTH, leave)
        assert leave.asked == ["routes of global"], "it was asked for once"
        routed.gcp.served.do(routed.gcp.cloud.store.hasten)
        assert node.claim(routed.address, BOTH, Leave()).changes == 1, "the former's deletion"
    assert routed.owners() == {PARIS}


def test_a_route_that_is_shown_before_it_leads_does_not_end_the_formers(routed: Route) -> None:
    """The cloud shows what an operation makes, and is not over yet."""
    routed.knobs.turn(Do.SLOW, "compute.routes.create", who=PARIS, times=1, seconds=30)
    routed.lead(LYON, priority(Epoch(2)))
    leave = Leave()
    leave.seconds = 0.2
    with as_paris(routed):
        node = made(routed)
        with pytest.raises(ProviderUnreachable):
            node.claim(routed.address, BOTH, leave)
        routed.lead(PARIS, priority(Epoch(3)), name_of(routed, 3))  # as its own will be
        with pytest.raises(ProviderUnreachable, match="its operation is not over yet"):
            node.claim(routed.address, BOTH, leave)
    assert leave.asked == ["routes of global"]
    assert f"given-lyon-{priority(Epoch(2))}" in routed.routes()


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
