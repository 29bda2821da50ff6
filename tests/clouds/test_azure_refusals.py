"""What Azure does not take, asked for without the SDK's help; its tokens and its names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential
from azure.mgmt.network import NetworkManagementClient

from tests.clouds.authority import Authority
from tests.clouds.azure.arm import Arm
from tests.clouds.azure.identity import AUDIENCE
from tests.clouds.azure.site import GROUP, SUBSCRIPTION, path
from tests.clouds.conftest import options
from tests.clouds.knobs import Do
from tests.clouds.serving import Served

Ask = Callable[..., requests.Response]
VERSION = "2026-03-01"
ROUTE = {"addressPrefix": "198.18.200.10/32", "nextHopType": "None"}


@pytest.fixture
def ask(arm: Served[Arm], authority: Authority) -> Ask:
    def ask(method: str, where: str, body: object = None, /, **headers: str) -> requests.Response:
        token, _ = arm.face.identities.give("n1", AUDIENCE)
        told = {"Authorization": f"Bearer {token}"} | {
            name.replace("_", "-"): text for name, text in headers.items()
        }
        address = arm.url + (where if "?" in where else f"{where}?api-version={VERSION}")
        return requests.request(
            method, address, json=body, headers=told, verify=str(authority.ca), timeout=10
        )

    return ask


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"nextHop": "x"} | ROUTE, "nextHop"),
        ({"weight": 1} | ROUTE, "Could not find member 'weight' on object of type 'RoutePropertiesFormat'"),
        (ROUTE | {"nextHopType": "Somewhere"}, "'Somewhere' is not one of"),
        (ROUTE | {"hasBgpOverride": True}, "only the service writes it"),
        ({"addressPrefix": "198.18.200.10/32"}, "nextHopType: it is required"),
        (ROUTE | {"addressPrefix": 7}, "7 is no string"),
        (ROUTE | {"addressPrefix": "198.18.200.10/99"}, "is no CIDR"),
        (ROUTE | {"nextHopType": "VirtualAppliance"}, "belongs to VirtualAppliance alone"),
        (ROUTE | {"nextHopIpAddress": "198.18.1.10"}, "belongs to VirtualAppliance alone"),
        (
            ROUTE | {"nextHopType": "VirtualAppliance", "nextHopIpAddress": "fd00::1"},
            "fd00::1 is not of its prefix's family",
        ),
    ],
)
def test_a_body_that_the_interface_data_do_not_know_is_refused(
    ask: Ask, properties: dict[str, object], said: str
) -> None:
    answer = ask("PUT", path("routeTables/routes", "rt3", "shop"), {"properties": properties})
    assert answer.status_code == 400
    assert said in answer.text


def test_a_body_that_was_read_can_be_written_back(ask: Ask) -> None:
    table = ask("GET", path("routeTables", "rt3")).json()
    assert ask("PUT", path("routeTables", "rt3"), table).status_code == 200
    table["etag"] = "mine"
    assert ask("PUT", path("routeTables", "rt3"), table).status_code == 400


@pytest.mark.parametrize(
    ("method", "where", "expected"),
    [
        ("GET", path("routeTablets", "rt3"), (404, "InvalidResourceType")),
        ("POST", path("routeTables", "rt3"), (405, "MethodNotAllowed")),
        ("GET", path("routeTables", "rt3") + "?x=1", (400, "MissingApiVersionParameter")),
        ("GET", path("routeTables", "rt3") + "?api-version=2019-01-01", (400, "NoRegisteredProviderFound")),
        (
            "GET",
            path("routeTables", "rt3") + f"?api-version={VERSION}&force=1",
            (400, "InvalidQueryParameter"),
        ),
        ("GET", path("routeTables", "rt9"), (404, "ResourceNotFound")),
        ("GET", path("routeTables", "rt3").replace("/shop/", "/else/"), (404, "ResourceGroupNotFound")),
        ("GET", path("routeTables", "rt3").replace(SUBSCRIPTION, "other"), (404, "SubscriptionNotFound")),
        ("PUT", path("routeTables", "rt3"), (400, "LocationRequired")),
        ("DELETE", path("routeTables", "rt3"), (400, "InUseResourceCannotBeDeleted")),
    ],
)
def test_an_address_that_is_wrong_is_refused(
    ask: Ask, method: str, where: str, expected: tuple[int, str]
) -> None:
    assert code(ask(method, where, {} if method == "PUT" else None)) == expected


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [("", "AuthenticationFailed"), ("Bearer x", "InvalidAuthenticationToken")],
)
def test_a_token_that_nobody_gave_is_refused(ask: Ask, authorization: str, expected: str) -> None:
    assert code(ask("GET", path("routeTables", "rt3"), Authorization=authorization)) == (401, expected)


def test_a_route_that_repeats_a_prefix_is_refused(ask: Ask) -> None:
    assert ask("PUT", path("routeTables/routes", "rt3", "a"), {"properties": ROUTE}).status_code == 201
    answer = ask("PUT", path("routeTables/routes", "rt3", "b"), {"properties": ROUTE})
    assert code(answer) == (400, "RouteConflict")


def test_the_address_of_an_operation_must_come_back_as_it_was(ask: Ask, arm: Served[Arm]) -> None:
    answer = ask("PUT", path("routeTables/routes", "rt3", "shop"), {"properties": ROUTE})
    where = answer.headers["Azure-AsyncOperation"].removeprefix(arm.url)
    assert ask("GET", where).json()["status"] == "Succeeded"
    assert code(ask("GET", where.rsplit("&", 1)[0])) == (404, "OperationNotFound")


def test_tags_can_be_changed_alone(ask: Ask) -> None:
    assert ask("PATCH", path("routeTables", "rt3"), {"tags": {"by": "us"}}).status_code == 200
    assert ask("GET", path("routeTables", "rt3")).json()["tags"] == {"by": "us"}
    assert ask("PATCH", path("routeTables", "rt3"), {"location": "moon"}).status_code == 400


def test_an_answer_that_breaks_the_interface_data_fails_the_test(ask: Ask, arm: Served[Arm]) -> None:
    table = arm.face.store.resources[path("routeTables", "rt3").lower()]
    table["properties"]["invented"] = 1
    ask("GET", path("routeTables", "rt3"))
    assert ["invented" in fault for fault in arm.face.faults] == [True]
    arm.face.faults.clear()


# --- tokens ---


def credential(arm: Served[Arm], ca: Authority, secret: str) -> ClientSecretCredential:
    return ClientSecretCredential(
        "tenant",
        "client",
        secret,
        authority=arm.url,
        disable_instance_discovery=True,
        connection_verify=str(ca.ca),
        retry_total=0,
    )


def test_a_client_gets_a_token_for_its_secret(arm: Served[Arm], authority: Authority) -> None:
    arm.face.identities.secrets["client"] = "secret"
    with NetworkManagementClient(
        credential(arm, authority, "secret"),
        SUBSCRIPTION,
        **options(arm, authority.ca),
    ) as network:
        assert network.route_tables.get(GROUP, "rt3").name == "rt3"
    assert [each.call.who for each in arm.face.knobs.done] == ["client"]


def test_a_client_with_a_wrong_secret_gets_none(arm: Served[Arm], authority: Authority) -> None:
    arm.face.identities.secrets["client"] = "secret"
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        credential(arm, authority, "guess").get_token("https://management.azure.com/.default")


# --- names ---


def test_a_record_set_is_written_under_its_etag(ask: Ask) -> None:
    where = path("dnsZones/A", "example.test", "shop") + "?api-version=2018-05-01"
    assert code(ask("GET", where)) == (404, "ResourceNotFound")
    zone = path("dnsZones", "example.test") + "?api-version=2018-05-01"
    assert ask("PUT", zone, {"location": "global", "properties": {}}).status_code == 201

    def put(address: str, **headers: str) -> requests.Response:
        body = {"properties": {"TTL": 30, "ARecords": [{"ipv4Address": address}]}}
        return ask("PUT", where, body, **headers)

    first: Any = put("198.18.1.10", If_None_Match="*")
    assert first.status_code == 201
    assert put("198.18.1.10", If_None_Match="*").status_code == 412
    assert put("198.18.2.10", If_Match=first.json()["etag"]).status_code == 200
    assert put("198.18.1.10", If_Match=first.json()["etag"]).status_code == 412
    assert ask("GET", where).json()["properties"]["ARecords"] == [{"ipv4Address": "198.18.2.10"}]


# --- another process ---


def test_knobs_are_turned_from_another_process(ask: Ask, arm: Served[Arm], authority: Authority) -> None:
    def tell(method: str, what: str, body: object = None) -> requests.Response:
        where = f"{arm.url}/simulator/{what}"
        return requests.request(method, where, json=body, verify=str(authority.ca), timeout=10)

    assert tell("POST", "knobs", {"effect": Do.BROKEN, "status": 500, "times": 1}).status_code == 200
    assert tell("POST", "knobs", {"effect": Do.BROKEN, "sometimes": 1}).status_code == 400
    assert code(ask("GET", path("routeTables", "rt3"))) == (500, "InternalServerError")
    assert ask("GET", path("routeTables", "rt3")).status_code == 200
    assert tell("POST", "allowed", {"actions": []}).status_code == 200
    assert ask("GET", path("routeTables", "rt3")).status_code == 403
    told = tell("GET", "done").json()
    assert [each["status"] for each in told["done"]] == [500, 200, 403]
    assert told["used"] == {"Microsoft.Network/routeTables/read": 1}


def test_a_caller_is_told_what_it_may_do_there(ask: Ask, arm: Served[Arm]) -> None:
    where = f"{path('routeTables', 'rt1')}/providers/Microsoft.Authorization/permissions"
    version = "?api-version=2022-04-01"
    everything = {"actions": ["*"], "notActions": [], "dataActions": [], "notDataActions": []}
    assert ask("GET", where + version).json() == {"value": [everything]}
    arm.face.knobs.allow_only(["Microsoft.Network/*/read", "Microsoft.Authorization/permissions/read"], "n1")
    arm.face.knobs.turn(Do.DENIED, "changes", about="rt1", who="n1")
    (told,) = ask("GET", where + version).json()["value"]
    assert told["actions"] == ["Microsoft.Network/*/read", "Microsoft.Authorization/permissions/read"]
    assert told["notActions"] == ["*/write", "*/delete", "*/action"]
    arm.face.knobs.allow_only(["Microsoft.Network/*"], "n1")
    assert code(ask("GET", where + version)) == (403, "AuthorizationFailed")
    assert code(ask("GET", where)) == (400, "InvalidRequest")
    assert code(ask("GET", where.replace("rt1", "rt9") + version)) == (404, "ResourceNotFound")
