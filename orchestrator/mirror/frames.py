"""What travels between two replicators, as bytes: a fixed header, a bounded payload, nothing trusted."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Final, NamedTuple

from orchestrator.model.errors import CorruptState, HafarmError
from orchestrator.model.names import ClusterName, ModuleName, NodeName

WIRE_VERSION: Final = 1


class Kind(IntEnum):
    """What a frame is. The order of the stream counts `OPERATION` to `FLUSH`; the others have no number."""

    HELLO = 1
    WELCOME = 2
    VERDICT = 3
    REFUSED = 4
    OPERATION = 5
    SKIP = 6
    RECORD = 7
    COPY_BEGIN = 8
    COPY_DONE = 9
    FLUSH = 10
    ALIVE = 11
    ACKNOWLEDGED = 12
    FAILED = 13
    ASK = 14
    ANSWER = 15


NUMBERED: Final = frozenset(
    {Kind.OPERATION, Kind.SKIP, Kind.RECORD, Kind.COPY_BEGIN, Kind.COPY_DONE, Kind.FLUSH}
)

TEXT_BYTES_MAX: Final = 64 << 10  # a handshake: 64 reigns of 60 bytes, names, a reason
OPERATION_BYTES_MAX: Final = (2 << 20) + 4096  # the kernel writes 1 MiB at most; an xattr has at most 64 KiB
ANSWER_BYTES_MAX: Final = 16 << 20  # a page of a directory's listing or of block hashes

_LIMITS: Final[Mapping[Kind, int]] = dict.fromkeys(Kind, TEXT_BYTES_MAX) | {
    Kind.OPERATION: OPERATION_BYTES_MAX,
    Kind.SKIP: 0,
    Kind.FLUSH: 8,
    Kind.ALIVE: 0,
    Kind.ACKNOWLEDGED: 24,
    Kind.ASK: 1 << 20,
    Kind.ANSWER: ANSWER_BYTES_MAX,
}
_KINDS: Final[Mapping[int, Kind]] = {kind.value: kind for kind in Kind}

_HEADER: Final = struct.Struct("<IHHQ")  # length of the payload, kind, zero, sequence
HEADER_BYTES: Final = _HEADER.size
_ACKNOWLEDGED: Final = struct.Struct("<QQQ")
_FLUSHED: Final = struct.Struct("<Q")


@dataclass(eq=False)
class WireFault(HafarmError):
    """The other side sent what no replicator sends; the connection ends, nothing of it is applied."""

    code: ClassVar[str] = "HF4011"
    why: str

    def __str__(self) -> str:
        return f"the replication stream is not ours: {self.why}; check that both nodes run the same hafarm"


@contextmanager
def believed(what: str) -> Iterator[None]:
    """What is read inside is what a replicator says, or WireFault: nothing is of its kind unseen."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as fault:
        raise WireFault(f"{what}: {type(fault).__name__}: {str(fault)[:200]}") from fault
    except CorruptState as fault:
        raise WireFault(f"{what}: {fault.why[:200]}") from fault


REASONS: Final = ("version", "foreign", "clone", "patterns", "epoch", "not-following", "busy", "broken")
"""Why a replicator is turned away: who it is, what it speaks and replicates, when; nothing of its copy."""


@dataclass(eq=False)
class HandshakeRejected(HafarmError):
    """The other side is not the replicator that we may talk to."""

    code: ClassVar[str] = "HF4012"
    reason: str
    """One of REASONS."""
    why: str

    def __str__(self) -> str:
        return f"the peer's replicator was refused ({self.reason}): {self.why}"


class Frame(NamedTuple):
    """One whole frame; a tuple, as there is one for each change and each answer."""

    kind: Kind
    sequence: int
    payload: bytes

    def json(self) -> dict[str, Any]:
        """The payload as the object that it claims to be."""
        try:
            content = json.loads(self.payload)
        except (ValueError, RecursionError) as fault:
            raise WireFault(f"{self.kind.name} is not JSON: {fault}") from fault
        if not isinstance(content, dict):
            raise WireFault(f"{self.kind.name} is not an object")
        return content


def encode(kind: Kind, payload: bytes = b"", sequence: int = 0) -> bytes:
    """One frame as it travels."""
    assert len(payload) <= _LIMITS[kind], kind
    return _HEADER.pack(len(payload), kind, 0, sequence) + payload


def encode_json(kind: Kind, content: Mapping[str, Any], sequence: int = 0) -> bytes:
    return encode(kind, json.dumps(content, separators=(",", ":")).encode(), sequence)


