"""Which names of a directory are replicated; one answer for whoever asks: mount, copy, comparison, seal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from orchestrator.model.patterns import Patterns, State, text_of

_KEPT_MAX: Final = (
    4096  # directories whose standing is remembered; names are asked for one directory at a time
)


class Standing(NamedTuple):
    """A replicated directory: what the patterns make of the names in it."""

    excluded: State
    only: State
    covered: bool
    """It matched `only`, or something above it did: all below it is meant."""


class Choice:
    """`exclude` and `only` of one directory. Paths are below it, bytes as the file system has them.

    What matches `exclude` is local to each node, with all below it. With `only`, so is everything but what
    matches that, with all below it, and the directories in which something could match: they lead there.
    """

    def __init__(self, exclude: Iterable[str] = (), only: Iterable[str] = ()) -> None:
        """PatternFault."""
        self.exclude, self.only = tuple(exclude), tuple(only)
        self.everything = not self.exclude and not self.only
        """Nothing is local: nobody has to ask."""
        excluded, chosen = Patterns(self.exclude), Patterns(self.only)
        self._root = Standing(excluded.start, chosen.start, not self.only)
        self._known: dict[bytes, Standing | None] = {}

    def is_local(self, path: bytes, is_directory: bool) -> bool:
        """It is never replicated. What is chosen as a file is chosen as a directory too, not the reverse."""
        if self.everything or not path:
            return False
        above, _, name = path.rpartition(b"/")
        return self.is_local_in(above, name, is_directory)

    def is_local_in(self, directory: bytes, name: bytes, is_directory: bool) -> bool:
        """The same of a name in a directory: asked of a million of them, one directory after the other."""
        if self.everything:
            return False
        standing = self._standing(directory)
        return standing is None or self._judge(standing, name, is_directory)

    def moves(self, directory: bytes, to: bytes) -> bool:
        """A directory may get this other path: whatever is in it stays replicated, or stays local."""
        if self.everything:
            return True
        before, after = self._standing(directory), self._standing(to)
        if before is None or after is None:
            return before is after
        same = before.excluded.places == after.excluded.places and before.covered == after.covered
        return same and (before.covered or before.only.places == after.only.places)

    def _standing(self, directory: bytes) -> Standing | None:
        """None: all in it is local."""
        if not directory:
            return self._root
        try:
            return self._known[directory]
        except KeyError:
            pass
        standing: Standing | None = self._root
        for name in directory.split(b"/"):
            if standing is not None:
                standing = self._enter(standing, name)
        if len(self._known) >= _KEPT_MAX:
            self._known = {}
        self._known[directory] = standing
        return standing

    def _judge(self, standing: Standing, name: bytes, is_directory: bool) -> bool:
        text = text_of(name)
        if standing.excluded.alive and standing.excluded.after(text).accepts:
            return True
        if standing.covered:
            return False
        chosen = standing.only.after(text)
        return not (chosen.accepts or (is_directory and chosen["/"].alive))

    @staticmethod
    def _enter(standing: Standing, name: bytes) -> Standing | None:
        text = text_of(name)
        excluded = standing.excluded.after(text)
        if excluded.accepts:
            return None
        chosen = standing.only.after(text)
        covered = standing.covered or chosen.accepts
        below = chosen["/"]
        return Standing(excluded["/"], below, covered) if covered or below.alive else None
