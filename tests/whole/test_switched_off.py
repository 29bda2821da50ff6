"""A cluster in AWS whose machines are announced to go, and switched off: by order, and after a take-over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clouds.aws import REGION
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.vpc import CLOUD, CLOUD_PORT, InVpc

SPOT = '{"action": "terminate", "time": "2026-12-01T00:00:00Z"}'
SAY = f"""
import sys, urllib.request
method, node, body = sys.argv[1:]
url = f"http://{CLOUD}:{CLOUD_PORT}/say/{{node}}/spot/instance-action"
urllib.request.urlopen(urllib.request.Request(url, body.encode() or None, method=method), timeout=5).read()
"""
STATE = f"""
import boto3, sys
ec2 = boto3.client("ec2", endpoint_url="http://{CLOUD}:{CLOUD_PORT}", region_name="{REGION}",
                   aws_access_key_id="somebody", aws_secret_access_key="secret")
found = ec2.describe_network_interfaces(
    Filters=[{{"Name": "addresses.private-ip-address", "Values": [sys.argv[1]]}}])["NetworkInterfaces"]
instance = found[0]["Attachment"]["InstanceId"]
if sys.argv[2:]:
    ec2.start_instances(InstanceIds=[instance])
print(ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["State"]["Name"])
"""


class Heeding(InVpc):
    """It heeds announcements, and switches off the node from which a role was taken over."""

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        config = super()._make_config(preset, module)
        config["cluster"]["fence"] = {"provider": "aws", "when": "takeover", "settings": {"region": REGION}}
        config["cluster"]["scheduled_events"] = "swap"
        return config


@pytest.fixture(scope="module")
def there() -> Iterator[Bare]:
    with bare(kind=Heeding, preset="cloud") as made:
        made.begin()
        yield made


def say(cluster: InVpc, node: str, text: str) -> None:
    """Announce that the machine is taken back; nothing: it is not, any more."""
    method = "PUT" if text else "DELETE"
    done = cluster.machines["client"].call(sys.executable, "-c", SAY, method, node, text)
    assert done.returncode == 0, done.stderr


def machine(cluster: InVpc, node: str, *more: str) -> str:
    """What the cloud says of a node's machine."""
    own = f"198.18.{cluster.subnets[node]}.10"
    done = cluster.machines["client"].call(sys.executable, "-c", STATE, own, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def told(there: Bare, node: str, code: str) -> bool:
    return any(line.startswith(code) for line in there.events(node))


def test_a_role_leaves_a_machine_that_is_taken_back(there: Bare) -> None:
    cluster = there.cluster
    assert isinstance(cluster, InVpc)
    first, second = cluster.nodes
    say(cluster, first, SPOT)
    eventually(lambda: there.role(second) == ("PRIM", "ready"), 90)
    assert told(there, first, "HF7070")
    assert told(there, first, "HF7071")
    assert "this machine: spot interruption: terminate" in cluster.hafarm(first, "status").stdout
    assert machine(cluster, first) == "running", "a swap is no take-over"
    say(cluster, first, "")
    eventually(lambda: told(there, first, "HF7073"), 30)


def test_who_holds_the_record_switches_off_and_nobody_else(there: Bare) -> None:
    cluster = there.cluster
    assert isinstance(cluster, InVpc)
    standby, primary = cluster.nodes
    eventually(lambda: there.role(standby) == ("SECOND", "ready"), 90)
    refused = cluster.hafarm(standby, "fence", primary, "--yes")
    assert (refused.returncode, "HF7065" in refused.stderr) == (6, True), refused.stderr
    refused = cluster.hafarm(primary, "fence", primary, "--yes")
    assert (refused.returncode, "HF7065" in refused.stderr) == (6, True), refused.stderr
    assert (machine(cluster, standby), machine(cluster, primary)) == ("running", "running")
    tested = cluster.hafarm(primary, "provider", "test", "aws", "--dry-run")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    done = cluster.hafarm(primary, "fence", standby, "--yes")
    assert (done.returncode, "is stopped" in done.stdout) == (0, True), done.stdout + done.stderr
    assert (machine(cluster, standby), machine(cluster, primary)) == ("stopped", "running")
    assert machine(cluster, standby, "start") == "running"


def test_the_former_primary_is_switched_off_after_a_take_over(there: Bare) -> None:
    cluster = there.cluster
    assert isinstance(cluster, InVpc)
    second, first = cluster.nodes
    eventually(lambda: there.role(second) == ("SECOND", "ready"), 90)
    cluster.machines[first].power_off()
    eventually(lambda: there.role(second)[0] == "ALONE", 60)
    eventually(lambda: machine(cluster, first) == "stopped", 60)
    eventually(lambda: told(there, second, "HF7061"), 30)
    assert "switched off: i-" in cluster.hafarm(second, "status").stdout
    assert machine(cluster, second) == "running"
