"""`./run chaos --minutes N [--seed S] [--json FILE]`: real clusters, faults, and what clients were told."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos.campaign import Campaign, Report
from tests.chaos.cuts import campaign as cuts
from tests.chaos.cuts.found import Findings
from tests.chaos.faults import KINDS
from tests.chaos.postgres import Postgres
from tests.chaos.rig import rig
from tests.chaos.schedule import Step, schedule
from tests.chaos.workloads import Sqlite, Workload
from tests.fidelity import campaign as fidelity
from tests.fidelity.rig import DISKS
from tests.replicator.kills import alone, kill_again_and_again
from tests.support import leftovers
from tests.support.disks import enter_private_mounts

WORKLOADS: dict[str, Callable[[], Workload]] = {"postgresql": Postgres, "sqlite": Sqlite}
BLOCK_S = 150.0
"""One cluster's life before another one, with the other application, takes its place."""
EVERY_KIND_S = 300.0
"""From this length on each kind of fault has had its turn, or the run has failed."""
MINUTES = 5.0
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OVERLAPS = ("brief", "none")


def main() -> int:
    """0 only if every check held and nothing was left."""
    words = argparse.ArgumentParser(prog="run chaos", description=__doc__)
    words.add_argument("--minutes", type=float, help=f"default {MINUTES:g}; with --cuts: end after so many")
    words.add_argument("--seed", type=int, default=None, help="repeats an earlier run")
    words.add_argument("--json", metavar="FILE", help="write what was counted and checked")
    words.add_argument("--workload", choices=sorted(WORKLOADS), help="this application only")
    words.add_argument(
        "--operations", action="store_true", help="file operations instead, beside a bare disk"
    )
    words.add_argument("--replay", metavar="FILE", help="with --operations: run a printed list again")
    words.add_argument("--kills", type=int, metavar="N", help="only the replicator, so many times")
    words.add_argument("--cuts", action="store_true", help="power cuts instead, of the files without agents")
    words.add_argument("--count", type=int, default=cuts.COUNT, help="with --cuts: how many")
    words.add_argument(
        "--resume",
        metavar="FILE",
        type=Path,
        help="with --cuts: go on with the run that it holds, or begin one",
    )
    asked = words.parse_args()
    if asked.cuts:
        return power_cuts(asked)
    asked.minutes = MINUTES if asked.minutes is None else asked.minutes
    if asked.kills:
        return kills(asked)
    if asked.operations:
        return operations(asked)
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 32)
    for number in ENDINGS:
        signal.signal(number, _interrupt)
    print(
        f"seed {seed}; ./run chaos --minutes {asked.minutes:g} --seed {seed} repeats the faults", flush=True
    )
    leftovers.mark()
    begun = time.monotonic()
    names = [asked.workload] if asked.workload else sorted(WORKLOADS)
    try:
        report = run(names, schedule(seed), begun + asked.minutes * 60)
    except KeyboardInterrupt:
        print("interrupted; everything was cleaned up")
        return 130
    judge_kinds(report, time.monotonic() - begun)
    report.check("nothing of the run is left on this machine", "; ".join(leftovers.left()))
    _print(report)
    if asked.json:
        facts = {**report.as_dict(), "seed": seed, "minutes": asked.minutes}
        Path(asked.json).write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if report.ok else 1


def operations(asked: argparse.Namespace) -> int:
    """Sequences of file operations, on the mount and on a bare file system of the same kind."""
    enter_private_mounts()
    if asked.replay:
        found = [(kind, fidelity.replay(Path(asked.replay), kind)) for kind in sorted(DISKS)]
        for kind, difference in found:
            print(f"{kind}: {difference.text if difference else 'no difference'}")
        return int(any(difference for _, difference in found))
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}; --seed {seed} repeats the operations", flush=True)
    facts: dict[str, object] = {"seed": seed, "minutes": asked.minutes}
    try:
        facts["clean"] = fidelity.run(seed, asked.minutes, _tell)
    except fidelity.Found as fault:
        print(f"{fault}\nkeep the list in a file, and --operations --replay FILE runs it again")
        facts["difference"] = fault.difference.text
    if asked.json:
        Path(asked.json).write_text(json.dumps(facts, indent=1) + "\n")
    return int("difference" in facts)


