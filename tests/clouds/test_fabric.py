"""A client in another subnet really loses and regains an address when the simulated cloud says so."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import boto3
import pytest
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.network.models import LoadBalancerBackendAddress, Route, SubResource
from moto import mock_aws

from tests.clouds import view
from tests.clouds.azure import site as azure_site
from tests.clouds.azure.arm import Arm
from tests.clouds.fabric import Fabric
from tests.clouds.gcp import site as gcp_site
from tests.clouds.gcp.compute import Compute
from tests.clouds.metadata.aws import TTL_HEADER, Aws
from tests.clouds.probing import Prober, of_arm_probes, of_gcp_probes
from tests.clouds.serving import Served
from tests.clouds.test_azure_network import balancer
from tests.support.netns import inside, ip
from tests.support.waiting import eventually

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


# --- load balancers ---


class Health:
    """A node's health port: it answers with a status that the test sets."""

    def __init__(self, fabric: Fabric, machine: str, port: int) -> None:
        health = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(health.status if self.path == "/m/shop/primary" else 404)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.status = 503
        with inside(fabric[machine]):
            self._server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Health:
        self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._server.shutdown()
        self._thread.join(timeout=10)
        self._server.server_close()


def test_a_balancer_in_azure_follows_the_health_ports(
    azure: Fabric, network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    front = "198.18.1.100"
    network.load_balancers.begin_create_or_update(azure_site.GROUP, "lb", balancer()).result()
    pools = network.load_balancer_backend_address_pools
    pool = pools.get(azure_site.GROUP, "lb", "nodes")
    net = SubResource(id=azure_site.path("virtualNetworks", "net"))
    pool.load_balancer_backend_addresses = [
        LoadBalancerBackendAddress(name=name, ip_address=azure_site.NODES[name][1], virtual_network=net)
        for name in ("n1", "n2")
    ]
    pools.begin_create_or_update(azure_site.GROUP, "lb", "nodes", pool).result()

    def tell(member: str, answer: bool) -> None:
        arm.face.healthy[member] = answer
        arm.do(arm.face.store.changed)

    with ExitStack() as stack:
        for name in ("n1", "n2"):
            ip("addr", "add", f"{front}/32", "dev", "lo", within=azure[name])
        first, second = (stack.enter_context(Health(azure, name, 8890)) for name in ("n1", "n2"))
        stack.enter_context(Prober(azure["router"], lambda: of_arm_probes(arm.face), tell))
        assert who(azure, front) is None
        first.status = 200
        eventually(lambda: who(azure, front) == "n1", 30)
        # The second one serves before the first one has ended: two are never led to at once.
        second.status, first.status = 200, 503
        eventually(lambda: who(azure, front) == "n2", 30)


def test_a_balancer_in_gcp_follows_the_health_ports(cloud: Compute) -> None:
    front = "198.18.1.100"
    region = ("regions", gcp_site.REGION)
    told = {"type": "HTTP", "httpHealthCheck": {"port": 8890, "requestPath": "/m/shop/primary"}}
    cloud.put(gcp_site.path(*region, "healthChecks", "primary"), told)
    service = gcp_site.path(*region, "backendServices", "nodes")
    rule = {"IPAddress": front, "backendService": service}
    cloud.put(gcp_site.path(*region, "forwardingRules", "shop"), rule)

    with Fabric(view.of_gcp(cloud)) as fabric, ExitStack() as stack:
        cloud.store.changed = fabric.follow(lambda: view.of_gcp(cloud))

        def tell(member: str, answer: bool) -> None:
            cloud.changes.healthy[member] = answer
            cloud.store.changed()

        for name in ("n1", "n2"):
            stack.enter_context(answering(fabric, name, front))
        second = stack.enter_context(Health(fabric, "n2", 8890))
        stack.enter_context(Prober(fabric["router"], lambda: of_gcp_probes(cloud), tell))
        assert who(fabric, front) is None
        second.status = 200
        eventually(lambda: who(fabric, front) == "n2", 30)
        second.status = 503
        eventually(lambda: who(fabric, front) is None, 30)


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


# --- the metadata service's hop limit ---


@pytest.mark.parametrize(("hops", "arrives"), [(1, False), (2, True)])
def test_a_token_passes_only_so_many_routers(cloud: Compute, hops: int, arrives: bool) -> None:
    with Fabric(view.of_gcp(cloud)) as fabric:
        with inside(fabric["n1"]):
            listener = socket.create_server(("0.0.0.0", 80))
        with Served(Aws(hop_limit=hops), listener=listener):
            with inside(fabric["client"]):
                connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            with connection:
                connection.settimeout(3)
                connection.connect(("198.18.1.10", 80))
                head = "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
                connection.sendall(f"{head}{TTL_HEADER}: 60\r\n\r\n".encode())
                if arrives:
                    assert connection.recv(15) == b"HTTP/1.1 200 OK"
                else:
                    with pytest.raises(TimeoutError):
                        connection.recv(15)


# --- AWS, as another simulator describes it ---


def test_routes_and_addresses_of_ec2_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "simulated")
    # Its list of images takes longer to read than everything else here.
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with mock_aws():
        ec2 = boto3.client("ec2", region_name="eu-central-1")
        vpc = ec2.create_vpc(CidrBlock="198.18.0.0/20")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="198.18.1.0/24")["Subnet"]["SubnetId"]
        (made,) = ec2.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1, SubnetId=subnet)[
            "Instances"
        ]
        node, interface = made["InstanceId"], made["NetworkInterfaces"][0]["NetworkInterfaceId"]
        (table,) = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
        words = {"RouteTableId": table["RouteTableId"], "NetworkInterfaceId": interface}
        ec2.create_route(DestinationCidrBlock=f"{gcp_site.VIP}/32", **words)

        def hop(address: str) -> str | None:
            return view.of_ec2(ec2, vpc).hop(subnet, address)

        assert hop(gcp_site.VIP) is None
        ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, SourceDestCheck={"Value": False})
        assert hop(gcp_site.VIP) == node
        ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, PrivateIpAddresses=["198.18.1.77"])
        assert hop("198.18.1.77") == node
        ec2.stop_instances(InstanceIds=[node])
        assert (hop("198.18.1.77"), hop(gcp_site.VIP)) == (None, None)
