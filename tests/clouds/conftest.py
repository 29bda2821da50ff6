"""Simulated clouds for the tests that speak to them, with a small network in each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clouds.authority import Authority
from tests.clouds.azure.arm import Arm
from tests.clouds.serving import Served


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def arm(authority: Authority) -> Iterator[Served[Arm]]:
    with Served(Arm(), authority.server_context()) as served:
        yield served
