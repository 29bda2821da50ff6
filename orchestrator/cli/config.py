"""`hafarm config`: is the file right, and is this machine ready for it?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.processes import AGENT_FILE
from orchestrator.cli.tell import Failure, columns, say
from orchestrator.model.codes import CODES, OK
from orchestrator.model.config import ACK_MEMORY, ClusterConfig

if TYPE_CHECKING:
    from orchestrator.cli.machine import Finding
    from orchestrator.cli.survey import Survey
    from orchestrator.config.marks import ConfigRefused


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
    from orchestrator.cli.machine import findings, surveyed
    from orchestrator.config.load import load
    from orchestrator.config.marks import ConfigRefused

    try:
        config = load(file)
    except ConfigRefused as fault:
        if wish.form == "table":
            raise  # told line by line, as compilers do
        return _refused(fault, wish)
    node = wish.node or this_node(config)
    surveys = surveyed(config, node) if node else {}
    found = [*findings(config, node, surveys), *_owners(config, node, surveys, wish)] if node else []
    rows = [(one.verdict, one.what, one.text) for one in found]
    modules = len(config.modules)
    head = f"{file}: right; {len(config.nodes)} nodes, {modules} module{'s' * (modules != 1)}"
    tail = f"this machine, as {node}:" if node else "this machine is no node of it: only the file was checked"
    labels = [f"  {one.name}: {ACK_MEMORY}" for one in config.mirrors if one.ack == "memory"]
    data = {
        "file": file,
        "errors": [],
        "node": node,
        "ack": {one.name: one.ack for one in config.mirrors},
        "findings": [dict(zip(("verdict", "what", "text"), row, strict=True)) for row in rows],
        "directories": _directories(config, surveys),
    }
    table = "\n".join([head, *labels, tail, *columns(rows, "  ")])
    say(wish.form, data, table, [("verdict", "what", "text"), *rows])
    lacking = [one for one in found if one.verdict == "fail"]
    if lacking:
        raise Failure("HF6007", f"this machine lacks {len(lacking)} of what {file} needs")
    return OK


def _refused(fault: ConfigRefused, wish: Wish) -> int:
    """The mistakes, for a program."""
    keys = ("line", "column", "where", "text")
    rows = [(each.line, each.column, each.where, each.text) for each in fault.problems]
    errors = [{"code": fault.code, "file": fault.name, **dict(zip(keys, row, strict=True))} for row in rows]
    data = {"file": fault.name, "errors": errors, "node": None, "findings": [], "directories": []}
    say(wish.form, data, "", [keys, *rows])
    return CODES[fault.code].exit


def _directories(config: ClusterConfig, surveys: Mapping[str, Survey]) -> list[dict[str, Any]]:
    """How much there is in each replicated directory of this node."""
    from orchestrator.cli.machine import expected_s

    return [
        {
            "module": module.name,
            "path": seen.path,
            "files": seen.files,
            "bytes": seen.bytes,
            "directories": seen.directories,
            "complete": not seen.stopped and not seen.unread,
            "seconds": round(seen.seconds, 3),
            "first_resync_s": round(expected_s(module, seen), 1),
        }
        for module in config.mirrors
        for directory in module.replicate
        if (seen := surveys.get(directory.path)) is not None
    ]


def _owners(config: ClusterConfig, node: str, surveys: Mapping[str, Survey], wish: Wish) -> Iterator[Finding]:
    """Of each module on this node: who owns its files, and whether that is the same on the others."""
    from orchestrator.cli.agent import Agent
    from orchestrator.cli.machine import Finding
    from orchestrator.cli.owners import differing

    for module in config.mirrors:
        if node not in module.nodes:
            continue
        what = f"{module.name}: users and groups"
        seen = [surveys[one.path] for one in module.replicate if one.path in surveys]
        users = [number for each in seen for number in each.users]
        groups = [number for each in seen for number in each.groups]
        try:
            texts, unreachable = differing(Agent(wish), module.name, users, groups, module.run.user)
        except Failure as fault:
            yield Finding("warn", what, f"not compared with the other nodes: {fault.message}")
            continue
        for other, why in unreachable.items():
            yield Finding("warn", what, f"not compared with {other}: {why}")
        for text in texts:
            yield Finding("warn", what, f"{text} (HF4022)")
        if not texts and not unreachable:
            yield Finding("pass", what, "the owners of the files are the same on all nodes")


def this_node(config: ClusterConfig) -> str | None:
    """The node that HAFARM_NODE or this machine's agent.yaml names, when it is one of the file's."""
    name = os.environ.get("HAFARM_NODE")
    if not name and os.path.exists(AGENT_FILE):
        from orchestrator.config.marks import parse

        with open(AGENT_FILE, encoding="utf-8") as opened:
            data = parse(opened.read(), AGENT_FILE).data
        name = data.get("node") if isinstance(data, dict) else None
    return name if name in [node.name for node in config.nodes] else None
