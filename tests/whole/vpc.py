"""A cluster in a VPC: each node in a subnet of its own behind a router, whose routes are those of the VPC.

The simulated cloud answers in the router's namespace; whatever its first route table says of an overlay
address becomes a route of the router's kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.demo.cluster import Cluster
from orchestrator.host.netns import run
from tests.support.clouds.aws import REGION

CLOUD = "198.18.9.1"
CLOUD_PORT = 5000
OVERLAY = "198.19.0.100"
HEALTH = 9702
START_S = 90.0


class InVpc(Cluster):
    """paris in 198.18.10.0/24, lyon in 198.18.11.0/24, the client and the witness in two others."""

    vip = OVERLAY

    def __init__(self, work: Path, **options: Any) -> None:
        self.tables: list[str] = []
        self._cloud: subprocess.Popen[str] | None = None
        super().__init__(work, **options)
        create, destroy = self.network.create, self.network.destroy

        def with_router() -> None:
            create()
            self._add_router()

        def without_cloud() -> None:
            self._end_cloud()
            destroy()
            with contextlib.suppress(subprocess.SubprocessError):
                run("ip", "netns", "del", self.network.namespace("router"))

        self.network.create = with_router  # type: ignore[method-assign]
        self.network.destroy = without_cloud  # type: ignore[method-assign]

    @property
    def subnets(self) -> dict[str, int]:
        return {name: 10 + number for number, name in enumerate((*self.names, "client"))}

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        config = super()._make_config(preset, module)
        for node in config["nodes"]:
            node["addresses"] = {"vpc": f"198.18.{self.subnets[node['name']]}.10"}
        config["cluster"]["ports"] = {"health": HEALTH}
        return config

    def _add_router(self) -> None:
        """Another interface on each machine, each with the router at its other end."""
        router = self.network.namespace("router")
        run("ip", "netns", "add", router)
        run("ip", "-n", router, "link", "set", "lo", "up")
        run("ip", "-n", router, "address", "add", f"{CLOUD}/32", "dev", "lo")
        run("ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for name, third in self.subnets.items():
            inner = self.network.namespace(name)
            run(
                "ip",
                "-n",
                inner,
                "link",
                "add",
                "ens5",
                "type",
                "veth",
                "peer",
                "name",
                name,
                "netns",
                router,
            )
            run("ip", "-n", inner, "address", "add", f"198.18.{third}.10/24", "dev", "ens5")
            run("ip", "-n", inner, "link", "set", "ens5", "up")
            run("ip", "-n", router, "address", "add", f"198.18.{third}.1/24", "dev", name)
            run("ip", "-n", router, "link", "set", name, "up")
            run("ip", "-n", inner, "route", "add", "default", "via", f"198.18.{third}.1")

    # --- the cloud ------------------------------------------------------------------------------------------

    def boot(self) -> None:
        super().boot()
        self._begin_cloud()
        config = self._config
        config["modules"][0]["vip"] = [
            {
                "address": f"{OVERLAY}/32",
                "provider": "auto",
                "settings": {"route_tables": self.tables, "region": REGION},
            }
        ]
        (self.work / "hafarm.yaml").write_text(json.dumps(config, indent=1))

    def _begin_cloud(self) -> None:
        nodes = [f"{name}=198.18.{third}" for name, third in self.subnets.items() if name != "client"]
        words = [sys.executable, "-m", "tests.whole.vpc_cloud", CLOUD, str(CLOUD_PORT), *nodes]
        log = (self.work / "cloud.log").open("w")
        self._cloud = subprocess.Popen(
            ["nsenter", f"--net=/var/run/netns/{self.network.namespace('router')}", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        log.close()
        assert self._cloud.stdout is not None
        begun = time.monotonic()
        self.tables = json.loads(self._cloud.stdout.readline())
        assert time.monotonic() - begun < START_S

    def _end_cloud(self) -> None:
        if self._cloud is not None:
            self._cloud.kill()
            self._cloud.wait()
            if self._cloud.stdout is not None:
                self._cloud.stdout.close()
            self._cloud = None

    def start_agent(self, name: str) -> None:
        """With what the SDK of an instance finds by itself: a metadata service and credentials."""
        machine = self.machines[name]
        url = f"http://{CLOUD}:{CLOUD_PORT}"
        told = {
            "AWS_ENDPOINT_URL": url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{url}/imds/{name}",
            "AWS_ACCESS_KEY_ID": name,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        words = [sys.executable, "-m", "orchestrator.agent", "--config", str(machine.work / "agent.yaml")]
        machine.start("env", *[f"{key}={value}" for key, value in told.items()], *words, log="agent")

    def led_to(self) -> str:
        """The node to which the router's kernel sends the address now."""
        shown = run("ip", "-n", self.network.namespace("router"), "route", "show", OVERLAY).split()
        return shown[shown.index("dev") + 1] if "dev" in shown else ""
