"""Routes in Azure with the real SDK: written under an ETag, done after a while, or refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.network.models import Route

from tests.clouds.authority import Authority
from tests.clouds.azure.arm import Arm
from tests.clouds.azure.identity import Credential
from tests.clouds.azure.site import GROUP, SUBSCRIPTION, VIP, build
from tests.clouds.serving import Served


@pytest.fixture
def network(arm: Served[Arm], authority: Authority) -> Iterator[NetworkManagementClient]:
    arm.do(lambda: build(arm.face))
    credential = Credential(arm.face.identities, "n1")
    with NetworkManagementClient(
        credential,
        SUBSCRIPTION,
        base_url=arm.url,
        connection_verify=str(authority.ca),
        retry_total=0,
        polling_interval=0.01,
    ) as client:
        yield client


def to(node: str) -> Route:
    return Route(address_prefix=f"{VIP}/32", next_hop_type="VirtualAppliance", next_hop_ip_address=node)


def test_a_route_is_made_and_moved_under_its_etag(network: NetworkManagementClient) -> None:
    with pytest.raises(ResourceNotFoundError):
        network.routes.get(GROUP, "rt3", "shop")
    made = network.routes.begin_create_or_update(
        GROUP, "rt3", "shop", to("198.18.1.10"), headers={"If-None-Match": "*"}
    ).result()
    assert made.provisioning_state == "Succeeded"
    seen = network.routes.get(GROUP, "rt3", "shop")
    network.routes.begin_create_or_update(
        GROUP, "rt3", "shop", to("198.18.2.10"), headers={"If-Match": seen.etag}
    ).result()
    assert network.routes.get(GROUP, "rt3", "shop").next_hop_ip_address == "198.18.2.10"
    with pytest.raises(HttpResponseError, match="PreconditionFailedEtagMismatch"):
        network.routes.begin_create_or_update(
            GROUP, "rt3", "shop", to("198.18.1.10"), headers={"If-Match": seen.etag}
        )
