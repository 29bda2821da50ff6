"""The scenes of Azure."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from orchestrator.model.config import VipConfig
from orchestrator.model.names import NodeName
from tests.clouds.authority import Authority
from tests.clouds.azure.arm import Arm
from tests.clouds.azure.site import LOCATION, machine, path
from tests.clouds.metadata.azure import Azure as Metadata
from tests.clouds.serving import Served
from tests.providers.nodes import LYON, PARIS
from tests.providers.scenes import STRANGER, Scene

NICS: Final = "Microsoft.Network/networkInterfaces"
TABLES: Final = "Microsoft.Network/routeTables"
BALANCERS: Final = "Microsoft.Network/loadBalancers"
T = TypeVar("T")


class Simulated:
    """Resource Manager over TLS, and a metadata service for each node."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.authority = Authority.make(folder)
        self.served = stack.enter_context(Served(Arm(), self.authority.server_context()))
        self.arm = self.served.face
        self.knobs = self.arm.knobs
        self.metadata: dict[str, Served[Metadata]] = {}
        """By node; each machine has an identity of the same name."""

    def do(self, change: Callable[[], T]) -> T:
        return self.served.do(change)

    def put(self, where: str, **properties: Any) -> None:
        self.do(lambda: self.arm.put(where, {"location": LOCATION, "properties": properties}))

    def tell(self, name: str) -> None:
        """This node's metadata service from now on."""
        made = Metadata(arm=self.arm, machine=machine(name), identity=name)
        self.metadata[name] = self._stack.enter_context(Served(made))

    def environment(self, node: str) -> dict[str, str]:
        return {
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self.metadata[node].url,
            "REQUESTS_CA_BUNDLE": str(self.authority.ca),
        }


@contextmanager
def simulated() -> Iterator[Simulated]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        yield Simulated(Path(folder), stack)


class AzureScene(Scene):
    """A virtual network with three subnets, and a table of routes for each."""

    range: ClassVar[str] = "10.0"
    """The first half of all addresses."""
    subnet_of: ClassVar[dict[str, str]] = {PARIS: "a", LYON: "b", STRANGER: "a"}

    def __init__(self, azure: Simulated) -> None:
        self.azure, self.arm, self.knobs = azure, azure.arm, azure.knobs
        self.do = azure.do
        self.build()
        for name in (*self.own, STRANGER):
            self.add(name, self.address_of(name))
        for name in self.own:
            azure.tell(name)
        self.make()
        settings = {"endpoint": (azure.served.url,), **self.settings()}
        self.vip = VipConfig(self.address(), provider="azure", mode=self.mode, settings=settings)

    @staticmethod
    def cloud() -> AbstractContextManager[Simulated]:
        return simulated()

    def environment(self, node: NodeName) -> dict[str, str]:
        return self.azure.environment(node)

    def build(self) -> None:
        self.azure.put(path("networkSecurityGroups", "guard"))
        for name in ("a", "b", "c"):
            self.azure.put(path("routeTables", name))
        self.azure.put(path("virtualNetworks", "net"), **self.network())

    def network(self) -> dict[str, Any]:
        subnets = [
            {
                "name": name,
                "properties": {
                    "addressPrefix": f"{self.range}.{number}.0/24",
                    "routeTable": {"id": path("routeTables", name)},
                },
            }
            for number, name in enumerate(("a", "b", "c"), 1)
        ]
        return {"addressSpace": {"addressPrefixes": [f"{self.range}.0.0/16"]}, "subnets": subnets}

    def add(self, name: str, address: str) -> None:
        """A machine with one interface, which forwards and has a security group."""
        self.write_nic(name, address)
        attached = [{"id": path("networkInterfaces", name)}]
        self.azure.put(machine(name), networkProfile={"networkInterfaces": attached})

    def write_nic(
        self, name: str, address: str, *more: dict[str, Any], forwards: bool = True, **own: Any
    ) -> None:
        """With its own address, and what is beside it."""
        subnet = {"id": path("virtualNetworks/subnets", "net", self.subnet_of[name])}
        held = [{"privateIPAddress": address, "primary": True, **own}, *more]
        configurations = [
            {
                "name": f"c{number}",
                "properties": {"privateIPAllocationMethod": "Static", "subnet": subnet, **each},
            }
            for number, each in enumerate(held)
        ]
        self.azure.put(
            path("networkInterfaces", name),
            enableIPForwarding=forwards,
            networkSecurityGroup={"id": path("networkSecurityGroups", "guard")},
            ipConfigurations=configurations,
        )

    def address_of(self, name: str) -> str:
        return next((own for node, own in self.own.items() if node == name), f"{self.range}.1.99")

    def reset(self) -> None:
        """Nobody has it, and nothing is under way."""
        self.do(self.arm.store.hasten)
        for served in self.azure.metadata.values():
            served.face.knobs.clear()
        super().reset()
        self.knobs.forget()
        self.do(self.arm.store.past.clear)

    def make(self) -> None:
        """What leads the address."""

    def settings(self) -> dict[str, tuple[str, ...]]:
        return {}

    def address(self) -> str:
        """With its prefix length."""
        raise NotImplementedError(self.mode)

    def found(self, *names: str) -> Any:
        """As it is by now, done or under way."""
        return self.do(lambda: self.arm.get(path(*names)))


