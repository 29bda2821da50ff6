"""The scenes of GCP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from orchestrator.model.config import VipConfig
from orchestrator.model.names import NodeName
from tests.clouds.gcp.compute import Compute
from tests.clouds.gcp.schemas import Json
from tests.clouds.gcp.store import LINK, fingerprint, path_of
from tests.clouds.metadata.gcp import Gcp as Metadata
from tests.clouds.serving import Served
from tests.providers.nodes import LYON, PARIS
from tests.providers.scenes import STRANGER, Scene

PROJECT: Final = "shop-1"
REGION: Final = "europe-west1"
ZONES: Final[dict[str, str]] = {PARIS: f"{REGION}-b", LYON: f"{REGION}-c", STRANGER: f"{REGION}-b"}
NETWORK: Final = f"projects/{PROJECT}/global/networks/net"


@dataclass
class Simulated:
    """A cloud, and the metadata service of each node in it."""

    served: Served[Compute]
    stack: ExitStack
    metadata: dict[str, Served[Metadata]] = field(default_factory=dict)

    @property
    def cloud(self) -> Compute:
        return self.served.face

    def put(self, path: str, body: Json) -> Json:
        """Behind the product's back."""
        return self.served.do(lambda: self.cloud.put(path, body))

    def remove(self, path: str) -> None:
        """The same."""

        def removed() -> None:
            del self.cloud.store.resources[path]
            self.cloud.store.changed()

        self.served.do(removed)

    def of(self, collection: str) -> dict[str, Json]:
        """What is there, by name."""
        found = self.served.do(lambda: dict(self.cloud.store.resources))
        return {
            one.rsplit("/", 1)[1]: each for one, each in found.items() if one.split("/")[-2] == collection
        }

    def environment(self, node: NodeName, metadata: bool = True) -> dict[str, str]:
        """What a node's own library is told; without `metadata` its service does not answer this product."""
        if node not in self.metadata:
            told = Metadata(cloud=self.cloud, machine=instance(node), account=node)
            self.metadata[node] = self.stack.enter_context(Served(told))
        where = self.metadata[node].address
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self.served.url}/compute/v1/",
            "GCE_METADATA_HOST": where,
            "GCE_METADATA_IP": where,
        }


@contextmanager
def simulated() -> Iterator[Simulated]:
    with ExitStack() as stack:
        served = stack.enter_context(Served(Compute()))
        yield Simulated(served, stack)


def instance(node: str) -> str:
    return f"projects/{PROJECT}/zones/{ZONES[node]}/instances/{node}"


def subnet(name: str) -> str:
    return f"projects/{PROJECT}/regions/{REGION}/subnetworks/{name}"


class GcpScene(Scene):
    """A network with two subnetworks, a node in each and a stranger."""

    ranges: ClassVar[dict[str, str]] = {"a": "10.0.1.0/24", "b": "10.0.2.0/24"}

    def __init__(self, gcp: Simulated) -> None:
        self.gcp, self.knobs = gcp, gcp.cloud.knobs
        gcp.put(NETWORK, {"autoCreateSubnetworks": False})
        for name, text in self.ranges.items():
            gcp.put(subnet(name), {"network": "global/networks/net", "ipCidrRange": text})
        for name, address in {**self.own, STRANGER: "10.0.1.99"}.items():
            inside = "b" if address.startswith("10.0.2.") else "a"
            interface: Json = {"subnetwork": f"regions/{REGION}/subnetworks/{inside}", "networkIP": address}
            gcp.put(instance(name), {"canIpForward": True, "networkInterfaces": [interface]})
        self.build()
        self.vip = self.make()

    @staticmethod
    def cloud() -> AbstractContextManager[Simulated]:
        return simulated()

    def environment(self, node: NodeName) -> dict[str, str]:
        return self.gcp.environment(node)

    def reset(self) -> None:
        """Nothing is remembered that an old answer could show."""
        store = self.gcp.cloud.store
        self.gcp.served.do(store.hasten)
        super().reset()
        self.knobs.forget()
        self.gcp.served.do(lambda: (store.past.clear(), store.remember()))

    def build(self) -> None:
        """What else is there."""

    def make(self) -> VipConfig:
        """What hafarm.yaml says."""
        raise NotImplementedError(self.mode)

    def leads(self, call: Any) -> bool:
        return self.change in call.needs


