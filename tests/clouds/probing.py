"""What a cloud's load balancer does all the time: ask the members, and believe them after some answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tests.clouds.azure.arm import Arm
from tests.clouds.gcp import rules
from tests.clouds.gcp.compute import Compute
from tests.clouds.gcp.store import path_of
from tests.clouds.view import arm_members, of_arm
from tests.support.netns import inside

TIMEOUT_S: Final = 1.0
"""A member that does not answer by then has failed this probe."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One member as one balancer asks it; without a path a connection is enough."""

    member: str
    address: str
    port: int
    path: str
    good: int
    """So many good answers in a row, and it is taken for healthy."""
    bad: int


class Prober:
    """Probes from the router's place, `rounds_s` apart whatever interval the balancer is set to."""

    def __init__(
        self,
        namespace: str,
        probes: Callable[[], Iterable[Probe]],
        tell: Callable[[str, bool], None],
        rounds_s: float = 0.05,
    ) -> None:
        self._namespace = namespace
        self._probes = probes
        self._tell = tell
        self._rounds_s = rounds_s
        self._runs: dict[Probe, int] = {}
        """Good answers in a row, or bad ones as a negative number."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        with inside(self._namespace):
            while not self._over.wait(self._rounds_s):
                for probe in list(self._probes()):
                    self._note(probe, asked(probe))

    def _note(self, probe: Probe, answer: bool) -> None:
        run = self._runs.get(probe, 0)
        run = max(run, 0) + 1 if answer else min(run, 0) - 1
        self._runs[probe] = run
        if run == probe.good or run == -probe.bad:
            self._tell(probe.member, answer)


def asked(probe: Probe) -> bool:
    """One probe; over HTTP the answer must be 200."""
    with suppress(OSError), socket.create_connection((probe.address, probe.port), TIMEOUT_S) as connection:
        if not probe.path:
            return True
        head = f"GET {probe.path} HTTP/1.1\r\nHost: {probe.address}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        return connection.makefile("rb").readline().split()[1:2] == [b"200"]
    return False


def of_arm_probes(arm: Arm) -> list[Probe]:
    """Every member of every pool, by the probe of the rule that leads to it."""
    found = []
    machines = of_arm(arm).machines
    for balancer in arm.store.effective.values():
        if balancer["type"].lower() != "microsoft.network/loadbalancers":
            continue
        probes = {each["id"].lower(): each["properties"] for each in balancer["properties"].get("probes", [])}
        for rule in balancer["properties"].get("loadBalancingRules", []):
            own = probes.get(rule["properties"].get("probe", {}).get("id", "").lower())
            if own is None:
                continue
            # Of the two settings the service heeds this one; it is one answer where it is left out.
            threshold = own.get("probeThreshold", 1)
            for name in arm_members(arm, machines, rule["properties"]["backendAddressPool"]["id"]):
                address = machines[name].addresses[0]
                path = own.get("requestPath", "")
                found.append(Probe(name, address, own["port"], path, threshold, threshold))
    return found


def of_gcp_probes(cloud: Compute) -> list[Probe]:
    """Every instance of every group of every service, by the service's health check."""
    found = []
    for service in rules.of_kind(cloud.store, "backendServices"):
        for reference in service.get("healthChecks", []):
            check = cloud.store.resources[path_of(reference)]
            own = check.get("httpHealthCheck") or check.get("tcpHealthCheck") or {}
            path = own.get("requestPath", "/") if check["type"] == "HTTP" else ""
            good, bad = check.get("healthyThreshold", 2), check.get("unhealthyThreshold", 2)
            for backend in service.get("backends", []):
                for member in cloud.changes.groups.get(path_of(backend["group"]), []):
                    address = cloud.store.resources[member]["networkInterfaces"][0]["networkIP"]
                    found.append(Probe(member, address, own.get("port", 80), path, good, bad))
    return found
