"""`hafarm events`: what happened, oldest first, and with -f what happens."""

from __future__ import annotations

import datetime
import json
import time
from typing import Any

import click

from orchestrator.cli.agent import Agent
from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import columns, say
from orchestrator.model.codes import OK

POLL_S = 25.0


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("--module", metavar="MODULE", help="Of this module alone.")
@click.option("--since", metavar="WHEN", help="An event's number, or a time ago such as 10m or 2h.")
@with_common
def events_(follow: bool, module: str | None, since: str | None, wish: Wish) -> int:
    """Show the event log of this node. `hafarm explain CODE` says more on each."""
    agent = Agent(wish)
    after, begin = _since(since)
    found = [event for event in _asked(agent, module, after, 0.0) if event["at"] >= begin]
    if not follow:
        table = "\n".join(columns([_cells(event) for event in found]))
        keys = ("id", "at", "node", "module", "code", "text")
        say(
            wish.form,
            {"events": found},
            table,
            [keys, *(tuple(event[key] for key in keys) for event in found)],
        )
        return OK
    while True:
        for event in found:
            _tell(wish.form, event)
            after = max(after, event["id"])
        found = _asked(agent, module, after, POLL_S)


def _since(text: str | None) -> tuple[int, float]:
    """After which event, and from which time on."""
    if text is None:
        return 0, 0.0
    if text.isdecimal():
        return int(text), 0.0
    from orchestrator.config.units import seconds

    try:
        return 0, time.time() - seconds(text)
    except ValueError as fault:
        raise click.BadParameter(
            "an event's number, or a time ago such as 10m", param_hint="--since"
        ) from fault


def _asked(agent: Agent, module: str | None, after: int, wait_s: float) -> list[dict[str, Any]]:
    from urllib.parse import urlencode

    query = urlencode({"since": after, "module": module or "", "wait": wait_s})
    events: list[dict[str, Any]] = agent.get(f"/events?{query}", wait_s)["events"]
    return events


def _cells(event: dict[str, Any]) -> tuple[str, ...]:
    at = datetime.datetime.fromtimestamp(event["at"]).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return (at, event["node"], event["module"], event["code"], event["text"])


def _tell(form: str, event: dict[str, Any]) -> None:
    """One event at once: a line of JSON for programs, a line of text for people."""
    click.echo(
        json.dumps(event)
        if form in ("json", "yaml")
        else ("\t" if form == "tsv" else "  ").join(_cells(event))
    )
