"""Faults one after another, and after each: is everything there, whole, equal; was anything there twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.faults import Undo
from tests.chaos.rig import NotWithin, Rig
from tests.chaos.schedule import Step
from tests.chaos.watch import Spell
from tests.chaos.workloads import STOP_TIMEOUT_S, Unreadable

BRIEF_S = 3.0
"""Beyond its stop limit, how long an old application may live beside the new one: T to notice, a read of the
register, and the scheduling of a busy machine."""
CHECKS = (
    "nothing acknowledged is missing",
    "the application's own checker finds nothing",
    "both disks hold the same tree",
    "hafarm verify finds both copies equal",
    "the address is never answered by two machines",
    "the application never runs on two nodes beyond the configured overlap",
    "service and redundancy come back after each fault",
)


@dataclass
class Report:
    """What came of it; `--json FILE` holds `as_dict`."""

    acknowledged: int = 0
    lost: int = 0
    failovers: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    outage_s: dict[str, float] = field(default_factory=dict)
    held: Counter[str] = field(default_factory=Counter)
    """By check: how often it was looked at and held."""
    broken: dict[str, list[str]] = field(default_factory=dict)
    """By check: each time that it did not hold."""

    def check(self, name: str, wrong: str) -> None:
        if wrong:
            self.broken.setdefault(name, []).append(wrong)
        else:
            self.held[name] += 1

    def add(self, other: Report) -> None:
        """Another part of the same run."""
        self.acknowledged += other.acknowledged
        self.lost += other.lost
        self.failovers += other.failovers
        self.faults += other.faults
        self.held += other.held
        for kind, gap in other.outage_s.items():
            self.outage_s[kind] = max(gap, self.outage_s.get(kind, 0.0))
        for name, wrong in other.broken.items():
            self.broken.setdefault(name, []).extend(wrong)

    @property
    def ok(self) -> bool:
        return not self.broken and all(self.held[name] for name in CHECKS)

    def checks(self) -> list[dict[str, Any]]:
        names = dict.fromkeys([*CHECKS, *self.held, *self.broken])
        return [
            {
                "name": name,
                "ok": name not in self.broken and self.held[name] > 0,
                "detail": " | ".join(self.broken.get(name, [])) or f"held {self.held[name]} times",
            }
            for name in names
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "failovers": self.failovers,
            "faults": dict(sorted(self.faults.items())),
            "outage_s": {kind: round(gap, 3) for kind, gap in sorted(self.outage_s.items())},
            "checks": self.checks(),
        }


class Campaign:
    """Runs steps on one rig; `tell` shows a person what happens."""

    def __init__(self, rig: Rig, overlap: str = "brief", tell: Callable[[str], None] = print) -> None:
        self.rig = rig
        self.report = Report()
        self._tell = tell
        self._overlap = overlap
        self._missing: set[tuple[str, int]] = set()
        self._blind_since: float | None = None
        self._blind: list[tuple[float, float]] = []
        """From when to when a node could not learn that it was replaced."""

    def run(self, steps: Iterable[Step], until: float = float("inf")) -> Report:
        """All steps, or those that begin before `until`; ends early when service does not come back."""
        pending: list[tuple[Step, float]] = []
        for step in steps:
            pending.append((step, self._strike(step)))
            over = time.monotonic() >= until
            if step.hasty and not over:
                continue
            if not self._get_over(pending):
                break
            pending.clear()
            if over:
                break
        else:
            self._get_over(pending)
        return self._conclude()

    # --- one step -----------------------------------------------------------------------------------------

    def _strike(self, step: Step) -> float:
        rig, fault = self.rig, step.fault
        time.sleep(step.delay_s)  # the random moment is the point: there is nothing to wait for
        self._tell(str(step))
        prim = rig.primary()
        second = rig.story.other(prim)
        begun = time.monotonic()
        undo: Undo = fault.strike(rig, prim, second)
        time.sleep(step.hold_s)
        undo()
        # With `overlap: none` a node that hears nobody ends its application by itself.
        excused = fault.blind == "helpless" or (fault.blind == "deaf" and self._overlap == "brief")
        if excused and self._blind_since is None:
            self._blind_since = begun
        self.report.faults[fault.name] += 1
        return begun

    def _get_over(self, pending: list[tuple[Step, float]]) -> bool:
        """Wait for the way back, then look at everything. False: it did not come back."""
        if not pending:
            return True
        rig = self.rig
        where = ", ".join(f"step {step.number} {step.fault.name}" for step, _ in pending)
        back = "service and redundancy come back after each fault"
        try:
            # An agent that is being started is as blind as one that is not there.
            rig.until("all agents answer", rig.answering)
            if self._blind_since is not None:
                self._blind.append((self._blind_since, time.monotonic()))
                self._blind_since = None
            rig.progresses()
            rig.until("redundant", rig.redundant)
            rig.progresses()
        except NotWithin as fault:
            self._check(back, f"{where}: {fault}")
            return False
        self._check(back, "")
        self._note_outage(pending)
        for name, wrong in self._look():
            self._check(name, f"{where}: {wrong}" if wrong else "")
        return True

    def _check(self, name: str, wrong: str) -> None:
        self.report.check(name, wrong)
        if wrong:
            self._tell(f"FAIL {name}: {wrong}")

    def _note_outage(self, pending: list[tuple[Step, float]]) -> None:
        """The longest silence of a fault that came alone; of two at once nobody can say whose it was."""
        if len(pending) == 1:
            ((step, begun),) = pending
            gap = self.rig.clients.longest_gap_s(begun)
            kind = step.fault.kind
            self.report.outage_s[kind] = max(gap, self.report.outage_s.get(kind, 0.0))

    # --- looking ------------------------------------------------------------------------------------------

    def _look(self) -> Iterable[tuple[str, str]]:
        rig = self.rig
        verified = rig.cluster.hafarm(rig.primary(), "verify", "orders", "--wait=60s")
        said = "" if verified.returncode == 0 else (verified.stdout + verified.stderr).strip()[-300:]
        yield "hafarm verify finds both copies equal", said or ("" if verified.returncode == 0 else "failed")
        with rig.paused():
            yield "nothing acknowledged is missing", self._find_missing()
            yield "the application's own checker finds nothing", self._integrity()
            yield "both disks hold the same tree", "; ".join(rig.unequal())[:400]
        yield "the address is never answered by two machines", self._doubles()
        yield from self._overlaps()

    def _find_missing(self) -> str:
        """Rows that clients were told of and that are not there."""
        rig = self.rig
        told = dict(rig.clients.next)
        try:
            present = rig.workload.rows(rig.cluster)
        except Unreadable as fault:
            return f"the rows cannot be read: {fault}"
        new = {
            (client, number)
            for client, following in told.items()
            for number in set(range(following)) - present.get(client, set())
        } - self._missing
        self._missing |= new
        return f"{len(new)} rows, the first {sorted(new)[:3]}" if new else ""

    def _integrity(self) -> str:
        try:
            return self.rig.workload.integrity(self.rig.cluster)
        except Unreadable as fault:
            return str(fault)

    def _doubles(self) -> str:
        answers = self.rig.answers
        assert answers.lives, "nobody looks who answers the address"
        found, answers.doubles = answers.doubles, []
        if not found:
            return ""
        first, last = found[0], found[-1]
        lasted = float(str(last["at"])) - float(str(first["at"]))
        return f"{len(found)} questions within {lasted:.3f} s, first by {first['how']}: {first['double']}"

    def _overlaps(self) -> Iterable[tuple[str, str]]:
        applications = self.rig.applications
        assert applications.looks, "nobody looks where the application runs"
        found, applications.overlaps = applications.overlaps, []
        wrong = [spell for spell in found if excess_s(spell, self._blind, self._overlap) > 0]
        name = "the application never runs on two nodes beyond the configured overlap"
        yield name, "; ".join(f"{spell.length_s:.2f} s on {spell.nodes}" for spell in wrong)

    def _conclude(self) -> Report:
        """The last count, after the clients have ended."""
        rig, report = self.rig, self.report
        rig.clients.finish()
        report.acknowledged = rig.clients.acknowledged
        assert report.acknowledged, "a check of nothing proves nothing"
        self._check("nothing acknowledged is missing", self._find_missing())
        report.lost = len(self._missing)
        report.failovers = rig.answers.failovers
        return report


def excess_s(spell: Spell, blind: Iterable[tuple[float, float]], overlap: str) -> float:
    """How much too long an application ran twice; what a node could not know of does not count.

    `blind`: from when to when one of them could not learn that it was replaced, or not act on it.
    """
    begin = max([spell.begin, *(end for start, end in blind if start <= spell.end and end >= spell.begin)])
    if overlap == "none":
        # What nobody was there to end, no configuration ends: see docs/guarantees.md.
        return spell.length_s if begin == spell.begin else 0.0
    return spell.end - begin - STOP_TIMEOUT_S - BRIEF_S
