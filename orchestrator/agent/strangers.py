"""Heartbeats that are not our peers': another key, another release, a second machine with one name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FEW: Final = 3
"""So many in one look are no accident: a peer that restarts leaves one or two late frames of its old life."""
LOOK_S: Final = 2.0
"""Forty beats of the fastest preset: far more than FEW where something is wrong."""
Complaint = tuple[str, str]
"""Code and text."""


class Strangers:
    """Compares what the pulse counted with the last look; says what grew, in words for people."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], int] = {}
        self.troubles: dict[str, str] = {}
        """By peer: what is wrong with its heartbeats now."""

    def look(self, status: Mapping[str, Any]) -> list[Complaint]:
        """What there is to complain of since the last look."""
        self.troubles = {}
        found = [complaint for path in status.get("paths", ()) for complaint in self._of_path(path)]
        for peer, known in status.get("peers", {}).items():
            if self._grown(f"{peer}", "strangers", known.get("strangers", 0)) >= FEW:
                text = f"two machines send heartbeats as {peer}"
                self.troubles[peer] = text
                found.append(("HF5005", f"{text}: one of them is a clone; neither is believed for long"))
        return found

    def _of_path(self, path: Mapping[str, Any]) -> list[Complaint]:
        peer, where = str(path["peer"]), f"{path['peer']} {path['path']}"
        heard = self._grown(where, "received", path.get("received", 0))
        refused = self._grown(where, "refused", path.get("refused", 0))
        if self._grown(where, "other_version", path.get("other_version", 0)) >= FEW:
            text = f"{peer}'s heartbeats on path {path['path']} are of another release"
            self.troubles[peer] = text
            return [("HF5004", text)]
        if refused >= FEW and not heard:
            what = "carry another key, or are meant for another machine of this node's name"
            text = f"{peer}'s heartbeats on path {path['path']} {what}"
            self.troubles[peer] = text
            return [("HF5003", text)]
        return []

    def _grown(self, where: str, what: str, now: int) -> int:
        """Since the last look; a pulse that was started anew counts from nothing."""
        before = self._before.get((where, what), 0)
        self._before[where, what] = now
        return now - before if now >= before else now
