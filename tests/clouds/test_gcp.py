"""Compute Engine with the real SDK: routes by priority, aliases by fingerprint, targets, machines, health."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core import exceptions as google
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud import compute_v1 as compute
from google.oauth2 import service_account
from google.oauth2.credentials import Credentials

from tests.clouds.gcp.compute import AUDIENCE, Compute
from tests.clouds.gcp.site import NODES, PROJECT, REGION, VIP, build, instance, path
from tests.clouds.knobs import Do
from tests.clouds.serving import Served

ZONE = NODES["n1"][0]
INSERT = "compute.routes.create"
UPDATE = "compute.instances.updateNetworkInterface"
ALIAS = "198.18.1.77/32"


@pytest.fixture
def gcp() -> Iterator[Served[Compute]]:
    with Served(Compute()) as served:
        served.do(lambda: build(served.face))
        yield served


class Clients:
    """The SDK's clients as a provider has them: told where to ask, and never asking twice by themselves."""

    def __init__(self, served: Served[Compute]) -> None:
        text, _ = served.face.tokens.give("n1", AUDIENCE)
        words: dict[str, Any] = {
            "credentials": Credentials(text),
            "client_options": {"api_endpoint": served.url},
        }
        self.routes = compute.RoutesClient(**words)
        self.instances = compute.InstancesClient(**words)
        self.rules = compute.ForwardingRulesClient(**words)
        self.services = compute.RegionBackendServicesClient(**words)
        self.groups = compute.InstanceGroupsClient(**words)
        self.everywhere = compute.GlobalOperationsClient(**words)
        self.zone = compute.ZoneOperationsClient(**words)
        self.region = compute.RegionOperationsClient(**words)

    def done(self, begun: compute.Operation) -> compute.Operation:
        """How it ended; the operation is asked where it is."""
        ended = begun
        while ended.status != compute.Operation.Status.DONE:
            if begun.zone:
                zone = begun.zone.rsplit("/", 1)[1]
                ended = self.zone.wait(project=PROJECT, zone=zone, operation=begun.name, timeout=10)
            elif begun.region:
                ended = self.region.wait(project=PROJECT, region=REGION, operation=begun.name, timeout=10)
            else:
                ended = self.everywhere.wait(project=PROJECT, operation=begun.name, timeout=10)
        return ended

    def insert(self, node: str, priority: int, **words: Any) -> compute.Operation:
        route = compute.Route(
            name=f"vip-{priority}-{node}",
            network="global/networks/net",
            dest_range=f"{VIP}/32",
            priority=priority,
            next_hop_instance=instance(node),
        )
        request = {"project": PROJECT, "route_resource": route} | words
        return self.routes.insert_unary(request=request, timeout=5, retry=None)

    def best(self) -> list[str]:
        found = self.routes.list(request={"project": PROJECT, "filter": f'destRange = "{VIP}/32"'})
        return [each.name for each in sorted(found, key=lambda each: each.priority)]

    def aliases(self, node: str) -> list[str]:
        return [each.ip_cidr_range for each in self.interface(node).alias_ip_ranges]

    def interface(self, node: str) -> compute.NetworkInterface:
        found = self.instances.get(project=PROJECT, zone=NODES[node][0], instance=node)
        return found.network_interfaces[0]

    def set_aliases(self, node: str, aliases: list[str], fingerprint: str = "") -> compute.Operation:
        resource = compute.NetworkInterface(
            fingerprint=fingerprint or self.interface(node).fingerprint,
            alias_ip_ranges=[compute.AliasIpRange(ip_cidr_range=each) for each in aliases],
        )
        return self.instances.update_network_interface_unary(
            request={
                "project": PROJECT,
                "zone": NODES[node][0],
                "instance": node,
                "network_interface": "nic0",
                "network_interface_resource": resource,
            },
            timeout=5,
            retry=None,
        )


@pytest.fixture
def clients(gcp: Served[Compute]) -> Clients:
    return Clients(gcp)


# --- routes ---


def test_a_route_of_a_later_epoch_wins_by_its_priority(clients: Clients, gcp: Served[Compute]) -> None:
    clients.done(clients.insert("n1", 59_999))
    clients.done(clients.insert("n2", 59_998))
    assert clients.best() == ["vip-59998-n2", "vip-59999-n1"]
    begun = clients.routes.delete_unary(project=PROJECT, route="vip-59999-n1", timeout=5)
    clients.done(begun)
    assert clients.best() == ["vip-59998-n2"]
    assert {each for each in gcp.face.knobs.used if "Operations" not in each} == {
        "compute.routes.create",
        "compute.routes.delete",
        "compute.routes.list",
        "compute.networks.updatePolicy",
        "compute.instances.use",
    }


