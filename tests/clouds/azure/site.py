"""A small network in Azure: two nodes in two subnets, a client's subnet, and a route table for each."""

from __future__ import annotations

from typing import Final

from tests.clouds.azure.arm import Arm
from tests.clouds.azure.shapes import Json

SUBSCRIPTION: Final = "11111111-2222-3333-4444-555555555555"
GROUP: Final = "shop"
LOCATION: Final = "westeurope"
VIP: Final = "198.18.200.10"
"""Outside the network's range, as an address that routes carry must be."""
NODES: Final = {"n1": ("s1", "198.18.1.10"), "n2": ("s2", "198.18.2.10"), "client": ("s3", "198.18.3.10")}


def path(kind: str, *names: str, namespace: str = "Microsoft.Network") -> str:
    """The identifier of a resource of the site; `kind` has a word for each name."""
    tail = "/".join(word for pair in zip(kind.split("/"), names, strict=True) for word in pair)
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{namespace}/{tail}"


def machine(name: str) -> str:
    return path("virtualMachines", name, namespace="Microsoft.Compute")


def build(arm: Arm) -> None:
    """Three subnets with a route table each, and a machine in each."""
    for number in (1, 2, 3):
        arm.put(path("routeTables", f"rt{number}"), {"location": LOCATION, "properties": {}})
    subnets = [
        {
            "name": f"s{number}",
            "properties": {
                "addressPrefix": f"198.18.{number}.0/24",
                "routeTable": {"id": path("routeTables", f"rt{number}")},
            },
        }
        for number in (1, 2, 3)
    ]
    arm.put(
        path("virtualNetworks", "net"),
        {
            "location": LOCATION,
            "properties": {"addressSpace": {"addressPrefixes": ["198.18.0.0/20"]}, "subnets": subnets},
        },
    )
    for name, (subnet, address) in NODES.items():
        add_machine(arm, name, subnet, address)


def add_machine(arm: Arm, name: str, subnet: str, address: str) -> None:
    """With one interface that may forward."""
    configuration: Json = {
        "name": "primary",
        "properties": {
            "privateIPAddress": address,
            "privateIPAllocationMethod": "Static",
            "subnet": {"id": path("virtualNetworks/subnets", "net", subnet)},
        },
    }
    arm.put(
        path("networkInterfaces", name),
        {
            "location": LOCATION,
            "properties": {"enableIPForwarding": True, "ipConfigurations": [configuration]},
        },
    )
    arm.put(
        machine(name),
        {
            "location": LOCATION,
            "properties": {
                "networkProfile": {"networkInterfaces": [{"id": path("networkInterfaces", name)}]}
            },
        },
    )
