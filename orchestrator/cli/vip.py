"""`hafarm vip`: where each virtual IP is, who moves it, and why so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from orchestrator.cli.agent import Agent
from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import Failure, columns, say
from orchestrator.model.codes import DIFFERS, OK

KEYS = ("module", "address", "here", "provider", "mode", "owner", "why")


@click.group()
def vip_() -> None:
    """Where each virtual IP is, who moves it, and why so."""


@vip_.command()
@click.argument("address", required=False)
@with_common
def show(address: str | None, wish: Wish) -> int:
    """Show all virtual IPs of this node's modules, or ADDRESS. 3: a part of one leads elsewhere."""
    found = list(addresses(Agent(wish), address))
    table = "\n".join(line for one in found for line in _lines(one))
    rows = [KEYS, *(tuple(one.get(key) for key in KEYS) for one in found)]
    say(wish.form, found, table, rows)
    return DIFFERS if any(one.get("missing") for one in found) else OK


def addresses(agent: Agent, wanted: str | None) -> Iterator[dict[str, Any]]:
    """What the agent knows of each virtual IP, or of one; Failure where it has none of that name."""
    found = [
        {"module": module["name"], **vip}
        for module in agent.get("/status")["modules"]
        for vip in module["vip"]
        if "provider" in vip  # a farm's addresses are on all its nodes
    ]
    some = [one for one in found if wanted in (None, one["address"], one["address"].partition("/")[0])]
    if wanted is not None and not some:
        raise Failure("HF7022", f"no module of this node has the virtual IP {wanted}")
    yield from some


def _lines(vip: Mapping[str, Any]) -> Iterator[str]:
    where = f"here, on {vip['interface']}" if vip["here"] else "not on this machine"
    yield f"{vip['address']}  module {vip['module']}, {where}"
    rows = [("moved by", f"{vip['provider']} {vip['mode']}".strip()), ("because", vip["why"])]
    if vip["owner"]:
        rows.append(("leads to", vip["owner"]))
    if vip["detail"]:
        rows.append(("seen", vip["detail"]))
    rows += [("MISSING", f"{part}: {why}") for part, why in vip["missing"].items()]
    if vip["conflict"]:
        rows.append(("CONFLICT", f"{vip['conflict']} says that it has it too"))
    yield from columns(rows, "  ")
