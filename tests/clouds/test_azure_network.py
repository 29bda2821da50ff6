"""Interfaces, public addresses, load balancers and machines in Azure with the real SDK."""

from __future__ import annotations

import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.network.models import (
    BackendAddressPool,
    FrontendIPConfiguration,
    LoadBalancer,
    LoadBalancerBackendAddress,
    LoadBalancerSku,
    LoadBalancingRule,
    NetworkInterface,
    NetworkInterfaceIPConfiguration,
    Probe,
    PublicIPAddress,
    Subnet,
    SubResource,
)

from tests.clouds.azure.arm import Arm
from tests.clouds.azure.site import GROUP, LOCATION, add_machine, machine, path
from tests.clouds.knobs import Do
from tests.clouds.serving import Served

SECONDARY = "198.18.1.77"
NIC_WRITE = "Microsoft.Network/networkInterfaces/write"
POWER_OFF = "Microsoft.Compute/virtualMachines/powerOff/action"


def save(network: NetworkManagementClient, interface: NetworkInterface, etag: str | None = None) -> None:
    """Write the whole interface under the ETag that was read with it."""
    assert interface.name is not None
    headers = {"If-Match": etag or interface.etag or ""}
    network.network_interfaces.begin_create_or_update(
        GROUP, interface.name, interface, headers=headers
    ).result()


def add_secondary(interface: NetworkInterface, public: str | None = None) -> NetworkInterface:
    assert interface.ip_configurations is not None
    interface.ip_configurations.append(
        NetworkInterfaceIPConfiguration(
            name="shop",
            private_ip_address=SECONDARY,
            private_ip_allocation_method="Static",
            subnet=Subnet(id=path("virtualNetworks/subnets", "net", "s1")),
            public_ip_address=PublicIPAddress(id=public) if public else None,
        )
    )
    return interface


def without_secondary(interface: NetworkInterface) -> NetworkInterface:
    kept = [each for each in interface.ip_configurations or () if each.name != "shop"]
    interface.ip_configurations = kept
    return interface


@pytest.fixture
def pair(arm: Served[Arm]) -> Served[Arm]:
    """A second machine in the first one's subnet."""
    arm.do(lambda: add_machine(arm.face, "n4", "s1", "198.18.1.11"))
    return arm


@pytest.mark.usefixtures("pair")
def test_an_address_moves_from_interface_to_interface(network: NetworkManagementClient) -> None:
    interfaces = network.network_interfaces
    save(network, add_secondary(interfaces.get(GROUP, "n1")))
    with pytest.raises(HttpResponseError, match="already allocated to resource"):
        save(network, add_secondary(interfaces.get(GROUP, "n4")))
    save(network, without_secondary(interfaces.get(GROUP, "n1")))
    save(network, add_secondary(interfaces.get(GROUP, "n4")))
    held = [each.private_ip_address for each in interfaces.get(GROUP, "n4").ip_configurations or ()]
    assert held == ["198.18.1.11", SECONDARY]
    assert interfaces.get(GROUP, "n4").virtual_machine.id == machine("n4")  # type: ignore[union-attr]


@pytest.mark.usefixtures("pair")
def test_an_interface_is_written_under_its_etag(network: NetworkManagementClient) -> None:
    first = network.network_interfaces.get(GROUP, "n1")
    save(network, network.network_interfaces.get(GROUP, "n1"))
    with pytest.raises(HttpResponseError, match="PreconditionFailedEtagMismatch"):
        save(network, add_secondary(first))


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("198.18.2.77", "PrivateIPAddressNotInSubnet"),
        ("198.18.1.3", "PrivateIPAddressInReservedRange"),
        ("198.18.1.256", "InvalidIPAddressFormat"),
    ],
)
def test_an_address_must_fit_its_subnet(network: NetworkManagementClient, address: str, code: str) -> None:
    interface = add_secondary(network.network_interfaces.get(GROUP, "n1"))
    interface.ip_configurations[1].private_ip_address = address  # type: ignore[index]
    with pytest.raises(HttpResponseError, match=code):
        save(network, interface)


