"""How addresses move in Azure beside what every cloud keeps, and the rights that it takes."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, ClassVar

import pytest
from azure.core.rest import HttpRequest

from orchestrator.model.config import VipConfig
from orchestrator.model.errors import HafarmError
from orchestrator.providers.azure import mover, rights
from orchestrator.providers.azure.account import Account
from orchestrator.providers.faults import PlaceWrong, ProviderFault, ProviderUnreachable
from orchestrator.providers.mover import Leave as LeaveOf
from orchestrator.providers.mover import Vip
from orchestrator.providers.provider import Owner, Sight
from tests.clouds.azure.site import SUBSCRIPTION, path
from tests.clouds.knobs import Done
from tests.providers.azure_scenes import NICS, TABLES, AzureScene, LbPool, NicIpConfig, PublicIp, Udr
from tests.providers.azure_worlds import Leave, SceneOf, made, place, preflight, scene_of, vip_of
from tests.providers.nodes import BOTH, LYON, PARIS, environ
from tests.providers.scenes import STRANGER
from tests.providers.test_azure import Ilb

__all__ = ["scene_of"]
ROUTE = f"{TABLES}/routes/write"


class Until(Leave):
    """There is time until something is so."""

    def __init__(self, over: Callable[[], bool]) -> None:
        super().__init__()
        self._over = over

    def left_s(self) -> float:
        return 0.0 if self._over() else 5.0


def claim(scene: AzureScene, node: mover.Azure | None = None, leave: Leave | None = None) -> Any:
    address = scene.vip.address.partition("/")[0]
    with environ(scene.environment(PARIS)):
        return (node or made(scene, vip_of(scene.vip))).claim(address, BOTH, leave or Leave())


def writes(scene: AzureScene) -> list[Done]:
    return [each for each in scene.knobs.writes if each.call.who == PARIS]


# --- sent once, by who was not outrun -------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalServerError"),
        (503, "ServiceUnavailable"),
        (409, "MissingSubscriptionRegistration"),
        (429, "TooManyRequests"),
    ],
)
def test_the_library_sends_nothing_a_second_time(scene_of: SceneOf, status: int, code: str) -> None:
    scene = scene_of(Udr)
    scene.knobs.turn("broken", ROUTE, status=status, code=code)
    with pytest.raises(ProviderUnreachable, match=code):
        claim(scene)
    assert [each.status for each in writes(scene)] == [status] * 3, "one of each table"


def test_a_change_without_an_order_is_a_mistake_of_ours(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    with environ(scene.environment(PARIS)):
        client = Account(scene.azure.served.url).network(SUBSCRIPTION)
        request = HttpRequest("DELETE", f"{scene.azure.served.url}{path('routeTables', 'a')}")
        with pytest.raises(AssertionError, match="DELETE routeTables/a without leave"):
            client.send_request(request)


def test_a_route_that_somebody_else_changed_meanwhile_is_looked_at_again(scene_of: SceneOf) -> None:
    """Another route of the same table moves the ETag too: only this one's own hop says whose it is."""
    scene = scene_of(Udr)
    scene.give(LYON)
    overtaken = scene.knobs.turn("overtaken", ROUTE, about="a", times=1)
    assert claim(scene).missing == {}
    assert overtaken.hits == 1
    assert sorted(each.status for each in writes(scene)) == [200, 200, 200, 412]


