"""`hafarm doctor`: everything that would disturb this node on the day it is needed, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from orchestrator.cli import diagnosis
from orchestrator.cli.agent import Agent
from orchestrator.cli.config import this_node
from orchestrator.cli.diagnosis import Diagnosis
from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.provider import TEST_S
from orchestrator.cli.tell import Failure, columns, say
from orchestrator.model.codes import DIFFERS, OK


@click.command()
@click.argument("file", default="/etc/hafarm/hafarm.yaml")
@with_common
def doctor_(file: str, wish: Wish) -> int:
    """Look at this machine, the other nodes, the register, the modules, the providers. Changes nothing.

    FILE is the configuration. 3: something is to be mended.
    """
    from orchestrator.config.load import load

    config = load(file)
    found: list[Diagnosis] = []
    try:
        agent = Agent(wish)
        status = agent.get("/status")
    except Failure as fault:
        status = None
        found.append(Diagnosis("fail", "agent", fault.message, f"hafarm explain {fault.code}"))
    node = wish.node or (status["node"] if status else this_node(config)) or ""
    if node:
        found += [*diagnosis.of_machine(config, node), *diagnosis.of_ports(config, node)]
    if status:
        found += [*diagnosis.of_nodes(config, status), *diagnosis.of_register(status)]
        found += diagnosis.of_modules(status)
        found += _of_providers(agent, diagnosis.providers_of(status))
    return _told(node, found, wish)


def _of_providers(agent: Agent, names: list[str]) -> Iterator[Diagnosis]:
    for name in names:
        try:
            told = agent.post(f"/providers/{name}/test", {"repair": False}, TEST_S)["findings"]
        except Failure as fault:
            yield Diagnosis("fail", name, fault.message, f"hafarm explain {fault.code}")
        else:
            yield from diagnosis.of_provider(name, told)


def _told(node: str, found: list[Diagnosis], wish: Wish) -> int:
    data = {"node": node, "findings": [asdict(one) for one in found]}
    keys = ("verdict", "about", "text", "remedy")
    rows = [keys, *((one.verdict, one.about, one.text, one.remedy) for one in found)]
    say(wish.form, data, "\n".join(columns(list(diagnosis.with_remedies(found)))), rows)
    bad = sum(one.verdict == "fail" for one in found)
    if bad:
        raise Failure("HF6009", f"{bad} thing{'s' * (bad != 1)} to mend on {node or 'this machine'}")
    return DIFFERS if any(one.verdict == "warn" for one in found) else OK
