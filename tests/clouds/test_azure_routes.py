"""Routes in Azure with the real SDK: written under an ETag, done after a while, or refused."""

from __future__ import annotations

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.network.models import Route

from tests.clouds.azure.arm import Arm
from tests.clouds.azure.site import GROUP, VIP, path
from tests.clouds.knobs import Do
from tests.clouds.serving import Served

WRITE = "Microsoft.Network/routeTables/routes/write"
READ = "Microsoft.Network/routeTables/routes/read"


def to(node: str) -> Route:
    return Route(address_prefix=f"{VIP}/32", next_hop_type="VirtualAppliance", next_hop_ip_address=node)


def put(network: NetworkManagementClient, node: str, table: str = "rt3", **headers: str) -> Route:
    words = {name.replace("_", "-"): text for name, text in headers.items()}
    return network.routes.begin_create_or_update(GROUP, table, "shop", to(node), headers=words).result()


def hop(network: NetworkManagementClient, table: str = "rt3") -> str | None:
    return network.routes.get(GROUP, table, "shop").next_hop_ip_address


def effective(arm: Served[Arm], table: str = "rt3") -> list[str]:
    """Where packets for the address go."""
    routes = arm.face.store.effective[path("routeTables", table).lower()]["properties"].get("routes", [])
    return [each["properties"]["nextHopIpAddress"] for each in routes]


