"""Every client is answered, by the node whose bucket it falls into and by no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.farm.plane import Affinity, Mode
from tests.farm.clients import source
from tests.farm.rig import V4, V6, Farm, owner_of, shared

OWNERS = shared("n1", "n2", "n3", "n3")
SOURCES = {4: [(source(4, n * 7), 4000 + n) for n in range(1000)]}
SOURCES[6] = [(source(6, n * 7), 4000 + n) for n in range(1000)]


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with Farm(3) as made:
        yield made


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("affinity", Affinity)
def test_each_client_is_answered_by_the_owner_of_its_bucket_alone(
    farm: Farm, mode: Mode, affinity: Affinity
) -> None:
    farm.apply(OWNERS, "n2", mode=mode, affinity=affinity)
    try:
        for version, address in ((4, V4), (6, V6)):
            counts_port = affinity is Affinity.SOURCE_PORT
            expected = [
                owner_of(OWNERS, local, port if counts_port else None) for local, port in SOURCES[version]
            ]
            assert farm.ask(address, "udp", SOURCES[version]) == expected
            assert farm.ask(address, "tcp", SOURCES[version][:200]) == expected[:200]
    finally:
        farm.clean()
