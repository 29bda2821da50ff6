"""One kind of file system three times: bare, below a served mount, and on the node that follows it."""

from __future__ import annotations

import ast
import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.host.fuse.mount import open_device
from orchestrator.replicator.files import Files, Trees
from orchestrator.replicator.settings import VolumeSettings
from orchestrator.replicator.stream import Primary
from tests.fidelity.operations import USERS, Operation, reserves_blocks
from tests.fidelity.trees import differences, picture, settle_pages
from tests.fidelity.worker import Result
from tests.replicator.pair import LYON, PARIS, Pair, record
from tests.support.disks import ext4, xfs
from tests.support.waiting import eventually

DISKS: Final = {"ext4": ext4, "xfs": xfs}
ROOT: Final = Path(__file__).parents[2]
_ARRIVAL_S: Final = 30.0  # of everything on the other node, on a machine that does other things too


@dataclass(frozen=True, slots=True)
class Difference:
    """What one sequence showed: at which operation (None: in the trees afterwards), and what."""

    at: int | None
    text: str


class Mirrored(Pair):
    """Paris serves a real mount, Lyon follows; both in this process, each on a disk of its own."""

    def __init__(self, folder: Path, paris: Path, lyon: Path) -> None:
        super().__init__(folder)
        self.trees = {PARIS: paris, LYON: lyon}

    def begin(self, writeback: bool = False) -> None:
        """Return when both are in sync and the mount takes changes."""
        self.life = life = secrets.token_hex(16)
        alone, both = record(1, life, {PARIS}), record(2, life, {PARIS, LYON})
        self.start_follower(alone)
        history, logs = self.state(PARIS)
        self.primary = Primary(self.settings(PARIS), history, logs, self.tell)
        tree = str(self.trees[PARIS])
        self.fds = (open_device(), os.open(tree, os.O_PATH), os.open(tree, os.O_RDONLY))
        settings = VolumeSettings(tree, (), str(self.folder / f"journal-{life}"))
        self.files = Files(0, settings, self.fds, self.primary, writeback)
        self.primary.serve_tree(Trees([self.files]), 1)
        self.primary.take_reign(alone)
        self.files.start()
        self.files.forget_followed()
        self.files.open_writes()
        eventually(lambda: self.said("member_ready"), _ARRIVAL_S)
        self.primary.widen({LYON})
        self.primary.take_reign(both)

    def tell(self, event: dict[str, Any]) -> None:
        super().tell(event)
        if event["event"] == "member_lost":
            # As an agent would: else whoever syncs a file waits for ever.
            threading.Thread(target=self._go_on_alone, daemon=True).start()

    def _go_on_alone(self) -> None:
        assert self.primary is not None
        self.primary.take_reign(record(3, self.life, {PARIS}))

    @property
    def plain(self) -> str:
        """Paris's tree below the mount."""
        return f"/proc/self/fd/{self.fds[1]}"

    def arrive(self) -> str:
        """Wait until the follower has all on its disk; why it never will."""
        assert self.primary is not None
        self.files.settle_all()
        target = self.primary.flush()
        end = time.monotonic() + _ARRIVAL_S
        while not (lost := self.said("member_lost")):
            peer = self.primary.status()["peers"][LYON]
            if peer["flushed"] >= target:
                return ""
            if time.monotonic() > end:
                return f"nothing arrives: {peer}"
            time.sleep(0.005)
        return f"the follower was lost: {lost[0]['why']}"

    def end(self) -> None:
        self.files.stop()
        self.stop()
        table = self.files.table
        for number in list(table.files):
            table.close_file(number)
        for node in table.nodes.values():
            table.close(node)
        for fd in self.fds:
            os.close(fd)


