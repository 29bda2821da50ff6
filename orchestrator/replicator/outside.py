"""Edits behind hafarm's back: looked for before each mount is used, listed, and never merged in silence."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from orchestrator.host import disk
from orchestrator.host.store import JsonFile, write_durable
from orchestrator.mirror.lineage import Verdict
from orchestrator.model.errors import CorruptState
from orchestrator.model.names import NodeName, Nonce
from orchestrator.replicator import quarantine, seal, trees
from orchestrator.replicator.divergence import readable
from orchestrator.replicator.history import History
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.ops import ALL, FRESH, HIDDEN, NAMES, ChangeKey
from orchestrator.replicator.quarantine import HERE_CHANGED, Listed, Quarantine
from orchestrator.replicator.seal import Excluded, Finding

log = logging.getLogger("hafarm.outside")

MARK_EVERY_S: Final = 5.0
"""While nothing changes."""
BUSY_MARK_S: Final = 0.2
"""After a change: what is younger than the mark when all ends is no more than what a moment brings."""
SLACK_S: Final = 1.0
"""So late after the mark a change may still be ours: five of its periods, for a thread that had to wait."""
MARKER: Final = b"marker"
NAMES_TOLD: Final = 20  # in an event; all of them are in the list
KEYS_AT_A_TIME: Final = 1 << 16  # in one append to a may-differ log
_SEALED, _MOUNTED = "sealed", "mounted"


class Outside:
    """The record of what is ours in the plain trees of one mirror: taken, believed, and checked.

    While it is believed, no other record of the trees is made: what an unfinished check would have found
    must not become what the next one compares with.
    """

    def __init__(
        self,
        folder: str,
        node: NodeName,
        roots: Sequence[int],
        excluded: Excluded,
        history: History,
        logs: ChangeLogs,
        life: Nonce,
        note: str,
        patterns: str = "",
    ) -> None:
        """`folder`: the module's state directory. `roots`: the plain directories, for reading. `note`: a file
        that a boot takes away, for the marks that the disk may lose. `patterns`: what is replicated."""
        self._node = node
        self._roots = roots
        self._excluded = excluded
        self._patterns = patterns
        self._history = history
        self._logs = logs
        self._life = life
        self._note = note
        self.busy = threading.Event()
        """Set by whoever changed something in the trees."""
        self._trust = JsonFile(os.path.join(folder, "trust.json"))
        self._seal = os.path.join(folder, "seal")
        self._ended = threading.Event()
        self.disk_failed: Callable[[str], None] = lambda why: None
        """Called when the mark finds what nobody else would: that the disk of an idle node failed."""
        self.checked = threading.Event()
        """The look is over, for better or worse: whoever waits for it goes on."""
        self._trusted = False
        """The trees are known to be ours, or what is not is listed durably."""
        self.found: dict[str, Any] | None = None
        """What the check of this life found, until the agent has told it; None: nothing."""
        for log_of_peer in logs.of.values():
            log_of_peer.before_retiring = self._mark_durably

    # --- the check -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look once in the life of a keeper, under the mount, before anything is written or followed.

        Raises OSError, StoreFailed: the trees or their record could not be read, or the findings kept.
        """
        known = self._known()
        if known.get("state") != _MOUNTED or known.get("life") != self._life:
            began = time.monotonic()
            self._keep(list(self._findings(known)))
            self._believe()
            log.info("looked for edits in %.2f s", time.monotonic() - began)
        self._trusted = True
        self.checked.set()
        threading.Thread(target=self._mark_now_and_then, name="mark", daemon=True).start()

    def _known(self) -> dict[str, Any]:
        try:
            return self._trust.read() or {}
        except CorruptState as fault:
            log.error("%s", fault)
            return {}

    def _findings(self, known: dict[str, Any]) -> Iterator[Finding]:
        state = known.get("state")
        if state == _SEALED:
            blobs = self._sealed(known)
            if blobs is not None:
                yield from seal.compare(blobs, self._roots, self._excluded)
                return
        elif state == _MOUNTED:
            marks = [self._marked_at(root) for root in self._roots]
            # Names that these patterns replicate and others did not may be as old as they like.
            if None not in marks and known.get("patterns", self._patterns) == self._patterns:
                yield from self._after_a_crash([mark or 0 for mark in marks], known)
                return
        if self._history.standing.reigns:
            # Nothing is known of what happened to this copy: everything in it is in doubt.
            for volume, root in enumerate(self._roots):
                inode = os.fstat(root).st_ino
                yield Finding(volume, b"", _UNKNOWN, inode, inode, True)

    def _sealed(self, known: dict[str, Any]) -> seal.Blobs | None:
        try:
            with open(self._seal, "rb") as file:
                data = file.read()
            if known.get("digest") != _digest(data):
                raise CorruptState("the record of a clean stop", "its checksum differs", self._seal)
            return seal.read(data)
        except (OSError, CorruptState) as fault:
            log.error("%s", fault)
            return None

    def _after_a_crash(self, marks: list[int], known: dict[str, Any]) -> Iterator[Finding]:
        entries = [key for each in self._logs.of.values() for key in each.log.stamps]
        logged = {key[:2] for key in entries}
        folded = {key[:2] for key in entries if key[2] == ALL}
        names_change = {key[:2] for key in entries if key[2] in (NAMES, FRESH, ALL)}
        end = self._end_of_ours(known)

        def is_ours(volume: int, directory: int, status: os.stat_result) -> bool:
            own = (volume, status.st_ino) in logged
            in_all = (volume, directory) in folded and not stat.S_ISDIR(status.st_mode)
            return status.st_ctime_ns <= end and (own or in_all)

        def is_being_made(volume: int, directory: int, path: bytes, status: os.stat_result) -> bool:
            # The entry of a new object needs its number, so it comes a moment after the object. Its name's is
            # durable before, and a comparison of names is all that an object with nothing in it needs.
            may_be = (volume, directory) in names_change and status.st_ctime_ns <= end
            return may_be and _is_bare(self._roots[volume], path, status)

        yield from seal.later(self._roots, self._excluded, marks, is_ours, is_being_made)

    def _end_of_ours(self, known: dict[str, Any]) -> float:
        """Whatever is younger than this, in nanoseconds, is not ours, in a log or not."""
        if known.get("boot") != _boot_id():
            return _booted_at_ns()  # who lost power wrote nothing after that
        try:
            with open(self._note, "rb") as file:
                return int(_NOTE.unpack(file.read(_NOTE.size))[0]) + SLACK_S * 1e9
        except (OSError, struct.error):
            return float("inf")  # nobody knows when the last life ended: the logs alone say what is ours

    # --- what follows from it ------------------------------------------------------------------------------

    def _keep(self, findings: list[Finding]) -> None:
        """Durably: the list, the entries towards every other node, and that this copy is not as it was."""
        if not findings:
            return
        unknown = any(finding.why == _UNKNOWN for finding in findings)
        id = self._list(findings, unknown)
        if unknown:
            for each in self._logs.of.values():
                each.forget_baseline()
            self._history.change(position=None)
        self._pin(list(dict.fromkeys(key for finding in findings for key in finding.may_differ())))
        self._history.change(edited=True)
        names = [f"{each.volume}:{readable(each.path)}" for each in findings[:NAMES_TOLD]]
        self.found = {"id": id, "count": len(findings), "names": names, "unknown": unknown}
        log.warning("%d names changed behind hafarm's back: %s", len(findings), ", ".join(names))

    def _pin(self, keys: list[ChangeKey]) -> None:
        for each in self._logs.of.values():
            for at in range(0, len(keys), KEYS_AT_A_TIME):
                each.pin(keys[at : at + KEYS_AT_A_TIME])

    def _list(self, findings: list[Finding], unknown: bool) -> str:
        about: dict[str, Any] = {
            "at": time.time(),
            "verdict": Verdict.EDITED.value,
            "why": "no record of this copy was there" if unknown else "changed behind hafarm's back",
            "lost": "",
            "kept_by": "",
            "lineages": {self._node: self._history.standing.as_dict()["reigns"]},
            "since": None,
            "everything": unknown,
        }
        id = quarantine.edits(self._roots[0]) or f"{int(about['at'])}-{self._history.standing.epoch}"
        for volume, root in enumerate(self._roots):
            kept = Quarantine(root, id, about)
            try:
                kept.note_all(
                    Listed(each.path, HERE_CHANGED if each.why == _UNKNOWN else each.why, b"", each.inode)
                    for each in findings
                    if each.volume == volume
                )
            finally:
                kept.close()
        return id

    def settled(self) -> None:
        """What was edited is part of the served history now, or was set aside: its list is whole."""
        id = quarantine.edits(self._roots[0])
        for root in self._roots if id else ():
            kept = Quarantine(root, id, {})
            kept.end()
            kept.close()

    # --- the record ----------------------------------------------------------------------------------------

    def _believe(self) -> None:
        """From now on the trees are ours, and whoever finds another life here knows that it crashed."""
        for root in self._roots:
            self._mark(root, durable=True)
        facts = {"life": self._life, "boot": _boot_id(), "patterns": self._patterns}
        self._trust.write({"state": _MOUNTED, **facts})

    def seal(self) -> None:
        """A clean stop: nothing writes any more, and the mount still covers the trees.

        Not of a life that never finished its check: it would make what was edited the truth.
        """
        self._ended.set()
        self.busy.set()
        if not self._trusted:
            return
        data = seal.take(self._roots, self._excluded)
        write_durable(self._seal, data)
        standing = self._history.standing
        position = standing.position.as_list() if standing.position else None
        facts = {"lineage": [reign.as_list() for reign in standing.reigns], "position": position}
        self._trust.write({"state": _SEALED, "digest": _digest(data), **facts})

    def _mark_now_and_then(self) -> None:
        while not self._ended.is_set():
            is_idle = not self.busy.wait(MARK_EVERY_S)
            if not is_idle:
                self._ended.wait(BUSY_MARK_S)
                self.busy.clear()
            if self._ended.is_set():
                return
            try:
                for root in self._roots:
                    # Who is busy hears of a failed disk by himself; where all is quiet nobody else asks it.
                    self._mark(root, durable=is_idle)
            except OSError as fault:
                log.warning("the mark of the time could not be set: %s", fault)
                if disk.is_disk_fault(fault):
                    self.disk_failed(f"{fault.strerror or fault} in volume {self._roots.index(root)}")
                    return

    def _mark_durably(self) -> None:
        """What an entry that goes now speaks of was changed before this."""
        if self._trusted and not self._ended.is_set():
            for root in self._roots:
                self._mark(root, durable=True)

    def _mark(self, root: int, durable: bool = False) -> None:
        with disk.Asked():  # of a disk that hangs this may be the only question
            self._set_mark(root, durable)

    def _set_mark(self, root: int, durable: bool) -> None:
        hidden = quarantine.make_folder(root, HIDDEN)
        try:
            fd = os.open(
                MARKER, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=hidden
            )
            try:
                os.utime(fd)
                self._take_note(os.fstat(fd).st_ctime_ns)
                if durable:
                    disk.fsync(fd)
                    disk.fsync(hidden)
            finally:
                os.close(fd)
        finally:
            os.close(hidden)

    def _take_note(self, mark_ns: int) -> None:
        fd = os.open(self._note, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, _NOTE.pack(mark_ns), 0)
        finally:
            os.close(fd)

    def _marked_at(self, root: int) -> int | None:
        """The last time, in nanoseconds of the file system's own clock, up to which every change was ours."""
        try:
            fd = disk.open_beneath(root, HIDDEN + b"/" + MARKER, os.O_PATH)
        except FileNotFoundError:
            return None
        try:
            return os.stat(fd).st_ctime_ns
        finally:
            os.close(fd)


_UNKNOWN: Final = "unknown"
_NOTE: Final = struct.Struct("<q")


def _is_bare(root: int, path: bytes, status: os.stat_result) -> bool:
    """Nothing was done to it since it was made, and nothing is in it."""
    if status.st_size and not stat.S_ISDIR(status.st_mode):
        return False
    above, _, name = path.rpartition(b"/")
    try:
        directory = trees.open_path(root, above, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return disk.birth_time_ns(directory, name) == status.st_ctime_ns
        finally:
            os.close(directory)
    except FileNotFoundError:
        return False  # it is taken away just now: somebody edits


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _booted_at_ns() -> int:
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
