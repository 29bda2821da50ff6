"""The look at this node's own disk, once a second; nothing here asks the disk, so nothing here can hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from orchestrator.host import disk
from orchestrator.mirror.hang import Finding, OwnDisk
from orchestrator.model.config import HungDiskConfig
from orchestrator.replicator.files import Files
from orchestrator.replicator.stream import Primary

LOOK_S: Final = 1.0
"""Between two looks: little beside the ten seconds after which a disk is said to hang."""


class Hang:
    """Tells when the disk hangs and when it answers again, and gives up the role by policy."""

    def __init__(
        self,
        policy: HungDiskConfig,
        primary: Primary,
        volumes: Sequence[Files],
        tell: Callable[..., None],
        fail: Callable[[str], None],
    ) -> None:
        self.disk = OwnDisk(policy)
        self._primary = primary
        self._volumes = volumes
        self._tell = tell
        self._fail = fail

    def start(self) -> None:
        threading.Thread(target=self._run, name="hang", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            waited_s = disk.longest_wait_s()
            heir = self.disk.hangs and self._primary.has_heir()
            self.disk, finding = self.disk.looked_at(waited_s, heir)
            if finding is Finding.HANGS:
                self._tell("disk_hangs", waited_s=round(waited_s, 1))
            elif finding is Finding.ANSWERS:
                self._tell("disk_answers")
            elif finding is Finding.GIVE_UP:
                self._fail(f"its disk has not answered for {waited_s:.0f} s")
                for files in self._volumes:
                    files.refuse_all()  # else the application could not be ended
