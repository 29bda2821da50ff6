"""One pass of a copy over one volume: both sides looked at in batches, at once; what differs is sent."""

from __future__ import annotations

import functools
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from orchestrator.replicator import ops, summaries, trees
from orchestrator.replicator.blocks import Blocks, Pair
from orchestrator.replicator.codec import Remove
from orchestrator.replicator.places import About, Target, is_new, links_of, may_be_another
from orchestrator.replicator.plan import Progress
from orchestrator.replicator.questions import DIRECTORIES_MAX, LOOKS_MAX, Questions, batches
from orchestrator.replicator.sender import TOLD, Sender, Source
from orchestrator.replicator.summaries import Summary
from orchestrator.replicator.trees import Entry

NAMES_AT_ONCE: Final = 200
"""Names that are put right while no other changes: some 20 ms and one way to the peer and back."""
_BUCKETS_AT_ONCE: Final = 512  # some 50,000 names, whose text is a quarter of what an answer may have
_NAMES_HELD_MAX: Final = 200_000  # of one directory: what the peer alone has may have no end
_LISTED: Final = frozenset({(ops.NAMES, 0), (ops.FRESH, 0), (ops.ALL, 0)})


class Equalizer:
    """Makes what it is pointed at equal on the peer, in one volume."""

    def __init__(
        self,
        source: Source,
        sender: Sender,
        questions: Questions,
        progress: Progress,
        volume: int,
        names: Mapping[int, frozenset[bytes]],
    ) -> None:
        """`names`: by the inode of a directory, the names that changed in it, where that is known."""
        self._source = source
        self._tree = source.tree
        self._root = source.tree.root(volume)
        self._sender = sender
        self._questions = questions
        self._progress = progress
        self._volume = volume
        self._changed = names
        self._full = False
        """All in the directories that are looked at counts, whatever the entries say."""
        self._deep = False
        """What is made in them is looked at next by whoever looks at them."""
        self._whole_tree = False
        self._links: dict[int, list[bytes]] | None = None
        """All names of every object that has several; read when they are needed."""
        self._new: list[bytes] = []
        """Directories made just now, into which nobody has looked yet."""
        self._about: dict[int, About] = {}
        self._paths: dict[int, list[bytes]] = {}
        """Of what may be another object, every name."""
        self._blocks = Blocks(source, sender, questions, progress, volume, self._about)
        self._made: set[bytes] = set()
        """Directories that the peer did not have: all below them was made with them."""
        self._named: set[bytes] = set()
        """Names that the peer was given just now: it has the object, its data and attributes with them."""
        self._directories: dict[bytes, None] = {}
        """Whose own attributes come last: each name made below changes their times."""

    def everything(self) -> None:
        """Compare all there is."""
        self._whole_tree = True
        self._below(b"")
        self._finish_directories()

    def only(self, targets: Mapping[bytes, Target]) -> None:
        """Look at these alone."""
        for path, target in targets.items():
            self._about[target.inode] = target.about
            if target.links > 1 and may_be_another(target.about):
                self._paths.setdefault(target.inode, []).append(path)
        directories = sorted(path for path, target in targets.items() if target.is_directory)
        self._directories.update(dict.fromkeys(directories))
        listed, named = [], []
        for path in directories:
            about, names = targets[path].about, self._changed.get(targets[path].inode)
            if not _LISTED.isdisjoint(about):
                if names is None or is_new(about):
                    listed.append(path)
                else:
                    named += [trees.join(path, name) for name in self._visible(path, names)]
        # A directory's name is right before anything below it is looked at: parents come first. One that the
        # peer does not have yet comes with its name.
        absent = self._listed(listed)
        for batch in batches(sorted(named), len, LOOKS_MAX):
            self._files(batch, targets)
        if self._listed(absent):
            self._sender.missed = True
        for path in directories:
            if (ops.NAMES, ops.WHOLE) in targets[path].about and not self._is_made(path):
                self._below(path)
        self._in_full(path for path in directories if (ops.ALL, 0) in targets[path].about)
        files = sorted(path for path, target in targets.items() if not target.is_directory)
        for batch in batches(files, len, LOOKS_MAX):
            self._files(batch, targets)
        self._finish_directories()

    def _is_made(self, path: bytes) -> bool:
        while path not in self._made and path:
            path = path.rpartition(b"/")[0]
        return path in self._made

    # --- directories ---------------------------------------------------------------------------------------

    def _listed(self, paths: list[bytes]) -> list[bytes]:
        """Compare what these directories hold, by name and attributes, nothing below; what the peer lacks."""
        absent = []
        for batch in batches(paths, len, DIRECTORIES_MAX):
            for path, own, theirs in self._summaries(batch):
                if self._is_made(path):
                    continue
                if theirs is None:
                    absent.append(path)
                else:
                    self._directory(path, own, theirs)
            self._fill_new()
        return absent

    def _fill_new(self) -> None:
        new, self._new = self._new, []
        for path in new:
            self._below(path)

    def _in_full(self, paths: Iterable[bytes]) -> None:
        """Compare everything that is in these directories, and in none below them."""
        self._full = True
        for batch in batches((path for path in paths if not self._is_made(path)), len, DIRECTORIES_MAX):
            self._contents(batch)
        self._full = False
        self._fill_new()

    def _below(self, top: bytes) -> None:
        """Compare everything below a directory that both sides have."""
        self._full = self._deep = True
        self._directories[top] = None
        pending = [top]
        while pending:
            batch, pending = pending[-DIRECTORIES_MAX:], pending[:-DIRECTORIES_MAX]
            pending += self._contents(batch)
        self._full = self._deep = False

    def _contents(self, batch: list[bytes]) -> list[bytes]:
        """Compare what is in these directories; the directories in them."""
        filled: list[tuple[bytes, int]] = []
        below: list[bytes] = []
        for path, own, theirs in self._summaries(batch):
            before = self._progress.files
            looked_at = self._directory(path, own, theirs)
            if own is None:
                continue
            # How many files were among the names that were looked at one by one.
            counted = self._progress.files - before
            self._progress.files += own.count - len(own.directories) - counted
            filled += [(trees.join(path, name), size) for name, size in own.filled if name not in looked_at]
            below += [trees.join(path, name) for name in reversed(own.directories)]
            if len(filled) >= LOOKS_MAX:
                self._equal_files(filled)
                filled = []
        self._equal_files(filled)
        return below

    def _summaries(self, paths: list[bytes]) -> list[tuple[bytes, Summary | None, Summary | None]]:
        self._sender.take_back()
        self._sender.wait_turn()
        wanted = [(path, summaries.buckets_for(self._root, path)) for path in paths]
        excluded = self._source.excluded
        theirs, own = trees.side_by_side(
            functools.partial(self._questions.summaries, self._volume, wanted),
            lambda: [
                summaries.summarize(self._root, self._volume, path, buckets, excluded)
                for path, buckets in wanted
            ],
        )
        return list(zip(paths, own, theirs, strict=True))

    def _directory(self, path: bytes, own: Summary | None, theirs: Summary | None) -> set[bytes]:
        """Put right what differs in one directory; our names that were looked at one by one."""
        self._progress.at(path)
        if own is None or theirs is None or len(own.digests) != len(theirs.digests):
            self._sender.missed = True  # taken away meanwhile, or moved before it was looked at
            return set()
        buckets = len(own.digests)
        differing = [
            at for at in range(buckets) if own.digests[at] != theirs.digests[at] or not theirs.tells_links
        ]
        names = self._other_links(path, own, theirs) if theirs.tells_links else set()
        looked_at = set(names)
        for start in range(0, len(differing), _BUCKETS_AT_ONCE):
            part = differing[start : start + _BUCKETS_AT_ONCE]
            found = summaries.names_in(
                self._root, self._volume, path, buckets, set(part), self._source.excluded
            )
            looked_at.update(found)
            names.update(found)
            if any(theirs.digests[at] for at in part):
                for page in self._questions.names_in(self._volume, path, buckets, part):
                    names.update(self._visible(path, page))
                    if len(names) > _NAMES_HELD_MAX:
                        self._look_at(path, names)
        self._look_at(path, names)
        return looked_at

    def _look_at(self, path: bytes, names: set[bytes]) -> None:
        """Look at these names of one directory; none of them is left."""
        for batch in batches(sorted(names), len, NAMES_AT_ONCE):
            self._names(path, batch)
        if names:
            self._directories[path] = None
        names.clear()

    def _visible(self, path: bytes, names: Iterable[bytes]) -> list[bytes]:
        """Without ours, and what is local to this node: whoever is asked may tell of any."""
        excluded = self._source.excluded
        names = names if path else (name for name in names if name != ops.HIDDEN)
        return [name for name in names if not excluded(self._volume, trees.join(path, name), True)]

    def _chosen(self, path: bytes, entry: Entry | None) -> Entry | None:
        """None also of what is local to its node for the kind that it is of."""
        if entry is None or self._source.excluded(self._volume, path, stat.S_ISDIR(entry["mode"])):
            return None
        return entry

    def _own(self, paths: Sequence[bytes]) -> list[Entry | None]:
        return [self._chosen(path, trees.look(self._root, path)) for path in paths]

    def _theirs(self, paths: Sequence[bytes]) -> list[Entry | None]:
        found = self._questions.look(self._volume, paths)
        return [self._chosen(path, entry) for path, entry in zip(paths, found, strict=True)]

    def _other_links(self, path: bytes, own: Summary, theirs: Summary) -> set[bytes]:
        """Names of objects with several names that must be looked at: they may lead to another one there."""
        names = set()
        for name in self._visible(path, own.linked.keys() | theirs.linked.keys()):
            child = trees.join(path, name)
            here, there = own.linked.get(name), theirs.linked.get(name)
            if here is None or there is None or self._sender.is_another_link(self._volume, here, there):
                names.add(name)
            elif self._full:
                self._sender.claim_link(self._volume, child, here, there)
        return names

    def _names(self, path: bytes, names: list[bytes]) -> None:
        """Look at some names of one directory on both sides, and put them right."""
        self._sender.take_back()
        self._sender.throttle()
        children = [trees.join(path, name) for name in names]
        theirs, own = trees.side_by_side(
            functools.partial(self._theirs, children), functools.partial(self._own, children)
        )
        pairs, wrong = [], []
        for name, child, here, there in zip(names, children, own, theirs, strict=True):
            if here is None or there is None or self._is_other(here, there):
                wrong.append(name)
                if here is not None:
                    self._learn_links(here)
            else:
                self._sender.claim(self._volume, child, here, there["handle"])
                pairs.append(Pair(child, here, there, self._full))
        self._objects(pairs + self._fix(path, wrong))

    def _fix(self, path: bytes, names: list[bytes]) -> list[Pair]:
        """Take away what is too many and make what is missing, while no name changes; what was made."""
        if not names:
            return []
        with self._tree.namespace(self._volume):
            try:
                parent = self._sender.id_at(self._volume, path)
            except FileNotFoundError:
                self._sender.missed = True
                return []
            children = [trees.join(path, name) for name in names]
            theirs = self._theirs(children)
            fixed = [
                pair
                for name, child, there in zip(names, children, theirs, strict=True)
                if (pair := self._fix_one(parent, name, child, there)) is not None
            ]
        self._directories[path] = None
        made = [pair.path for pair in fixed if pair.theirs is None and stat.S_ISDIR(pair.own["mode"])]
        self._made.update(made)
        if not self._deep:
            self._new += made  # else they are among what is looked at next
        return fixed

    def _fix_one(self, parent: int, name: bytes, child: bytes, there: Entry | None) -> Pair | None:
        own = self._chosen(child, trees.look(self._root, child))
        if own is None:
            if there is not None:
                self._sender.emit(Remove(self._volume, parent, name))
            return None
        if there is not None and not self._is_other(own, there):
            self._sender.claim(self._volume, child, own, there["handle"])
            return Pair(child, own, there, self._full)
        if there is not None:
            self._sender.emit(Remove(self._volume, parent, name))
        if self._sender.make(self._volume, parent, child, name, own):
            self._blocks.forget(own)
        self._named.add(child)
        return Pair(child, own, None, True)

    # --- which object it is --------------------------------------------------------------------------------

    def _is_other(self, own: Entry, theirs: Entry) -> bool:
        """What has this name there is another object than what has it here."""
        if self._sender.is_other(self._volume, own, theirs):
            return True
        if self._whole_tree or theirs["links"] < 2 or stat.S_ISDIR(own["mode"]):
            return False
        # Its other names there may be those of an object that nobody looks at now.
        uncertain = self._full or may_be_another(self._about.get(own["inode"], set()))
        return uncertain and not self._has_the_same_names(own, theirs)

    def _has_the_same_names(self, own: Entry, theirs: Entry) -> bool:
        if own["links"] != theirs["links"]:
            return False
        paths = self._names_of(own)
        found = self._questions.look(self._volume, paths)
        return all(entry is not None and entry["handle"] == theirs["handle"] for entry in found)

    def _learn_links(self, own: Entry) -> None:
        """Before another name of it is made: by which of its names does the peer have it?"""
        if self._whole_tree or own["links"] < 2 or stat.S_ISDIR(own["mode"]):
            return  # of a comparison of all there is every name comes along
        if self._sender.is_claimed(self._volume, own):
            return
        paths = self._names_of(own)
        for path, there in zip(paths, self._questions.look(self._volume, paths), strict=True):
            here = trees.look(self._root, path)
            same = here is not None and here["handle"] == own["handle"]
            if same and there is not None and not self._is_other(own, there):
                self._sender.claim(self._volume, path, own, there["handle"])

    def _names_of(self, own: Entry) -> list[bytes]:
        """Every name of an object that has several."""
        known = self._paths.get(own["inode"], [])
        if len(known) >= own["links"]:
            return known
        if self._links is None:
            self._links = links_of(self._root, self._volume, self._source.excluded)
        return self._links.get(own["inode"], known)

    # --- files ---------------------------------------------------------------------------------------------

    def _files(self, paths: list[bytes], targets: Mapping[bytes, Target]) -> None:
        """Make what has these names equal; names beside them are left alone.

        Those that are no targets are looked at for who has them, if anybody.
        """
        self._sender.take_back()
        paths = [path for path in paths if path not in self._named and not self._is_made(path)]
        self._sender.throttle()
        theirs, own = trees.side_by_side(
            functools.partial(self._theirs, paths), functools.partial(self._own, paths)
        )
        pairs: list[Pair] = []
        wrong: dict[bytes, list[bytes]] = {}
        for path, here, there in zip(paths, own, theirs, strict=True):
            target = targets.get(path)
            if target is not None and (here is None or here["inode"] != target.inode):
                self._sender.missed = True  # moved before it was looked at
            elif here is None and there is None:
                continue
            elif here is None or there is None or self._is_other(here, there):
                above, _, name = path.rpartition(b"/")
                wrong.setdefault(above, []).append(name)
                if here is not None:
                    self._learn_links(here)
            else:
                self._sender.claim(self._volume, path, here, there["handle"])
                pairs.append(Pair(path, here, there))
        for above, names in wrong.items():
            for some in batches(names, len, NAMES_AT_ONCE):
                pairs += self._fix(above, some)
        self._objects(pairs)
        self._fill_new()

    def _objects(self, pairs: list[Pair]) -> None:
        """Data, size and attributes of these objects; of directories the attributes come later."""
        written = self._blocks.compare([pair for pair in pairs if stat.S_ISREG(pair.own["mode"])])
        for pair in pairs:
            if stat.S_ISDIR(pair.own["mode"]):
                self._directories[pair.path] = None
                continue
            # One that was sent as a whole, which may have taken its time, is counted already.
            self._progress.files += pair.theirs is not None or pair.path not in written
            self._progress.at(pair.path)
            theirs: dict[str, Any] = pair.theirs or dict.fromkeys(TOLD) | {"xattrs": pair.own.get("xattrs")}
            if pair.path in written:
                theirs = theirs | {"mtime_ns": None}
            # Without an entry of theirs it was made just now; its times are what is left to say.
            self._sender.attributes(self._volume, pair.path, pair.own, theirs)

    def _equal_files(self, files: list[tuple[bytes, int]]) -> None:
        """Of files whose names and attributes are equal, the data; of most this is all there is to do.

        Of many directories together: most have few that are not empty, and each question takes its way.
        """
        for pair in self._blocks.compare_equal(files):
            self._sender.attributes(self._volume, pair.path, pair.own, pair.own | {"mtime_ns": None})

    # --- at the end ----------------------------------------------------------------------------------------

    def _finish_directories(self) -> None:
        """Attributes of directories, the deepest first."""
        for batch in batches(sorted(self._directories, reverse=True), len, LOOKS_MAX):
            self._sender.take_back()
            theirs, own = trees.side_by_side(
                functools.partial(self._theirs, batch), functools.partial(self._own, batch)
            )
            for path, here, there in zip(batch, own, theirs, strict=True):
                if here is not None and there is not None:
                    self._sender.attributes(self._volume, path, here, there)
