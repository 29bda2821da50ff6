"""The scenes of GCP that several files of tests begin with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.providers.gcp_here import Stand
from tests.providers.gcp_scenes import AliasIp, IlbProbe, Route


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    made = Stand()
    yield made
    made.close()


@pytest.fixture
def routed(stand: Stand) -> Any:
    return stand(Route)


@pytest.fixture
def aliased(stand: Stand) -> Any:
    return stand(AliasIp)


@pytest.fixture
def probed(stand: Stand) -> Any:
    return stand(IlbProbe)
