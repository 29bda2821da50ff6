"""What an operator asks of one mirror's copies beside their roles: divergences, copies, comparisons."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.host.store import JsonFile
from orchestrator.model.errors import CorruptState, HafarmError, StoreFailed
from orchestrator.model.names import NodeName
from orchestrator.model.tested import RATE_ASSUMED
from orchestrator.replicator import divergence
from orchestrator.replicator.control import Request
from orchestrator.replicator.estimate import estimate
from orchestrator.replicator.follower import Follower
from orchestrator.replicator.owners import owners
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
        self._workers = settings.resync_workers
        self._peers = [NodeName(peer.name) for peer in settings.peers]
        self._state = settings.state_directory
        self._roots = roots
        self._primary = primary
        self._follower = follower
        self._tell = tell
        self._looking = threading.Lock()
        self._comparing: set[NodeName] = set()
        self._wish = JsonFile(os.path.join(settings.state_directory, "resync.json"))
        self._rate = 0
        """What the last copy looked at in a second, in bytes."""
        primary.throttle.pause(self._was_paused())
        self.aside: list[dict[str, Any]] = []
        """The divergences that are kept here, as of the last look."""

    def _was_paused(self) -> bool:
        try:
            return bool((self._wish.read() or {}).get("paused"))
        except CorruptState as fault:
            log.warning("the copies are not paused any more: %s", fault)
            return False

    def requests(self) -> dict[str, Request]:
        return {
            "divergences": self._beside(self._divergences),
            "divergence": self._beside(self._divergence),
            "release": self._beside(self._release),
            "verify": self._verify,
            "resync": self._resync,
            "pause_resync": self._pause,
            "estimate": self._beside(self._estimate),
            "owners": self._beside(lambda request: owners(self._primary)),
        }

    def _beside(self, work: Request) -> Request:
        """What may read many files is answered by an event `cared` with the request's `ticket`: whoever asks
        on the same connection waits for nothing."""

        def begin(request: Mapping[str, Any]) -> dict[str, Any]:
            threading.Thread(target=self._serve, args=(work, request), name="care", daemon=True).start()
            return {}

        return begin

    def _serve(self, work: Request, request: Mapping[str, Any]) -> None:
        try:
            told: dict[str, Any] = {"answer": work(request)}
        except HafarmError as fault:
            told = {"error": {"code": fault.code, "text": str(fault)}}
        except (OSError, KeyError, TypeError, ValueError, AssertionError) as fault:
            log.exception("%s failed", request.get("do"))
            told = {"error": {"code": "HF1000", "text": f"{type(fault).__name__}: {fault}"}}
        self._tell("cared", ticket=request.get("ticket"), **told)

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
        return divergence.shown(self._roots, str(request["tag"]), int(request["after"]))

    def _release(self, request: Mapping[str, Any]) -> dict[str, Any]:
        copying = self._follower.applier.copying
        freed = divergence.released(self._roots, str(request["tag"]), copying)
        log.warning("released by order: %s", freed)
        self.look()
        return freed

    # --- copies --------------------------------------------------------------------------------------------

    def heard(self, event: Mapping[str, Any]) -> None:
        """An event of the streams, on its way to the agent."""
        if event["event"] == "progress" and event["rate"]:
            self._rate = int(event["rate"])
        elif event["event"] == "set_aside" or (event["event"] == "copy_done" and self.aside):
            threading.Thread(target=self.look, name="look", daemon=True).start()

    def _resync(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """How far each copy is."""
        throttle = self._primary.throttle
        peers = {
            peer: {
                "state": "copying" if link["copy"] else "streaming" if link["up"] else "away",
                "why": "" if link["up"] else link["why"],
                "progress": link["copy"],
            }
            for peer, link in self._primary.status()["peers"].items()
        }
        return {
            "paused": throttle.paused,
            "rate_max": throttle.rate,
            "workers": self._workers,
            "nodes": peers,
        }

    def _pause(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Hold the copies, or let them go on; it stays so over restarts and changes of role."""
        paused = bool(request["paused"])
        self._wish.write({"paused": paused})
        self._primary.throttle.pause(paused)
        self._primary.tell_progress()
        return {"paused": paused}

    def _estimate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a resync of each peer would look at, and send at most; nothing is changed."""
        peers = self._resync({})["nodes"]
        return {"nodes": {peer: self._of(peer, known, request) for peer, known in peers.items()}}

    def _of(self, peer: NodeName, known: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
        keys, why = self._primary.logs.of[peer].unsettled(), ""
        if request.get("full"):
            keys, why = None, "everything is compared by order"
        elif known["state"] == "streaming":
            keys = []
        elif keys is None:
            why = "the may-differ log alone does not say enough"
        else:
            why = self._primary.logs.of[peer].in_bulk()
        found = estimate(self._primary, keys)
        rate = self._rate or RATE_ASSUMED
        if self._primary.throttle.rate:
            rate = min(rate, self._primary.throttle.rate)
        return {
            **found,
            "state": known["state"],
            "full": keys is None,
            "why": why,
            "rate": rate,
            "rate_is_measured": bool(self._rate),
            "seconds": round(found["bytes"] / rate, 1),
        }

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