class Udr(AzureScene):
    mode, change, look, parts = "udr", f"{TABLES}/routes/write", f"{TABLES}/read", 3
    tables: ClassVar[tuple[str, ...]] = ("a", "b", "c")

    def address(self) -> str:
        return "198.18.50.1/32"

    def settings(self) -> dict[str, tuple[str, ...]]:
        return {"route_tables": (*self.tables[:2], path("routeTables", self.tables[2]))}

    def second_part(self) -> tuple[str, str]:
        return self.tables[1], self.tables[1]

    def give(self, *owners: str) -> None:
        self.do(self.arm.store.remember)
        for number, table in enumerate(self.tables):
            owner = self.address_of(owners[number % len(owners)]) if owners else ""
            self.write_table(table, owner)

    def write_table(self, table: str, owner: str) -> None:
        """A route to this address beside one that is somebody else's."""
        routes = [{"name": "other", "properties": {"addressPrefix": "198.18.51.0/24", "nextHopType": "None"}}]
        if owner:
            properties = {
                "addressPrefix": self.address(),
                "nextHopType": "VirtualAppliance",
                "nextHopIpAddress": owner,
            }
            routes.append({"name": "shop", "properties": properties})
        self.azure.put(path("routeTables", table), routes=routes)

    def owners(self) -> set[str]:
        names = {address: name for name, address in self.own.items()} | {"10.0.1.99": STRANGER}
        led = [self.led_to(table) for table in self.tables]
        return {names[hop] for hop in led if hop}

    def led_to(self, table: str) -> str:
        """As packets are led."""
        found = self.do(lambda: self.arm.store.effective[path("routeTables", table).lower()])
        hops = [
            each["properties"]["nextHopIpAddress"]
            for each in found["properties"].get("routes", [])
            if each["properties"]["addressPrefix"] == self.address()
        ]
        return hops[0] if hops else ""


class NicIpConfig(AzureScene):
    mode, change, look = "nic-ipconfig", f"{NICS}/write", f"{NICS}/read"
    shared = False  # an address of a subnet is given once
    requests = 2  # taken off one interface, and put on the other
    own: ClassVar[dict[NodeName, str]] = {PARIS: "10.0.1.11", LYON: "10.0.1.12"}
    subnet_of: ClassVar[dict[str, str]] = {PARIS: "a", LYON: "a", STRANGER: "a"}

    def address(self) -> str:
        return "10.0.1.100/24"

    def give(self, *owners: str) -> None:
        self.do(self.arm.store.remember)
        names = (*self.own, STRANGER)
        for name in sorted(names, key=lambda name: name in owners):  # who loses it goes first
            held = {"privateIPAddress": "10.0.1.100", "primary": False}
            self.write_nic(name, self.address_of(name), *([held] if name in owners else []))

    def owners(self) -> set[str]:
        return {name for name in (*self.own, STRANGER) if self.has(name)}

    def has(self, name: str) -> bool:
        found = self.do(lambda: self.arm.store.effective[path("networkInterfaces", name).lower()])
        held = [each["properties"]["privateIPAddress"] for each in found["properties"]["ipConfigurations"]]
        return "10.0.1.100" in held


class PublicIp(AzureScene):
    mode, change, look = "public-ip", f"{NICS}/write", "Microsoft.Network/publicIPAddresses/read"
    shared, requests = False, 2

    def make(self) -> None:
        self.azure.put(path("publicIPAddresses", "shop"), publicIPAllocationMethod="Static")

    def address(self) -> str:
        return f"{self.found('publicIPAddresses', 'shop')['properties']['ipAddress']}/32"

    def settings(self) -> dict[str, tuple[str, ...]]:
        return {"public_ip": ("shop",)}

    def give(self, *owners: str) -> None:
        self.do(self.arm.store.remember)
        names = (*self.own, STRANGER)
        public = {"id": path("publicIPAddresses", "shop")}
        for name in sorted(names, key=lambda name: name in owners):
            own = {"publicIPAddress": public} if name in owners else {}
            self.write_nic(name, self.address_of(name), **own)

    def owners(self) -> set[str]:
        return {name for name in (*self.own, STRANGER) if self.has(name)}

    def has(self, name: str) -> bool:
        found = self.do(lambda: self.arm.store.effective[path("networkInterfaces", name).lower()])
        return any(
            "publicIPAddress" in each["properties"] for each in found["properties"]["ipConfigurations"]
        )


class LbPool(AzureScene):
    mode, change, parts = "lb-pool", f"{BALANCERS}/backendAddressPools/write", 2
    look = f"{BALANCERS}/backendAddressPools/read"
    balancers: ClassVar[tuple[str, ...]] = ("lb0", "lb1")

    def address(self) -> str:
        return "10.0.1.120/32"

    def settings(self) -> dict[str, tuple[str, ...]]:
        own = path("loadBalancers/backendAddressPools", "lb1", "nodes")
        return {"backend_pools": ("lb0/nodes", own)}

    def second_part(self) -> tuple[str, str]:
        return "lb1", "lb1/nodes"

    def give(self, *owners: str) -> None:
        self.do(self.arm.store.remember)
        net = {"id": path("virtualNetworks", "net")}
        members = [
            {"name": name, "properties": {"ipAddress": self.address_of(name), "virtualNetwork": net}}
            for name in owners
        ]
        for name in self.balancers:
            pool = {"name": "nodes", "properties": {"loadBalancerBackendAddresses": members}}
            self.azure.put(path("loadBalancers", name), backendAddressPools=[pool])

    def owners(self) -> set[str]:
        names = {address: name for name, address in self.own.items()} | {"10.0.1.99": STRANGER}
        found: set[str] = set()
        for balancer in self.balancers:
            held = self.do(lambda b=balancer: self.arm.store.effective[path("loadBalancers", b).lower()])  # type: ignore[misc]
            (pool,) = held["properties"]["backendAddressPools"]
            members = pool["properties"].get("loadBalancerBackendAddresses", [])
            found |= {names[each["properties"]["ipAddress"]] for each in members}
        return found


AZURE_SCENES: dict[str, type[AzureScene]] = {
    scene.mode: scene for scene in (Udr, NicIpConfig, PublicIp, LbPool)
}
