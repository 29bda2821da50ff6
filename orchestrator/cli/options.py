"""Options that every command knows; they may stand before the command or behind it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import click

SOCKET = "/run/hafarm/agent.sock"


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked beside the command itself; None: not said."""

    output: str | None = None
    socket: str | None = None
    cluster: str | None = None
    node: str | None = None
    wait: float | None = None
    yes: bool | None = None

    @property
    def form(self) -> str:
        return self.output or "table"


def duration(ctx: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """A time as people write it, in seconds."""
    if text is None:
        return None
    from orchestrator.config.units import seconds

    try:
        return seconds(text)
    except ValueError as fault:
        raise click.BadParameter(str(fault)) from fault


_OPTIONS = [
    click.option("-o", "--output", type=click.Choice(["table", "json", "yaml", "tsv"]), help="The form."),
    click.option("--socket", metavar="PATH", envvar="HAFARM_SOCKET", help=f"The agent's; {SOCKET}."),
    click.option("--cluster", metavar="NAME", help="Refuse unless the agent belongs to this cluster."),
    click.option("--node", metavar="NODE", help="The node that is meant."),
    click.option("--wait", metavar="[=TIME]", callback=duration, help="Until it is done; 5 when it is not."),
    click.option("--yes", is_flag=True, default=None, help="Ask nothing."),
]


def with_common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the common options, and hand them on as one `wish` with what stood before the command."""

    @functools.wraps(function)
    def wrapped(**given: Any) -> Any:
        said = {field.name: given.pop(field.name) for field in fields(Wish)}
        context = click.get_current_context()
        above = context.find_object(Wish) or Wish()
        wish = replace(above, **{name: value for name, value in said.items() if value is not None})
        context.obj = wish
        return function(wish=wish, **given)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
