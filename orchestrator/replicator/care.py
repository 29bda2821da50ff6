"""What an operator asks of one mirror's copies beside their roles: divergences kept aside, comparisons."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.model.errors import HafarmError, StoreFailed
from orchestrator.model.names import NodeName
from orchestrator.replicator import divergence
from orchestrator.replicator.control import Request
from orchestrator.replicator.follower import Follower
from orchestrator.replicator.settings import Settings
from orchestrator.replicator.stream import Primary
from orchestrator.replicator.verify import Memory, Round

log = logging.getLogger("hafarm.care")

Tell = Callable[..., None]


@dataclass(eq=False)
class Compares(HafarmError):
    """Two comparisons at once would ask the peer's disk for everything twice."""

    code: ClassVar[str] = "HF4019"

    def __str__(self) -> str:
        return "a comparison of this module is under way already"


class Care:
    """Answers in the thread of whoever asks; what takes long goes on beside, and is told."""

    def __init__(
        self, settings: Settings, roots: Sequence[int], primary: Primary, follower: Follower, tell: Tell
    ) -> None:
        """`roots`: the plain directories, for reading. `tell(event, **fields)` reaches the agent."""
        self._peers = [NodeName(peer.name) for peer in settings.peers]
        self._state = settings.state_directory
        self._roots = roots
        self._primary = primary
        self._follower = follower
        self._tell = tell
        self._looking = threading.Lock()
        self._comparing: set[NodeName] = set()
        self.aside: list[dict[str, Any]] = []
        """The divergences that are kept here, as of the last look."""

    def requests(self) -> dict[str, Request]:
        return {
            "divergences": self._divergences,
            "divergence": self._divergence,
            "release": self._release,
            "verify": self._verify,
        }

    # --- divergences ---------------------------------------------------------------------------------------

    def look(self) -> None:
        """See what is kept here, and tell it; after a copy, and once at the start."""
        with self._looking:
            try:
                self.aside = divergence.listed(self._roots)
            except OSError:
                log.exception("the quarantine cannot be read")
                return
        self._tell("aside", divergences=self.aside)

    def _divergences(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.look()
        return {"divergences": self.aside}

    def _divergence(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return divergence.shown(self._roots, str(request["id"]), int(request["after"]))

    def _release(self, request: Mapping[str, Any]) -> dict[str, Any]:
        copying = self._follower.applier.copying
        freed = divergence.released(self._roots, str(request["id"]), copying)
        log.warning("released by order: %s", freed)
        self.look()
        return freed

    # --- comparisons ---------------------------------------------------------------------------------------

    def _verify(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to compare with every peer; `verifying` tells how far it is, `verified` the result.

        With `budget_s` it goes on where the last such one ended; without, everything is compared.
        """
        if self._comparing:
            raise Compares
        self._comparing.update(self._peers)
        budget_s = request.get("budget_s")
        for peer in self._peers:
            work = threading.Thread(target=self._compare, args=(peer, budget_s), name="verify", daemon=True)
            work.start()
        return {}

    def _compare(self, peer: NodeName, budget_s: float | None) -> None:
        memory = Memory(os.path.join(self._state, f"verify.{peer}"))
        round = Round() if budget_s is None else memory.recall()
        try:
            verifier = self._primary.verifier(
                peer, lambda report: self._tell("verifying", peer=peer, report=report)
            )
            told: dict[str, Any] = {"report": verifier.run(round, budget_s)}
        except (OSError, HafarmError) as fault:
            told = {"error": str(fault)}
        if budget_s is not None or "report" in told:
            _keep(memory, round)
        self._comparing.discard(peer)
        self._tell("verified", peer=peer, **told)


def _keep(memory: Memory, round: Round) -> None:
    try:
        memory.keep(round)
    except StoreFailed as fault:
        log.warning("the next comparison begins anew: %s", fault)
