"""A mirror in two subnets of a VPC: the address is led by routes, and follows the primary."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.vpc import HEALTH, OVERLAY, InVpc

ASK = f"""
import sys, urllib.request
print(urllib.request.urlopen("http://{OVERLAY}:8080/rows", timeout=2).status)
"""
HEALTH_OF = """
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=2).status)
except urllib.error.HTTPError as fault:
    print(fault.code)
"""


@pytest.fixture(scope="module")
def there() -> Iterator[Bare]:
    with bare(kind=InVpc, preset="cloud") as made:
        made.begin()
        yield made


def answers(cluster: InVpc) -> bool:
    """The application, for a client in a third subnet."""
    done = cluster.machines["client"].call(sys.executable, "-c", ASK)
    return done.stdout.strip() == "200"


def health(cluster: InVpc, node: str, page: str) -> int:
    """What a load balancer would be told, asked from the client's subnet."""
    url = f"http://198.18.{cluster.subnets[node]}.10:{HEALTH}{page}"
    done = cluster.machines["client"].call(sys.executable, "-c", HEALTH_OF, url)
    return int(done.stdout or 0)


def test_a_client_in_another_subnet_goes_on_after_the_primary_is_lost(there: Bare) -> None:
    cluster = there.cluster
    assert isinstance(cluster, InVpc)
    first, second = cluster.nodes
    eventually(lambda: cluster.led_to() == first, 30)
    eventually(lambda: answers(cluster), 30)
    assert health(cluster, first, "/m/orders/primary") == 200
    assert health(cluster, second, "/m/orders/primary") == 503
    assert health(cluster, second, "/live") == 200

    (shown,) = json.loads(cluster.hafarm(first, "vip", "show", "-o", "json").stdout)
    assert (shown["provider"], shown["mode"], shown["owner"]) == ("aws", "overlay-route", first)
    assert "subnets" in shown["why"]
    explained = cluster.hafarm(first, "explain", OVERLAY)
    assert "overlay-route" in explained.stdout
    tested = cluster.hafarm(second, "provider", "test", "aws", "--dry-run")
    assert tested.returncode == 0, tested.stdout + tested.stderr

    cluster.machines[first].power_off()
    eventually(lambda: cluster.led_to() == second, 60)
    eventually(lambda: answers(cluster), 60)
    eventually(lambda: health(cluster, second, "/m/orders/primary") == 200, 30)
