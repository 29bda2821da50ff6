"""Make another node's tree equal to the live one here, and say where it is not: what differs travels."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from orchestrator.mirror.differ import Key, Place
from orchestrator.mirror.frames import WireFault
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName
from orchestrator.replicator import ops, trees
from orchestrator.replicator.equalize import Equalizer
from orchestrator.replicator.places import Finder, Target, by_inode, place_at
from orchestrator.replicator.plan import Changes, CopyPlan, Progress
from orchestrator.replicator.questions import Questions
from orchestrator.replicator.sender import Cancelled, Sender, Source

log = logging.getLogger("hafarm.copy")

COUNT_AFTER_S: Final = 5.0
"""Whoever compares everything for so long hears how much it is."""
COUNT_TURN_S: Final = 0.01
COUNT_SHARE: Final = 0.1
"""Of one processor, for counting: it shares the interpreter with the comparison that it tells of."""

PASSES_MAX: Final = 4
"""Passes over what changed meanwhile; the last one holds the names still, so it is always the last."""


class Copier:
    """One copy to one peer: looks at what may differ, in passes, until nothing slipped past."""

    def __init__(
        self,
        source: Source,
        peer: NodeName,
        ask: Callable[[dict[str, Any]], dict[str, Any]],
        plan: CopyPlan,
        done: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._source = source
        self._tree = source.tree
        self._peer = peer
        self._plan = plan
        self._done = done
        self._failed = failed
        self._cancelled = threading.Event()
        self._over = threading.Event()
        """It ended, in whatever way."""
        self._progress = Progress(peer, plan, source.tell, source.throttle)
        self._sender = Sender(source, peer, self._progress, self._cancelled)
        self._questions = Questions(self._asking(ask), lambda: source.outbox.last)
        self._passed_over = 0
        self._touched = Changes()
        self._forget = source.watch_changes(self._touched)
        # A change that is on its way now passed the watchers by; its entries are in use until it is emitted.
        self._touched.note(source.logs.of[peer].in_use())
        self._thread = threading.Thread(target=self._run, name=f"copy to {peer}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """End it, begun or not; what it queued stays queued."""
        self._cancelled.set()
        self._source.throttle.wake()
        self._forget()

    def progress(self) -> dict[str, Any]:
        return self._progress.as_dict()

    def tell_progress(self) -> None:
        self._progress.tell()

    def _asking(self, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def checked(request: dict[str, Any]) -> dict[str, Any]:
            self._sender.check()
            return ask(request)

        return checked

    # --- passes --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._progress.tell()
            if not self._plan.full:
                self._unite()
            self._passes(self._touched)
            self._progress.tell()
            self._done()
        except Cancelled:
            pass
        except (HafarmError, OSError) as fault:
            if not self._cancelled.is_set():
                log.warning("copy to %s stopped: %s", self._peer, fault)
                self._failed(str(fault))
        except Exception as fault:  # of ours: a copy that ends unsaid is waited for for ever
            log.exception("copy to %s stopped", self._peer)
            self._failed(f"{type(fault).__name__}: {fault}")
        finally:
            self._over.set()
            self._forget()

    def _unite(self) -> None:
        """To copy = our log and theirs (S5); theirs is durable in ours before anything is copied (S6)."""
        own = self._source.logs.of[self._peer]
        changed = self._questions.changed()
        if changed is None:
            own.forget_baseline()
            self._plan.full, self._plan.why = True, "the joiner's may-differ log is unreadable"
            return
        places: dict[tuple[int, int], Place | None] = {}
        theirs = [self._here(*entry, places) for entry in changed]
        own.pin(theirs, lambda volume, inode: places.get((volume, inode)))
        self._plan.keys.update(own.keys())

    def _here(
        self,
        volume: int,
        path: bytes,
        what: int,
        extent: int,
        places: dict[tuple[int, int], Place | None],
    ) -> Key:
        """Their entry in our tree; what is not here is a matter of the names around it."""
        if volume >= self._source.volumes:
            raise WireFault(f"its log speaks of the directory number {volume}")
        root = self._tree.root(volume)
        status = trees.status_of(root, path)
        if status is None:
            path, what, extent = _nearest(root, path), ops.NAMES, 0
            status = trees.status_of(root, path) or os.fstat(root)
        if what == ops.NAMES and not stat.S_ISDIR(status.st_mode):
            what, extent = ops.DATA, ops.WHOLE
        if (volume, status.st_ino) not in places:
            place = place_at(root, path)
            # It may be renamed before this place is remembered.
            places[volume, status.st_ino] = place and replace(place, sure=False)
        return (volume, status.st_ino, what, extent)

    def _passes(self, touched: Changes) -> None:
        keys = None if self._plan.full else self._plan.keys
        for number in range(1, PASSES_MAX + 1):
            with ExitStack() as still:
                if number == PASSES_MAX:
                    for volume in range(self._source.volumes):
                        still.enter_context(self._tree.namespace(volume))
                    self._sender.holds_names = True
                before = self._passed_over, touched.moves
                self._pass(keys)
                self._passed_over = self._questions.passed_over()
                if (self._passed_over, touched.moves) == before and not self._sender.missed:
                    return
            # The receiver passed over changes of what it did not have yet, or something moved past us: look
            # at all that was changed meanwhile again.
            keys = touched.keys()
            if keys is None:
                self._plan.full, self._plan.why = True, "more changed during the copy than is remembered"

    def _pass(self, keys: set[Key] | None) -> None:
        """Look at what these entries name; None: at everything."""
        self._sender.begin_pass()
        for volume in range(self._source.volumes):
            # Read before the entries are looked up: a name that comes later travels by itself.
            known = self._source.logs.of[self._peer].names()
            names = {inode: found for (where, inode), found in known.items() if where == volume}
            equalizer = Equalizer(self._source, self._sender, self._questions, self._progress, volume, names)
            if keys is None:
                threading.Thread(target=self._count, args=(volume,), name="count", daemon=True).start()
                equalizer.everything()
                continue
            targets = self._targets(volume, keys, names)
            files = [target for target in targets.values() if not target.is_directory]
            self._progress.expect(len(files), sum(target.size for target in files))
            equalizer.only(targets)

    def _count(self, volume: int) -> None:
        """Say how much a comparison of everything has to look at, if it is still at it after a while."""
        if self._over.wait(COUNT_AFTER_S):
            return
        files = size = 0
        turn = time.thread_time()
        for length in trees.sizes(self._tree.root(volume), volume, self._source.excluded):
            files, size = files + 1, size + length
            if (took_s := time.thread_time() - turn) >= COUNT_TURN_S:
                if self._over.wait(took_s * (1 / COUNT_SHARE - 1)):
                    return
                turn = time.thread_time()
        self._progress.expect(files, size)

    def _targets(
        self, volume: int, keys: set[Key], names: Mapping[int, frozenset[bytes]]
    ) -> dict[bytes, Target]:
        places, placed = self._source.logs.of[self._peer].places()
        finder = Finder(self._tree.root(volume), volume, self._source.excluded)
        return finder.find(by_inode(keys, volume), places, placed, names)


def _nearest(root: int, path: bytes) -> bytes:
    """The deepest directory on the way to this path that is here; from the top, as most of a lie is not."""
    parts = path.split(b"/")
    found = b""
    for part in parts[:-1]:
        below = trees.join(found, part)
        status = trees.status_of(root, below)
        if status is None or not stat.S_ISDIR(status.st_mode):
            break
        found = below
    return found
