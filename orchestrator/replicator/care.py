"""What an operator asks of one mirror's copies beside their roles: divergences kept aside, comparisons."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.replicator import divergence
from orchestrator.replicator.control import Request
from orchestrator.replicator.follower import Follower

log = logging.getLogger("hafarm.care")

Tell = Callable[..., None]


class Care:
    """Answers in the thread of whoever asks; what takes long goes on beside, and is told."""

    def __init__(self, roots: Sequence[int], follower: Follower, tell: Tell) -> None:
        """`roots`: the plain directories, for reading. `tell(event, **fields)` reaches the agent."""
        self._roots = roots
        self._follower = follower
        self._tell = tell
        self._looking = threading.Lock()
        self.aside: list[dict[str, Any]] = []
        """The divergences that are kept here, as of the last look."""

    def requests(self) -> dict[str, Request]:
        return {
            "divergences": self._divergences,
            "divergence": self._divergence,
            "release": self._release,
        }

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
