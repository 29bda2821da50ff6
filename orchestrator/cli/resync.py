"""`hafarm resync`: how far the copies are, what one would cost, and orders to them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from orchestrator.cli.actions import order
from orchestrator.cli.agent import Agent
from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.status import in_words
from orchestrator.cli.tell import columns, say, size
from orchestrator.model.codes import OK

Data = dict[str, Any]
ESTIMATE_S = 600.0
"""A walk over ten million files takes a minute or two."""


@click.command()
@click.argument("module")
@click.argument("what", required=False, type=click.Choice(["pause", "resume"]))
@click.option("--full", is_flag=True, help="Compare everything on --node, else on all that follow.")
@click.option("--adopt", is_flag=True, help="The same where a node's files have no known history: a backup.")
@click.option("--estimate", is_flag=True, help="Only say what would be copied, and how long it would take.")
@with_common
def resync_(module: str, what: str | None, full: bool, adopt: bool, estimate: bool, wish: Wish) -> int:
    """Show how far MODULE's copies are. `pause` holds them where they are, `resume` lets them go on."""
    if sum((what is not None, adopt, estimate or full)) > 1:
        raise click.UsageError("one thing at a time: pause, resume, --adopt, --full or --estimate")
    if what is not None:
        return _pause(module, what == "pause", wish)
    if estimate:
        return _estimate(module, full, wish)
    if full or adopt:
        return order(wish, module, "resync", node=wish.node, adopt=adopt)
    return _show(module, wish)


def _show(module: str, wish: Wish) -> int:
    data = Agent(wish).get(f"/modules/{quote(module)}/resync")
    nodes = _chosen(data, wish)
    most = f", at most {size(data['rate_max'])}/s" if data["rate_max"] else ""
    head = f"{module}, from {data['primary']}: {data['workers']} workers{most}"
    paused = ["  paused: hafarm resync " + module + " resume"] if data["paused"] else []
    rows = [
        (node, known["state"], in_words(known["progress"]) if known["progress"] else known["why"])
        for node, known in nodes.items()
    ]
    say(wish.form, data, "\n".join([head, *paused, *columns(rows, "  ")]), [_KEYS, *_rows(nodes)])
    return OK


_KEYS = ("node", "state", "files", "files_total", "bytes", "bytes_total", "sent", "rate", "eta_s", "current")


def _rows(nodes: Data) -> list[tuple[Any, ...]]:
    return [
        (node, known["state"], *((known["progress"] or {}).get(key) for key in _KEYS[2:]))
        for node, known in nodes.items()
    ]


def _chosen(data: Data, wish: Wish) -> Data:
    if wish.node is not None:
        data["nodes"] = {node: known for node, known in data["nodes"].items() if node == wish.node}
    nodes: Data = data["nodes"]
    return nodes


def _pause(module: str, paused: bool, wish: Wish) -> int:
    data = Agent(wish).post(f"/modules/{quote(module)}/resync", {"paused": paused})
    text = f"{module}: copies " + ("are held where they are; live changes go on" if paused else "go on")
    away = [f"{node} was not told: {why}" for node, why in data["unreachable"].items()]
    say(wish.form, data, "\n".join([text, *away]), [("module", "paused"), (module, paused)])
    return OK


def _estimate(module: str, full: bool, wish: Wish) -> int:
    path = f"/modules/{quote(module)}/resync/estimate?full={str(full).lower()}"
    data = Agent(wish).get(path, ESTIMATE_S)
    nodes = _chosen(data, wish)
    rows = [(node, _in_words(known)) for node, known in nodes.items()]
    keys = ("files", "bytes", "directories", "seconds", "full", "state")
    table = [f"{module}, from {data['primary']}; nothing is changed", *columns(rows, "  ")]
    cells = [(node, *(known[key] for key in keys)) for node, known in nodes.items()]
    say(wish.form, data, "\n".join(table), [("node", *keys), *cells])
    return OK


def _in_words(known: Data) -> str:
    if not known["full"] and not known["files"] and not known["directories"]:
        return "nothing would be copied" + (": it streams" if known["state"] == "streaming" else "")
    names = f", names of {known['directories']} directories" if known["directories"] else ""
    sure = "as the last copy went" if known["rate_is_measured"] else "no copy was measured yet"
    what = f"{known['files']} files, at most {size(known['bytes'])}{names}"
    why = f"; everything is compared, only what differs is sent ({known['why']})" if known["full"] else ""
    return f"{what}, about {known['seconds']:.0f} s at {size(known['rate'])}/s ({sure}){why}"
