"""A GCP provider in the test's own process, as paris: what a test asks of it in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.compute_engine import _metadata

from orchestrator.model.config import VipConfig
from orchestrator.model.names import Epoch, NodeName
from orchestrator.providers.gcp.mover import Gcp
from orchestrator.providers.mover import Choice, Place, Vip
from orchestrator.providers.provider import Finding, Sight
from tests.providers.gcp_scenes import PROJECT, GcpScene, IlbProbe, simulated
from tests.providers.nodes import BOTH, LYON, OWN, PARIS, SHOP, environ

HEALTH: Final = IlbProbe.health_port
UPDATE: Final = "compute.instances.updateNetworkInterface"
ROLE: Final = "a custom role for the nodes' service account"


class Leave:
    """Always yes, under one reign."""

    def __init__(self, epoch: int = 3) -> None:
        self.epoch = Epoch(epoch)
        self.asked: list[str] = []
        self.seconds = 5.0

    def check(self, what: str) -> None:
        self.asked.append(what)

    def left_s(self) -> float:
        return self.seconds


class Stand:
    """Scenes, each kind built once in a cloud of its own; in front of each test it is as it was built."""

    def __init__(self) -> None:
        self._built: dict[type[GcpScene], GcpScene] = {}
        self._stack = ExitStack()

    def __call__(self, kind: type[GcpScene]) -> Any:
        if kind not in self._built:
            self._built[kind] = kind(self._stack.enter_context(simulated()))
        self._built[kind].reset()
        return self._built[kind]

    def close(self) -> None:
        for scene in self._built.values():
            scene.knobs.clear()
        self._stack.close()


@contextmanager
def as_paris(scene: GcpScene, **changed: str) -> Iterator[None]:
    """In this process; Google's library reads one of the variables when it is imported."""
    told = scene.environment(PARIS) | changed
    before = _metadata._GCE_METADATA_HOST
    _metadata._GCE_METADATA_HOST = told["GCE_METADATA_HOST"]
    try:
        with environ(told):
            yield
    finally:
        _metadata._GCE_METADATA_HOST = before


def vip_of(config: VipConfig, **changed: Any) -> Vip:
    made = Vip(SHOP, config.address.partition("/")[0], config.mode, config.settings, (PARIS, LYON))
    return replace(made, **changed)


def place(*vips: Vip, own: Mapping[NodeName, str] = OWN, health_port: int = HEALTH) -> Place:
    addresses = {name: (text,) for name, text in own.items()}
    return Place("test", PARIS, addresses, vips, health_port)  # type: ignore[arg-type]


def made(scene: GcpScene, vip: Vip | None = None, **more: Any) -> Gcp:
    return Gcp(place(vip or vip_of(scene.vip), own=scene.own, **more))


def chosen(scene: GcpScene, vip: Vip, **more: Any) -> Choice:
    with as_paris(scene):
        found = made(scene, vip, **more).choices()[vip.address]
    if isinstance(found, Exception):
        raise found
    return found


def seen(scene: GcpScene, vip: Vip | None = None) -> Sight:
    vip = vip or vip_of(scene.vip)
    with as_paris(scene):
        found = made(scene, vip).observe()[vip.address]
    if isinstance(found, Exception):
        raise found
    return found


def claim(scene: GcpScene, epoch: int = 3, vip: Vip | None = None) -> Leave:
    """As paris; what leave was asked for."""
    leave, vip = Leave(epoch), vip or vip_of(scene.vip)
    with as_paris(scene):
        assert made(scene, vip).claim(vip.address, BOTH, leave).missing == {}
    return leave


def preflight(scene: GcpScene, vip: Vip | None = None) -> list[Finding]:
    with as_paris(scene):
        return made(scene, vip).preflight(False, Leave())


def told(found: list[Finding]) -> str:
    return "\n".join(f"{one.subject}: {one.problem}; {one.remedy}" for one in found)


def key_file(scene: GcpScene, where: Path) -> str:
    """As an operator downloads it; the simulator knows the account."""
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    scene.gcp.cloud.keys["paris@shop-1.test"] = public.decode()
    account_of = {
        "type": "service_account",
        "project_id": PROJECT,
        "client_email": "paris@shop-1.test",
        "private_key": private.decode(),
        "token_uri": f"{scene.gcp.served.url}/token",
    }
    path = where / "key.json"
    path.write_text(json.dumps(account_of))
    return str(path)