def test_a_name_is_given_once(clients: Clients) -> None:
    clients.done(clients.insert("n1", 59_999))
    with pytest.raises(google.Conflict, match="already exists"):
        clients.insert("n1", 59_999)


def test_the_same_request_has_one_effect(clients: Clients) -> None:
    request = str(uuid.uuid4())
    first = clients.insert("n1", 59_999, request_id=request)
    assert clients.insert("n1", 59_999, request_id=request).name == first.name
    clients.done(first)
    assert clients.best() == ["vip-59999-n1"]


def test_a_next_hop_that_takes_nothing_is_told(clients: Clients, gcp: Served[Compute]) -> None:
    clients.done(clients.insert("n1", 59_999))
    begun = clients.instances.stop_unary(project=PROJECT, zone=ZONE, instance="n1", timeout=5)
    clients.done(begun)
    gcp.do(lambda: gcp.face.store.resources[instance("n1")].update(canIpForward=False))
    (route,) = clients.routes.list(project=PROJECT)
    assert [each.code for each in route.warnings] == ["NEXT_HOP_NOT_RUNNING", "NEXT_HOP_CANNOT_IP_FORWARD"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dest_range": "198.18.1.0/32"}, "hides the address space"),
        ({"dest_range": "198.18.200.10/8"}, "is no CIDR range"),
        ({"name": "Vip"}, "does not match"),
        ({"network": "global/networks/other"}, "was not found"),
        ({"next_hop_ip": "198.18.1.10"}, "exactly one next hop"),
        ({"priority": 70_000}, "not between"),
        ({"kind": "compute#route"}, "output only"),
    ],
)
def test_a_route_that_cannot_be_is_refused(clients: Clients, change: dict[str, Any], said: str) -> None:
    good = {
        "name": "vip",
        "network": "global/networks/net",
        "dest_range": f"{VIP}/32",
        "priority": 1,
        "next_hop_instance": instance("n1"),
    }
    with pytest.raises((google.BadRequest, google.NotFound), match=said):
        clients.routes.insert_unary(project=PROJECT, route_resource=compute.Route(good | change), retry=None)


# --- aliases ---


def test_an_alias_moves_when_the_old_holder_has_left_it(clients: Clients, gcp: Served[Compute]) -> None:
    assert not clients.done(clients.set_aliases("n1", [ALIAS])).error.errors
    ended = clients.done(clients.set_aliases("n4", [ALIAS]))
    assert [each.code for each in ended.error.errors] == ["IP_IN_USE_BY_ANOTHER_RESOURCE"]
    assert clients.aliases("n4") == []
    raw_patch(clients, gcp, "n1", {"aliasIpRanges": []})
    clients.done(clients.set_aliases("n4", [ALIAS]))
    assert (clients.aliases("n1"), clients.aliases("n4")) == ([], [ALIAS])


def raw_patch(clients: Clients, gcp: Served[Compute], node: str, body: dict[str, Any]) -> None:
    """Without the SDK's own serialisation, which leaves an empty list out."""
    session: AuthorizedSession = clients.instances.transport._session
    where = f"{gcp.url}/compute/v1/{instance(node)}/updateNetworkInterface?networkInterface=nic0"
    answer = session.patch(
        where, json=body | {"fingerprint": clients.interface(node).fingerprint}, timeout=10
    )
    answer.raise_for_status()
    clients.done(compute.Operation.from_json(answer.content))


def test_the_last_alias_stays_where_the_sdk_leaves_the_empty_list_out(clients: Clients) -> None:
    clients.done(clients.set_aliases("n1", [ALIAS]))
    clients.done(clients.set_aliases("n1", []))
    assert clients.aliases("n1") == [ALIAS]


def test_an_interface_is_written_under_its_fingerprint(clients: Clients, gcp: Served[Compute]) -> None:
    old = clients.interface("n1").fingerprint
    clients.done(clients.set_aliases("n1", [ALIAS]))
    with pytest.raises(google.PreconditionFailed, match="Invalid fingerprint"):
        clients.set_aliases("n1", ["198.18.1.78/32"], old)
    gcp.face.knobs.turn(Do.OVERTAKEN, UPDATE, times=1)
    with pytest.raises(google.PreconditionFailed, match="Invalid fingerprint"):
        clients.set_aliases("n1", ["198.18.1.78/32"])


