"""Orders for one module: the agent plans and carries them out, the command follows."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli.agent import Agent, refusal
from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import Failure, columns, say
from orchestrator.model.codes import OK
from orchestrator.model.report import PERCENT_MAX

SETTLE_S = 5.0
"""Without --wait: a refusal is known by then; whatever still goes on is said to go on."""


@click.command()
@click.argument("module")
@click.option(
    "--first", metavar="NODE", help="The very first start: this node's files are the ones to begin with."
)
@with_common
def start_(module: str, first: str | None, wish: Wish) -> int:
    """Start MODULE on all its nodes, or on --node alone."""
    return order(wish, module, "start", node=wish.node, first=first)


@click.command()
@click.argument("module")
@click.option(
    "--force", is_flag=True, help="Also without the register: the others may then have to wait for it."
)
@with_common
def stop_(module: str, force: bool, wish: Wish) -> int:
    """Stop MODULE everywhere, the primary first; with --node on that node alone, while the others go on."""
    if force and wish.node is None:
        raise click.UsageError("--force is for one node: add --node NODE")
    return order(wish, module, "stop", node=wish.node, force=force)


@click.command()
@click.argument("module")
@with_common
def restart_(module: str, wish: Wish) -> int:
    """Stop and start the application of MODULE where it runs."""
    return order(wish, module, "restart")


@click.command()
@click.argument("module")
@click.option("--to", metavar="NODE", help="The next primary; else the fittest that is in sync.")
@with_common
def swap_(module: str, to: str | None, wish: Wish) -> int:
    """Give the primary's role of MODULE to another node. Both must be healthy; nothing is lost."""
    return order(wish, module, "swap", to=to)


@click.command()
@click.argument("module")
@click.option("--limit", metavar="TIME", help="How long they may go on; by default the module's `drain`.")
@click.option("--force", is_flag=True, help="Also where no other node takes new connections.")
@with_common
def drain_(module: str, limit: str | None, force: bool, wish: Wish) -> int:
    """Let --node take no new connections of MODULE, finish those that it has, and stop."""
    from orchestrator.config.units import seconds

    try:
        limit_s = None if limit is None else seconds(limit)
    except ValueError as fault:
        raise click.UsageError(f"--limit: {fault}") from fault
    return order(wish, module, "drain", node=_one(wish), limit_s=limit_s, force=force)


@click.command()
@click.argument("module")
@with_common
def undrain_(module: str, wish: Wish) -> int:
    """Let --node take new connections of MODULE again."""
    return order(wish, module, "undrain", node=_one(wish))


@click.command()
@click.argument("module")
@click.argument("percent", type=click.IntRange(0, PERCENT_MAX))
@with_common
def weight_(module: str, percent: int, wish: Wish) -> int:
    """Give --node PERCENT of the weights that the file gives it in MODULE; 100 is as in the file."""
    return order(wish, module, "weight", node=_one(wish), percent=percent)


def _one(wish: Wish) -> str:
    if wish.node is None:
        raise click.UsageError("this concerns one node: --node NODE")
    return wish.node


@click.command()
@click.argument("module")
@click.option(
    "--accept-data-loss", is_flag=True, help="Serve from a copy that is not in sync: what it lacks is lost."
)
@with_common
def promote_(module: str, accept_data_loss: bool, wish: Wish) -> int:
    """Make --node primary of MODULE after its peer was lost."""
    if wish.node is None:
        raise click.UsageError("promote needs to know which node: --node NODE")
    if accept_data_loss:
        _confirm(module, wish)
    confirm = module if accept_data_loss else None
    return order(wish, module, "promote", node=wish.node, accept_data_loss=accept_data_loss, confirm=confirm)


def _confirm(module: str, wish: Wish) -> None:
    """The operator types the module's name: a yes is typed too fast."""
    if wish.yes:
        return
    click.echo(
        f"Everything that {module}'s other side acknowledged and {wish.node} does not hold will be lost.\n"
        f"`hafarm status {module}` says which nodes are in sync; starting one of them loses nothing.",
        err=True,
    )
    try:
        typed = click.prompt(f"Type {module} to go on", err=True, default="", show_default=False)
    except click.Abort:
        click.echo(err=True)  # nobody ended the line
        typed = ""
    if typed != module:
        raise Failure("HF6004", f"{wish.node} is not promoted: {module} was not typed")


def order(wish: Wish, module: str, action: str, **wanted: Any) -> int:
    agent = Agent(wish)
    operation = agent.act(module, {"action": action, **wanted})
    operation = agent.follow(operation, SETTLE_S if wish.wait is None else wish.wait)
    ended(operation, waited=wish.wait is not None)
    over = operation["state"] == "done"
    text = f"{action} {module}: " + ("done" if over else "accepted, under way; see hafarm status -w")
    steps = columns([("-", str(step)) for step in operation.get("steps", [])], "  ")
    table = "\n".join([*steps, text, *_next(agent, module)])
    say(wish.form, operation, table, [("op", "module", "action", "state"), _row(operation)])
    return OK


def _next(agent: Agent, module: str) -> list[str]:
    """What has to be typed now, where the order alone changes nothing."""
    modules = agent.get("/status").get("modules", [])
    hints = [str(each.get("hint") or "") for each in modules if each.get("name") == module]
    return [f"next: {hint}" for hint in hints if hint]


def _row(operation: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(operation.get(name) for name in ("id", "module", "action", "state"))


def ended(operation: dict[str, Any], waited: bool) -> None:
    """Failure unless it is done, or may go on without us."""
    match operation["state"]:
        case "refused" | "failed":
            raise refusal({**(operation.get("error") or {}), "safety": operation.get("safety")})
        case "running" if waited:
            steps = ", ".join(map(str, operation.get("steps", []))) or "nothing yet"
            raise Failure("HF6006", f"operation {operation['id']} is still under way ({steps})")
