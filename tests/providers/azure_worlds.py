"""Azure in the test's own process: scenes that are built once, and a provider as paris has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.model.config import VipConfig
from orchestrator.model.names import NodeName
from orchestrator.providers.azure.mover import Azure
from orchestrator.providers.mover import Choice, Place, Vip
from orchestrator.providers.provider import Finding
from tests.providers.azure_scenes import AzureScene, simulated
from tests.providers.nodes import LYON, OWN, PARIS, SHOP, environ

SceneOf = Callable[[type[AzureScene]], Any]


class Leave:
    """Yes, for so long."""

    def __init__(self, time_s: float = 20.0) -> None:
        self._ends = time.monotonic() + time_s

    def check(self, what: str) -> None:
        return

    def left_s(self) -> float:
        return self._ends - time.monotonic()


@pytest.fixture(scope="module")
def scene_of() -> Iterator[SceneOf]:
    """Each kind is built once, in a cloud of its own, and is as new when it is asked for."""
    scenes: dict[type[AzureScene], AzureScene] = {}
    with ExitStack() as stack:

        def made(kind: type[AzureScene]) -> AzureScene:
            if kind not in scenes:
                scenes[kind] = kind(stack.enter_context(simulated()))
            scenes[kind].reset()
            return scenes[kind]

        yield made


def vip_of(config: VipConfig, **changed: Any) -> Vip:
    settings = {**config.settings, **changed.pop("settings", {})}
    for name in changed.pop("without", ()):
        del settings[name]
    made = Vip(SHOP, config.address.partition("/")[0], config.mode, settings, (PARIS, LYON))
    return replace(made, **changed)


def place(*vips: Vip, own: Mapping[NodeName, str] = OWN, health_port: int = 0) -> Place:
    addresses = {name: tuple(text.split()) for name, text in own.items()}
    return Place("test", PARIS, addresses, vips, health_port)  # type: ignore[arg-type]


def made(scene: AzureScene, *vips: Vip, health_port: int = 0) -> Azure:
    """In this process, as paris."""
    with environ(scene.environment(PARIS)):
        return Azure(place(*vips, own=scene.own, health_port=health_port))


def chosen(scene: AzureScene, vip: Vip, **more: Any) -> Choice:
    with environ(scene.environment(PARIS)):
        found = made(scene, vip, **more).choices()[vip.address]
    if isinstance(found, Exception):
        raise found
    return found


def preflight(scene: AzureScene, repair: bool = False, health_port: int = 0, **changed: Any) -> list[Finding]:
    with environ(scene.environment(PARIS)):
        provider = made(scene, vip_of(scene.vip, **changed), health_port=health_port)
        return provider.preflight(repair, Leave())
