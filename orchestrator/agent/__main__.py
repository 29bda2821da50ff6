"""`python -m orchestrator.agent --config AGENT.yaml`: the agent of one node."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import errno
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from orchestrator.host.realtime import become_prompt

if __name__ == "__main__":
    # First of all: what follows takes a second of CPU, on an overloaded machine longer than the grace that
    # the pulse gives to an agent which restarts.
    become_prompt()

from orchestrator.agent.agent import Agent
from orchestrator.agent.settings import AgentSettings, load
from orchestrator.config.load import load as load_cluster
from orchestrator.config.marks import ConfigRefused, Problem, parse
from orchestrator.model.codes import CODES, shown
from orchestrator.model.config import ClusterConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName
from orchestrator.setup.bundle import check_bundle


@dataclass(eq=False)
class AddressNotHere(HafarmError):
    """The node's own address, as the cluster's file has it, is on no interface of this machine."""

    code: ClassVar[str] = "HF1003"
    node: str
    path: str
    address: str

    def __str__(self) -> str:
        return (
            f"address {self.address} of node {self.node} on path {self.path} is not on this machine: correct "
            f"`addresses` of {self.node}, or bring its interface up"
        )


def main() -> int:
    """Run until SIGTERM. 2: its files are wrong, 1: it could not begin otherwise; it says why."""
    words = argparse.ArgumentParser(prog="hafarm agent", description=__doc__)
    words.add_argument("--config", default="/etc/hafarm/agent.yaml", metavar="AGENT.yaml")
    words.add_argument(
        "--on-term",
        choices=["keep", "leave"],
        default="keep",
        help="keep: modules go on for the next agent (upgrade); leave: stop them by plan (shutdown)",
    )
    asked = words.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    try:
        settings = load(asked.config)
        config = load_cluster(settings.config)
        _check_node(settings, config, asked.config)
        check_bundle(settings.bundle, config.name, settings.node)
        _check_addresses(config, NodeName(settings.node))
        asyncio.run(serve(settings, config, asked.on_term == "leave"))
    except HafarmError as fault:
        print(shown(fault.code, str(fault)), file=sys.stderr)
        return CODES[fault.code].exit
    except OSError as fault:
        print(shown("HF1003", f"the agent cannot begin: {fault}"), file=sys.stderr)
        return 1
    return 0


def _check_node(settings: AgentSettings, config: ClusterConfig, file: str) -> None:
    """ConfigRefused where the node is named: in the environment, which wins, or in the agent's file."""
    names = [node.name for node in config.nodes]
    if settings.node in names:
        return
    near = difflib.get_close_matches(settings.node, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"these are: {', '.join(names)}"
    text = f"no node of {settings.config} is named {settings.node}; {hint}"
    if "HAFARM_NODE" in os.environ:
        raise ConfigRefused("HAFARM_NODE", (Problem(1, 1, "", text),))
    marked = parse(Path(file).read_text(encoding="utf-8"), file)
    raise ConfigRefused(file, (marked.problem(("node",), text),))


def _check_addresses(config: ClusterConfig, node: NodeName) -> None:
    """Everything of ours binds to them; whoever is first would fail in words of its own."""
    for path, address in config.node(node).addresses.items():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError as fault:
                if fault.errno == errno.EADDRNOTAVAIL:
                    raise AddressNotHere(node, path, address) from fault
                raise


async def serve(settings: AgentSettings, config: ClusterConfig, leave: bool) -> None:
    """The agent's life in one event loop."""
    over = asyncio.Event()
    agent = Agent(settings, config)
    leaving: set[asyncio.Task[None]] = set()

    def end() -> None:
        if not leave:
            over.set()
        elif not leaving:
            task = asyncio.get_running_loop().create_task(agent.leave())
            task.add_done_callback(lambda _: over.set())
            leaving.add(task)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    await agent.run(over)


if __name__ == "__main__":
    raise SystemExit(main())
