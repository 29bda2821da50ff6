"""Whether this node's own disk answers at all: it hangs, answers again, or is not waited for any longer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from orchestrator.model.config import HANG_TOLD_ONLY, HANGS_S, HungDiskConfig


class Finding(Enum):
    """What is new of it."""

    HANGS = "hangs"
    ANSWERS = "answers"
    GIVE_UP = "give up"
    """The policy does not wait for it any longer, and another node can have the role."""


@dataclass(frozen=True, slots=True)
class OwnDisk:
    """The disk below a mirror, as its own replicator sees it; it is looked at now and then."""

    policy: HungDiskConfig = HANG_TOLD_ONLY
    hangs: bool = False
    """It is told that it does."""

    def looked_at(self, waited_s: float, heir: bool) -> tuple[OwnDisk, Finding | None]:
        """What is new, told once. `waited_s`: for how long an answer is awaited; 0: none is.

        `heir`: this node serves, and another one has everything on its disk that clients were told of.
        """
        if waited_s < HANGS_S:
            return replace(self, hangs=False), Finding.ANSWERS if self.hangs else None
        if not self.hangs:
            return replace(self, hangs=True), Finding.HANGS
        enough = self.policy.do == "move" and waited_s >= self.policy.after_s
        return self, Finding.GIVE_UP if enough and heir else None