def test_an_alias_must_be_of_the_subnet(clients: Clients) -> None:
    with pytest.raises(google.BadRequest, match="is not in the range"):
        clients.set_aliases("n1", ["198.18.2.77/32"])


# --- forwarding rules, health, groups ---


def test_a_rule_gets_another_target_in_one_call(clients: Clients, gcp: Served[Compute]) -> None:
    target = path("zones", NODES["n2"][0], "targetInstances", "n2")
    request = {
        "project": PROJECT,
        "region": REGION,
        "forwarding_rule": "shop",
        "target_reference_resource": compute.TargetReference(target=target),
    }
    clients.done(clients.rules.set_target_unary(request=request, timeout=5))
    seen = clients.rules.get(project=PROJECT, region=REGION, forwarding_rule="shop")
    assert seen.target.endswith(target)
    assert set(gcp.face.knobs.used) >= {"compute.forwardingRules.setTarget", "compute.targetInstances.use"}


def test_a_balancer_tells_whom_it_takes_for_healthy(clients: Clients, gcp: Served[Compute]) -> None:
    gcp.do(lambda: gcp.face.changes.healthy.update({instance("n2"): True}))

    def state(node: str) -> list[str]:
        group = path("zones", NODES[node][0], "instanceGroups", node)
        reference = compute.ResourceGroupReference(group=group)
        told = clients.services.get_health(
            project=PROJECT,
            region=REGION,
            backend_service="nodes",
            resource_group_reference_resource=reference,
        )
        return [each.health_state for each in told.health_status]

    assert (state("n1"), state("n2")) == (["UNHEALTHY"], ["HEALTHY"])


def test_a_group_takes_and_gives_instances(clients: Clients) -> None:
    def members() -> list[str]:
        found = clients.groups.list_instances(
            project=PROJECT,
            zone=ZONE,
            instance_group="n1",
            instance_groups_list_instances_request_resource=compute.InstanceGroupsListInstancesRequest(),
        )
        return [each.instance.rsplit("/", 1)[1] for each in found]

    reference = compute.InstanceReference(instance=instance("n1"))
    assert members() == ["n1"]
    begun = clients.groups.remove_instances_unary(
        project=PROJECT,
        zone=ZONE,
        instance_group="n1",
        instance_groups_remove_instances_request_resource=compute.InstanceGroupsRemoveInstancesRequest(
            instances=[reference]
        ),
    )
    clients.done(begun)
    assert members() == []


# --- machines ---


def test_a_machine_is_off_only_when_the_operation_is_over(clients: Clients, gcp: Served[Compute]) -> None:
    gcp.face.knobs.turn(Do.SLOW, "compute.instances.stop", seconds=30, times=1)
    request = compute.StopInstanceRequest(
        project=PROJECT, zone=ZONE, instance="n1", no_graceful_shutdown=True
    )
    begun = clients.instances.stop_unary(request=request, timeout=5)

    def status() -> str:
        return clients.instances.get(project=PROJECT, zone=ZONE, instance="n1").status

    assert (begun.status, status()) == (compute.Operation.Status.RUNNING, "STOPPING")
    for refused in (clients.instances.reset_unary, clients.instances.start_unary):
        with pytest.raises(google.BadRequest, match="is not ready"):
            refused(project=PROJECT, zone=ZONE, instance="n1", timeout=5)
    assert status() == "STOPPING"
    gcp.do(gcp.face.store.hasten)
    clients.done(begun)
    assert status() == "TERMINATED"


def test_who_may_what_can_be_asked(clients: Clients, gcp: Served[Compute]) -> None:
    gcp.face.knobs.allow_only(["compute.instances.get"])
    wanted = ["compute.instances.get", "compute.instances.stop"]
    told = clients.instances.test_iam_permissions(
        project=PROJECT,
        zone=ZONE,
        resource="n1",
        test_permissions_request_resource=compute.TestPermissionsRequest(permissions=wanted),
    )
    assert list(told.permissions) == ["compute.instances.get"]


# --- knobs ---


def test_an_operation_that_fails_changes_nothing(clients: Clients, gcp: Served[Compute]) -> None:
    gcp.face.knobs.turn(Do.FAILS, INSERT, code="QUOTA_EXCEEDED", times=1)
    ended = clients.done(clients.insert("n1", 59_999))
    assert [each.code for each in ended.error.errors] == ["QUOTA_EXCEEDED"]
    assert clients.best() == []


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ({"effect": Do.THROTTLED}, google.TooManyRequests),
        ({"effect": Do.BROKEN, "status": 503}, google.ServiceUnavailable),
        ({"effect": Do.DENIED, "action": "compute.networks.updatePolicy"}, google.Forbidden),
    ],
)
def test_a_call_that_is_refused_does_nothing(
    clients: Clients, gcp: Served[Compute], words: dict[str, Any], fault: type[Exception]
) -> None:
    gcp.face.knobs.turn(**({"action": INSERT} | words))
    with pytest.raises(fault):
        clients.insert("n1", 59_999)
    assert clients.best() == []


