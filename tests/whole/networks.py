"""A cluster with a second network of its own: another interface on every node, another switch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.demo.cluster import Cluster
from orchestrator.host.netns import run

VIP4, VIP6, SECOND = "198.18.2.100", "fd00:2::100", "198.18.3.100"
CLIENT4, CLIENT6 = "198.18.2.40", "fd00:2::40"


class TwoNetworks(Cluster):
    """`eth1` carries 198.18.2.0/24 and fd00:2::/64, and the path `data` where `data` is true."""

    def __init__(self, work: Path, data: bool = False, **options: Any) -> None:
        self._data = data
        super().__init__(work, **options)
        create = self.network.create

        def with_second() -> None:
            create()
            self._add_second()

        self.network.create = with_second  # type: ignore[method-assign]

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        config = super()._make_config(preset, module)
        if self._data:
            for number, node in enumerate(config["nodes"]):
                node["addresses"]["data"] = f"198.18.2.{11 + number}"
        return config

    def _add_second(self) -> None:
        switch = self.network.namespace("switch")
        run("ip", "-n", switch, "link", "add", "br1", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", switch, "link", "set", "br1", "up")
        hosts = {
            name: (f"198.18.2.{11 + number}", f"fd00:2::{11 + number}")
            for number, name in enumerate(self.names)
        }
        hosts["client"] = (CLIENT4, CLIENT6)
        for number, (name, (four, six)) in enumerate(hosts.items()):
            inner = self.network.namespace(name)
            pair = ("type", "veth", "peer", "name", f"q{number}", "netns", switch)
            run("ip", "-n", inner, "link", "add", "eth1", *pair)
            run("ip", "-n", switch, "link", "set", f"q{number}", "master", "br1", "up")
            run("ip", "-n", inner, "address", "add", f"{four}/24", "dev", "eth1")
            run("ip", "-n", inner, "address", "add", f"{six}/64", "dev", "eth1", "nodad")
            run("ip", "-n", inner, "link", "set", "eth1", "up")

    def carrier(self, node: str, state: str) -> None:
        """The second network's cable of one node: `up` or `down`."""
        number = [*self.names, "client"].index(node)
        run("ip", "-n", self.network.namespace("switch"), "link", "set", f"q{number}", state)

    def ip(self, node: str, *words: str) -> str:
        """`ip` in the node's network."""
        return run("ip", "-n", self.network.namespace(node), *words)

    def mac(self, node: str, interface: str) -> str:
        return str(self._link(node, interface)["address"])

    def bytes_of(self, node: str, interface: str) -> int:
        """Sent and received by an interface since it was made."""
        counted = self._link(node, interface)["stats64"]
        return int(counted["rx"]["bytes"]) + int(counted["tx"]["bytes"])

    def _link(self, node: str, interface: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ip(node, "-s", "-j", "link", "show", "dev", interface))[0]
        return found