class Decoder:
    """Bytes in, frames out, whatever the cuts between them; holds at most one frame that is not whole."""

    def __init__(self, allowed: frozenset[Kind]) -> None:
        self._allowed = allowed
        self._held = bytearray()

    @property
    def has_half(self) -> bool:
        """A frame has begun whose rest has not come yet."""
        return bool(self._held)

    def receive_data(self, data: bytes | memoryview) -> list[Frame]:
        """The frames that these bytes complete; WireFault as soon as a header cannot be honest."""
        held = self._held
        if not held:
            frames, at = self._whole(data)
            held += data[at:]
            return frames
        held += data
        frames, at = self._whole(held)
        del held[:at]
        return frames

    def _whole(self, data: bytes | bytearray | memoryview) -> tuple[list[Frame], int]:
        """The whole frames in it, and where the first one begins that is not."""
        frames: list[Frame] = []
        at, size = 0, len(data)
        with memoryview(data) as view:
            while size - at >= HEADER_BYTES:
                length, kind, sequence = self._header(view, at)
                end = at + HEADER_BYTES + length
                if size < end:
                    break
                frames.append(Frame(kind, sequence, bytes(view[at + HEADER_BYTES : end])))
                at = end
        return frames, at

    def _header(self, held: memoryview, at: int) -> tuple[int, Kind, int]:
        length, number, zero, sequence = _HEADER.unpack_from(held, at)
        kind = _KINDS.get(number)
        if kind is None:
            raise WireFault(f"frame of unknown kind {number}")
        if kind not in self._allowed or zero:
            raise WireFault(f"{kind.name} has no place here")
        if length > _LIMITS[kind]:
            raise WireFault(f"{kind.name} of {length} bytes is longer than any of ours")
        if (sequence > 0) != (kind in NUMBERED):
            raise WireFault(f"{kind.name} with the sequence number {sequence}")
        return length, kind, sequence


def encode_flushed(sequence: int) -> bytes:
    """What FLUSH carries: up to which number the sender's own disk holds everything."""
    return _FLUSHED.pack(sequence)


def decode_flushed(payload: bytes) -> int:
    if len(payload) != _FLUSHED.size:
        raise WireFault("a FLUSH without the sender's position")
    found: int = _FLUSHED.unpack(payload)[0]
    return found


class Acknowledged(NamedTuple):
    """How far the receiver is. Each number is a sequence number of the stream."""

    applied: int
    """Every operation up to here is in its tree, in memory at least."""
    points: int
    """Every durable point up to here is on its disk."""
    flushed: int
    """Everything up to here is on its disk, whether asked for or not."""

    def encode(self) -> bytes:
        return encode(Kind.ACKNOWLEDGED, _ACKNOWLEDGED.pack(*self))

    @classmethod
    def decode(cls, payload: bytes) -> Acknowledged:
        if len(payload) != _ACKNOWLEDGED.size:
            raise WireFault("an acknowledgement of the wrong size")
        return cls._make(_ACKNOWLEDGED.unpack(payload))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who speaks, on which connection, in which version; checked against the certificate by the reader."""

    cluster: ClusterName
    module: ModuleName
    node: NodeName
    channel: str
    wire: int = WIRE_VERSION

    def as_dict(self) -> dict[str, Any]:
        return {
            "wire": self.wire,
            "cluster": self.cluster,
            "module": self.module,
            "node": self.node,
            "channel": self.channel,
        }


def read_identity(content: Mapping[str, Any]) -> Identity:
    """The identity in a HELLO or WELCOME; the version is judged before anything else is believed."""
    wire = content.get("wire")
    if wire != WIRE_VERSION or isinstance(wire, bool):
        newer = isinstance(wire, int) and wire > WIRE_VERSION
        which = "newer" if newer else "older or unknown"
        raise HandshakeRejected("version", f"it speaks the {which} wire version {wire!r}, we {WIRE_VERSION}")
    cluster, module, node, channel = (content.get(key) for key in ("cluster", "module", "node", "channel"))
    if not (
        isinstance(cluster, str)
        and isinstance(module, str)
        and isinstance(node, str)
        and isinstance(channel, str)
    ):
        raise WireFault("a handshake without cluster, module, node or channel")
    return Identity(ClusterName(cluster), ModuleName(module), NodeName(node), channel)


def check_identity(
    claimed: Identity, certificate: tuple[str, str], cluster: ClusterName, module: ModuleName, me: NodeName
) -> None:
    """Refuse whoever is not another node of this cluster speaking for itself about this module."""
    if certificate != (claimed.cluster, claimed.node):
        raise HandshakeRejected(
            "foreign", f"{claimed.node} of {claimed.cluster} shows the certificate of {certificate}"
        )
    if claimed.cluster != cluster or claimed.module != module:
        raise HandshakeRejected("foreign", f"it belongs to {claimed.cluster}/{claimed.module}")
    if claimed.node == me:
        raise HandshakeRejected("clone", f"another machine runs as {me}")