def kills(asked: argparse.Namespace) -> int:
    """The replicator killed below an application that works on its files."""
    enter_private_mounts()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}; --seed {seed} repeats the operations", flush=True)
    with tempfile.TemporaryDirectory(prefix="hafarm-kills-") as base, alone(Path(base)) as mirror:
        mirror.serve()
        report = kill_again_and_again(mirror, asked.kills, seed, _tell)
        said = (Path(base) / "replicator.log").read_text().splitlines()
    for line in () if report.ok else said[-100:]:
        print(line)
    for line in (*report.errors, *report.wrong):
        print(f"FAIL {line}")
    print(
        f"{report.kills} kills, {report.operations} operations, {len(report.errors)} errors,"
        f" {len(report.wrong)} differences, longest stall {report.longest_stall_s:.2f} s"
    )
    if asked.json:
        facts = {**dataclasses.asdict(report), "seed": seed}
        Path(asked.json).write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if report.ok else 1


def power_cuts(asked: argparse.Namespace) -> int:
    """The files of two nodes cut at random moments and at every named step of what they do."""
    known = json.loads(asked.resume.read_text()) if asked.resume and asked.resume.exists() else {}
    seed = known.get("seed", asked.seed)
    if asked.seed not in (None, seed):
        print(f"{asked.resume} holds a run of seed {seed}")
        return 2
    seed = seed if seed is not None else random.SystemRandom().randrange(1 << 32)
    for number in ENDINGS:
        signal.signal(number, _interrupt)
    print(f"seed {seed}; --seed {seed} repeats the cuts", flush=True)
    leftovers.mark()
    found = Findings.from_dict(known) if known else Findings()

    def keep() -> None:
        for path in (asked.resume, asked.json and Path(asked.json)):
            if path:
                draft = path.with_name(f".{path.name}")
                draft.write_text(
                    json.dumps({**found.as_dict(), "seed": seed, "count": asked.count}, indent=1) + "\n"
                )
                draft.replace(path)

    ends_at = math.inf if asked.minutes is None else time.monotonic() + 60 * asked.minutes
    try:
        cuts.run(seed, asked.count, found, _tell, keep, ends_at)
    except KeyboardInterrupt:
        print("interrupted; everything was cleaned up")
    cuts.describe(found, print)
    left = leftovers.left()
    print(f"left on this machine: {left}" if left else "nothing of the run is left on this machine")
    return 0 if cuts.judge(found, asked.count) and not left else 1


def run(names: list[str], steps: Iterator[Step], until: float) -> Report:
    """One cluster after the other, until the time is over."""
    total = Report()
    for name, overlap in zip(itertools.cycle(names), itertools.cycle(_doubled(OVERLAPS)), strict=False):
        print(f"--- {name}, overlap {overlap}", flush=True)
        campaign: Campaign | None = None
        try:
            with rig(WORKLOADS[name](), overlap=overlap) as hurt:
                campaign = Campaign(hurt, overlap, _tell)
                hurt.keep = not campaign.run(steps, min(until, time.monotonic() + BLOCK_S)).ok
        except (AssertionError, OSError, TimeoutError, RuntimeError) as fault:
            notes = " ".join(getattr(fault, "__notes__", ()))
            total.check("the cluster can be built and looked at", f"{type(fault).__name__}: {fault} {notes}")
        finally:
            if campaign is not None:
                total.add(campaign.report)
        if time.monotonic() >= until:
            return total
    raise AssertionError("cycles do not end")


def _doubled(words: tuple[str, ...]) -> list[str]:
    """Each twice, so that both applications meet both."""
    return [word for word in words for _ in range(2)]


def judge_kinds(report: Report, lasted_s: float) -> None:
    if lasted_s >= EVERY_KIND_S:
        met = {name.split("/")[0] for name in report.faults}
        report.check("every kind of fault occurred", ", ".join(kind for kind in KINDS if kind not in met))


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _print(report: Report) -> None:
    print("\nfaults by kind, and the clients' longest silence after one that came alone")
    for kind in KINDS:
        count = sum(number for name, number in report.faults.items() if name.split("/")[0] == kind)
        gap = f"{report.outage_s[kind]:6.2f} s" if kind in report.outage_s else "       -"
        print(f"  {kind:<18} {count:4}  {gap}")
    print(f"failovers {report.failovers}, acknowledged {report.acknowledged}, lost {report.lost}")
    for check in report.checks():
        print(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['detail']}")


def _interrupt(*_: object) -> None:
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)  # whoever asks twice does not break the cleaning up
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
