"""The witness's records, one durable file each, with one writer."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.cluster.register import BidResult, judge
from orchestrator.host.store import JsonFile, sync_directory
from orchestrator.model.errors import CorruptState, HafarmError, StoreFailed
from orchestrator.model.names import NAME_PATTERN, NodeName
from orchestrator.model.record import Outcome, Record


@dataclass(eq=False)
class StateInUse(HafarmError):
    """Two witnesses on one state directory would grant twice."""

    code: ClassVar[str] = "HF2020"
    where: str

    def __str__(self) -> str:
        return f"another witness serves from {self.where}: stop it, or give this one a directory of its own"


@dataclass(eq=False)
class BidRefused(HafarmError):
    """A bid that no state of the register could grant."""

    code: ClassVar[str] = "HF2021"
    why: str

    def __str__(self) -> str:
        return self.why


class Ledger:
    """All records below one directory: `CLUSTER/MODULE.json`. Locked for as long as this object lives."""

    def __init__(self, root: str) -> None:
        """StateInUse when another witness has it, StoreFailed when it cannot be written."""
        self._root = root
        self._known: dict[tuple[str, str], Record | None] = {}
        try:
            os.makedirs(root, mode=0o700, exist_ok=True)
            self._lock = os.open(os.path.join(root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            sync_directory(root)
        except OSError as fault:
            raise StoreFailed(root, fault.strerror or str(fault)) from fault
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            os.close(self._lock)
            raise StateInUse(root) from fault

    def close(self) -> None:
        """Let another witness have the directory."""
        os.close(self._lock)

    def read(self, cluster: str, module: str) -> Record | None:
        """The record that stands; CorruptState when its file is damaged: nothing is granted on doubt."""
        key = (cluster, module)
        if key not in self._known:
            content = self._file(cluster, module).read()
            record = None if content is None else Record.from_dict(content)
            if record is not None and (record.cluster, record.module) != key:
                raise CorruptState(
                    "the record", f"it is of {record.cluster}/{record.module}", self._path(*key)
                )
            self._known[key] = record
        return self._known[key]

    def swap(self, cluster: str, expected: Record | None, record: Record, bidder: NodeName) -> BidResult:
        """One bid; durable before it is answered. StoreFailed: not granted, and nothing changed."""
        if record.cluster != cluster:
            raise BidRefused(f"a bid for cluster {record.cluster} over the certificate of {cluster}")
        stored = self.read(cluster, record.module)
        judgement = judge(stored, expected, record, bidder)
        if judgement.accepted is not None:
            self._keep(judgement.accepted)
        if judgement.won:
            return BidResult(Outcome.WON, record)
        if (stored.reign if stored else None) == (expected.reign if expected else None):
            raise BidRefused(judgement.why)
        return BidResult(Outcome.LOST, stored)

    def _keep(self, record: Record) -> None:
        key = (record.cluster, record.module)
        folder = os.path.dirname(self._path(*key))
        try:
            if not os.path.isdir(folder):
                os.mkdir(folder, 0o700)
                sync_directory(self._root)
        except OSError as fault:
            raise StoreFailed(folder, fault.strerror or str(fault)) from fault
        # Until the write is known to be good, the file is the truth: a failed fsync leaves either record.
        self._known.pop(key, None)
        self._file(*key).write(record.as_dict())
        self._known[key] = record

    def _file(self, cluster: str, module: str) -> JsonFile:
        return JsonFile(self._path(cluster, module))

    def _path(self, cluster: str, module: str) -> str:
        for name in (cluster, module):
            if NAME_PATTERN.fullmatch(name) is None:
                raise BidRefused(
                    f"{name!r:.80} is no name: small letters, digits and inner hyphens, at most 63"
                )
        return os.path.join(self._root, cluster, f"{module}.json")
