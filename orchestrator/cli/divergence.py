"""`hafarm divergence`: what two histories left behind, shown file by file, and released by order."""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import quote

import click

from orchestrator.cli.agent import Agent
from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import Failure, columns, say, size
from orchestrator.model.codes import OK

Data = dict[str, Any]
_REIGNS_SHOWN = 3  # where two lineages part is at their end; JSON has all of them


@click.group()
def divergence_() -> None:
    """What was set aside where two histories met: list it, show its files, release it."""


@divergence_.command("list")
@click.argument("module", required=False)
@with_common
def list_(module: str | None, wish: Wish) -> int:
    """List the divergences of all modules, or of MODULE."""
    asked = _asked(Agent(wish), module, wish.node)
    keys = ("module", "id", "at", "node", "verdict", "lost", "kept_by", "files", "bytes")
    rows = [tuple(each.get(key) for key in keys) for each in asked["divergences"]]
    say(wish.form, asked, "\n".join(_listed(asked)), [keys, *rows])
    return OK


@divergence_.command()
@click.argument("module")
@click.argument("id", required=False)
@with_common
def show(module: str, id: str | None, wish: Wish) -> int:
    """Show the files of one divergence of MODULE; ID may be left away where there is one alone."""
    agent = Agent(wish)
    one = _one(_asked(agent, module, wish.node), module, id)
    data = _with_files(agent, one)
    keys = ("path", "size", "why", "kept")
    rows = [tuple(file.get(key) for key in keys) for file in data["files"]]
    say(wish.form, data, "\n".join(_shown(data)), [keys, *rows])
    return OK


@divergence_.command()
@click.argument("module")
@click.argument("id", required=False)
@with_common
def release(module: str, id: str | None, wish: Wish) -> int:
    """Free what one divergence of MODULE keeps; its files are gone for ever then."""
    agent = Agent(wish)
    one = _one(_asked(agent, module, wish.node), module, id)
    what = f"{one['files']} files, {size(one['bytes'])}, that {one['node']} keeps since {_when(one)}"
    if not wish.yes and not _confirmed(what):
        raise Failure("HF6004", f"{one['id']} is not released")
    freed = agent.post(f"{_place(one)}/release", {})
    data = {"module": module, "node": one["node"], **freed}
    table = f"released: {freed['files']} files, {size(freed['bytes'])} on {one['node']}"
    say(wish.form, data, table, [tuple(data), tuple(data.values())])
    return OK


def _confirmed(what: str) -> bool:
    try:
        return click.confirm(f"Remove {what}, for ever?", err=True)
    except click.Abort:
        click.echo(err=True)  # nobody ended the line
        return False


def _asked(agent: Agent, module: str | None, node: str | None) -> Data:
    asked = agent.get("/divergences" + (f"?module={quote(module)}" if module else ""))
    if node is not None:
        asked["divergences"] = [each for each in asked["divergences"] if each["node"] == node]
    return asked


def _one(asked: Data, module: str, id: str | None) -> Data:
    """The only one that is meant; Failure when there is none, or more than one."""
    found: list[Data] = [each for each in asked["divergences"] if id in (None, each["id"])]
    if len(found) == 1:
        return found[0]
    away = "".join(f"; {node} was not asked: {why}" for node, why in asked["unreachable"].items())
    if not found:
        named = f"no divergence {id}" if id else "no divergence"
        raise Failure("HF4017", f"{named} of {module} is kept{away}")
    names = ", ".join(f"{each['id']} on {each['node']}" for each in found)
    raise Failure("HF4017", f"{module} has more than one: {names}", fix="Name one, or its node with --node.")


def _place(one: Data) -> str:
    return f"/modules/{quote(one['module'])}/divergences/{quote(one['node'])}/{quote(one['id'])}"


def _with_files(agent: Agent, one: Data) -> Data:
    files: list[Data] = []
    after: int | None = 0
    while after is not None:
        page = agent.get(f"{_place(one)}?after={after}")
        files += page["files"]
        after = page["next"]
    return {**one, "count": one["files"], "files": files}


def _when(one: Data) -> str:
    at = one.get("at")
    return datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S") if at else "unknown"


def _listed(asked: Data) -> list[str]:
    lines: list[str] = []
    for one in asked["divergences"]:
        lines += [*_head(one), ""]
    if not asked["divergences"]:
        lines.append("no divergence is kept")
    lines += [f"{node} was not asked: {why}" for node, why in asked["unreachable"].items()]
    if asked["divergences"]:
        lines.append("next: hafarm divergence show MODULE [ID], hafarm divergence release MODULE [ID]")
    return lines


def _head(one: Data) -> list[str]:
    open_ = "" if one["ended"] else "; the copy that sets it aside is not finished"
    rows = [
        ("when", _when(one)),
        ("verdict", one["verdict"] + (f" ({one['why']})" if one["why"] not in ("", one["verdict"]) else "")),
        ("lost", f"{one['lost']}, to {one['kept_by']}" if one["lost"] else "nothing so far"),
        *((f"history of {node}", _lineage(reigns)) for node, reigns in one["lineages"].items()),
        ("kept", f"{one['files']} files, {size(one['bytes'])} on {one['node']}{open_}"),
    ]
    return [f"{one['module']} {one['id']}", *columns(rows, "  ")]


def _lineage(reigns: list[Any]) -> str:
    """The last reigns, each as its epoch and the beginning of its nonce."""
    last = " ".join(f"{epoch}.{str(nonce)[:8]}" for epoch, nonce in reigns[-_REIGNS_SHOWN:])
    return f"... {last}" if len(reigns) > _REIGNS_SHOWN else last or "none"


def _shown(data: Data) -> list[str]:
    many = len({file.get("volume") for file in data["files"]}) > 1
    rows = [
        (
            file["why"],
            size(file["size"]) if file["kept"] else "attributes" if file["attributes"] else "-",
            f"{file['volume']}:{file['path']}" if many else file["path"],
            f"kept as {file['kept']}" if file["kept"] else "",
        )
        for file in data["files"]
    ]
    where = f"kept in .hafarm/quarantine/{data['id']} of the replicated directory on {data['node']}"
    return [*_head({**data, "files": data["count"]}), *columns(rows, "  "), where]
