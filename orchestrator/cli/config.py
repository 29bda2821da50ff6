"""`hafarm config`: is the file right, and is this machine ready for it?"""

from __future__ import annotations

import json
import os

import click

from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.processes import AGENT_FILE
from orchestrator.cli.tell import Failure, columns, say
from orchestrator.model.codes import OK
from orchestrator.model.config import ACK_MEMORY, ClusterConfig


@click.group()
def config_() -> None:
    """Check hafarm.yaml, or print its schema."""


@config_.command()
@with_common
def schema(wish: Wish) -> int:
    """Print the JSON Schema of hafarm.yaml, for editors."""
    from orchestrator.config.load import schema as made

    click.echo(json.dumps(made(), indent=2))
    return OK


@config_.command()
@click.argument("file", default="hafarm.yaml")
@with_common
def check(file: str, wish: Wish) -> int:
    """Check FILE, and on a node (or with --node) also this machine. 2: the file is wrong, 3: the machine."""
    from orchestrator.cli.machine import Finding, findings
    from orchestrator.config.load import load

    config = load(file)
    node = wish.node or _this_node(config)
    found: list[Finding] = findings(config, node) if node else []
    rows = [(one.verdict, one.what, one.text) for one in found]
    modules = len(config.modules)
    head = f"{file}: right; {len(config.nodes)} nodes, {modules} module{'s' * (modules != 1)}"
    tail = f"this machine, as {node}:" if node else "this machine is no node of it: only the file was checked"
    labels = [f"  {one.name}: {ACK_MEMORY}" for one in config.modules if one.ack == "memory"]
    data = {
        "file": file,
        "node": node,
        "ack": {one.name: one.ack for one in config.modules},
        "findings": [dict(zip(("verdict", "what", "text"), row, strict=True)) for row in rows],
    }
    table = "\n".join([head, *labels, tail, *columns(rows, "  ")])
    say(wish.form, data, table, [("verdict", "what", "text"), *rows])
    lacking = [one for one in found if one.verdict == "fail"]
    if lacking:
        raise Failure("HF6007", f"this machine lacks {len(lacking)} of what {file} needs")
    return OK


def _this_node(config: ClusterConfig) -> str | None:
    """The node that HAFARM_NODE or this machine's agent.yaml names, when it is one of the file's."""
    name = os.environ.get("HAFARM_NODE")
    if not name and os.path.exists(AGENT_FILE):
        from orchestrator.config.marks import parse

        with open(AGENT_FILE, encoding="utf-8") as opened:
            data = parse(opened.read(), AGENT_FILE).data
        name = data.get("node") if isinstance(data, dict) else None
    return name if name in [node.name for node in config.nodes] else None