@pytest.mark.parametrize("of", ["subnets", "publicIPAddresses"])
def test_what_an_interface_refers_to_needs_permissions_of_its_own(
    network: NetworkManagementClient, arm: Served[Arm], of: str
) -> None:
    public = path("publicIPAddresses", "public")
    static = {"publicIPAllocationMethod": "Static"}
    arm.do(lambda: arm.face.put(public, {"location": LOCATION, "properties": static}))
    arm.face.knobs.turn(Do.DENIED, f"Microsoft.Network/*{of}/join/action")
    with pytest.raises(HttpResponseError, match=rf"LinkedAuthorizationFailed.*{of}/join/action"):
        save(network, add_secondary(network.network_interfaces.get(GROUP, "n1"), public))


def test_a_public_address_is_used_by_one_alone(network: NetworkManagementClient, pair: Served[Arm]) -> None:
    public = path("publicIPAddresses", "public")
    static = {"publicIPAllocationMethod": "Static"}
    pair.do(lambda: pair.face.put(public, {"location": LOCATION, "properties": static}))

    def give(name: str, held: str | None) -> None:
        interface = network.network_interfaces.get(GROUP, name)
        (configuration,) = interface.ip_configurations or ()
        configuration.public_ip_address = PublicIPAddress(id=held) if held else None
        save(network, interface)

    give("n1", public)
    user = network.public_ip_addresses.get(GROUP, "public").ip_configuration
    assert user is not None
    assert user.id == path("networkInterfaces/ipConfigurations", "n1", "primary")
    with pytest.raises(HttpResponseError, match="PublicIPAddressInUse"):
        give("n4", public)
    give("n1", None)
    give("n4", public)
    assert set(pair.face.knobs.used) == {
        NIC_WRITE,
        "Microsoft.Network/networkInterfaces/read",
        "Microsoft.Network/publicIPAddresses/read",
        "Microsoft.Network/publicIPAddresses/join/action",
        "Microsoft.Network/virtualNetworks/subnets/join/action",
    }


# --- load balancers ---


def balancer(**probe: object) -> LoadBalancer:
    own = path("loadBalancers", "lb")
    return LoadBalancer(
        location=LOCATION,
        sku=LoadBalancerSku(name="Standard"),
        frontend_ip_configurations=[
            FrontendIPConfiguration(
                name="front",
                private_ip_address="198.18.1.100",
                private_ip_allocation_method="Static",
                subnet=Subnet(id=path("virtualNetworks/subnets", "net", "s1")),
            )
        ],
        backend_address_pools=[BackendAddressPool(name="nodes")],
        probes=[
            Probe(
                name="primary",
                **{  # type: ignore[arg-type]
                    "protocol": "Http",
                    "port": 8890,
                    "request_path": "/m/shop/primary",
                    "interval_in_seconds": 5,
                    "probe_threshold": 2,
                }
                | probe,
            )
        ],
        load_balancing_rules=[
            LoadBalancingRule(
                name="all",
                protocol="All",
                frontend_port=0,
                backend_port=0,
                enable_floating_ip=True,
                frontend_ip_configuration=SubResource(id=f"{own}/frontendIPConfigurations/front"),
                backend_address_pool=SubResource(id=f"{own}/backendAddressPools/nodes"),
                probe=SubResource(id=f"{own}/probes/primary"),
            )
        ],
    )


def test_a_balancer_with_a_probe_is_made_and_read(network: NetworkManagementClient) -> None:
    made = network.load_balancers.begin_create_or_update(GROUP, "lb", balancer()).result()
    assert made.probes is not None
    assert made.probes[0].provisioning_state == "Succeeded"
    seen = network.load_balancers.get(GROUP, "lb")
    assert seen.frontend_ip_configurations[0].private_ip_address == "198.18.1.100"  # type: ignore[index]
    assert [each.port for each in network.load_balancer_probes.list(GROUP, "lb")] == [8890]


