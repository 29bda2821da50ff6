"""`hafarm timings`: every time-out with the formula that gives it, and what the paths have really shown."""

from __future__ import annotations

import os
from typing import Any

import click

from orchestrator.cli.agent import Agent
from orchestrator.cli.options import SOCKET, Wish, with_common
from orchestrator.cli.tell import Failure, columns, say
from orchestrator.model.codes import DIFFERS, OK
from orchestrator.model.config import TimingConfig
from orchestrator.model.timings import CLOCK_RATE_BOUND, TIMER_TICK_S, Timings, derive

CLUSTER_FILE = "/etc/hafarm/hafarm.yaml"
Row = tuple[str, str, float]
"""Name, formula, seconds."""


@click.command()
@click.argument("file", required=False)
@with_common
def timings_(file: str | None, wish: Wish) -> int:
    """Derive all time-outs of FILE (else of /etc/hafarm/hafarm.yaml), measured paths beside them."""
    from orchestrator.config.load import load

    config = load(file or CLUSTER_FILE)
    live = _live(wish)
    rtt_s = float(live.get("register_rtt_s") or 0.0)
    times = derive(config.timing, rtt_s)
    rows = table_of(config.timing, times, rtt_s)
    paths = live.get("paths", [])
    data: dict[str, Any] = {
        "preset": config.preset,
        "register_rtt_s": rtt_s or None,
        "timings": [{"name": name, "formula": formula, "seconds": value} for name, formula, value in rows],
        "paths": [_path(path, times) for path in paths],
        "realtime_refused": list(live.get("realtime_refused", [])),
    }
    say(wish.form, data, "\n".join(_shown(data, times)), [("name", "formula", "seconds"), *rows])
    return OK if times.successor_is_later and all(path["fits"] for path in data["paths"]) else DIFFERS


def _live(wish: Wish) -> dict[str, Any]:
    """What a running agent has measured; nothing when none was named and none runs."""
    named = wish.socket is not None or wish.cluster is not None
    if not named and not os.path.exists(SOCKET):
        return {}
    try:
        return Agent(wish).get("/timings")
    except Failure:
        if named:
            raise
        return {}


def table_of(knobs: TimingConfig, times: Timings, rtt_s: float) -> list[Row]:
    """Every time-out: the same formulas as `model.timings.derive`, which a test holds against it."""
    stretched = (
        f"max({knobs.detection_s:g} s, (2 x {rtt_s:.3g} s + period) / 0.3)" if rtt_s else "as configured"
    )
    return [
        ("period", "as configured", times.period_s),
        ("detection T: a secondary may bid", stretched, times.detection_s),
        ("a primary gives up a silent member", "0.5 T", times.suspect_s),
        ("address lease", "0.8 T", times.lease_s),
        ("left for the bid", "lease - 0.5 T - period", times.register_budget_s),
        ("no verdict on a node never heard", "max(3 T, 1.5 s)", times.start_grace_s),
        ("register's answer", "max(T, 0.5 s)", times.register_timeout_s),
        ("register asked again", "max(T / 2, 0.2 s)", times.retry_s),
        ("pulse goes on without its agent", "fixed", times.agent_grace_s),
        ("member that acknowledges nothing", "fixed", times.ack_timeout_s),
    ]


def _path(path: dict[str, Any], times: Timings) -> dict[str, Any]:
    safe_s = float(path.get("safe_detection_s", 0.0))
    return {
        "peer": path.get("peer"),
        "path": path.get("path"),
        "worst_gap_s": path.get("worst_gap_s"),
        "safe_detection_s": safe_s,
        "fits": safe_s <= times.detection_s,
    }


def _shown(data: dict[str, Any], times: Timings) -> list[str]:
    lines = [f"preset {data['preset']}", ""]
    lines += columns([(row["name"], row["formula"], _time(row["seconds"])) for row in data["timings"]], "  ")
    drift = (1 + CLOCK_RATE_BOUND) / (1 - CLOCK_RATE_BOUND)
    least = times.lease_s * drift + TIMER_TICK_S
    sign = ">=" if times.successor_is_later else "<  TOO SHORT:"
    lines += [
        "",
        f"  T {_time(times.detection_s)} {sign} lease x 1.01 / 0.99 + 10 ms = {_time(least)}: "
        "two nodes never answer one address",
    ]
    if not data["paths"]:
        return [*lines, "", "  no agent runs here: nothing measured"]
    lines += ["", "  measured since the pulse started:"]
    lines += columns([_measured(path) for path in data["paths"]], "  ")
    for refused in data["realtime_refused"]:
        lines.append(click.style(f"  the pulse is not punctual here: {refused}", fg="red"))
    return lines


def _measured(path: dict[str, Any]) -> tuple[str, ...]:
    verdict = "fits" if path["fits"] else click.style("T is too short for what this path has shown", fg="red")
    return (
        f"{path['peer']} by {path['path']}",
        f"worst gap {_time(path['worst_gap_s'] or 0.0)}",
        f"T of {_time(path['safe_detection_s'])} would have been safe",
        verdict,
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"
