"""A client in another subnet really loses and regains an address when the simulated cloud says so."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.network.models import Route

from tests.clouds import view
from tests.clouds.azure import site as azure_site
from tests.clouds.azure.arm import Arm
from tests.clouds.fabric import Fabric
from tests.clouds.gcp import site as gcp_site
from tests.clouds.gcp.compute import Compute
from tests.clouds.serving import Served
from tests.support.netns import inside, ip

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs network namespaces")
PORT = 7000


@contextmanager
def answering(fabric: Fabric, machine: str, *addresses: str) -> Iterator[None]:
    """The machine has these addresses and says its name to whoever connects."""
    for address in addresses:
        ip("addr", "replace", f"{address}/32", "dev", "lo", within=fabric[machine])
    with inside(fabric[machine]):
        listener = socket.create_server(("0.0.0.0", PORT))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(machine.encode())

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        server.join(timeout=10)
        listener.close()


def who(fabric: Fabric, address: str, client: str = "client") -> str | None:
    """Who answers a client there; None if nobody does."""
    with inside(fabric[client]):
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with connection:
        # Within a machine an answer comes at once; this is for a machine that is loaded.
        connection.settimeout(3)
        try:
            connection.connect((address, PORT))
            return connection.recv(100).decode()
        except OSError:
            return None


@pytest.fixture
def azure(arm: Served[Arm]) -> Iterator[Fabric]:
    with ExitStack() as stack:
        fabric = stack.enter_context(Fabric(arm.do(lambda: view.of_arm(arm.face))))
        arm.face.store.changed = fabric.follow(lambda: view.of_arm(arm.face))
        for name in ("n1", "n2"):
            stack.enter_context(answering(fabric, name, azure_site.VIP))
        yield fabric
        arm.face.store.changed = lambda: None


def lead(network: NetworkManagementClient, address: str) -> None:
    route = Route(
        address_prefix=f"{azure_site.VIP}/32", next_hop_type="VirtualAppliance", next_hop_ip_address=address
    )
    network.routes.begin_create_or_update(azure_site.GROUP, "rt3", "shop", route).result()


def test_a_route_in_azure_leads_a_client_to_another_node(
    azure: Fabric, network: NetworkManagementClient, compute: ComputeManagementClient
) -> None:
    assert who(azure, "198.18.1.10") == "n1"
    assert who(azure, azure_site.VIP) is None
    lead(network, "198.18.1.10")
    assert who(azure, azure_site.VIP) == "n1"
    compute.virtual_machines.begin_power_off(azure_site.GROUP, "n1", skip_shutdown=True).result()
    assert who(azure, azure_site.VIP) is None
    lead(network, "198.18.2.10")
    assert who(azure, azure_site.VIP) == "n2"


def test_a_route_is_for_the_subnets_of_its_table(azure: Fabric, network: NetworkManagementClient) -> None:
    lead(network, "198.18.1.10")
    assert who(azure, "198.18.1.10", "n2") == "n1"
    # The table of the second subnet has no such route; there the address is the node's own.
    ip("addr", "del", f"{azure_site.VIP}/32", "dev", "lo", within=azure["n2"])
    assert who(azure, azure_site.VIP, "n2") is None


def test_a_node_that_may_not_forward_gets_nothing(
    azure: Fabric, network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    interface = network.network_interfaces.get(azure_site.GROUP, "n1")
    interface.enable_ip_forwarding = False
    network.network_interfaces.begin_create_or_update(azure_site.GROUP, "n1", interface).result()
    lead(network, "198.18.1.10")
    assert who(azure, azure_site.VIP) is None
    assert who(azure, "198.18.1.10") == "n1"


# --- GCP ---


@pytest.fixture
def cloud() -> Compute:
    made = Compute()
    gcp_site.build(made)
    return made


def test_the_route_of_a_later_epoch_leads_a_client(cloud: Compute) -> None:
    def add(node: str, priority: int) -> None:
        route = {
            "network": "global/networks/net",
            "destRange": f"{gcp_site.VIP}/32",
            "priority": priority,
            "nextHopInstance": gcp_site.instance(node),
        }
        cloud.put(gcp_site.path("global", "routes", f"vip-{priority}-{node}"), route)

    with Fabric(view.of_gcp(cloud)) as fabric, ExitStack() as stack:
        cloud.store.changed = fabric.follow(lambda: view.of_gcp(cloud))
        for name in ("n1", "n2"):
            stack.enter_context(answering(fabric, name, gcp_site.VIP))
        add("n1", 59_999)
        assert who(fabric, gcp_site.VIP) == "n1"
        add("n2", 59_998)
        assert who(fabric, gcp_site.VIP) == "n2"
        # One that was paused and comes back with its old epoch takes nothing.
        add("n1", 60_000)
        assert who(fabric, gcp_site.VIP) == "n2"


def test_an_alias_leads_to_its_holder(cloud: Compute) -> None:
    alias = "198.18.1.77"

    def give(node: str, *aliases: str) -> None:
        interface = cloud.store.resources[gcp_site.instance(node)]["networkInterfaces"][0]
        interface["aliasIpRanges"] = [{"ipCidrRange": f"{each}/32"} for each in aliases]
        cloud.store.changed()

    with Fabric(view.of_gcp(cloud)) as fabric, ExitStack() as stack:
        cloud.store.changed = fabric.follow(lambda: view.of_gcp(cloud))
        for name in ("n1", "n4"):
            stack.enter_context(answering(fabric, name, alias))
        assert who(fabric, alias) is None
        give("n1", alias)
        assert who(fabric, alias) == "n1"
        give("n1")
        give("n4", alias)
        assert who(fabric, alias) == "n4"


# --- what a balancer leads to, as a value ---


def test_a_balancer_drops_what_nobody_healthy_can_take(cloud: Compute) -> None:
    rule = gcp_site.path("regions", gcp_site.REGION, "forwardingRules", "shop")
    nodes = gcp_site.path("regions", gcp_site.REGION, "backendServices", "nodes")
    cloud.put(rule, {"IPAddress": "198.18.1.100", "backendService": nodes})

    def hop() -> str | None:
        return view.of_gcp(cloud).hop("", "198.18.1.100")

    assert hop() is None
    cloud.changes.healthy[gcp_site.instance("n2")] = True
    assert hop() == "n2"
    cloud.changes.healthy.clear()
    cloud.store.resources[nodes]["failoverPolicy"]["dropTrafficIfUnhealthy"] = False
    assert hop() == "n1"
