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
from tests.clouds.gcp.store import path_of
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
        return {one.rsplit("/", 1)[1]: each for one, each in found.items() if one.split("/")[-2] == collection}

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
        super().reset()
        store = self.gcp.cloud.store
        self.knobs.forget()
        self.gcp.served.do(lambda: (store.hasten(), store.past.clear(), store.remember()))

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
            name: each for name, each in self.gcp.of("routes").items() if each["destRange"] == f"{self.address}/32"
        }

    def give(self, *owners: str) -> None:
        for name in self.routes():
            self.gcp.remove(f"projects/{PROJECT}/global/routes/{name}")
        for name in owners:
            self.lead(name, 60_000)

    def lead(self, owner: str, priority: int) -> None:
        """Another route."""
        body: Json = {
            "network": "global/networks/net",
            "destRange": f"{self.address}/32",
            "priority": priority,
            "nextHopInstance": instance(owner),
        }
        self.gcp.put(f"projects/{PROJECT}/global/routes/given-{owner}-{priority}", body)

    def owners(self) -> set[str]:
        """The best lead."""
        routes = list(self.routes().values())
        best = min((each["priority"] for each in routes), default=0)
        return {path_of(each["nextHopInstance"]).rsplit("/", 1)[1] for each in routes if each["priority"] == best}


GCP_SCENES: dict[str, type[GcpScene]] = {scene.mode: scene for scene in (Route,)}
