"""What the gate knows for its whole life, in memory that the keeper holds: it outlives a replicator."""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from dataclasses import dataclass, replace
from typing import Any, Final

from orchestrator.model.names import NodeName
from orchestrator.model.record import Record

_SLOT_BYTES: Final = 64 << 10  # a record with the longest names fits many times over
_HEAD: Final = struct.Struct("<QII")


@dataclass(frozen=True, slots=True)
class GateFacts:
    """The record served under, who must have a write, and whether the gate is open."""

    record: Record | None = None
    required: frozenset[NodeName] = frozenset()
    is_open: bool = False

    def encode(self) -> bytes:
        record = self.record.as_dict() if self.record else None
        return json.dumps(
            {"record": record, "required": sorted(self.required), "open": self.is_open}
        ).encode()

    @classmethod
    def decode(cls, raw: bytes) -> GateFacts:
        data = json.loads(raw)
        record = Record.from_dict(data["record"]) if data["record"] else None
        return cls(record, frozenset(NodeName(name) for name in data["required"]), bool(data["open"]))


class FactsFile:
    """Two slots written in turn: whoever dies in the middle of a write leaves the other one whole."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._turn = 0
        self.facts = GateFacts()
        for slot in (0, 1):
            self._read(slot)

    def _read(self, slot: int) -> None:
        raw = os.pread(self._fd, _SLOT_BYTES, slot * _SLOT_BYTES)
        if len(raw) < _HEAD.size:
            return
        turn, length, check = _HEAD.unpack_from(raw)
        body = raw[_HEAD.size : _HEAD.size + length]
        if turn > self._turn and zlib.crc32(body) == check:
            self._turn, self.facts = turn, GateFacts.decode(body)

    def change(self, **fields: Any) -> GateFacts:
        """Replace these facts; they are kept before anything is done under them."""
        with self._lock:
            facts = replace(self.facts, **fields)
            body = facts.encode()
            assert len(body) + _HEAD.size <= _SLOT_BYTES
            self._turn += 1
            raw = _HEAD.pack(self._turn, len(body), zlib.crc32(body)) + body
            os.pwrite(self._fd, raw, self._turn % 2 * _SLOT_BYTES)
            self.facts = facts
            return facts