class Application:
    """Its processes over one directory, one for each user."""

    def __init__(self, directory: Path) -> None:
        self._users = {
            name: subprocess.Popen(
                [sys.executable, "-m", "tests.fidelity.worker", directory, *map(str, ids)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for name, ids in USERS.items()
        }

    def do(self, operation: Operation) -> Result:
        who, *what = operation
        process = self._users[who]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(repr(tuple(what)) + "\n")
        process.stdin.flush()
        answer: Result = ast.literal_eval(process.stdout.readline())
        return answer

    def everybody(self, *what: object) -> None:
        for who in self._users:
            self.do((who, *what))

    def end(self) -> None:
        for process in self._users.values():
            process.communicate()


class Rig:
    """Runs sequences on both sides and says what differed."""

    def __init__(self, base: Path, kind: str, disks: list[Path], writeback: bool = False) -> None:
        self.kind = kind
        self._base, self._writeback = base, writeback
        self._count = 0
        self.bare, self.tree, self.elsewhere = disks[0] / "bare", disks[0] / "tree", disks[1] / "tree"
        for tree in (self.bare, self.tree, self.elsewhere):
            tree.mkdir()
        self._plain_application = Application(self.bare)
        self._begin()

    def _begin(self) -> None:
        folder = self._base / secrets.token_hex(4)
        folder.mkdir()
        self.mirrored = Mirrored(folder, self.tree, self.elsewhere)
        self.mirrored.begin(self._writeback)
        self.application = Application(self.tree)

    def end(self) -> None:
        self._plain_application.end()
        self._end_mirrored()

    def _end_mirrored(self) -> None:
        self.application.end()
        self.mirrored.end()

    def begin_again(self) -> None:
        """After a fault that cost the follower: a new one, over trees that are empty again."""
        self._end_mirrored()
        for tree in (self.tree, self.elsewhere):
            subprocess.run(["rm", "-rf", *tree.iterdir()], check=True)
        self._begin()

    def judge(self, operations: list[Operation]) -> Difference | None:
        """Run one sequence alone; the first difference that it shows."""
        with self.case() as (_, mounted):
            holes = not reserves_blocks(operations)
            found = self._run(operations, mounted.name) or self.compare(mounted.name, holes=holes)
        if self.mirrored.said("member_lost"):
            self.begin_again()
        return found

    @contextlib.contextmanager
    def case(self) -> Iterator[tuple[Path, Path]]:
        """Two empty directories: one on the bare file system, one on the mount."""
        self._count += 1
        roots = (self.bare / f"case-{self._count}", self.tree / f"case-{self._count}")
        mask = os.umask(0)
        try:
            for root in roots:
                root.mkdir(0o777)
        finally:
            os.umask(mask)
        try:
            yield roots
        finally:
            for root in roots:
                subprocess.run(["rm", "-rf", root], check=True)

    def _run(self, operations: list[Operation], case: str) -> Difference | None:
        """Up to the first operation that is answered differently."""
        sides = (self._plain_application, self.application)
        for side in sides:
            side.everybody("enter", case)
        try:
            for at, operation in enumerate(operations):
                expected, got = (side.do(operation) for side in sides)
                if expected != got:
                    text = f"{operation}: {expected} on {self.kind}, {got} on the mount"
                    return Difference(at, text)
        finally:
            for side in sides:
                side.everybody("leave")
        return None

    def compare(self, name: str, bare: bool = True, holes: bool = True) -> Difference | None:
        """The trees of one case: bare, below the mount, through it, on the follower."""
        # XFS reserves blocks ahead of a file's end, and which of them it keeps is a matter of time.
        holes = holes and self.kind == "ext4"
        if self._writeback:
            settle_pages(str(self.tree / name))  # the kernel keeps data and times for half a minute
        if why := self.mirrored.arrive():
            return Difference(None, why)
        plain, here, there = (
            str(root / name) for root in (self.bare, Path(self.mirrored.plain), self.elsewhere)
        )
        for tree in (here, there, *((plain,) if bare else ())):
            settle_pages(tree)
        below = picture(here, True, holes)
        pairs = [
            ("on the follower, and below the mount", picture(there, True, holes), below),
            (
                "through the mount, and below it",
                picture(str(self.tree / name), True, False),
                picture(here, True, False),
            ),
        ]
        if bare:
            views = picture(here, False, holes), picture(plain, False, holes)
            pairs.append(("below the mount, and on the bare file system", *views))
        for what, one, other in pairs:
            if lines := differences(one, other):
                return Difference(None, f"{what}:\n  " + "\n  ".join(lines))
        return None


@contextlib.contextmanager
def rig(base: Path, kind: str, writeback: bool = False, size: str = "512M") -> Iterator[Rig]:
    """Two disks of this kind and size below `base`, with everything on them."""
    with contextlib.ExitStack() as stack:
        disks = [
            stack.enter_context(DISKS[kind](base / f"{name}-{kind}", base / f"at-{name}-{kind}", size))
            for name in ("paris", "lyon")
        ]
        made = Rig(base, kind, disks, writeback)
        stack.callback(made.end)
        yield made
