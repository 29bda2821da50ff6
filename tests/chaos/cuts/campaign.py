"""Power cuts one after another, each judged: `./run chaos --cuts [--count N] [--seed S] [--resume FILE]`."""

from __future__ import annotations

import itertools
import math
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.chaos.cuts.found import BACK, CHECKS, HALF, SOUND, Findings
from tests.chaos.cuts.node import Struck
from tests.chaos.cuts.plans import Plan, at_step, every
from tests.chaos.cuts.rig import Images, Rig, rig
from tests.chaos.cuts.steps import STEPS
from tests.support.disks import enter_private_mounts

KINDS: Final = ("ext4", "xfs")
COUNT: Final = 2000
PLANS_A_RIG: Final = 27
"""Then a pair on fresh disks of the other kind takes its place."""
TRIES_MAX: Final = 3
"""A step that was not reached is tried so often in its round."""
RESTORES_MAX: Final = 4
LATE_S: Final = 0.5
"""A step that comes by itself, as with the next flush, comes within this."""
BROKEN_MAX: Final = 5
"""Whoever has found so much wants to look at it."""
LEAST: Final = 20
"""Of the whole campaign: cuts at every named step."""
MOST: Final = 1.5
"""So many times the cuts that were asked for, to come to that: a step that stays rare is a finding."""

Tell = Callable[[str], None]


@contextmanager
def images(keep: bool = True) -> Iterator[Images]:
    """In memory where there is some: what a cut costs is the file system's doing, not the device's.

    `keep`: the logs of a pair that met something stay.
    """
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="hafarm-cuts-", dir=shared if shared.is_dir() else None))
    try:
        yield Images(folder)
    finally:
        if not keep or not any(path.is_dir() for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        for path in folder.rglob("*.img"):
            path.unlink()


def run(
    seed: int, count: int, found: Findings, tell: Tell, keep: Callable[[], None], ends_at: float = math.inf
) -> None:
    """So many cuts over both file systems by turns, and then those that some step still lacks.

    Goes on where `found` stands; `keep` is called after each pair, whatever ends it. `ends_at`: on the
    monotonic clock; no plan is begun after it.
    """

    def enough() -> bool:
        late = found.cuts >= count * MOST or found.wrong >= BROKEN_MAX or time.monotonic() >= ends_at
        return late or (found.cuts >= count and not found.rare(least(count)))

    enter_private_mounts()
    with images() as empty:
        while not enough():
            kind = KINDS[found.pairs % len(KINDS)]
            begun, before = time.monotonic(), found.cuts
            try:
                one(
                    empty,
                    kind,
                    _next(seed, count, found),
                    random.Random(seed + found.cuts),
                    found,
                    "",
                    enough,
                    tell,
                )
                found.pairs += 1
            finally:
                keep()
            each_s = (time.monotonic() - begun) / max(found.cuts - before, 1)
            tell(
                f"{found.cuts} cuts, {found.lost} lost, {found.wrong} findings; on {kind} {each_s:.2f} s each"
            )


def _next(seed: int, count: int, found: Findings) -> Iterator[Plan]:
    """For one pair: those of the seed that are next, or once all are made those of the steps with too few."""
    if found.cuts < count:
        for plan in itertools.islice(every(seed), found.plans, found.plans + PLANS_A_RIG):
            found.plans += 1
            yield plan
    else:
        chance = random.Random(seed + found.cuts)
        rare = set(found.rare(least(count)))
        yield from [at_step(step, chance) for step in STEPS if step.name in rare][:PLANS_A_RIG]


def one(
    empty: Images,
    kind: str,
    plans: Iterable[Plan],
    chance: random.Random,
    found: Findings,
    canary: str = "",
    enough: Callable[[], bool] = lambda: False,
    tell: Tell = print,
) -> None:
    """These plans on one pair, until something does not come back."""
    at: object = "the beginning"
    try:
        with rig(empty, kind, chance, found, canary) as pair:
            try:
                for plan in plans:
                    at = plan
                    for _ in range(TRIES_MAX):
                        before = found.wrong
                        reached = carry_out(pair, plan)
                        if found.wrong > before:
                            tell(f"FAIL after {plan}: {list(found.broken.items())[-1]}")
                        if reached or enough():
                            break
                    if enough():
                        break
            finally:
                found.acknowledged += pair.writers.acknowledged
    except (AssertionError, OSError) as fault:
        notes = " ".join(getattr(fault, "__notes__", ()))
        found.check(BACK, f"{at}: {type(fault).__name__}: {fault} {notes}")
        tell(f"FAIL {found.broken[BACK][-1]}")


def carry_out(pair: Rig, plan: Plan) -> bool:
    """Cut, get over it, look at everything. False: the planned step was not reached."""
    assert pair.primary is not None
    number = pair.primary.number
    time.sleep(plan.delay_s if plan.during == "steady" or plan.step else 0)  # the random moment is the point
    pair.strike({"primary": 1 << number, "secondary": 2 >> number, "both": 3}[plan.first])
    pair.plan = plan if plan.during != "steady" else None
    reached = plan.during == "steady"
    for _ in range(RESTORES_MAX):
        try:
            pair.restore()
            _wait_for_the_late(pair)
            pair.judge()
            pair.found.check(BACK, "")
            return reached
        except (Struck, AssertionError, OSError):
            if not pair.trigger.fell:
                raise  # whatever fails beneath a cut fails because of it
            reached = True
            pair.after_a_cut()
    raise AssertionError(f"{RESTORES_MAX} cuts, and one was planned")


def _wait_for_the_late(pair: Rig) -> None:
    end = time.monotonic() + LATE_S
    while pair.plan is not None and time.monotonic() < end:
        pair.look()
        time.sleep(0.005)
    pair.plan = None
    pair.trigger.disarm()
    pair.look()


def least(count: int) -> int:
    """Cuts at every named step, of so many in all."""
    return LEAST * count // COUNT


def judge(found: Findings, count: int) -> bool:
    """Whether every check was made and held, and every step had its share of the cuts."""
    rare = found.rare(least(count))
    by_chance = (HALF, SOUND) if count < COUNT else ()
    made = [name for name in CHECKS if found.held[name] or name in by_chance]
    return not found.wrong and found.cuts >= count and len(made) == len(CHECKS) and not rare


def describe(found: Findings, tell: Tell) -> None:
    tell("\ncuts by step")
    for step in STEPS:
        tell(f"  {step.during:<10} {step.node:<8} {step.name:<28} {found.steps[step.name]:4}")
    tell(f"cuts {found.cuts}: " + ", ".join(f"{name} {number}" for name, number in sorted(found.of.items())))
    tell(f"acknowledged {found.acknowledged}, lost {found.lost}")
    tell(f"copies of a part {found.copies}, which read {found.cold} cold files")
    tell(f"starts that took what was made in the moment of the cut for an edit: {found.young}")
    tell(f"copies of everything {sum(found.fulls.values())}")
    for why, number in found.fulls.most_common():
        tell(f"  {number} x {why}")
    for name in CHECKS:
        broken = found.broken.get(name, [])
        tell(
            f"{'FAIL' if broken else 'ok  '} {name}: {' | '.join(broken) or f'held {found.held[name]} times'}"
        )
