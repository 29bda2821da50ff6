"""`hafarm status`: one screen that says what is, what a failure now would mean, and what to type next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from orchestrator.cli.agent import Agent
from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import Failure, columns, say, size
from orchestrator.model.codes import DIFFERS, OK
from orchestrator.model.config import ACK_MEMORY

REFRESH_S = 0.5
"""Fast enough to see a failover happen, slow enough to read."""
SIGNS = {
    "ready": ("●", "green"),
    "degraded": ("◐", "yellow"),
    "transient": ("◌", "magenta"),
    "not-ready": ("○", "red"),
}
"""A state has a sign, a word and a colour: none of them is needed to understand the others."""
FLOW = ("connections", "connections_per_s", "packets_per_s", "bytes_per_s")
"""What is known of each node of a farm."""
Data = dict[str, Any]


@click.command()
@click.argument("module", required=False)
@click.option("-w", "--watch", is_flag=True, help="Go on showing it until Ctrl-C.")
@click.option("--check", is_flag=True, help="End with 3 unless every module is redundant.")
@with_common
def status_(module: str | None, watch: bool, check: bool, wish: Wish) -> int:
    """Show all modules, or MODULE."""
    agent = Agent(wish)
    if watch:
        _watch(agent, module)
        return OK
    data = _asked(agent, module)
    say(wish.form, data, "\n".join(shown(data)), _rows(data))
    return DIFFERS if check and not all(map(is_redundant, data["modules"])) else OK


def _asked(agent: Agent, module: str | None) -> Data:
    data = agent.get("/status")
    if module is not None:
        data["modules"] = [each for each in data["modules"] if each["name"] == module]
        if not data["modules"]:
            raise Failure("HF1232", f"no module here is named {module}")
    return data


def is_redundant(module: Data) -> bool:
    """A primary that is ready, and another node in sync beside it; of a farm two nodes that are ready."""
    if module["kind"] == "farm":
        return len([node for node in module["nodes"] if node["phase"] == "ready"]) > 1
    ready = {node["role"] for node in module["nodes"] if node["phase"] == "ready" and node["in_sync"]}
    return {"PRIM", "SECOND"} <= ready


def _watch(agent: Agent, module: str | None) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            try:
                lines = list(shown(_asked(agent, module)))
            except Failure as fault:
                lines = [f"{fault.code}: {fault.message}", f"  {fault.why}"]
            live.update(Text.from_ansi("\n".join([time.strftime("%H:%M:%S"), *lines])), refresh=True)
            time.sleep(REFRESH_S)


# --- the screen --------------------------------------------------------------------------------------------


def shown(data: Data) -> Iterator[str]:
    """All lines."""
    yield f"cluster {data['cluster']}, seen from {data['node']}; {_witness(data)}"
    yield from columns([("", node["name"], _alive(node), _paths(node)) for node in data["nodes"]], "")
    for notice in data.get("notices") or []:
        yield click.style(f"this machine: {notice['kind']}", fg="yellow")
    for module in data["modules"]:
        yield ""
        yield from _module(module)


def _witness(data: Data) -> str:
    witness = data.get("witness") or {}
    kind = witness.get("kind", "witness")
    if kind == "none":
        # Only mirrors ask one, and a file with mirrors names it.
        return "no witness, and nothing that needs one"
    match witness.get("ok"):
        case True:
            rtt = witness.get("rtt_ms")
            return f"{kind} answers" + (f" in {rtt:.1f} ms" if rtt is not None else "")
        case False:
            why = f" ({witness['why']})" if witness.get("why") else ""
            return click.style(f"{kind} does not answer{why}: no role can change", fg="red")
        case _:
            return f"{kind} not asked yet"


def _alive(node: Data) -> str:
    return click.style("alive", fg="green") if node["alive"] else click.style("silent", fg="red")


def _paths(node: Data) -> str:
    if node.get("here"):
        return "this node"
    paths = ", ".join(_path(path) for path in node.get("paths", []))
    troubles = [node[key] for key in ("trouble", "fence") if node.get(key)]
    return "; ".join([paths, *(click.style(text, fg="red") for text in troubles)])


def _path(path: Data) -> str:
    ago = path.get("heard_ago_s")
    heard = (
        "never heard"
        if ago is None
        else f"heard {ago * 1000:.0f} ms ago"
        if ago < 10
        else f"heard {ago:.0f} s ago"
    )
    return f"{path.get('path', '?')} {heard}"


def _module(module: Data) -> Iterator[str]:
    yield f"{click.style(module['name'], bold=True)} ({module['kind']}): {module['headline']}"
    line = _farm_node if module["kind"] == "farm" else _node
    yield from columns([line(node) for node in module["nodes"]], "  ")
    for group in module.get("groups") or []:
        yield f"  {_group(group)}"
    if module.get("ack") == "memory":
        yield f"  {click.style(ACK_MEMORY, fg='yellow')}"
    for node in module["nodes"]:
        if node.get("resync"):
            yield f"    resync of {node['node']}: {in_words(node['resync'])}"
    record = module.get("record")
    if record:
        members = ", ".join(record["in_sync"])
        primary, reason = record["primary"], record.get("reason", "")
        yield f"  epoch {record['epoch']}: primary {primary}, in sync {members} ({reason})"
    for vip in module.get("vip") or []:
        yield f"  {_vip(vip)}"
    for kept in module.get("divergences") or []:
        yield f"  {click.style(_divergence(module['name'], kept), fg='yellow')}"
    yield from _application(module.get("application") or {})
    if module.get("hint"):
        yield f"  next: {click.style(module['hint'], bold=True)}"


def _node(node: Data) -> tuple[str, ...]:
    sign, colour = SIGNS.get(node["phase"], ("?", "red"))
    sync = "in sync" if node["in_sync"] else "not in sync"
    serving = "serving" if node["serving"] else ""
    return (
        node["node"],
        click.style(f"{sign} {node['role']}", fg=colour),
        click.style(node["phase"], fg=colour),
        sync,
        serving,
        node.get("reason") or "",
    )


def _farm_node(node: Data) -> tuple[str, ...]:
    sign, colour = SIGNS.get(node["phase"], ("?", "red"))
    weighed = f"at {node['percent']} %" if node["percent"] != 100 else ""
    return (
        node["node"],
        click.style(f"{sign} {node['role']}", fg=colour),
        click.style(node["phase"], fg=colour),
        f"{node['share'] * 100:.1f} %",
        weighed,
        _flow(node),
        node.get("reason") or "",
    )


def _flow(node: Data) -> str:
    """What a node serves now; nothing where that is not known."""
    words = [] if node.get("connections") is None else [f"{node['connections']} connections"]
    if node.get("bytes_per_s") is not None:
        words += [
            f"{rate(node['connections_per_s'])} new/s",
            f"{rate(node['packets_per_s'])} packets/s",
            f"{size(node['bytes_per_s'])}/s in",
        ]
    return ", ".join(words)


def rate(value: float) -> str:
    """So many digits as are believed."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _group(group: Data) -> str:
    """What of these ports goes to whom, and what this node had of it."""
    ports = f"{'+'.join(group['protocols'])} {','.join(group['ports'])}"
    shares = ", ".join(f"{name} {share * 100:.1f} %" for name, share in group["shares"].items() if share)
    had = f"{group['connections']} connections here, {size(group['taken_bytes'])} taken"
    passed = f", {size(group['passed_bytes'])} passed on" if group["passed_bytes"] else ""
    return f"{group['address']} {ports}: {shares or 'nobody'}; {had}{passed}"