def test_a_route_that_went_elsewhere_meanwhile_is_not_taken(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    scene.give(LYON)
    scene.write_table("b", "10.0.1.99")
    # What paris saw was lyon's; by now the table's route is a stranger's, under another ETag.
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
        node.choices()
    scene.do(lambda: scene.arm.store.past.append((0.0, before_stranger(scene))))
    stale = scene.knobs.turn("stale", f"{TABLES}/read", times=1, changes=1)
    moved = claim(scene, node)
    assert stale.hits == 1
    assert list(moved.missing) == ["b"]
    assert "PreconditionFailed" in moved.missing["b"]
    assert scene.led_to("b") == "10.0.1.99"


@pytest.mark.parametrize("kind", [Udr, LbPool])
def test_a_claim_acts_on_what_it_has_judged_and_not_on_what_a_look_beside_it_saw(
    scene_of: SceneOf, kind: type[AzureScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(kind)
    scene.give(LYON)
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
        mode = node._mode(vip_of(scene.vip))
    move = mode.move

    def late(vip: Vip, leave: LeaveOf) -> Mapping[str, ProviderFault]:
        scene.give(STRANGER)
        beside = threading.Thread(target=node.observe)
        beside.start()
        beside.join()
        return move(vip, leave)

    monkeypatch.setattr(mode, "move", late)
    with pytest.raises(ProviderUnreachable, match="PreconditionFailed"):
        claim(scene, node)
    assert scene.owners() == {STRANGER}


def before_stranger(scene: Udr) -> dict[str, Any]:
    past: dict[str, Any] = copy.deepcopy(scene.arm.store.resources)
    for route in past[path("routeTables", "b").lower()]["properties"]["routes"]:
        if route["name"] == "shop":
            route["properties"]["nextHopIpAddress"] = "10.0.2.12"
        route["etag"] = 'W/"old"'
    return past


def test_a_table_that_is_busy_is_waited_for(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    busy = scene.knobs.turn(
        "broken", ROUTE, about="c", status=429, code="AnotherOperationInProgress", times=2
    )
    assert claim(scene).missing == {}
    assert busy.hits == 2


@pytest.mark.parametrize("kind", [Udr, NicIpConfig])
def test_two_addresses_that_move_at_once_wait_for_each_other(
    scene_of: SceneOf, kind: type[AzureScene]
) -> None:
    """They share tables or interfaces, on which one change at a time is taken."""
    scene = scene_of(kind)
    scene.knobs.turn("slow", kind.change, seconds=0.3)
    first = vip_of(scene.vip)
    second = vip_of(scene.vip, address=str(ip_address(first.address) + 1))
    with environ(scene.environment(PARIS)), ThreadPoolExecutor(2) as threads:
        node = made(scene, first, second)
        node.choices()
        moved = list(threads.map(lambda vip: node.claim(vip.address, BOTH, Leave()), (first, second)))
        assert [each.missing for each in moved] == [{}, {}]
        seen = [each.owner for each in node.observe().values() if isinstance(each, Sight)]
        assert seen == [Owner.MINE, Owner.MINE]


def test_an_operation_that_fails_is_told_and_asked_for_again(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    scene.give(LYON)
    scene.knobs.turn("fails", ROUTE, about="b", code="RetryableError", times=1)
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
    moved = claim(scene, node)
    assert (list(moved.missing), moved.again) == (["b"], True)
    assert "its change ended as Failed" in moved.missing["b"]
    assert scene.led_to("b") == "10.0.2.12", "packets go the old way"
    with environ(scene.environment(PARIS)):
        (seen,) = node.observe().values()
    assert seen.owner is Owner.AMBIGUOUS  # type: ignore[union-attr]
    moved = claim(scene, node)
    assert (moved.missing, moved.changes) == ({}, 1)
    assert scene.owners() == {PARIS}


@pytest.mark.parametrize("kind", [NicIpConfig, PublicIp, LbPool])
def test_every_kind_asks_again_for_what_failed(scene_of: SceneOf, kind: type[AzureScene]) -> None:
    scene = scene_of(kind)
    scene.give(LYON)
    first = "lb0" if kind is LbPool else PARIS
    scene.knobs.turn("fails", kind.change, code="InternalServerError", about=first, times=1)
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
    if kind.parts > 1:
        assert claim(scene, node).again
    else:
        with pytest.raises(ProviderUnreachable, match="its change ended as Failed"):
            claim(scene, node)
    assert claim(scene, node).missing == {}
    assert scene.owners() == {PARIS}


@pytest.mark.parametrize("kind", [Udr, NicIpConfig, PublicIp, LbPool])
def test_what_is_under_way_is_waited_for_and_not_asked_for_again(
    scene_of: SceneOf, kind: type[AzureScene]
) -> None:
    scene = scene_of(kind)
    scene.knobs.turn("slow", kind.change, seconds=30, times=kind.parts)
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
    with pytest.raises(ProviderUnreachable, match="does not show yet"):
        claim(scene, node, Until(lambda: len(writes(scene)) == kind.parts))
    assert scene.owners() == set()
    with pytest.raises(ProviderUnreachable, match="does not show yet"):
        claim(scene, node, Leave(0.3))
    scene.do(scene.arm.store.hasten)
    assert claim(scene, node).missing == {}
    assert scene.owners() == {PARIS}
    assert len(writes(scene)) == kind.parts


# --- throttling, tokens, many tables --------------------------------------------------------------


def test_azure_is_left_alone_for_as_long_as_it_says(scene_of: SceneOf) -> None:
    scene = scene_of(NicIpConfig)
    scene.knobs.turn("throttled", f"{NICS}/write", times=1, retry_after_s=30)
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
    with pytest.raises(ProviderUnreachable, match="TooManyRequests"):
        claim(scene, node)
    with pytest.raises(ProviderUnreachable, match="it wants no request for 30 s more"):
        claim(scene, node)
    assert [each.status for each in writes(scene)] == [429], "nothing more was sent"
    node._prepared().account.rest(True, 0.0)
    assert claim(scene, node).missing == {}


def test_a_token_that_has_ended_is_read_again(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
        scene.do(scene.arm.identities.expire_all)
        before = scene.arm.identities.asked
        with pytest.raises(ProviderUnreachable, match="the token was not good any more"):
            node.claim("198.18.50.1", BOTH, Leave())
        assert node.claim("198.18.50.1", BOTH, Leave()).missing == {}
    assert scene.arm.identities.asked == before + 1


def test_a_machine_without_an_identity_is_told_so_and_goes_on_when_it_has_one(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    served = scene.azure.metadata[PARIS].face
    served.identity = ""
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
        with pytest.raises(ProviderUnreachable, match="there is no token: give this machine an identity"):
            node.claim("198.18.50.1", BOTH, Leave())
        served.identity = PARIS
        assert node.claim("198.18.50.1", BOTH, Leave()).missing == {}


def test_a_machines_token_is_not_asked_for_through_a_proxy(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    with environ(scene.environment(PARIS) | {"http_proxy": "http://127.0.0.1:9"}):
        assert made(scene, vip_of(scene.vip)).claim("198.18.50.1", BOTH, Leave()).missing == {}


class Fifty(Udr):
    """As many tables as a large landing zone has."""

    tables: ClassVar[tuple[str, ...]] = tuple(f"t{number}" for number in range(50))
    parts = 50

    def build(self) -> None:
        super().build()
        for table in self.tables:
            self.azure.put(path("routeTables", table))

    def settings(self) -> dict[str, tuple[str, ...]]:
        return {"route_tables": self.tables}


def test_fifty_tables_are_looked_at_in_one_request_and_written_once_each(scene_of: SceneOf) -> None:
    scene = scene_of(Fifty)
    scene.give(LYON)
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip))
        node.choices()
        scene.knobs.forget()
        node.observe()
        assert len(scene.knobs.done) == 1
    scene.knobs.forget()
    # Throttled in the middle: what was moved stays, and the rest follows.
    scene.knobs.turn("throttled", ROUTE, skip=30, times=5)
    moved = claim(scene, node)
    assert (len(moved.missing), moved.again) == (5, True)
    assert claim(scene, node).missing == {}
    assert scene.owners() == {PARIS}
    assert len([each for each in writes(scene) if each.status == 200]) == 50
    assert len(writes(scene)) == 55


def test_what_there_is_no_time_for_is_left_for_the_next_attempt(scene_of: SceneOf) -> None:
    scene = scene_of(Fifty)
    with pytest.raises(ProviderUnreachable, match="it was not begun: the attempt's time is over"):
        claim(scene, leave=Leave(0.9))
    assert writes(scene) == []


# --- IPv6 -----------------------------------------------------------------------------------------


class DualStack(Udr):
    """Subnets and interfaces with both families, and an address of the second."""

    def address(self) -> str:
        return "2001:db8:50::1/128"

    def network(self) -> dict[str, Any]:
        made = super().network()
        made["addressSpace"]["addressPrefixes"].append("fd00::/48")
        for number, subnet in enumerate(made["subnets"], 1):
            properties = subnet["properties"]
            properties["addressPrefixes"] = [properties.pop("addressPrefix"), f"fd00:0:0:{number}::/64"]
        return made

    def write_nic(
        self, name: str, address: str, *more: dict[str, Any], forwards: bool = True, **own: Any
    ) -> None:
        six = {"privateIPAddress": self.six(name), "privateIPAddressVersion": "IPv6", "primary": False}
        super().write_nic(name, address, six, *more, forwards=forwards, **own)

    def six(self, name: str) -> str:
        return (
            f"fd00:0:0:{1 if self.subnet_of[name] == 'a' else 2}::{self.address_of(name).rpartition('.')[2]}"
        )


def test_an_ipv6_address_is_led_to_the_ipv6_address_of_the_interface(scene_of: SceneOf) -> None:
    scene = scene_of(DualStack)
    assert claim(scene).missing == {}
    assert {scene.led_to(table) for table in scene.tables} == {"fd00:0:0:1::11"}
    with environ(scene.environment(PARIS)):
        (seen,) = made(scene, vip_of(scene.vip)).observe().values()
    assert seen.owner is Owner.MINE  # type: ignore[union-attr]


def test_an_interface_without_ipv6_cannot_be_led_to_by_it(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    with (
        environ(scene.environment(PARIS)),
        pytest.raises(PlaceWrong, match=r"paris: 2001:db8:50::1 needs an"),
    ):
        made(scene, vip_of(scene.vip, address="2001:db8:50::1")).claim("2001:db8:50::1", BOTH, Leave())


# --- rights ---------------------------------------------------------------------------------------


def life(scene: AzureScene, **changed: Any) -> list[str]:
    """Everything that a node asks for in its life; what went wrong."""
    faults: list[str] = []
    with environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip, **changed), health_port=Ilb.port)
        address = scene.vip.address.partition("/")[0]
        steps: list[Callable[[], Any]] = [
            lambda: node.claim(address, BOTH, Leave()),
            lambda: node.release(address, Leave()),
            lambda: node.claim(address, BOTH, Leave()),
        ]
        for step in steps:
            try:
                faults += list(getattr(step(), "missing", {}).values())
            except HafarmError as fault:
                faults.append(str(fault))
        faults += [one.problem for one in node.preflight(True, Leave())]
        faults += [str(seen) for seen in node.observe().values() if isinstance(seen, Exception)]
    return faults


def begin(scene: AzureScene) -> None:
    """The other has it, and the interface is as Azure makes it: everything that may be needed is."""
    scene.knobs.clear()
    scene.give(LYON)
    if isinstance(scene, Udr):
        scene.write_table(scene.tables[0], "")  # has no route yet
        scene.write_nic(PARIS, scene.own[PARIS], forwards=False)
    scene.knobs.forget()


@pytest.mark.parametrize("kind", [Udr, NicIpConfig, PublicIp, LbPool, Ilb])
def test_the_printed_roles_are_enough_and_every_action_in_them_is_needed(
    scene_of: SceneOf, kind: type[AzureScene]
) -> None:
    scene = scene_of(kind)
    documents = mover.policy(place(vip_of(scene.vip), own=scene.own))
    actions = sorted({action for one in documents.values() for action in one["Actions"]})
    begin(scene)
    scene.knobs.allow_only(actions, PARIS)
    assert life(scene) == []
    assert set(scene.knobs.used) == set(actions)
    for action in actions:
        begin(scene)
        scene.knobs.allow_only([one for one in actions if one != action], PARIS)
        assert life(scene) != [], f"{action} is not needed"


@pytest.mark.parametrize("kind", [Udr, NicIpConfig, PublicIp, LbPool, Ilb])
def test_each_request_is_covered_where_the_roles_are_to_be_assigned(
    scene_of: SceneOf, kind: type[AzureScene]
) -> None:
    scene = scene_of(kind)
    begin(scene)
    told = {"subscription": (SUBSCRIPTION,), "resource_group": ("shop",)}
    granted = mover.needed(place(vip_of(scene.vip, settings=told), own=scene.own))
    assert life(scene) == []
    uncovered = [
        f"{call.action} on {call.target}"
        for call in scene.knobs.log
        if call.who == PARIS and not covers(granted, call)
    ]
    assert uncovered == []


def test_where_the_choice_is_left_open_the_roles_are_enough_too(scene_of: SceneOf) -> None:
    for kind in (Udr, NicIpConfig, PublicIp, LbPool, Ilb):
        scene = scene_of(kind)
        begin(scene)
        documents = mover.policy(place(vip_of(scene.vip, mode=""), own=scene.own))
        scene.knobs.allow_only({action for one in documents.values() for action in one["Actions"]}, PARIS)
        assert life(scene, mode="") == []


def covers(granted: Iterable[rights.Right], call: Any) -> bool:
    return any(
        call.action in right.actions and f"{call.target}/".lower().startswith(f"{right.scope}/".lower())
        for right in granted
    )


def test_a_right_that_is_missing_is_named_before_anything_changes(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    documents = mover.policy(place(vip_of(scene.vip)))
    actions = {action for one in documents.values() for action in one["Actions"]}
    scene.knobs.allow_only(actions - {ROUTE}, PARIS)
    found = preflight(scene)
    assert [re.sub(r".* on", "on", one.problem) for one in found] == [
        f"on {table}: this node's identity lacks the right" for table in scene.tables
    ]
    assert all(one.problem.startswith(ROUTE) for one in found)
    assert all("hafarm provider policy azure" in one.remedy for one in found)
    assert scene.knobs.changes(PARIS) == []


def test_rights_that_cannot_be_asked_are_told_as_such(scene_of: SceneOf) -> None:
    scene = scene_of(LbPool)
    scene.knobs.turn("denied", rights.ASK, who=PARIS)
    found = preflight(scene)
    assert len(found) == 3
    assert all("whether a claim is permitted cannot be asked" in one.problem for one in found)


def test_an_interface_without_the_right_to_forward_says_so(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    scene.write_nic(PARIS, "10.0.1.11", forwards=False)
    scene.knobs.turn("denied", f"{NICS}/write", who=PARIS)
    (found,) = preflight(scene)
    assert "or switch it on" in found.remedy
    with pytest.raises(PlaceWrong, match=r"paris: its IP forwarding is off .*; switch it on, or give"):
        claim(scene)
    assert writes(scene)[-1].status == 403
    assert scene.owners() == set()


def test_what_is_excepted_is_not_permitted() -> None:
    held = [{"actions": ["Microsoft.Network/*"], "notActions": ["*/write"]}, {"actions": ["*/join/action"]}]
    assert rights.permitted("microsoft.network/routeTables/read", held)
    assert not rights.permitted(ROUTE, held)
    assert rights.permitted("Microsoft.Network/virtualNetworks/subnets/join/action", held)


def test_roles_are_of_the_form_that_azure_takes_and_name_what_the_file_names() -> None:
    settings = {"route_tables": ("main", path("routeTables", "far")), "resource_group": ("nodes",)}
    vip = vip_of(VipConfig("198.18.50.1/32", provider="azure", mode="udr"), settings=settings)
    documents = mover.policy(place(vip))
    fields = {"Name", "IsCustom", "Description", "Actions", "NotActions", "DataActions", "NotDataActions"}
    for where, one in documents.items():
        assert set(one) == fields | {"AssignableScopes"}
        assert "at /subscriptions/" in where
        assert all("/providers/" not in scope for scope in one["AssignableScopes"])
    (routes,) = [one for one in documents.items() if ROUTE in one[1]["Actions"]]
    main = "/subscriptions/SUBSCRIPTION/resourceGroups/nodes/providers/Microsoft.Network/routeTables/main"
    assert routes[0].endswith(f"at {main}, {path('routeTables', 'far')}")