class Route(GcpScene):
    mode, change, look = "route", "compute.routes.create", "compute.routes.list"
    address = "198.18.50.1"

    def make(self) -> VipConfig:
        return VipConfig(f"{self.address}/32", provider="gcp", mode=self.mode)

    def routes(self) -> dict[str, Json]:
        return {
            name: each
            for name, each in self.gcp.of("routes").items()
            if each["destRange"] == f"{self.address}/32"
        }

    def give(self, *owners: str) -> None:
        for name in self.routes():
            self.gcp.remove(f"projects/{PROJECT}/global/routes/{name}")
        for name in owners:
            self.lead(name, 60_000)

    def lead(self, owner: str, priority: int, name: str = "") -> None:
        """Another route."""
        body: Json = {
            "network": "global/networks/net",
            "destRange": f"{self.address}/32",
            "priority": priority,
            "nextHopInstance": instance(owner),
        }
        self.gcp.put(f"projects/{PROJECT}/global/routes/{name or f'given-{owner}-{priority}'}", body)

    def owners(self) -> set[str]:
        """The best lead."""
        routes = list(self.routes().values())
        best = min((each["priority"] for each in routes), default=0)
        return {
            path_of(each["nextHopInstance"]).rsplit("/", 1)[1] for each in routes if each["priority"] == best
        }


class AliasIp(GcpScene):
    # An addition needs the right to use the subnetwork too, a removal does not.
    mode, change, look = "alias-ip", "compute.subnetworks.use", "compute.instances.get"
    address = "10.0.1.100"
    shared = False  # GCP gives an address to one alone
    own: ClassVar[dict[NodeName, str]] = {PARIS: "10.0.1.11", LYON: "10.0.1.12"}

    def make(self) -> VipConfig:
        return VipConfig(f"{self.address}/24", provider="gcp", mode=self.mode)

    def give(self, *owners: str) -> None:
        self.gcp.served.do(lambda: self._give(owners))

    def _give(self, owners: tuple[str, ...]) -> None:
        for name in ZONES:
            interface = self.gcp.cloud.store.resources[instance(name)]["networkInterfaces"][0]
            kept = [each for each in interface.get("aliasIpRanges", []) if not self.is_it(each)]
            given = [{"ipCidrRange": f"{self.address}/32"}] if name in owners else []
            interface["aliasIpRanges"] = kept + given
            interface["fingerprint"] = fingerprint(interface)
        self.gcp.cloud.store.changed()

    def is_it(self, alias: Json) -> bool:
        return bool(alias["ipCidrRange"] == f"{self.address}/32")

    def aliases(self, name: str) -> list[Json]:
        """As the cloud has them."""
        interface = self.gcp.of("instances")[name]["networkInterfaces"][0]
        found: list[Json] = interface.get("aliasIpRanges", [])
        return found

    def owners(self) -> set[str]:
        return {name for name in ZONES if any(self.is_it(each) for each in self.aliases(name))}