def test_a_route_is_made_and_moved_under_its_etag(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    with pytest.raises(ResourceNotFoundError):
        network.routes.get(GROUP, "rt3", "shop")
    assert put(network, "198.18.1.10", If_None_Match="*").provisioning_state == "Succeeded"
    seen = network.routes.get(GROUP, "rt3", "shop")
    put(network, "198.18.2.10", If_Match=seen.etag or "")
    assert hop(network) == "198.18.2.10"
    with pytest.raises(HttpResponseError, match="PreconditionFailedEtagMismatch") as refusal:
        put(network, "198.18.1.10", If_Match=seen.etag or "")
    assert refusal.value.status_code == 412
    with pytest.raises(HttpResponseError, match="exists already"):
        put(network, "198.18.1.10", If_None_Match="*")
    assert effective(arm) == ["198.18.2.10"]


def test_the_etag_of_the_answer_is_old_when_the_operation_is_over(network: NetworkManagementClient) -> None:
    poller = network.routes.begin_create_or_update(GROUP, "rt3", "shop", to("198.18.1.10"), polling=False)
    answered = poller.result().etag
    seen = network.routes.get(GROUP, "rt3", "shop")
    assert seen.provisioning_state == "Succeeded"
    assert seen.etag != answered


def test_a_write_beside_a_route_makes_its_etag_old(network: NetworkManagementClient) -> None:
    put(network, "198.18.1.10")
    seen = network.routes.get(GROUP, "rt3", "shop")
    other = Route(address_prefix="198.18.201.1/32", next_hop_type="None")
    network.routes.begin_create_or_update(GROUP, "rt3", "other", other).result()
    with pytest.raises(HttpResponseError, match="PreconditionFailedEtagMismatch"):
        put(network, "198.18.2.10", If_Match=seen.etag or "")


def test_a_route_that_is_deleted_is_gone_and_may_be_deleted_again(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    put(network, "198.18.1.10")
    network.routes.begin_delete(GROUP, "rt3", "shop").result()
    network.routes.begin_delete(GROUP, "rt3", "shop").result()
    with pytest.raises(ResourceNotFoundError):
        network.routes.get(GROUP, "rt3", "shop")
    assert effective(arm) == []


def test_tables_tell_their_routes_and_their_subnets(network: NetworkManagementClient) -> None:
    put(network, "198.18.1.10", "rt1")
    tables = {each.name: each for each in network.route_tables.list(GROUP)}
    assert set(tables) == {"rt1", "rt2", "rt3"}
    assert [each.name for each in tables["rt1"].routes or ()] == ["shop"]
    assert [each.id for each in tables["rt1"].subnets or ()] == [path("virtualNetworks/subnets", "net", "s1")]
    assert [each.name for each in network.routes.list(GROUP, "rt1")] == ["shop"]


# --- operations that take their time ---


def test_packets_go_the_old_way_until_the_operation_is_over(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    put(network, "198.18.1.10")
    arm.face.knobs.turn(Do.SLOW, WRITE, seconds=30, times=1)
    poller = network.routes.begin_create_or_update(GROUP, "rt3", "shop", to("198.18.2.10"))
    assert network.routes.get(GROUP, "rt3", "shop").provisioning_state == "Updating"
    assert effective(arm) == ["198.18.1.10"]
    arm.do(arm.face.store.hasten)
    poller.result()
    assert effective(arm) == ["198.18.2.10"]


def test_an_operation_that_fails_changes_nothing_that_packets_meet(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    put(network, "198.18.1.10")
    arm.face.knobs.turn(Do.FAILS, WRITE, code="RetryableError", times=1)
    with pytest.raises(HttpResponseError, match="RetryableError"):
        put(network, "198.18.2.10")
    assert network.routes.get(GROUP, "rt3", "shop").provisioning_state == "Failed"
    assert effective(arm) == ["198.18.1.10"]


def test_a_later_write_cancels_the_one_that_runs(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    arm.face.knobs.turn(Do.SLOW, WRITE, seconds=30, times=1)
    first = network.routes.begin_create_or_update(GROUP, "rt3", "shop", to("198.18.1.10"))
    put(network, "198.18.2.10")
    with pytest.raises(HttpResponseError, match="Canceled"):
        first.result()
    assert effective(arm) == ["198.18.2.10"]


def test_one_table_does_one_thing_at_a_time(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    arm.face.knobs.turn(Do.SLOW, WRITE, seconds=30, times=1)
    network.routes.begin_create_or_update(GROUP, "rt3", "shop", to("198.18.1.10"), polling=False)
    other = Route(address_prefix="198.18.201.1/32", next_hop_type="None")
    with pytest.raises(HttpResponseError, match="AnotherOperationInProgress") as refusal:
        network.routes.begin_create_or_update(GROUP, "rt3", "other", other)
    assert refusal.value.status_code == 429


def test_whoever_asks_how_an_operation_stands_can_be_told_to_wait(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    arm.face.knobs.turn(Do.THROTTLED, "*/locations/operations/read", retry_after_s=5)
    with pytest.raises(HttpResponseError, match="TooManyRequests"):
        put(network, "198.18.1.10")
    # What was accepted goes on whether or not anybody asks.
    assert hop(network) == "198.18.1.10"


def test_an_answer_says_how_long_to_wait_where_the_cloud_does(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    arm.face.retry_after_s = 3
    heard: list[str | None] = []
    network.routes.begin_create_or_update(
        GROUP,
        "rt3",
        "shop",
        to("198.18.1.10"),
        polling=False,
        raw_response_hook=lambda told: heard.append(told.http_response.headers.get("Retry-After")),
    )
    assert heard == ["3"]


# --- knobs ---


def test_a_busy_cloud_says_when_to_come_back(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    arm.face.knobs.turn(Do.THROTTLED, WRITE, times=1, retry_after_s=7)
    with pytest.raises(HttpResponseError, match="TooManyRequests") as refusal:
        put(network, "198.18.1.10")
    assert refusal.value.response is not None
    assert refusal.value.response.headers["Retry-After"] == "7"
    put(network, "198.18.1.10")
    assert [each.status for each in arm.face.knobs.writes] == [429, 201]


def test_a_broken_cloud_answers_with_its_own_fault(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    arm.face.knobs.turn(Do.BROKEN, READ, status=503, skip=1, times=1)
    put(network, "198.18.1.10")
    with pytest.raises(HttpResponseError, match="ServiceUnavailable"):
        hop(network), hop(network)


def test_an_answer_that_is_lost_has_done_its_work(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    arm.face.knobs.turn(Do.LOST, WRITE, times=1)
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        put(network, "198.18.1.10")
    assert hop(network) == "198.18.1.10"
    assert [each.status for each in arm.face.knobs.writes] == [0]


def test_an_answer_that_is_late_has_done_its_work_too(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    arm.face.knobs.turn(Do.LOST, WRITE, seconds=30, times=1)
    with pytest.raises(ServiceResponseError, match=r"[Tt]imed? ?out"):
        network.routes.begin_create_or_update(GROUP, "rt3", "shop", to("198.18.1.10"), read_timeout=0.3)
    assert hop(network) == "198.18.1.10"


def test_reads_may_be_old(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    put(network, "198.18.1.10")
    put(network, "198.18.2.10")
    arm.face.knobs.turn(Do.STALE, READ, times=2)
    assert [hop(network) for _ in range(3)] == ["198.18.1.10", "198.18.1.10", "198.18.2.10"]


def test_somebody_else_may_be_faster(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    put(network, "198.18.1.10")
    seen = network.routes.get(GROUP, "rt3", "shop")
    arm.face.knobs.turn(Do.OVERTAKEN, WRITE, times=1)
    with pytest.raises(HttpResponseError, match="PreconditionFailedEtagMismatch"):
        put(network, "198.18.2.10", If_Match=seen.etag or "")


def test_one_table_of_many_may_be_forbidden(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    arm.face.knobs.turn(Do.DENIED, WRITE, about="rt2")
    put(network, "198.18.1.10", "rt1")
    with pytest.raises(HttpResponseError, match=r"AuthorizationFailed.*routes/write") as refusal:
        put(network, "198.18.1.10", "rt2")
    assert refusal.value.status_code == 403
    put(network, "198.18.1.10", "rt3")


def test_a_policy_is_enough_and_each_action_of_it_needed(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    policy = [WRITE, READ]
    arm.face.knobs.allow_only(policy)
    put(network, "198.18.1.10")
    hop(network)
    assert set(arm.face.knobs.used) == set(policy)
    arm.face.knobs.clear()
    arm.face.knobs.allow_only([WRITE])
    with pytest.raises(HttpResponseError, match="AuthorizationFailed"):
        put(network, "198.18.1.10")


def test_a_token_can_be_told_to_be_too_old(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    arm.face.knobs.turn(Do.EXPIRED, WRITE, times=1)
    with pytest.raises(ClientAuthenticationError, match="ExpiredAuthenticationToken"):
        put(network, "198.18.1.10")
    with pytest.raises(ResourceNotFoundError):
        hop(network)


def test_a_slow_cloud_lets_a_caller_give_up_before_anything_happens(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    arm.face.knobs.turn(Do.DELAY, WRITE, seconds=30)
    with pytest.raises(ServiceResponseError, match=r"[Tt]imed? ?out"):
        network.routes.begin_create_or_update(GROUP, "rt3", "shop", to("198.18.1.10"), read_timeout=0.3)
    with pytest.raises(ResourceNotFoundError):
        hop(network)


def test_a_token_can_be_too_old(network: NetworkManagementClient, arm: Served[Arm]) -> None:
    put(network, "198.18.1.10")
    arm.face.identities.expire_all()
    with pytest.raises(ClientAuthenticationError, match="ExpiredAuthenticationToken"):
        hop(network)
