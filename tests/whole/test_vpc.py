"""A mirror in two subnets of a VPC: the address is led by routes, and follows the primary."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clouds.aws import REGION
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.vpc import CLOUD, CLOUD_PORT, HEALTH, OVERLAY, InVpc

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


def primary(there: Bare) -> str:
    """The node that serves; nothing while none or more than one says so."""
    found = [name for name in there.cluster.names if there.role(name)[0] in ("PRIM", "ALONE")]
    return found[0] if len(found) == 1 else ""


def other(cluster: InVpc, node: str) -> str:
    return next(name for name in cluster.names if name != node)


def shown(cluster: InVpc, node: str) -> dict[str, Any]:
    """What a node says of the address."""
    done = cluster.hafarm(node, "vip", "show", "-o", "json")
    (found,) = json.loads(done.stdout)
    return dict(found)


def health(cluster: InVpc, node: str, page: str) -> int:
    """What a load balancer would be told, asked from the client's subnet."""
    url = f"http://198.18.{cluster.subnets[node]}.10:{HEALTH}{page}"
    done = cluster.machines["client"].call(sys.executable, "-c", HEALTH_OF, url)
    return int(done.stdout or 0)


ELSEWHERE = f"""
import boto3, sys
ec2 = boto3.client("ec2", endpoint_url="http://{CLOUD}:{CLOUD_PORT}", region_name="{REGION}",
                   aws_access_key_id="somebody", aws_secret_access_key="secret")
for table in sys.argv[2:]:
    found = ec2.describe_network_interfaces(
        Filters=[{{"Name": "addresses.private-ip-address", "Values": [sys.argv[1]]}}])
    eni = found["NetworkInterfaces"][0]["NetworkInterfaceId"]
    ec2.replace_route(RouteTableId=table, DestinationCidrBlock="{OVERLAY}/32", NetworkInterfaceId=eni)
"""


def lead_elsewhere(cluster: InVpc, node: str) -> None:
    """As somebody does who has the right to, and no reason."""
    own = f"198.18.{cluster.subnets[node]}.10"
    done = cluster.machines["client"].call(sys.executable, "-c", ELSEWHERE, own, *cluster.tables)
    assert done.returncode == 0, done.stderr


def test_what_somebody_leads_elsewhere_is_led_back(there: Bare) -> None:
    cluster = there.cluster
    assert isinstance(cluster, InVpc)
    first, second = cluster.nodes
    eventually(lambda: answers(cluster), 60)
    lead_elsewhere(cluster, second)
    assert cluster.led_to() == second
    eventually(lambda: cluster.led_to() == first, 30)
    eventually(lambda: answers(cluster), 30)
    eventually(lambda: any("HF7012" in line for line in there.events(first)), 30)


def test_neither_a_killed_worker_nor_a_killed_agent_moves_anything(there: Bare) -> None:
    cluster = there.cluster
    assert isinstance(cluster, InVpc)
    first, _ = cluster.nodes
    machine = cluster.machines[first]
    eventually(lambda: answers(cluster), 60)
    (worker,) = machine.pids("orchestrator.providers.worker")
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: set(machine.pids("orchestrator.providers.worker")) - {worker}, 30)
    eventually(lambda: answers(cluster), 30)
    (worker,) = machine.pids("orchestrator.providers.worker")
    for pid in machine.pids("orchestrator.agent", "agent.yaml"):
        os.kill(pid, signal.SIGKILL)
    cluster.start_agent(first)
    eventually(lambda: worker not in machine.pids("orchestrator.providers.worker"), 30)
    # On a machine so busy that the agent is away for longer than its grace, the role moves: rightly.
    eventually(lambda: cluster.led_to() == primary(there) and answers(cluster), 60)
    # The next agent goes on where the former ended: it knows whose the address is, and takes it back.
    serving = primary(there)
    lead_elsewhere(cluster, other(cluster, serving))
    eventually(lambda: cluster.led_to() == serving, 60)


def test_a_client_in_another_subnet_goes_on_after_the_primary_is_lost(there: Bare) -> None:
    cluster = there.cluster
    assert isinstance(cluster, InVpc)
    eventually(lambda: cluster.led_to() == primary(there) != "", 30)
    eventually(lambda: answers(cluster), 30)
    first = primary(there)
    second = other(cluster, first)
    eventually(lambda: there.role(second) == ("SECOND", "ready"), 90)
    assert health(cluster, first, "/m/orders/primary") == 200
    assert health(cluster, second, "/m/orders/primary") == 503
    assert health(cluster, second, "/live") == 200

    eventually(lambda: shown(cluster, first)["owner"] == first, 30)
    told = shown(cluster, first)
    assert (told["provider"], told["mode"], told["missing"]) == ("aws", "overlay-route", {})
    assert "subnets" in told["why"]
    explained = cluster.hafarm(first, "explain", OVERLAY)
    assert "overlay-route" in explained.stdout
    tested = cluster.hafarm(second, "provider", "test", "aws", "--dry-run")
    assert tested.returncode == 0, tested.stdout + tested.stderr

    cluster.machines[first].power_off()
    eventually(lambda: cluster.led_to() == second, 60)
    eventually(lambda: answers(cluster), 60)
    eventually(lambda: health(cluster, second, "/m/orders/primary") == 200, 30)
