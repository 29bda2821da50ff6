"""One heartbeat: what a node tells a peer on one path, and its bytes before encryption."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from orchestrator.model.errors import CorruptState
from orchestrator.model.names import ModuleName
from orchestrator.model.report import AnyState, state_from_list

STATES_BYTES_MAX: Final = 640
"""Module states per beat, as JSON: with names of 63 letters the datagram stays under 1,200 bytes."""
VOUCHES_MAX: Final = 32
"""Modules that one beat vouches for: 32 tags are 352 bytes, and a node runs eight."""
BODY_BYTES_MAX: Final = 1_400
"""What a body may be to be looked at; ours are shorter."""

SAID_KEPT: Final = 256
"""Tags and texts kept made up: a node's modules, and what its paths said last, many times over."""

_JSON: Final = json.JSONEncoder(separators=(",", ":"))
_FIXED: Final = struct.Struct("!BQQ16s")
"""Flags, counter, echo, the life that is echoed (zeros: none)."""


class AgentState(IntEnum):
    """Whether the sender's agent is there: GONE says that the grace has ended, and counts as silence."""

    PRESENT = 0
    AWAY = 1
    GONE = 2


_AGENTS: Final = tuple(AgentState)
_NOBODY: Final = bytes(16)
NO_STATES: Final[Mapping[str, tuple[int, AnyState]]] = MappingProxyType({})


@lru_cache(SAID_KEPT)
def tag(module: ModuleName | str) -> str:
    """A module in eight letters, because one beat vouches for many.

    A checksum is as good as a hash here, as beats are under lock; hashlib would bring OpenSSL into the pulse,
    which keeps all that it has in memory.
    """
    return f"{zlib.crc32(module.encode()):08x}"


class Beat(NamedTuple):
    """What one datagram says. `boot` is the sender's life, `counter` its place on this path.

    A tuple, because dozens a second are made by a process that wakes up for each.
    """

    boot: str
    counter: int
    request: bool
    """A request is answered at once; an answer is not."""
    prompt: bool = False
    """Left on receipt of what it echoes: an answer, also one that is the sender's next request as well."""
    echo_boot: str = ""
    echo: int = 0
    """The newest beat heard from the receiver on this path, and the life that sent it; 0: none."""
    agent: AgentState = AgentState.PRESENT
    goodbye: bool = False
    padded: bool = False
    """Sent as large as the path carries, so that a black hole for large frames shows."""
    vouched: frozenset[str] = frozenset()
    """Tags of the modules for which this echo may renew the receiver's lease."""
    states: Mapping[str, tuple[int, AnyState]] = NO_STATES
    """Module states that the receiver is not known to have, each with its version in this life."""


def encode(beat: Beat) -> bytes:
    """The body; life and addressee are in the authenticated header."""
    flags = beat.request | beat.goodbye << 1 | beat.padded << 2 | beat.agent << 3 | beat.prompt << 5
    echo_boot = bytes.fromhex(beat.echo_boot) if beat.echo_boot else _NOBODY
    fixed = _FIXED.pack(flags, beat.counter, beat.echo, echo_boot)
    if not beat.states:  # mostly there is nothing new to tell
        return fixed + _vouches(beat.vouched) + b",{}]"
    states = {name: [version, *state.as_list()] for name, (version, state) in beat.states.items()}
    return fixed + _vouches(beat.vouched) + f",{_JSON.encode(states)}]".encode()


def decode(boot: str, body: bytes) -> Beat:
    """CorruptState when it is not what `encode` gives; trailing blanks are padding."""
    if not _FIXED.size < len(body) <= BODY_BYTES_MAX:
        raise CorruptState(what="a heartbeat", why=f"{len(body)} bytes")
    flags, counter, echo, echo_boot = _FIXED.unpack_from(body)
    try:
        vouched, states = _said(body[_FIXED.size :])
        return Beat(
            boot=boot,
            counter=counter,
            request=bool(flags & 1),
            prompt=bool(flags & 32),
            echo_boot="" if echo_boot == _NOBODY else echo_boot.hex(),
            echo=echo,
            agent=_AGENTS[flags >> 3 & 3],
            goodbye=bool(flags & 2),
            padded=bool(flags & 4),
            vouched=vouched,
            states=states,
        )
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as fault:
        raise CorruptState(what="a heartbeat", why=f"{type(fault).__name__}: {fault}") from fault


@lru_cache(SAID_KEPT)
def _vouches(vouched: frozenset[str]) -> bytes:
    """The text begins with them. Made once: beat after beat vouches for the same modules."""
    return b"[" + _JSON.encode(sorted(vouched)).encode()


@lru_cache(SAID_KEPT)
def _said(text: bytes) -> tuple[frozenset[str], Mapping[str, tuple[int, AnyState]]]:
    """Read once: beat after beat says the same."""
    vouched, states = json.loads(text)
    return (
        frozenset(_text(each) for each in vouched[:VOUCHES_MAX]),
        MappingProxyType({_text(name): _state(value) for name, value in states.items()}),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 63:  # the longest name
        raise ValueError("not a name")
    return value


def _state(value: Any) -> tuple[int, AnyState]:
    version, *rest = value
    return int(version), state_from_list(rest)
