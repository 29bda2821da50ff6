"""Who owns the files of a mirror, as a first look shows: numbers, which may mean somebody else elsewhere."""

from __future__ import annotations

import itertools
import os
from typing import Final

from orchestrator.replicator import trees
from orchestrator.replicator.verify import Compared

LOOKED_AT: Final = 1000
"""Names of each directory, some milliseconds: who owns them owns most of the rest. `verify` sees all."""


def owners(source: Compared) -> dict[str, list[int]]:
    """The users and groups of the first names of each replicated directory, and of the directory itself."""
    users: set[int] = set()
    groups: set[int] = set()
    for volume in range(source.volumes):
        root = source.tree.root(volume)
        names = itertools.islice(trees.walk(root, volume, source.excluded), LOOKED_AT)
        found = (trees.status_of(root, path) for path, _, _ in names)
        for status in (os.stat(root), *(each for each in found if each is not None)):
            users.add(status.st_uid)
            groups.add(status.st_gid)
    return {"users": sorted(users), "groups": sorted(groups)}
