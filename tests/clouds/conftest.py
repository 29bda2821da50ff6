"""Simulated clouds for the tests that speak to them, with a small network in each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

from tests.clouds.authority import Authority
from tests.clouds.azure.arm import Arm
from tests.clouds.azure.identity import Credential
from tests.clouds.azure.site import SUBSCRIPTION, build
from tests.clouds.serving import Served


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def arm(authority: Authority) -> Iterator[Served[Arm]]:
    with Served(Arm(), authority.server_context()) as served:
        served.do(lambda: build(served.face))
        yield served


def options(served: Served[Arm], ca: Path) -> dict[str, object]:
    """As a provider has them: nothing that was sent is sent again by the SDK itself."""
    return {
        "base_url": served.url,
        "connection_verify": str(ca),
        "connection_timeout": 2,
        "read_timeout": 2,
        "retry_total": 0,
        "polling_interval": 0.01,
    }


@pytest.fixture
def network(arm: Served[Arm], authority: Authority) -> Iterator[NetworkManagementClient]:
    credential = Credential(arm.face.identities, "n1")
    with NetworkManagementClient(credential, SUBSCRIPTION, **options(arm, authority.ca)) as client:
        yield client


@pytest.fixture
def compute(arm: Served[Arm], authority: Authority) -> Iterator[ComputeManagementClient]:
    credential = Credential(arm.face.identities, "n1")
    with ComputeManagementClient(credential, SUBSCRIPTION, **options(arm, authority.ca)) as client:
        yield client
