"""The lineage of one mirror's copy on this node's disk."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

from orchestrator.host.store import JsonFile
from orchestrator.mirror.lineage import LINEAGE, Position, Standing
from orchestrator.model.record import Record, Reign


class History:
    """The standing of this copy: durable before it is believed."""

    def __init__(self, folder: str) -> None:
        self._file = JsonFile(os.path.join(folder, LINEAGE))
        self._lock = threading.Lock()
        found = self._file.read()  # CorruptState: no role on doubt
        self.standing = Standing() if found is None else Standing.from_dict(found)
        self._begun: dict[str, float] = dict((found or {}).get("begun", {}))
        """When this node began under a reign, for people, and never compared."""

    def change(self, **fields: object) -> Standing:
        """Replace these fields durably."""
        with self._lock:
            return self._keep(replace(self.standing, **fields))  # type: ignore[arg-type]

    def advance(self, position: Position) -> Standing:
        """This disk holds everything up to here; a later position of the same stream stands."""
        with self._lock:
            known = self.standing.position
            if known and known.stream == position.stream and known.sequence >= position.sequence:
                return self.standing
            return self._keep(self.standing.at(position))

    def adopt(self, source: Standing, position: Position) -> Standing:
        """A copy from there is whole, and on this disk (G3)."""
        with self._lock:
            return self._keep(self.standing.with_copy(source, position))

    def heard(self) -> Standing:
        """Another node knows of every reign of this one; durable on return."""
        return self.change(unheard=None)

    def add_reign(self, record: Record, unheard: bool = False) -> Standing:
        """This copy goes on under one more reign (G1); durable on return."""
        with self._lock:
            if record.reign not in self.standing.reigns:
                self._begun[_word(record.reign)] = time.time()
            return self._keep(self.standing.with_reign(record.reign, record.forced, unheard))

    def parted(self, other: Standing) -> float | None:
        """When this copy began what the other one does not contain, in seconds since the epoch, if known."""
        own = [_word(reign) for reign in self.standing.reigns if reign not in other.reigns]
        return min((self._begun[word] for word in own if word in self._begun), default=None)

    def _keep(self, standing: Standing) -> Standing:
        if standing != self.standing:
            known = set(map(_word, standing.reigns))
            self._begun = {word: at for word, at in self._begun.items() if word in known}
            self._file.write({**standing.as_dict(), "begun": self._begun})
            self.standing = standing
        return standing


def _word(reign: Reign) -> str:
    return f"{reign.epoch}-{reign.nonce}"
