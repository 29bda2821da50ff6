"""The may-differ logs of one mirror on this node's disk, and what each thread holds in them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from orchestrator.host.store import sync_directory
from orchestrator.mirror.differ import ALL, Key, Place, PlaceOf, nowhere
from orchestrator.model.errors import StoreFailed
from orchestrator.model.names import NodeName
from orchestrator.replicator.change_log import ChangeLog
from orchestrator.replicator.ops import FRESH, Named

HELD_MAX: Final = 32
"""Entries that one thread holds: the extents that a busy database writes by turns."""


class ChangeLogs:
    """The logs towards every other node; a change is noted in all of them before it is made (S1, S8)."""

    def __init__(self, folder: str, others: Iterable[NodeName]) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        try:
            self.of = {node: ChangeLog(os.path.join(folder, f"may-differ.{node}")) for node in others}
            sync_directory(folder)
        except OSError as fault:
            raise StoreFailed(where=folder, why=fault.strerror or str(fault)) from fault
        self._mine = threading.local()

    def before_change(
        self,
        keys: Iterable[Key],
        sequence: int,
        place_of: PlaceOf = nowhere,
        names: Sequence[Named] | None = None,
    ) -> None:
        """Return when the entries are durable everywhere. `names`: those that change; None: not known.

        A thread holds the entries of its last changes, so that the next change of a hot file is free. One
        that it lets go was used by an earlier call: by now that change is in the stream, or failed; both have
        happened at or before `sequence`, the stream's end as this call sees it.
        """
        held = self._held()
        wanted = dict.fromkeys(keys)
        new = [key for key in wanted if key not in held]
        if not new:
            if names or names is None:
                for log in self.of.values():
                    log.named(wanted, names)
            return
        surplus = max(len(held) + len(new) - HELD_MAX, 0)
        gone = [key for key in held if key not in wanted][:surplus]
        begun = []
        try:
            for log in self.of.values():
                begun.append(log)
                log.hold(new, place_of)
                log.named(wanted, names)
        except OSError:
            for log in begun:
                log.release(new, sequence)  # no change of this thread comes
            raise
        held.update(dict.fromkeys(new))
        self._let_go(gone, sequence)

    def let_go(self, sequence: int) -> None:
        """This thread changes nothing more; what it changed is in the stream up to `sequence`."""
        self._let_go(list(self._held()), sequence)

    def _held(self) -> dict[Key, None]:
        """What this thread holds in every log, oldest first."""
        try:
            held: dict[Key, None] = self._mine.keys
        except AttributeError:
            held = self._mine.keys = {}
        return held

    def _let_go(self, keys: list[Key], sequence: int) -> None:
        held = self._held()
        for key in keys:
            del held[key]
        for log in self.of.values():
            log.release(keys, sequence)

    def made(self, volume: int, inode: int, sequence: int, place: Place | None) -> None:
        """Return when a new object's FRESH entry is durable everywhere (S1); it is held as any change's."""
        key = (volume, inode, FRESH, 0)
        for log in self.of.values():
            log.reserve(key, place)
        self.before_change([key], sequence)

    def folded(self, volume: int, directory: int) -> bool:
        """Of this directory one entry may stand for those of what is in it, in some log."""
        return any((volume, directory, ALL, 0) in log.log.stamps for log in self.of.values())

    def moved(self, volume: int, inode: int, place: Place | None) -> None:
        """An object has another place now; nothing waits for a disk."""
        for log in self.of.values():
            log.moved(volume, inode, place)

    def close(self) -> None:
        for log in self.of.values():
            log.close()
