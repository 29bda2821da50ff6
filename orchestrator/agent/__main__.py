"""`python -m orchestrator.agent --config AGENT.yaml`: the agent of one node."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys

from orchestrator.host.realtime import become_prompt

if __name__ == "__main__":
    # First of all: what follows takes a second of CPU, on an overloaded machine longer than the grace that
    # the pulse gives to an agent which restarts.
    become_prompt()

from orchestrator.agent.agent import Agent
from orchestrator.agent.settings import AgentSettings, load
from orchestrator.config.load import load as load_cluster
from orchestrator.config.marks import ConfigRefused, Problem
from orchestrator.model.codes import shown
from orchestrator.model.config import ClusterConfig
from orchestrator.model.errors import HafarmError
from orchestrator.setup.bundle import check_bundle


def main() -> int:
    """Run until SIGTERM. 1: it could not begin, and says why."""
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
        _check_node(settings, config)
        check_bundle(settings.bundle, config.name, settings.node)
        asyncio.run(serve(settings, config, asked.on_term == "leave"))
    except HafarmError as fault:
        print(shown(fault.code, str(fault)), file=sys.stderr)
        return 1
    except OSError as fault:
        print(shown("HF1003", f"the agent cannot begin: {fault}"), file=sys.stderr)
        return 1
    return 0


def _check_node(settings: AgentSettings, config: ClusterConfig) -> None:
    names = [node.name for node in config.nodes]
    if settings.node not in names:
        text = f"no node is named {settings.node}; these are: {', '.join(names)}"
        raise ConfigRefused(settings.config, (Problem(1, 1, "nodes", text),))


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