def in_words(progress: Data) -> str:
    """How far a copy is: files, bytes, what differed of them, rate, time left, and the file that it is at."""
    how = "compared in full" if progress["full"] else "by the log"
    words = [
        f"{progress['files']} of {progress['files_total']} files {how}",
        f"{size(progress['bytes'])} of {size(progress['bytes_total'])}, {size(progress['sent'])} sent",
        "paused: hafarm resync MODULE resume" if progress["paused"] else f"{size(progress['rate'])}/s",
    ]
    if progress["eta_s"] is not None:
        words.append(f"{progress['eta_s']:.0f} s left")
    return ", ".join([*words, *([f"at {progress['current']}"] if progress["current"] else [])])


def _divergence(module: str, kept: Data) -> str:
    """One that is open, and what to do; of another node only that there is one is known here."""
    if "count" in kept:
        more = f"see hafarm divergence list {module}"
        return f"divergence: {kept['node']} keeps files of {kept['count']}; {more}"
    names = ", ".join(kept["names"]) + (", ..." if kept["files"] > len(kept["names"]) else "")
    then = f"hafarm divergence show {module} {kept['id']}, then release it"
    if not kept["lost"]:
        return f"changed behind hafarm's back on {kept['node']}: {names}; {then} (HF4020)"
    what = f"{kept['files']} files, {size(kept['bytes'])} set aside on {kept['node']} ({kept['verdict']})"
    return f"divergence: {what}: {names}; {then} (HF4016)"


def _vip(vip: Data) -> str:
    where = f"here, on {vip.get('interface')}" if vip.get("here") else "not here"
    if vip.get("director") is not None:
        where = f"answered by {vip['director'] or 'nobody'}"
    conflict = click.style(f" CONFLICT with {vip['conflict']}", fg="red") if vip.get("conflict") else ""
    return f"virtual IP {vip['address']} {where}{conflict}"


def _application(application: Data) -> Iterator[str]:
    if application.get("running"):
        yield "  application runs here"
    for check in application.get("checks", []):
        if not check["good"]:
            yield click.style(
                f"  check {check['name']}: {check['text']} ({check['failures']} times)", fg="red"
            )


def _rows(data: Data) -> Iterator[tuple[Any, ...]]:
    yield ("module", "node", "role", "phase", "epoch", "in_sync", "serving", "reason", "ack", "share", *FLOW)
    for module in data["modules"]:
        for node in module["nodes"]:
            keys = ("node", "role", "phase", "epoch", "in_sync", "serving", "reason")
            flow = (node.get(key) for key in FLOW)
            yield (
                module["name"],
                *(node.get(key) for key in keys),
                module.get("ack"),
                node.get("share"),
                *flow,
            )
