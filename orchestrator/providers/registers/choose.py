"""Which register hafarm.yaml names, ready to be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.cluster.register import Register
from orchestrator.model.config import WitnessConfig
from orchestrator.model.names import ClusterName
from orchestrator.providers.onprem.register import WitnessRegister
from orchestrator.providers.registers.client import WorkerStore
from orchestrator.providers.registers.etcd import EtcdStore
from orchestrator.providers.registers.store import Store
from orchestrator.providers.registers.stored import StoredRegister


class Asked(Register, Protocol):
    """A register as the agent holds it."""

    where: str
    """For people."""
    rtt_s: float | None
    """Of the newest answer."""
    why: str
    """Why the newest question had no good answer; nothing when it had."""

    async def keep_proving(self, tell: Callable[[str, str], None]) -> None:
        """Return once it is known to compare; `tell` hears code and text of why it is not."""
        ...

    async def prove(self) -> None:
        """Once; raises RegisterRefused or RegisterUnreachable."""
        ...

    async def close(self) -> None: ...


def choose(
    witness: WitnessConfig, cluster: ClusterName, me: str, bundle: str, timeout_s: float, log: str = ""
) -> Asked:
    """Of one node. Nothing is connected yet; BundleRefused where a witness's bundle cannot be used.

    `log`: where a process that speaks to a cloud complains; empty: at our own standard error.
    """
    store = _store(witness, timeout_s, log)
    if store is None:
        return WitnessRegister(witness.url, cluster, bundle, timeout_s)
    return StoredRegister(store, cluster, me, timeout_s)


def _store(witness: WitnessConfig, timeout_s: float, log: str) -> Store | None:
    if witness.etcd is not None:
        return EtcdStore(witness.etcd, timeout_s)
    if witness.bucket is not None:
        return WorkerStore(witness.bucket, timeout_s, log)
    return None
