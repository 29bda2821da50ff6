"""One replicated directory under a real mount, with an outlet that keeps what it is told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from orchestrator.host.fuse.mount import open_device
from orchestrator.replicator import ops
from orchestrator.replicator.files import Files
from orchestrator.replicator.ops import ChangeKey, Named, Operation
from orchestrator.replicator.settings import VolumeSettings


class Recorder:
    """An outlet that keeps everything, and answers durable points when it is told to."""

    def __init__(self) -> None:
        self.binding = 1
        self.sent: list[Operation] = []
        self.keys: set[ChangeKey] = set()
        self.moves: list[int] = []
        self.names: set[Named] = set()
        self.held: list[Callable[[int], None]] = []
        self.hold = False
        self.synced_here: list[int] = []
        self.hurried: list[Operation] = []
        """What was sent and has left, as somebody said that it should."""
        self.promised: list[Operation] = []
        """What was sent with the promise of such a hurry."""
        self._owed: set[int] = set()
        """By whose thread: sent so that nobody else lets it leave."""
        self._lock = threading.Lock()

    def emit(self, operation: Operation, hurried: bool = False) -> int:
        with self._lock:
            self.sent.append(operation)
            if hurried:
                self.promised.append(operation)
                self._owed.add(threading.get_ident())
            return len(self.sent)

    def before_change(self, keys: Iterable[ChangeKey], names: Sequence[Named] | None = None) -> None:
        self.keys.update(keys)
        self.names.update(names or ())

    def made(self, volume: int, inode: int) -> None:
        self.keys.add((volume, inode, ops.FRESH, 0))

    def folded(self, volume: int, directory: int) -> bool:
        return False

    def moved(self, volume: int, inode: int) -> None:
        self.moves.append(inode)

    def hurry(self) -> None:
        with self._lock:
            self.hurried = list(self.sent)
            self._owed.discard(threading.get_ident())

    def owes(self) -> bool:
        """Something was sent in the name of a hurry that has not come."""
        with self._lock:
            return bool(self._owed)

    def synced(self, sequence: int) -> None:
        self.synced_here.append(sequence)

    def when_durable(self, sequence: int, callback: Callable[[int], None]) -> None:
        if self.hold:
            self.held.append(callback)
        else:
            callback(0)


class Mounted:
    def __init__(
        self,
        tree: Path,
        journal: Path,
        exclude: tuple[str, ...] = (),
        writeback: bool = False,
        only: tuple[str, ...] = (),
    ) -> None:
        self.outlet = Recorder()
        self.tree = tree
        self.plain_fd = os.open(tree, os.O_PATH)
        fds = (open_device(), self.plain_fd, os.open(tree, os.O_RDONLY))
        self._roots = fds[1:]
        settings = VolumeSettings(str(tree), exclude, str(journal), only)
        self.files = Files(0, settings, fds, self.outlet, writeback)
        self.files.start()
        self.files.forget_followed()
        self.files.open_writes()
        self.plain = Path(f"/proc/self/fd/{self.plain_fd}")

    def close(self) -> None:
        """What the end of a replicator's process closes too, so that the disk below can go."""
        self.files.stop()
        self.files._settling.join(20)  # it opens what it looks at
        table = self.files.table
        for number in list(table.files):
            table.close_file(number)
        for node in table.nodes.values():
            table.close(node)
        for fd in self._roots:
            os.close(fd)


def sent(mounted: Mounted, kind: type | tuple[type, ...]) -> list[Operation]:
    return [operation for operation in mounted.outlet.sent if isinstance(operation, kind)]