def test_an_answer_that_is_lost_has_done_its_work(clients: Clients, gcp: Served[Compute]) -> None:
    gcp.face.knobs.turn(Do.LOST, INSERT, times=1)
    with pytest.raises(Exception, match=r"[Cc]onnection"):
        clients.insert("n1", 59_999)
    assert clients.best() == ["vip-59999-n1"]


def test_reads_may_be_old(clients: Clients, gcp: Served[Compute]) -> None:
    clients.done(clients.insert("n1", 59_999))
    gcp.face.knobs.turn(Do.STALE, "compute.routes.list", times=1)
    assert [clients.best(), clients.best()] == [[], ["vip-59999-n1"]]


def test_a_token_can_be_too_old(clients: Clients, gcp: Served[Compute]) -> None:
    gcp.face.tokens.expire_all()
    with pytest.raises(Exception, match="refresh"):
        clients.best()


# --- without the SDK ---


@pytest.mark.parametrize(
    ("verb", "where", "body", "status"),
    [
        ("GET", "global/rotes", None, 404),
        ("GET", "global/routes?sort=name", None, 400),
        ("GET", "global/routes?maxResults=many", None, 400),
        ("GET", "global/routes/none", None, 404),
        ("POST", "global/routes", {"nme": "x"}, 400),
        ("POST", "global/routes", {"name": "x"}, 400),
        ("PATCH", f"zones/{ZONE}/instances/n1/updateNetworkInterface", {}, 400),
        ("PATCH", f"zones/{ZONE}/instances/n1/updateNetworkInterface?networkInterface=nic0", {}, 400),
    ],
)
def test_what_the_interface_data_do_not_know_is_refused(
    clients: Clients, gcp: Served[Compute], verb: str, where: str, body: object, status: int
) -> None:
    session: AuthorizedSession = clients.routes.transport._session
    answer = session.request(verb, f"{gcp.url}/compute/v1/{path(where)}", json=body, timeout=10)
    assert answer.status_code == status, answer.text


def test_a_request_identifier_is_a_uuid(clients: Clients) -> None:
    with pytest.raises(google.BadRequest, match="is no UUID"):
        clients.insert("n1", 59_999, request_id="1")


@pytest.mark.parametrize("signs_itself", [True, False])
def test_a_service_account_is_known_by_its_key(gcp: Served[Compute], signs_itself: bool) -> None:
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    told = {
        "client_email": "node@shop-1.test",
        "private_key": private.decode(),
        "token_uri": f"{gcp.url}/token",
    }
    account = service_account.Credentials.from_service_account_info(told, scopes=[AUDIENCE])
    if not signs_itself:
        with pytest.raises(RefreshError, match="invalid_grant"):
            account.refresh(Request())
    gcp.face.keys["node@shop-1.test"] = public.decode()
    if not signs_itself:
        account.refresh(Request())
        account = Credentials(account.token)
    routes = compute.RoutesClient(credentials=account, client_options={"api_endpoint": gcp.url})
    assert list(routes.list(project=PROJECT)) == []
    assert [each.call.who for each in gcp.face.knobs.done] == ["node@shop-1.test"]
    assert gcp.face.tokens.asked == (0 if signs_itself else 1)


def test_names_change_whole_or_not_at_all(clients: Clients, gcp: Served[Compute]) -> None:
    session: AuthorizedSession = clients.routes.transport._session
    zone = f"{gcp.url}/dns/v1/projects/{PROJECT}/managedZones/names"

    def change(old: str, new: str) -> int:
        sets = {
            word: [{"name": "shop.example.test.", "type": "A", "ttl": 30, "rrdatas": [address]}]
            for word, address in (("deletions", old), ("additions", new))
            if address
        }
        return session.post(f"{zone}/changes", json=sets, timeout=10).status_code

    assert change("", "198.18.1.10") == 200
    assert change("", "198.18.2.10") == 409
    assert change("198.18.9.9", "198.18.2.10") == 412
    assert change("198.18.1.10", "198.18.2.10") == 200
    (one,) = session.get(f"{zone}/rrsets", timeout=10).json()["rrsets"]
    assert one["rrdatas"] == ["198.18.2.10"]
