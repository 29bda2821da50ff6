"""`hafarm fence`: have another node switched off by the cloud, and say when it is."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import click

from orchestrator.cli.agent import POLL_S, Agent
from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import Failure, say
from orchestrator.model.codes import OK

PATIENCE_S = 600.0
"""Longer than a node pursues a reset, the longest of all: the command says how it ended."""


@click.command()
@click.argument("target", metavar="NODE")
@with_common
def fence_(target: str, wish: Wish) -> int:
    """Have NODE switched off by its cloud, by right of a record that this node holds.

    \b
    Ends well only when the cloud says that the machine is off. Not needed for the data: who lost the record
    cannot write. It ends what a node that is cut off may still do otherwise.
    """
    _confirm(target, wish)
    agent = Agent(wish)
    path = f"/nodes/{quote(target, safe='')}/fence"
    fence = agent.post(path, {"confirm": target})
    ends = time.monotonic() + (PATIENCE_S if wish.wait is None else wish.wait)
    while fence["state"] == "running" and (left := ends - time.monotonic()) > 0:
        wait_s = min(left, POLL_S)
        fence = agent.get(f"{path}?wait={wait_s:.3f}", wait_s)
    return _ended(target, fence, wish)


def _confirm(node: str, wish: Wish) -> None:
    """The operator types the node's name: a yes is typed too fast."""
    if wish.yes:
        return
    click.echo(
        f"{node} is switched off from outside, with everything that runs on it. `hafarm status` says what "
        "that is; a healthy node is ended better by `hafarm stop MODULE --node NODE`.",
        err=True,
    )
    try:
        typed = click.prompt(f"Type {node} to go on", err=True, default="", show_default=False)
    except click.Abort:
        click.echo(err=True)  # nobody ended the line
        typed = ""
    if typed != node:
        raise Failure("HF7067", f"{node} is not switched off: its name was not typed")


def _ended(node: str, fence: dict[str, Any], wish: Wish) -> int:
    match fence["state"]:
        case "off":
            rows = [("node", "state", "text"), (node, fence["state"], fence["text"])]
            say(wish.form, fence, f"{node} is off: {fence['text']}", rows)
            return OK
        case "running":
            raise Failure("HF6006", f"{node} is being switched off still: see hafarm status, hafarm events")
        case _:
            raise Failure(str(fence["code"]), f"{node}: {fence['text']}")
