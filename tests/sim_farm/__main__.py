"""Farms under seeds until the time is over: `-m tests.sim_farm --minutes N [--seed S] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from orchestrator.farm.state import MOVES
from tests.sim_farm.episode import LARGE, Outcome, play, play_large

GRACE_S = 6.0
"""A seed that is still played so long after the end is cut short."""
FULL_FAULTS = 2_000
"""A campaign with so many meets everything that it must; a shorter one is a taste, and may lack the rare."""
LARGE_EVERY = 60
"""Seeds between two of a large farm, which takes as long as ten others."""
FAULTS = (
    "agent crash", "agent restart", "application death", "application does not start", "cut", "flap", "heal",
    "isolation", "loss and delay", "one-way cut", "pause", "power cut", "pulse crash", "split",
    "state disk error", "traffic refused",
)  # fmt: skip
ORDERS = ("Drain", "Leave", "Restart", "Start", "Stop", "Undrain", "Weigh")
RULES = (
    "a chain's next group serves", "a node comes in again and is held out",
    "a node with weight 0 alone serves", "a suspect that stays silent is lost",
    "drained to the last connection", "history recalled",
    "not prepared in time", "shares changed by a loss", "shares changed by plan", "store refused",
    "the drain's limit is over", "the old order is kept", "the old order ends", "two sides meet",
    "who is not heard stands back", "a node that joins is taught",
)  # fmt: skip
EVENTS = (
    "connection found after 1 hop", "connection found after 2 hops",
    "message cut", "message doubled", "message lost", "packet lost", LARGE,
)  # fmt: skip
FIGURES = {
    "farm_sim_hours_per_cpu_min": "hours",
    "farm_sim_faults_per_cpu_min": "faults",
    "farm_sim_views_per_cpu_min": "views",
}


def wanted() -> list[str]:
    """What a whole campaign must have met at least once, or it proved less than it says."""
    return [
        *(
            f"move {one.value}-{two.value}"
            for one, follow in MOVES.items()
            for two in sorted(follow, key=str)
        ),
        *(f"fault {kind}" for kind in FAULTS),
        *(f"order {kind}" for kind in ORDERS),
        *(f"rule: {rule}" for rule in RULES),
        *EVENTS,
    ]


def missing(counts: Counter[str]) -> list[str]:
    """What never happened."""
    return [what for what in wanted() if not counts[what]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./run sim --farm", description="Play whole farms under seeds.")
    parser.add_argument("--farm", action="store_true", help="farms, not mirrors (./run sim)")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument(
        "--seed", type=int, help="the seed to begin with (default: one that is new each time)"
    )
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--story", type=int, metavar="SEED", help="play this seed alone, and print every event"
    )
    parser.add_argument("--large", action="store_true", help="with --story: the seed's farm of 64 nodes")
    asked = parser.parse_args(arguments)
    if asked.story is not None:
        return tell((play_large if asked.large else play)(asked.story, log=True))
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
    simulated_s, seed, broken, longest_s = 0.0, first, 0, 0.0
    # No seed is begun that would, at the pace of the longest one, end too late.
    while time.monotonic() + longest_s < end or seed == first:
        started = time.monotonic()
        outcome = play(seed, over_at=end + GRACE_S)
        longest_s = max(longest_s, time.monotonic() - started)
        played = [outcome]
        if (seed - first) % LARGE_EVERY == LARGE_EVERY // 2:
            played.append(play_large(seed, over_at=end + GRACE_S))
        for outcome in played:
            counts.update(outcome.counts)
            counts.update(events=outcome.events, faults=outcome.faults)
            simulated_s += outcome.simulated_s
            broken += tell_violation(outcome)
        seed += 1
    cpu_min = (time.process_time() - began) / 60
    met = {"hours": simulated_s / 3600, "faults": counts["faults"], "views": counts["views"]}
    figures = {row: met[what] / cpu_min for row, what in FIGURES.items()}
    report(first, seed - first, met["hours"], counts, figures)
    if rows is not None:
        rows.write_text(json.dumps({"rows": as_rows(figures, seed - first)}, indent=1) + "\n")
    absent = missing(counts)
    if absent:
        print(f"never happened: {', '.join(absent)}", file=sys.stderr)
    return 1 if broken or (absent and counts["faults"] >= FULL_FAULTS) else 0


def tell_violation(outcome: Outcome) -> bool:
    """Whether there was one."""
    if outcome.violation:
        large = " --large" if outcome.counts.get(LARGE) else ""
        print(f"seed {outcome.seed}: {outcome.violation}", file=sys.stderr)
        print(f"  ./run sim --farm --story {outcome.seed}{large}   tells how it came", file=sys.stderr)
    return bool(outcome.violation)


def report(first: int, seeds: int, hours: float, counts: Counter[str], figures: dict[str, float]) -> None:
    print(f"{seeds} seeds from {first}, {hours:.1f} hours of farms at the cloud preset")
    for name in ("events", "faults", "views", *wanted()):
        print(f"  {name:<42} {counts[name]:>12,}")
    for name, value in figures.items():
        print(f"{name}: {value:,.1f}")


def as_rows(figures: dict[str, float], seeds: int) -> list[dict[str, object]]:
    return [
        {"name": name, "value": round(value, 2), "unit": "1/min", "against": "", "n": seeds, "spread": 0}
        for name, value in figures.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
