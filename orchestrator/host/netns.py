"""A cluster's network inside one machine: namespaces on a bridge, with cuts in each direction."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

COMMAND_TIMEOUT_S = 20  # each takes milliseconds; a busy machine gets its time


def run(*command: str) -> str:
    """Run one command to its end; CalledProcessError when it fails."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    return done.stdout


@dataclass
class Network:
    """Nodes behind a switch, which is a namespace too: nothing reaches the machine's own network."""

    prefix: str
    """Unique on this machine: the namespaces are called `PREFIX-NODE` and `PREFIX-switch`."""
    nodes: Mapping[str, tuple[str, ...]]
    """By node: its addresses with prefix length."""
    ports: dict[str, str] = field(default_factory=dict)

    def create(self) -> None:
        switch = self.namespace("switch")
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        for number, (node, addresses) in enumerate(self.nodes.items()):
            self._attach(node, f"p{number}", addresses)
        rules = (
            "add table bridge cut\n"
            "add set bridge cut pairs { type ifname . ifname; }\n"
            "add chain bridge cut forward { type filter hook forward priority 0; policy accept; }\n"
            "add rule bridge cut forward iifname . oifname @pairs drop\n"
        )
        self.enter("switch", "nft", rules)

    def _attach(self, node: str, port: str, addresses: tuple[str, ...]) -> None:
        name, switch = self.namespace(node), self.namespace("switch")
        self.ports[node] = port
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
        run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
        for address in addresses:
            # Without duplicate address detection an IPv6 address is usable at once.
            nodad = ("nodad",) if ":" in address else ()
            run("ip", "-n", name, "address", "add", address, "dev", "eth0", *nodad)
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "set", "eth0", "up")

    def namespace(self, node: str) -> str:
        return f"{self.prefix}-{node}"

    def inside(self, node: str, *command: str) -> list[str]:
        """The command line that runs `command` in a node's network."""
        return ["nsenter", f"--net=/var/run/netns/{self.namespace(node)}", *command]

    def enter(self, node: str, tool: str, rules: str) -> None:
        """Load rules in a node's network."""
        subprocess.run(
            self.inside(node, tool, "-f", "-"),
            input=rules,
            text=True,
            check=True,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
        )

    def cut(self, source: str, target: str) -> None:
        """Nothing passes from source to target any more; the other direction stays as it is."""
        pair = f"{self.ports[source]} . {self.ports[target]}"
        self.enter("switch", "nft", f"add element bridge cut pairs {{ {pair} }}")

    def heal(self) -> None:
        """Everything passes again."""
        self.enter("switch", "nft", "flush set bridge cut pairs")

    def destroy(self) -> None:
        """Leave nothing, whatever was made."""
        for node in (*self.nodes, "switch"):
            if Path(f"/var/run/netns/{self.namespace(node)}").exists():
                with contextlib.suppress(subprocess.SubprocessError):
                    run("ip", "netns", "del", self.namespace(node))
