"""Nodes of a cluster as far as their addresses go: real workers, a reign that a test gives and takes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.model.config import (
    ClusterConfig,
    DirectoryConfig,
    MirrorConfig,
    NodeConfig,
    VipConfig,
)
from orchestrator.model.names import ClusterName, Epoch, ModuleName, NodeName, PathName
from orchestrator.providers.addresses import Addresses
from orchestrator.providers.client import WorkerClient
from orchestrator.providers.clouds import Clouds, Standing
from orchestrator.providers.mover import Wish
from orchestrator.providers.onprem.vip import OnPrem
from orchestrator.providers.provider import Sight
from tests.support.waiting import until

SHOP = ModuleName("shop")
PARIS, LYON = NodeName("paris"), NodeName("lyon")
BOTH = frozenset({PARIS, LYON})
OWN = {PARIS: "10.0.1.11", LYON: "10.0.2.12"}


def cluster(vip: VipConfig, own: dict[NodeName, str] | None = None, health_port: int = 0) -> ClusterConfig:
    """Two nodes and a mirror with one address."""
    addresses = own or OWN
    mirror = MirrorConfig(SHOP, tuple(addresses), (DirectoryConfig("/srv"),), vip=(vip,))
    return ClusterConfig(
        ClusterName("test"),
        tuple(NodeConfig(name, {PathName("lan"): text}) for name, text in addresses.items()),
        (mirror,),
        health_port=health_port,
    )


class WithoutMachine(Addresses):
    """The cloud's part alone: this machine is the test's own, and keeps its interfaces."""

    def _make_local(self, local: Any) -> None:
        self._put = ()
        self._local = OnPrem(self._module.name, (), self._on_event)


class Node:
    """One node, whose reign and lease are as the test says."""

    def __init__(self, name: NodeName, config: ClusterConfig, environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.told: list[tuple[str, str]] = []
        self.held: Epoch | None = None
        self.lease_s = 60.0
        self.clouds = Clouds(
            config, name, str(log), self._standing, lambda _, code, text: self._hear(code, text)
        )
        with environ(environment):
            self.addresses = WithoutMachine(config.mirrors[0], self.clouds, lambda _: None, self._hear)
        self._environment = environment
        self.vip = config.mirrors[0].vip[0]
        self.address = self.vip.address.partition("/")[0]

    def _hear(self, code: str, text: str) -> None:
        self.told.append((code, text))

    async def _standing(self, module: ModuleName) -> Standing:
        return Standing(self.held, self.lease_s)

    @property
    def worker(self) -> WorkerClient:
        return self.clouds.worker(self.clouds.taken(self.vip))

    async def start(self) -> None:
        process = self.worker._process
        spawn = process._spawn

        def with_own_environment(theirs: Any) -> subprocess.Popen[bytes]:
            with environ(self._environment):
                return spawn(theirs)

        process._spawn = with_own_environment  # type: ignore[method-assign]
        await self.addresses.start(held=False)
        await until(lambda: self.address in self.clouds.sights, 150)

    async def claim(self, epoch: int) -> None:
        """Under a reign that is held."""
        self.held = Epoch(epoch)
        await self.addresses.claim(BOTH - {self.name}, Epoch(epoch))

    async def release(self, epoch: int) -> None:
        """By plan, until the cloud was told too."""
        self.held = None
        await self.addresses.release(Epoch(epoch))
        await until(lambda: not self.addresses._letting_go, 30)

    async def look(self) -> Sight | str:
        """Who has the address now, as this node sees it."""
        await self.clouds.look(self.worker.name)
        return self.clouds.sights[self.address]

    def forget(self) -> None:
        """As after a start, with its worker warm."""
        self.held, self.lease_s = None, 60.0
        self.told.clear()
        self.clouds.wish(SHOP, Wish("none", Epoch(0)))
        self.addresses._reign = Epoch(0)
        self.addresses._missing.clear()

    def codes(self) -> list[str]:
        return [code for code, _ in self.told]

    async def close(self) -> None:
        await self.addresses.close()
        await self.clouds.close()


@contextmanager
def environ(more: dict[str, str]) -> Iterator[None]:
    """What this process and those that it starts meanwhile are told."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
