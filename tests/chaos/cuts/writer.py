"""Applications on the mount: durable and not durable operations, until the file system ends beneath them."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.chaos.cuts.promises import BLOCK, Blocks, Journal, Named, filled

WRITERS: Final = 3
NAMED_MAX: Final = 8
"""Files of each writer that are there at a time."""
_USUAL: Final = frozenset(
    {
        *(errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR),
        *(errno.ENOTDIR, errno.EINVAL, errno.ELOOP, errno.EPERM),
    }
)
"""Answers to operations that make no sense, of which the careless ones are full."""
PACE_S: Final = 0.001
"""An application computes too, and leaves the processor to whom it waits for."""
TURN_S: Final = 20.0
"""So long one operation may be held at most, by the wait for a member that is bid out."""


class Stuck(AssertionError):
    """An application's operation got no answer."""


class Writer:
    """One application: its files, what it was told of them, and how it ended."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.number = number
        self._chance = chance
        self.blocks = Blocks(f"blocks{number}", 10 * number + 1, 4)
        self.config = Blocks(f"config{number}", 10 * number + 2, 1)
        self.journal = Journal(f"journal{number}", 10 * number + 3)
        self.named: list[Named] = []
        self._made = 0
        self.turn = threading.Lock()
        """Held while an operation runs."""
        self.go = threading.Event()
        self.go.set()
        self.ended: tuple[int, str] | None = None
        """When, on the monotonic clock, and by what answer."""
        self.acknowledged = 0
        self._thread: threading.Thread | None = None
        self._stop = False
        self._root = Path()

    def start(self, root: Path) -> None:
        self._root, self._stop, self.ended = root, False, None
        self._thread = threading.Thread(target=self._run, name=f"writer {self.number}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop = True

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(TURN_S)
            if self._thread.is_alive():
                raise Stuck(f"an operation of writer {self.number} has no answer after {TURN_S} s")
            self._thread = None

    def claims(self) -> Iterator[Blocks | Journal | Named]:
        yield from (self.blocks, self.config, self.journal, *self.named)

    def rebase(self, root: Path) -> None:
        for claim in self.claims():
            claim.rebase(root)
        self.named = [one for one in self.named if one.base is not False]

    # --- what it does ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self.turn:
                self._begin()
            while not self._stop:
                with self.turn:
                    self._chance.choice(self._deeds())()
                self.go.wait()
                time.sleep(PACE_S)
        except OSError as fault:
            self.ended = (time.monotonic_ns(), f"{fault.strerror} ({fault.errno})")

    def _begin(self) -> None:
        """The files are there, by names that are durable; a journal's torn end is cut off."""
        for name in (self.blocks.name, self.journal.name):
            with self._opened(name, os.O_CREAT) as fd:
                if name == self.journal.name:
                    os.ftruncate(fd, len(self.journal.whole))
                os.fsync(fd)
        (self._root / f"noise{self.number}").mkdir(exist_ok=True)
        self._sync_folder("")

    def _deeds(self) -> list[Callable[[], None]]:
        durable: list[Callable[[], None]] = [
            *(self._overwrite, self._overwrite_through, self._append, self._replace),
            *(self._make, self._make_below, self._link, self._remove),
        ]
        return [*durable, self._scribble, *[self._noise] * 4]

    @contextmanager
    def _opened(self, name: str, flags: int = 0) -> Iterator[int]:
        fd = os.open(self._root / name, os.O_RDWR | flags, 0o644)
        try:
            yield fd
        finally:
            os.close(fd)

    def _sync_folder(self, name: str) -> None:
        fd = os.open(self._root / name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _put(self, fd: int, at: int) -> None:
        self.blocks.tried[at] += 1
        os.pwrite(fd, filled(self.blocks.owner, self.blocks.tried[at]), at * BLOCK)
        self.blocks.written[at] = self.blocks.tried[at]

    def _overwrite(self) -> None:
        """fsync: what was written before, by whomever, is durable too."""
        with self._opened(self.blocks.name) as fd:
            self._put(fd, self._chance.randrange(self.blocks.count))
            os.fsync(fd)
            self.acknowledged += 1
            for at in range(self.blocks.count):
                self.blocks.acknowledged(at)

    def _overwrite_through(self) -> None:
        """O_DSYNC: this write, and no other."""
        at = self._chance.randrange(self.blocks.count)
        with self._opened(self.blocks.name, os.O_DSYNC) as fd:
            self._put(fd, at)
            self.acknowledged += 1
            self.blocks.acknowledged(at)

    def _scribble(self) -> None:
        """Nobody waits for it."""
        with self._opened(self.blocks.name) as fd:
            self._put(fd, self._chance.randrange(self.blocks.count))

    def _append(self) -> None:
        with self._opened(self.journal.name, os.O_APPEND) as fd:
            for _ in range(self._chance.randrange(1, 4)):
                os.write(fd, self.journal.next())
            os.fdatasync(fd)
            self.acknowledged += 1
            self.journal.acknowledged()

    def _replace(self) -> None:
        """As every editor does it: a draft, synced, and renamed over the file."""
        self.config.tried[0] += 1
        draft = f"{self.config.name}.draft"
        with self._opened(draft, os.O_CREAT | os.O_TRUNC) as fd:
            os.pwrite(fd, filled(self.config.owner, self.config.tried[0]), 0)
            os.fsync(fd)
        os.rename(self._root / draft, self._root / self.config.name)
        self.config.written[0] = self.config.tried[0]
        self._sync_folder("")
        self.acknowledged += 1
        self.config.acknowledged(0)

    def _new(self, folder: str = "") -> Named:
        self._made += 1
        one = Named(f"{folder}made{self.number}-{self._made}", 10 * self.number + 4)
        self.named.append(one)
        return one

    def _there(self) -> list[Named]:
        return [one for one in self.named if not one.leaving]

    def _fill(self, one: Named) -> None:
        with self._opened(one.name, os.O_CREAT | os.O_EXCL) as fd:
            os.pwrite(fd, filled(one.owner, 1), 0)
            os.fsync(fd)

    def _told(self, one: Named, there: bool) -> None:
        self.acknowledged += 1
        one.acknowledged(there)

    def _make(self) -> None:
        if len(self._there()) >= NAMED_MAX:
            return self._remove()
        one = self._new()
        self._fill(one)
        self._sync_folder("")
        return self._told(one, True)

    def _make_below(self) -> None:
        if len(self._there()) >= NAMED_MAX:
            return self._remove()
        folder = f"folder{self.number}-{self._made + 1}"
        one = self._new(folder + "/")
        os.mkdir(self._root / folder)
        self._fill(one)
        self._sync_folder(folder)
        self._sync_folder("")
        return self._told(one, True)

    def _link(self) -> None:
        sure = [one for one in self.named if one.base is True and not one.leaving]
        if not sure or len(self._there()) >= NAMED_MAX:
            return
        source, one = self._chance.choice(sure), self._new()
        os.link(self._root / source.name, self._root / one.name)
        self._sync_folder("")
        self._told(one, True)

    def _remove(self) -> None:
        if not self._there():
            return
        one = self._chance.choice(self._there())
        folder = os.path.dirname(one.name)
        one.leaving = True
        with suppress(FileNotFoundError):
            os.unlink(self._root / one.name)
        if folder:
            with suppress(FileNotFoundError):
                os.rmdir(self._root / folder)
        self._sync_folder("")
        self._told(one, False)

    def _noise(self) -> None:
        """What no sync follows: nothing is claimed of it, but that both nodes have the same in the end."""
        chance = self._chance
        one, other = (self._root / f"noise{self.number}/n{chance.randrange(8)}" for _ in range(2))
        deeds: list[Callable[[], object]] = [
            lambda: self._splash(
                one, chance.randrange(3 * BLOCK), chance.randbytes(chance.randrange(1, BLOCK))
            ),
            lambda: self._splash(one, 0, b"short"),
            lambda: os.truncate(one, chance.randrange(2 * BLOCK)),
            lambda: os.rename(one, other),
            lambda: os.link(one, other),
            lambda: os.symlink(other.name, one),
            lambda: os.mkdir(one),
            lambda: os.rmdir(one),
            lambda: os.unlink(one),
            lambda: os.chmod(one, chance.choice((0o600, 0o644, 0o755))),
            lambda: os.setxattr(one, "user.noise", chance.randbytes(8)),
        ]
        try:
            chance.choice(deeds)()
        except OSError as fault:
            if fault.errno not in _USUAL:
                raise

    def _splash(self, path: Path, at: int, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            os.pwrite(fd, data, at)
        finally:
            os.close(fd)


class Writers:
    """All applications of one mirror."""

    def __init__(self, chance: random.Random) -> None:
        self._each = [Writer(number, random.Random(chance.random())) for number in range(1, WRITERS + 1)]

    @property
    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self._each)

    def start(self, root: Path) -> None:
        for writer in self._each:
            writer.start(root)

    def stop(self) -> list[tuple[int, str]]:
        """Each one's end that it did not choose, told once."""
        for writer in self._each:
            writer.stop()
        for writer in self._each:
            writer.join()
        found = self.ends()
        for writer in self._each:
            writer.ended = None
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Each has had its answer, and asks nothing meanwhile."""
        for writer in self._each:
            writer.go.clear()
        try:
            with ExitStack() as held:
                for writer in self._each:
                    if not writer.turn.acquire(timeout=TURN_S):
                        raise Stuck(f"an operation of writer {writer.number} has no answer after {TURN_S} s")
                    held.callback(writer.turn.release)
                yield
        finally:
            for writer in self._each:
                writer.go.set()

    def ends(self) -> list[tuple[int, str]]:
        """Of those that met an error."""
        return [writer.ended for writer in self._each if writer.ended is not None]

    def missing(self, root: Path, before_ns: float) -> list[str]:
        """What one of them was told before this moment, and is not in this tree."""
        return [
            wrong
            for writer in self._each
            for claim in writer.claims()
            for wrong in claim.missing(root, before_ns)
        ]

    def rebase(self, root: Path) -> None:
        """Nothing of this tree is lost any more."""
        for writer in self._each:
            writer.rebase(root)
