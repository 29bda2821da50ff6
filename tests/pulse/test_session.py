"""Frames that were recorded, turned round, forged or made elsewhere are not heard."""

from __future__ import annotations

import pytest

from orchestrator.cluster.beat import Beat
from orchestrator.model.names import NodeName, PathName
from orchestrator.pulse.session import Session

A, B, LAN = NodeName("paris"), NodeName("lyon"), PathName("lan")
KEY = b"k" * 32


def pair(b_boot: str = "bb" * 16) -> tuple[Session, Session]:
    a = Session(KEY, "shop", A, B, LAN, "aa" * 16)
    b = Session(KEY, "shop", B, A, LAN, b_boot)
    greet(a, b)
    return a, b


def greet(a: Session, b: Session) -> None:
    _, proof = b.open(a.hello(bytes(16)))
    assert proof is not None
    a.open(proof)
    _, proof = a.open(b.hello(bytes(16)))
    assert proof is not None
    b.open(proof)


def beat(counter: int, padded: bool = False) -> Beat:
    return Beat(boot="aa" * 16, counter=counter, request=True, padded=padded)


def test_a_beat_arrives_once() -> None:
    a, b = pair()
    frame = a.seal(beat(1), 1472)
    heard, _ = b.open(frame)
    assert heard == beat(1)
    assert b.open(frame) == (None, None)


def test_beats_may_overtake_one_another() -> None:
    a, b = pair()
    first, second = a.seal(beat(1), 1472), a.seal(beat(2), 1472)
    assert b.open(second)[0] is not None
    assert b.open(first)[0] is not None
    assert b.open(first)[0] is None


def test_a_padded_beat_fills_the_path() -> None:
    a, b = pair()
    frame = a.seal(beat(10, padded=True), 1472)
    assert len(frame) == 1472
    assert b.open(frame)[0] == beat(10, padded=True)


def test_a_reflected_beat_is_refused() -> None:
    a, _ = pair()
    assert a.open(a.seal(beat(1), 1472)) == (None, None)


def test_what_was_recorded_before_a_restart_is_refused_after_it() -> None:
    a, _ = pair()
    recorded = a.seal(beat(1), 1472)
    reborn = Session(KEY, "shop", B, A, LAN, "cc" * 16)
    assert reborn.open(recorded) == (None, None)


def test_a_replayed_greeting_of_an_old_life_changes_nothing() -> None:
    a, b = pair()
    recorded = b.hello(bytes(16))
    reborn = Session(KEY, "shop", B, A, LAN, "cc" * 16)
    greet(a, reborn)
    a.open(recorded)
    assert a.peer_boot == bytes.fromhex("cc" * 16)


@pytest.mark.parametrize("position", [0, 3, 10, 25, 40, 50, -1])
def test_a_changed_bit_is_refused(position: int) -> None:
    a, b = pair()
    frame = bytearray(a.seal(beat(1), 1472))
    frame[position] ^= 1
    assert b.open(bytes(frame)) == (None, None)
    assert b.refused == 1


def test_another_release_is_counted_apart() -> None:
    a, b = pair()
    frame = bytearray(a.seal(beat(1), 1472))
    frame[2] = 9
    b.open(bytes(frame))
    assert (b.other_version, b.refused) == (1, 0)


@pytest.mark.parametrize(
    ("key", "cluster", "path"), [(b"x" * 32, "shop", "lan"), (KEY, "other", "lan"), (KEY, "shop", "backup")]
)
def test_another_key_cluster_or_path_is_not_heard(key: bytes, cluster: str, path: str) -> None:
    _, b = pair()
    stranger = Session(key, cluster, A, B, PathName(path), "aa" * 16)
    assert b.open(stranger.hello(bytes(16))) == (None, None)


def test_spoken_to_is_the_life_that_spoke_last_and_no_recorded_word_changes_that() -> None:
    a, b = pair()
    clone = Session(KEY, "shop", B, A, LAN, "cc" * 16)
    recorded = b.seal(Beat(boot="bb" * 16, counter=1, request=True), 1472)
    assert a.open(recorded)[0] is not None
    greet(a, clone)
    a.open(clone.seal(Beat(boot="cc" * 16, counter=1, request=True), 1472))
    assert a.peer_boot == bytes.fromhex("cc" * 16)
    assert a.open(recorded) == (None, None)
    assert a.peer_boot == bytes.fromhex("cc" * 16)
    assert a.open(b.seal(Beat(boot="bb" * 16, counter=2, request=True), 1472))[0] is not None
    assert b.open(a.seal(beat(1), 1472))[0] is not None
