"""Seeds until the time is over, then what they met: `-m tests.sim --minutes N [--seed S] [--json FILE]`."""

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
GRACE_S = 6.0
"""A seed that is still played so long after the end is cut short: the longest take fifty times the usual."""
FULL_FAULTS = 10_000
"""A campaign with so many meets everything that it must; a shorter one is a taste, and may lack the rare."""
FAULTS = (
    "agent crash", "agent pause", "clock change", "cut", "cut from the register", "disk error",
    "edit after a crash", "edit after a power cut", "edit after a stop", "heal",
    "hung disk", "isolation", "keeper crash", "link lost", "one-way cut", "pause", "power cut", "pulse crash",
    "old disk", "register lost", "register outage", "register slow and lossy", "replicator crash", "restart",
    "slow disk", "state disk error",
)  # fmt: skip
EVENTS = (
    "accepted", "answer lost after its effect", "bid late", "bid refused", "bid take-over",
    "bid restart", "bid swap", "bid member lost", "bid member joined",
    "bid promoted by the operator", "bid without an answer", "block copied", "copy broken",
    "copy in full", "crash between effects", "edit listed", "edit served", "edit set aside",
    "frame refused", "message cut", "message doubled", "message lost", "own disk: answers",
    "own disk: give up", "own disk: hangs", "refused HF1205", "refused HF1211",
    "slow member: fast again", "slow member: give up", "slow member: slow",
    "slow member taken in again", "store refused", "verdict diverged", "verdict in sync",
    "verdict in sync, unproven", "verdict target", "verdict target with edits", "widening refused",
)  # fmt: skip
NEVER_TAKEN = frozenset({"move SECOND-PRIM", "move SECOND-STOP", "move ALONE-STOP"})
"""Each needs two rare things at once: their absence in a short campaign says nothing."""
FIGURES = {
    "sim_weeks_per_cpu_min": "weeks",
    "sim_faults_per_cpu_min": "faults",
    "sim_role_changes_per_cpu_min": "role changes",
}


def wanted() -> list[str]:
    """What a whole campaign must have met at least once, or it proved less than it says."""
    moves = [f"move {one.value}-{two.value}" for one, follow in MOVES.items() for two in follow]
    return [
        *(f"fault {kind}" for kind in FAULTS),
        *EVENTS,
        *(move for move in moves if move not in NEVER_TAKEN),
    ]


def missing(counts: Counter[str]) -> list[str]:
    """What never happened."""
    return [what for what in wanted() if not counts[what]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./run sim", description="Play whole clusters under seeds.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument(
        "--seed", type=int, help="the seed to begin with (default: one that is new each time)"
    )
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--story", type=int, metavar="SEED", help="play this seed alone, and print every event"
    )
    asked = parser.parse_args(arguments)
    if asked.story is not None:
        return tell(play(asked.story, log=True))
    # By default seeds that nobody has played: repeating the same ones would find nothing more.
    first = asked.seed if asked.seed is not None else int(time.time()) * 1000
    return campaign(asked.minutes, first, asked.json)


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
    simulated_s, seed, broken, longest_s = 0.0, first, [], 0.0
    # No seed is begun that would, at the pace of the longest one, end too late.
    while time.monotonic() + longest_s < end or seed == first:
        started = time.monotonic()
        outcome = play(seed, over_at=end + GRACE_S)
        longest_s = max(longest_s, time.monotonic() - started)
        counts.update(outcome.counts)
        counts.update(events=outcome.events, faults=outcome.faults, acknowledged=outcome.acknowledged)
        simulated_s += outcome.simulated_s
        if outcome.violation:
            broken.append(seed)
            print(f"seed {seed}: {outcome.violation}", file=sys.stderr)
            print(f"  ./run sim --story {seed}   tells how it came", file=sys.stderr)
        seed += 1
    cpu_min = (time.process_time() - began) / 60
    met = {"weeks": simulated_s / WEEK_S, "faults": counts["faults"], "role changes": counts["role changes"]}
    figures = {row: met[what] / cpu_min for row, what in FIGURES.items()}
    report(first, seed - first, met["weeks"], counts, figures)
    if rows is not None:
        rows.write_text(json.dumps({"rows": as_rows(figures, seed - first)}, indent=1) + "\n")
    absent = missing(counts)
    if absent:
        print(f"never happened: {', '.join(absent)}", file=sys.stderr)
    return 1 if broken or (absent and counts["faults"] >= FULL_FAULTS) else 0


def report(first: int, seeds: int, weeks: float, counts: Counter[str], figures: dict[str, float]) -> None:
    print(f"{seeds} seeds from {first}, {weeks:.2f} cluster-weeks at the cloud preset")
    for name in ("events", "faults", "role changes", "acknowledged", *wanted()):
        print(f"  {name:<30} {counts[name]:>12,}")
    for name, value in figures.items():
        print(f"{name}: {value:,.1f}")


def as_rows(figures: dict[str, float], seeds: int) -> list[dict[str, object]]:
    return [
        {"name": name, "value": round(value, 2), "unit": "1/min", "against": "", "n": seeds, "spread": 0}
        for name, value in figures.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
