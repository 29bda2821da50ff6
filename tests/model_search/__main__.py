"""Every state within the bounds, by number: `python -m tests.model_search [--quick | --deep]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.model_search.begin import config
from tests.model_search.plans import NODES, PLANS, Plan
from tests.model_search.rules_off import RULES_OFF, Off
from tests.model_search.search import Found, Search

RULE_OFF_S = 30.0
"""Each switched-off rule is found within a second or two of an idle machine."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="model", description="Search the record's protocol exhaustively.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="the small searches: about 20 s")
    size.add_argument("--deep", action="store_true", help="larger bounds: about an hour")
    parser.add_argument("--only", default="", help="searches whose name holds this")
    parser.add_argument(
        "--stories", action="store_true", help="print the shortest story of each rule's absence"
    )
    parser.add_argument("--json", type=Path, help="write the rows here")
    asked = parser.parse_args()
    level = "quick" if asked.quick else "deep" if asked.deep else "default"
    rows: list[dict[str, Any]] = []
    failed = False
    print(HEAD, flush=True)
    for plan in PLANS:
        if asked.only in plan.name and level in plan.levels:
            found = search(plan)
            rows.append(row(plan.name, found) | {"nodes": plan.nodes, "bounds": _bounds(plan)})
            print(line(plan, found), flush=True)
            failed |= _told(found)
    for off in RULES_OFF:
        if asked.only in off.rule:
            found = search_without(off)
            rows.append(row(f"off: {off.rule}", found))
            failed |= not found.violation
            print(line_without(off, found), flush=True)
            if asked.stories:
                print(*(f"    {told}" for told in found.story), sep="\n", flush=True)
    exhausted = sum(1 for each in rows if each["exhausted"])
    states = sum(each["states"] for each in rows)
    verdict = "a claim is VIOLATED" if failed else "no violation"
    print(f"{states:,} states, {exhausted} searches exhausted, {verdict}")
    if asked.json:
        asked.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return 1 if failed else 0


HEAD = (
    f"{'search':24} {'nodes':>5} {'states':>10} {'steps':>11} {'depth':>5} {'CPU s':>6}  "
    "how it ended; what may happen at most"
)


def search(plan: Plan) -> Found:
    """One search, all rules as they are."""
    made = Search(config(*plan.names), plan.bounds)
    return made.run(plan.starts(made), plan.seconds)


def search_without(off: Off) -> Found:
    """One search with one rule switched off, which has to find the harm."""
    made = Search(config(*NODES[: off.nodes]), off.bounds, off.ignored)
    first = off.starts(made)
    with off.switch():
        return made.run(first, RULE_OFF_S)


def line(plan: Plan, found: Found) -> str:
    ended = "VIOLATED" if found.violation else "exhausted" if found.exhausted else "bounded by time"
    return (
        f"{plan.name:24} {plan.nodes:5} {found.states:10,} {found.steps:11,} {found.depth:5} "
        f"{found.seconds:6.1f}  {ended}; {', '.join(_bounds(plan))}"
    )


def line_without(off: Off, found: Found) -> str:
    if not found.violation:
        return f"off: {off.rule}: NOT FOUND in {found.states:,} states"
    steps = sum(1 for told in found.story if not told.startswith(" "))
    return f"off: {off.rule}: {steps} steps, {found.states:,} states: {found.violation}"


def row(name: str, found: Found) -> dict[str, Any]:
    return {
        "name": name,
        "states": found.states,
        "steps": found.steps,
        "depth": found.depth,
        "exhausted": found.exhausted,
        "seconds": round(found.seconds, 1),
        "violation": found.violation,
        "story": found.story,
    }


def _told(found: Found) -> bool:
    """Print the shortest story of a violation; True when there is one."""
    if not found.violation:
        return False
    print(f"VIOLATED: {found.violation}")
    print(*(f"    {told}" for told in found.story), sep="\n", flush=True)
    return True


def _bounds(plan: Plan) -> list[str]:
    return list(_words(plan))


def _words(plan: Plan) -> Iterator[str]:
    bounds = asdict(plan.bounds)
    for name in ("epochs", "writes", "crashes", "losses", "hints", "orders", "outages", "wipes"):
        if bounds[name]:
            yield f"{bounds[name]} {name}"
    if plan.bounds.crashes:
        yield f"of {'/'.join(plan.bounds.deaths)}"
    if plan.bounds.ordered:
        yield f"of {'/'.join(type(order).__name__.lower() for order in plan.bounds.ordered)}"
    if plan.bounds.late_reads:
        yield "late reads"


if __name__ == "__main__":
    sys.exit(main())
