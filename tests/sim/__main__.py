"""Seeds until the time is over, then what they met: `python -m tests.sim --minutes N [--seed S] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from orchestrator.mirror.state import MOVES
from tests.sim.episode import Outcome, play

WEEK_S = 7 * 24 * 3600.0
FIRST_SEED = 1
FAULTS = (
    "agent crash", "agent pause", "clock change", "cut", "cut from the register", "disk error", "heal",
    "isolation", "keeper crash", "one-way cut", "pause", "power cut", "pulse crash", "register outage",
    "register slow and lossy", "replicator crash", "restart", "state disk error",
)  # fmt: skip
EVENTS = (
    "answer lost after its effect", "bid late", "bid refused", "bid take-over", "bid restart", "bid swap",
    "bid member lost", "bid member joined", "bid without an answer", "block copied", "crash between effects",
    "frame refused", "member unproven", "message cut", "message doubled", "message lost", "widening refused",
)  # fmt: skip
NEVER_TAKEN = frozenset({"move WAIT-PRIM"})
"""Needs a swap whose heir has just lost its stream: rare, so its absence in a short run says nothing."""


def wanted() -> list[str]:
    """What a long run must have met at least once, or it proved less than it says."""
    moves = [f"move {one.value}-{two.value}" for one, follow in MOVES.items() for two in follow]
    return [
        *(f"fault {kind}" for kind in FAULTS),
        *EVENTS,
        *(move for move in moves if move not in NEVER_TAKEN),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="sim", description="Play whole clusters under seeds.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, help="play this seed alone and print its story")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the seed to begin with")
    parser.add_argument("--json", type=Path, help="write the rows here")
    asked = parser.parse_args()
    if asked.seed is not None:
        return tell(play(asked.seed, log=True))
    return campaign(asked.minutes, asked.first, asked.json)


def tell(outcome: Outcome) -> int:
    """One seed, event by event."""
    print("\n".join(outcome.log))
    print(f"seed {outcome.seed}: {outcome.events} events, {outcome.faults} faults, trace {outcome.trace:08x}")
    print(outcome.violation or "no violation")
    return 1 if outcome.violation else 0


def campaign(minutes: float, first: int, rows: Path | None) -> int:
    """Seeds one after another until the time is over; fails on a violation, or on what never happened."""
    end = time.monotonic() + 60 * minutes
    began = time.process_time()
    counts: Counter[str] = Counter()
    weeks, seed, broken = 0.0, first, []
    while time.monotonic() < end or seed == first:
        outcome = play(seed)
        counts.update(outcome.counts)
        counts.update(events=outcome.events, faults=outcome.faults, acknowledged=outcome.acknowledged)
        weeks += outcome.simulated_s / WEEK_S
        if outcome.violation:
            broken.append(seed)
            print(f"seed {seed}: {outcome.violation}", file=sys.stderr)
        seed += 1
    cpu_min = (time.process_time() - began) / 60
    figures = {
        "sim_weeks_per_cpu_min": weeks / cpu_min,
        "sim_faults_per_cpu_min": counts["faults"] / cpu_min,
        "sim_role_changes_per_cpu_min": counts["role changes"] / cpu_min,
    }
    report(seed - first, weeks, counts, figures)
    if rows is not None:
        rows.write_text(json.dumps({"rows": as_rows(figures, seed - first)}, indent=1) + "\n")
    missing = [what for what in wanted() if not counts[what]]
    if missing:
        print(f"never happened: {', '.join(missing)}", file=sys.stderr)
    return 1 if broken or missing else 0


def report(seeds: int, weeks: float, counts: Counter[str], figures: dict[str, float]) -> None:
    print(f"{seeds} seeds, {weeks:.2f} cluster-weeks at the cloud preset")
    for name in ("events", "faults", "role changes", "acknowledged"):
        print(f"  {name:<28} {counts[name]:>10,}")
    for name in wanted():
        print(f"  {name:<28} {counts[name]:>10,}")
    for name, value in figures.items():
        print(f"{name}: {value:,.1f}")


def as_rows(figures: dict[str, float], seeds: int) -> list[dict[str, object]]:
    return [
        {"name": name, "value": round(value, 2), "unit": "1/min", "against": "", "n": seeds, "spread": 0}
        for name, value in figures.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
