"""What a campaign of power cuts counted, and each time that something did not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.cuts.steps import STEPS

MISSING: Final = "nothing acknowledged is missing on the node that serves"
EQUAL: Final = "after a resync both disks hold the same tree"
HALF: Final = "a copy that was half says so after the cut"
LOOKED: Final = "a resync looks at what is hot or changed, or says why at everything"
FELT: Final = "no application feels a cut of another node than its own"
EDITS: Final = "nothing older than the moment of the cut is taken for an edit from outside"
SOUND: Final = "the file system's own checker finds it sound"
BACK: Final = "service and redundancy come back after each cut"
CHECKS: Final = (MISSING, EQUAL, HALF, LOOKED, FELT, EDITS, SOUND, BACK)


@dataclass
class Findings:
    """What came of it; `--json FILE` holds `as_dict`, and `--resume FILE` goes on with it."""

    cuts: int = 0
    plans: int = 0
    """How many of the seed's plans were made."""
    pairs: int = 0
    """How many pairs of nodes they were made on."""
    lost: int = 0
    acknowledged: int = 0
    of: Counter[str] = field(default_factory=Counter)
    """Cuts by who was struck, and by file system."""
    steps: Counter[str] = field(default_factory=Counter)
    """Cuts by named step; at random moments: none."""
    fulls: Counter[str] = field(default_factory=Counter)
    """Copies that compared everything, by the reason that was told."""
    copies: int = 0
    """Copies that looked at a part."""
    young: int = 0
    """Starts that took for an edit what was made in the moment of the cut."""
    cold: int = 0
    """Files that these read and nobody had changed."""
    held: Counter[str] = field(default_factory=Counter)
    broken: dict[str, list[str]] = field(default_factory=dict)

    def cut(self, step: str, who: str, kind: str) -> None:
        self.cuts += 1
        self.of[who] += 1
        self.of[kind] += 1
        if step:
            self.steps[step] += 1

    def full(self, why: str) -> None:
        self.fulls[why] += 1

    def missing(self, wrong: list[str]) -> None:
        self.lost += len(wrong)
        self.check(MISSING, "; ".join(wrong[:5]))

    def check(self, name: str, wrong: str) -> None:
        if wrong:
            self.broken.setdefault(name, []).append(f"after cut {self.cuts}: {wrong}")
        else:
            self.held[name] += 1

    @property
    def wrong(self) -> int:
        """How often something did not hold."""
        return sum(map(len, self.broken.values()))

    def rare(self, least: int) -> list[str]:
        """The steps at which fewer cuts fell."""
        return [step.name for step in STEPS if self.steps[step.name] < least]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Findings:
        """What `as_dict` told of an earlier part of the same run."""
        numbers = ("cuts", "plans", "pairs", "acknowledged", "lost", "copies", "cold", "young")
        counters = {"of": data["of"], "steps": data["steps"], "fulls": data["full"]}
        return cls(
            **{name: data[name] for name in numbers},
            **{name: Counter(counts) for name, counts in counters.items()},
            held=Counter({check["name"]: check["held"] for check in data["checks"]}),
            broken={check["name"]: check["broken"] for check in data["checks"] if check["broken"]},
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "cuts": self.cuts,
            "plans": self.plans,
            "pairs": self.pairs,
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "of": dict(sorted(self.of.items())),
            "steps": {step.name: self.steps[step.name] for step in STEPS},
            "copies": self.copies,
            "cold": self.cold,
            "young": self.young,
            "full": dict(self.fulls),
            "checks": [
                {
                    "name": name,
                    "ok": name not in self.broken,
                    "held": self.held[name],
                    "broken": self.broken.get(name, []),
                }
                for name in CHECKS
            ],
        }
