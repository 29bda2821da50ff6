"""`hafarm verify`: are the copies equal, while they are in use; all at once, or a part at a time."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli.actions import ended
from orchestrator.cli.agent import Agent
from orchestrator.cli.options import Wish, duration, with_common
from orchestrator.cli.owners import differing
from orchestrator.cli.tell import Failure, columns, say, size
from orchestrator.model.codes import DIFFERS, OK

VERIFY_S = 3600.0
"""A comparison is asked for its result; an hour reads a terabyte."""
Report = dict[str, Any]


@click.command()
@click.argument("module")
@click.option(
    "--budget",
    metavar="TIME",
    callback=duration,
    help="Compare for so long, and go on there the next time.",
)
@with_common
def verify_(module: str, budget: float | None, wish: Wish) -> int:
    """Compare all copies of MODULE while they are in use. 0: equal as far as it came, 3: paths differ."""
    if budget is not None and budget <= 0:
        raise click.BadParameter("some time is needed, such as 30s", param_hint="--budget")
    agent = Agent(wish)
    limit_s = (VERIFY_S if budget is None else VERIFY_S + budget) if wish.wait is None else wish.wait
    operation = agent.follow(agent.act(module, {"action": "verify", "budget_s": budget}), limit_s)
    ended(operation, waited=True)
    reports = _reports(operation.get("result"))
    owners = _owners(agent, module, reports)
    differing = [{"node": node, **each} for node, report in reports.items() for each in report["differing"]]
    data = {
        "module": module,
        "equal": not differing,
        "complete": all(report["complete"] for report in reports.values()),
        "differing": differing,
        "coverage": {node: _coverage(report) for node, report in reports.items()},
        "owners": owners,
    }
    rows = [(each["node"], each["path"], each["what"]) for each in differing]
    lines = [*_told(module, reports, rows), *(f"warning: {text}" for text in owners)]
    say(wish.form, data, "\n".join(lines), [("node", "path", "what"), *rows])
    return DIFFERS if differing else OK


def _reports(result: Any) -> dict[str, Report]:
    """By node, from the primary's answer."""
    reports = result.get("reports") if isinstance(result, dict) else None
    if not isinstance(reports, dict):
        raise Failure("HF6008", f"the comparison ended with {result!r}")
    return dict(sorted(reports.items()))


def _owners(agent: Agent, module: str, reports: dict[str, Report]) -> list[str]:
    """What is wrong with the owners of what was compared: another number or another name on another node."""
    found = [report.get("owners", {}) for report in reports.values()]
    users = [number for each in found for number in each.get("users", ())]
    groups = [number for each in found for number in each.get("groups", ())]
    try:
        texts, unreachable = differing(agent, module, users, groups)
    except Failure as fault:
        return [f"users and groups were not compared: {fault.message}"]
    away = [f"users and groups were not compared with {node}: {why}" for node, why in unreachable.items()]
    return [*(f"{text} (HF4022)" for text in texts), *away]


def _coverage(report: Report) -> Report:
    return {name: value for name, value in report.items() if name not in ("differing", "owners")}


def _told(module: str, reports: dict[str, Report], rows: list[tuple[str, str, str]]) -> list[str]:
    whole = all(report["complete"] for report in reports.values())
    lines = []
    if rows:
        lines.append(f"{len(rows)} path{'s' * (len(rows) != 1)} differ{'s' * (len(rows) == 1)}")
        lines += columns([(f"{node}: {path}", what) for node, path, what in rows])
    else:
        lines.append(f"{module}: all copies are equal" + ("" if whole else " as far as they were compared"))
    lines += [f"{node}: {_covered(report)}" for node, report in reports.items()]
    return lines


def _covered(report: Report) -> str:
    now = f"{report['files']} names and {size(report['bytes'])} in {report['seconds']:.1f} s"
    if report["complete"] and report["files"] == report["covered_files"]:
        return f"compared {now}, all of it"
    total = report["files_total"]
    so_far = f"{report['covered_files']} names" + (f" of {total}" if total else "")
    percent = "" if report["percent"] is None else f" ({report['percent']:.1f} %)"
    to = (
        "all of it is compared"
        if report["complete"]
        else f"the next time it goes on behind {report['position']}"
    )
    return f"compared {now}; since the beginning {so_far}{percent}; {to}"
