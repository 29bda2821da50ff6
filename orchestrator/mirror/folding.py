"""A may-differ log that grows long: many entries of objects become one of the directory that holds them.

An object may go into its directory's entry only where it certainly is there: what moved before that entry
came would be looked at where it is not. So what a thread holds stays, and what an earlier life told of; what
changes its name afterwards has entries of its own for all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from orchestrator.mirror import differ
from orchestrator.mirror.differ import ALL, UNUSED, Key, MayDiffer, Place

FOLD_FROM: Final = differ.ENTRIES_MAX // 2
"""Entries with which it begins: the other half is for those that must stay one by one."""

FOLD_EVERY: Final = 1 << 16
"""So many leave at a time, and so many come before it is tried again: a tenth of a second in which whoever
changes something waits, once in as many changes."""

InodeOf = Callable[[bytes], int | None]
"""The inode number in a handle; None where the file system's handles do not tell."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Which entries go, and what stands for them."""

    gone: list[Key] = field(default_factory=list)
    instead: dict[Key, int] = field(default_factory=dict)
    """Entries of directories with their stamps."""
    places: dict[tuple[int, int], Place] = field(default_factory=dict)
    """Of these directories."""


def plan(log: MayDiffer, inode_of: InodeOf, count_max: int) -> Fold:
    """The eldest entries that a directory's can stand for, at most so many."""
    fold = Fold()
    held = {key[:2] for key in log.users}
    above: dict[bytes, int | None] = {}
    for key, stamp in log.stamps.items():
        if len(fold.gone) == count_max:
            break
        volume, inode, what, extent = key
        place = log.places.get((volume, inode))
        if (volume, inode) in held:
            continue
        if place is None:
            if stamp == UNUSED:
                fold.gone.append(key)  # reserved, and needed by nothing yet
        elif place.name:
            if place.directory not in above:
                above[place.directory] = inode_of(place.directory)
            directory = above[place.directory]
            if place.sure and directory is not None:
                fold.places[volume, directory] = Place(place.directory)
                _stand_for(fold, (volume, directory, ALL, 0), key, stamp)
        elif what != ALL and extent == 0:
            own = (volume, inode, ALL, 0)
            if own in log.stamps or own in fold.instead:
                _stand_for(fold, own, key, stamp)
    return fold


def _stand_for(fold: Fold, instead: Key, key: Key, stamp: int) -> None:
    fold.gone.append(key)
    fold.instead[instead] = max(fold.instead.get(instead, UNUSED), stamp)


def carry_out(log: MayDiffer, fold: Fold) -> None:
    """Change the log so. On the disk what stands for others comes first, or both at once."""
    for key in fold.gone:
        del log.stamps[key]
        log.names.pop(key[:2], None)
    for key, stamp in fold.instead.items():
        log.stamps[key] = max(log.stamps.pop(key, UNUSED), stamp)
    log.folds = log.folds or bool(fold.instead)
    nowhere = {key[:2] for key in fold.gone}
    nowhere.difference_update(key[:2] for key in log.stamps)
    for about in nowhere & log.places.keys():
        del log.places[about]
