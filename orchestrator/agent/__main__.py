"""`python -m orchestrator.agent --config AGENT.yaml`: the agent of one node."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import errno
import json
import logging
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.host.realtime import become_prompt

if __name__ == "__main__":
    # First of all: what follows takes a second of CPU, on an overloaded machine longer than the grace that
    # the pulse gives to an agent which restarts.
    become_prompt()

import msgspec

from orchestrator.agent.settings import AgentSettings
from orchestrator.model.codes import CODES, shown
from orchestrator.model.config import ClusterConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName


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
    words.add_argument(
        "--clean",
        action="store_true",
        help="take away what farms left in this kernel, and end; for a node whose agent was stopped for good",
    )
    asked = words.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    if asked.clean:
        return _clean()
    # Together, and the reader is born while there is little to be copied for it: a restart must fit into the
    # grace that the pulse gives, on an overloaded machine too.
    reader = Reader(asked.config)
    import orchestrator.agent.agent  # noqa: F401

    begun = reader.result()
    if isinstance(begun, int):
        return begun
    settings, config = begun
    try:
        _check_addresses(config, NodeName(settings.node))
        asyncio.run(serve(settings, config, asked.on_term == "leave"))
    except (HafarmError, OSError) as fault:
        return _refuse(fault)
    return 0


def _clean() -> int:
    """Of every farm: addresses, packet rules, interfaces; the exit code."""
    from orchestrator.host.farm_remains import AgentAtWork, clean_all
    from orchestrator.host.presence import present

    try:
        if found := present():
            raise AgentAtWork(found[0])
        asyncio.run(clean_all())
    except (HafarmError, OSError) as fault:
        return _refuse(fault)
    return 0


def _refuse(fault: HafarmError | OSError) -> int:
    """Say why the agent does not begin; the exit code."""
    if isinstance(fault, HafarmError):
        print(shown(fault.code, str(fault)), file=sys.stderr)
        return CODES[fault.code].exit
    print(shown("HF1003", f"the agent cannot begin: {fault}"), file=sys.stderr)
    return 1


class Reader:
    """A process that reads the node's files, and tells what is wrong with them.

    What it takes to read and check them is 25 MiB of program, needed once in the agent's life.
    """

    def __init__(self, path: str) -> None:
        self._told, writer = os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(self._told)
            # Without the interpreter's farewell to every module.
            os._exit(_tell(path, writer))
        os.close(writer)

    def result(self) -> tuple[AgentSettings, ClusterConfig] | int:
        """What the files say, or the exit code where they are wrong."""
        with open(self._told, "rb") as file:
            told = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        if code:
            return max(code, 1)  # negative where it was killed
        return msgspec.convert(json.loads(told), tuple[AgentSettings, ClusterConfig])


def _tell(path: str, writer: int) -> int:
    """The child's whole life; its exit code."""
    try:
        from orchestrator.agent.files import read

        # Not msgspec's own JSON, which refuses the name of a file that is not UTF-8.
        told = json.dumps([dataclasses.asdict(part) for part in read(path)])
        _check_rules()
        with open(writer, "w", encoding="ascii") as file:
            file.write(told)
    except (HafarmError, OSError) as fault:
        return _refuse(fault)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _check_rules() -> None:
    """RulesRefused without nftables, or without the right to it: nothing of ours could begin."""
    from orchestrator.host.nft import open_nft
    from orchestrator.host.nft_lease import TABLE

    open_nft(dry=True).run(f"add table inet {TABLE}\nadd table arp {TABLE}")


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
    from orchestrator.agent.agent import Agent

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