class ForwardingRule(GcpScene):
    mode, change, look = (
        "forwarding-rule",
        "compute.forwardingRules.setTarget",
        "compute.forwardingRules.list",
    )
    parts = 2
    address = "198.18.60.1"
    names = ("shop-tcp", "shop-udp")

    def build(self) -> None:
        for name in ZONES:
            self.gcp.put(self.target(name), {"instance": instance(name)})
        for name, protocol in zip(self.names, ("TCP", "UDP"), strict=True):
            body = {"IPAddress": self.address, "IPProtocol": protocol, "loadBalancingScheme": "EXTERNAL"}
            self.gcp.put(rule(name), body)

    @staticmethod
    def target(node: str) -> str:
        return f"projects/{PROJECT}/zones/{ZONES[node]}/targetInstances/to-{node}"

    def make(self) -> VipConfig:
        settings = {"forwarding_rules": self.names}
        return VipConfig(f"{self.address}/32", provider="gcp", mode=self.mode, settings=settings)

    def second_part(self) -> tuple[str, str]:
        return self.names[1], self.names[1]

    def give(self, *owners: str) -> None:
        def given() -> None:
            for number, name in enumerate(self.names):
                held = self.gcp.cloud.store.resources[rule(name)]
                held.pop("target", None)
                if owners:
                    held["target"] = LINK + self.target(owners[number % len(owners)])
            self.gcp.cloud.store.changed()

        self.gcp.served.do(given)

    def owners(self) -> set[str]:
        rules = self.gcp.of("forwardingRules")
        targets = {each["target"] for name, each in rules.items() if name in self.names and "target" in each}
        return {target.rpartition("/to-")[2] for target in targets}


class IlbProbe(GcpScene):
    """A load balancer with a group for each node, as it should be."""

    mode, look = "ilb-probe", "compute.forwardingRules.list"
    address = "10.0.1.200"
    health_port = 9702

    def build(self) -> None:
        service = f"projects/{PROJECT}/regions/{REGION}/backendServices/shop"
        check = f"projects/{PROJECT}/regions/{REGION}/healthChecks/shop"
        for name in self.own:
            self.gcp.put(self.group(name), {"network": NETWORK, "size": 1})
        asked = {"port": self.health_port, "requestPath": "/m/shop/primary"}
        self.gcp.put(check, {"type": "HTTP", "checkIntervalSec": 2, "httpHealthCheck": asked})
        self.gcp.put(
            service,
            {
                "loadBalancingScheme": "INTERNAL",
                "backends": [{"group": LINK + self.group(name)} for name in self.own],
                "healthChecks": [LINK + check],
                "failoverPolicy": {"dropTrafficIfUnhealthy": True},
                "connectionTrackingPolicy": {"connectionPersistenceOnUnhealthyBackends": "NEVER_PERSIST"},
            },
        )
        body = {"IPAddress": self.address, "loadBalancingScheme": "INTERNAL", "backendService": service}
        self.gcp.put(rule("shop"), body | {"subnetwork": subnet("a")})
        self.gcp.put(
            f"projects/{PROJECT}/global/firewalls/probes",
            {
                "network": NETWORK,
                "direction": "INGRESS",
                "priority": 1000,
                "disabled": False,
                "sourceRanges": ["35.191.0.0/16", "130.211.0.0/22"],
                "allowed": [{"IPProtocol": "tcp", "ports": [str(self.health_port)]}],
            },
        )

    @staticmethod
    def group(name: str) -> str:
        return f"projects/{PROJECT}/zones/{ZONES[name]}/instanceGroups/{name}"

    def make(self) -> VipConfig:
        settings = {"forwarding_rules": ("shop",)}
        return VipConfig(f"{self.address}/32", provider="gcp", mode=self.mode, settings=settings)

    def give(self, *owners: str) -> None:
        def given() -> None:
            self.gcp.cloud.changes.groups |= {self.group(name): [instance(name)] for name in self.own}
            self.gcp.cloud.changes.healthy = {instance(name): True for name in owners}

        self.gcp.served.do(given)

    def owners(self) -> set[str]:
        return {path.rsplit("/", 1)[1] for path, well in self.gcp.cloud.changes.healthy.items() if well}


def rule(name: str) -> str:
    return f"projects/{PROJECT}/regions/{REGION}/forwardingRules/{name}"


GCP_SCENES: dict[str, type[GcpScene]] = {scene.mode: scene for scene in (Route, AliasIp, ForwardingRule)}