@pytest.mark.parametrize(
    ("probe", "code"),
    [
        ({"request_path": None}, "ProbeRequestPathRequired"),
        ({"protocol": "Tcp"}, "ProbeRequestPathNotAllowed"),
        ({"interval_in_seconds": 1}, "ProbeIntervalTooSmall"),
        ({"protocol": "Icmp"}, "not one of Http, Tcp, Https"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(
    network: NetworkManagementClient, probe: dict[str, object], code: str
) -> None:
    with pytest.raises(HttpResponseError, match=code):
        network.load_balancers.begin_create_or_update(GROUP, "lb", balancer(**probe))


def test_a_pool_changes_its_members_under_its_etag(
    network: NetworkManagementClient, arm: Served[Arm]
) -> None:
    network.load_balancers.begin_create_or_update(GROUP, "lb", balancer()).result()
    pools = network.load_balancer_backend_address_pools
    arm.face.knobs.forget()

    def point_to(address: str, pool: BackendAddressPool) -> None:
        net = SubResource(id=path("virtualNetworks", "net"))
        member = LoadBalancerBackendAddress(name="node", ip_address=address, virtual_network=net)
        pool.load_balancer_backend_addresses = [member]
        headers = {"If-Match": pool.etag or ""}
        pools.begin_create_or_update(GROUP, "lb", "nodes", pool, headers=headers).result()

    old = pools.get(GROUP, "lb", "nodes")
    point_to("198.18.1.10", pools.get(GROUP, "lb", "nodes"))
    point_to("198.18.2.10", pools.get(GROUP, "lb", "nodes"))
    with pytest.raises(HttpResponseError, match="PreconditionFailedEtagMismatch"):
        point_to("198.18.1.10", old)
    members = pools.get(GROUP, "lb", "nodes").load_balancer_backend_addresses or ()
    assert [each.ip_address for each in members] == ["198.18.2.10"]
    assert set(arm.face.knobs.used) == {
        "Microsoft.Network/loadBalancers/backendAddressPools/read",
        "Microsoft.Network/loadBalancers/backendAddressPools/write",
        "Microsoft.Network/virtualNetworks/joinLoadBalancer/action",
    }


# --- machines ---


def power(compute: ComputeManagementClient) -> str | None:
    statuses = compute.virtual_machines.instance_view(GROUP, "n2").statuses or ()
    return next(each.code for each in statuses if (each.code or "").startswith("PowerState/"))


def test_a_machine_is_off_only_when_the_operation_is_over(
    compute: ComputeManagementClient, arm: Served[Arm]
) -> None:
    arm.face.knobs.turn(Do.SLOW, POWER_OFF, seconds=30, times=1)
    poller = compute.virtual_machines.begin_power_off(GROUP, "n2", skip_shutdown=True)
    assert power(compute) == "PowerState/stopping"
    arm.do(arm.face.store.hasten)
    poller.result()
    assert power(compute) == "PowerState/stopped"
    compute.virtual_machines.begin_start(GROUP, "n2").result()
    assert power(compute) == "PowerState/running"
    compute.virtual_machines.begin_deallocate(GROUP, "n2").result()
    assert power(compute) == "PowerState/deallocated"
    assert set(arm.face.knobs.used) == {
        POWER_OFF,
        "Microsoft.Compute/virtualMachines/start/action",
        "Microsoft.Compute/virtualMachines/deallocate/action",
        "Microsoft.Compute/virtualMachines/instanceView/read",
    }


def test_an_end_that_failed_leaves_the_machine_in_between(
    compute: ComputeManagementClient, arm: Served[Arm]
) -> None:
    arm.face.knobs.turn(Do.FAILS, POWER_OFF, code="OperationTimedOut", times=1)
    with pytest.raises(HttpResponseError, match="OperationTimedOut"):
        compute.virtual_machines.begin_power_off(GROUP, "n2", skip_shutdown=True).result()
    assert power(compute) == "PowerState/stopping"


def test_a_machine_leads_to_its_subnet(
    compute: ComputeManagementClient, network: NetworkManagementClient
) -> None:
    found = compute.virtual_machines.get(GROUP, "n2", expand="instanceView")
    assert found.instance_view is not None
    (reference,) = found.network_profile.network_interfaces  # type: ignore[union-attr,misc]
    interface = network.network_interfaces.get(GROUP, str(reference.id).rsplit("/", 1)[1])
    assert interface.enable_ip_forwarding
    (configuration,) = interface.ip_configurations or ()
    assert configuration.subnet is not None
    assert configuration.subnet.id == path("virtualNetworks/subnets", "net", "s2")
