"""A small network in GCP: two nodes in two zones and subnets, a client's subnet, balancers and targets."""

from __future__ import annotations

from typing import Final

from tests.clouds.gcp.compute import Compute
from tests.clouds.gcp.schemas import Json

PROJECT: Final = "shop-1"
REGION: Final = "europe-west1"
VIP: Final = "198.18.200.10"
"""Outside all subnets, as an address that routes carry must be."""
NODES: Final = {
    "n1": ("europe-west1-b", "s1", "198.18.1.10"),
    "n2": ("europe-west1-c", "s2", "198.18.2.10"),
    "n4": ("europe-west1-c", "s1", "198.18.1.11"),
    "client": ("europe-west1-b", "s3", "198.18.3.10"),
}


def path(*words: str) -> str:
    return "/".join(("projects", PROJECT, *words))


def instance(name: str) -> str:
    return path("zones", NODES[name][0], "instances", name)


def build(cloud: Compute) -> None:
    """Everything that an operator makes before a provider of ours comes."""
    cloud.put(path("global", "networks", "net"), {"autoCreateSubnetworks": False})
    for number in (1, 2, 3):
        cloud.put(
            path("regions", REGION, "subnetworks", f"s{number}"),
            {"network": "global/networks/net", "ipCidrRange": f"198.18.{number}.0/24"},
        )
    for name, (_, subnet, address) in NODES.items():
        interface: Json = {"subnetwork": f"regions/{REGION}/subnetworks/{subnet}", "networkIP": address}
        cloud.put(instance(name), {"canIpForward": True, "networkInterfaces": [interface]})
    for name in ("n1", "n2"):
        zone = NODES[name][0]
        cloud.put(path("zones", zone, "targetInstances", name), {"instance": instance(name)})
        group = path("zones", zone, "instanceGroups", name)
        cloud.put(group, {"network": "global/networks/net", "size": 1})
        cloud.changes.groups[group] = [instance(name)]
    cloud.put(path("regions", REGION, "healthChecks", "primary"), {"type": "HTTP", "checkIntervalSec": 2})
    cloud.put(
        path("regions", REGION, "backendServices", "nodes"),
        {
            "loadBalancingScheme": "INTERNAL",
            "backends": [
                {"group": path("zones", NODES[name][0], "instanceGroups", name)} for name in ("n1", "n2")
            ],
            "healthChecks": [path("regions", REGION, "healthChecks", "primary")],
            "failoverPolicy": {"dropTrafficIfUnhealthy": True, "disableConnectionDrainOnFailover": True},
            "connectionTrackingPolicy": {"connectionPersistenceOnUnhealthyBackends": "NEVER_PERSIST"},
        },
    )
    cloud.put(
        path("regions", REGION, "forwardingRules", "shop"),
        {
            "IPAddress": "198.18.1.100",
            "IPProtocol": "TCP",
            "subnetwork": f"regions/{REGION}/subnetworks/s1",
            "target": path("zones", NODES["n1"][0], "targetInstances", "n1"),
        },
    )
    cloud.zones.put(PROJECT, "names", "example.test.")
