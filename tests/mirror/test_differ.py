"""The may-differ log: what it remembers, and what it says of damage."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.mirror.differ import (
    IN_USE,
    Key,
    MayDiffer,
    decode,
    encode_add,
    encode_baseline,
    encode_batch,
    encode_retire,
    encode_run,
)
from orchestrator.mirror.lineage import Position

KEYS = st.tuples(st.integers(0, 3), st.integers(1, 99), st.integers(0, 2), st.integers(-1, 5))
STREAM = "0123456789abcdef" * 2


def written(batches: list[tuple[bool, list[Key]]]) -> bytes:
    data = b""
    for number, (add, keys) in enumerate(batches):
        data += encode_batch(number, encode_add(keys) if add else encode_retire(keys))
    return data


BATCHES = st.lists(st.tuples(st.booleans(), st.lists(KEYS, min_size=1, max_size=5)), min_size=1, max_size=8)


def after(batches: list[tuple[bool, list[Key]]]) -> set[Key]:
    known: set[Key] = set()
    for add, keys in batches:
        known = known | set(keys) if add else known - set(keys)
    return known


@given(BATCHES)
def test_what_was_written_is_read_back(batches: list[tuple[bool, list[Key]]]) -> None:
    loaded = decode(written(batches))
    assert loaded.verdict == "whole"
    assert set(loaded.log.stamps) == after(batches)
    assert set(loaded.log.stamps.values()) <= {IN_USE}


@given(KEYS, st.integers(1, 300))
def test_a_run_is_read_back_as_its_entries(key: Key, count: int) -> None:
    volume, inode, what, extent = key
    loaded = decode(encode_batch(0, [encode_run(key, count)]))
    assert set(loaded.log.stamps) == {(volume, inode + next, what, extent) for next in range(count)}


def test_a_run_of_millions_is_no_record_of_ours() -> None:
    assert decode(encode_batch(0, [encode_run((0, 1, 0, 0), 1 << 20)])).verdict == "unreadable"


@given(BATCHES, st.data())
def test_a_torn_tail_loses_the_unfinished_append_alone(
    batches: list[tuple[bool, list[Key]]], data: st.DataObject
) -> None:
    whole, last = written(batches[:-1]), written(batches)
    cut = data.draw(st.integers(len(whole), len(last) - 1))
    loaded = decode(last[:cut])
    assert loaded.verdict in ("whole", "torn")
    assert set(loaded.log.stamps) == after(batches[:-1])
    assert loaded.length == len(whole)


@given(BATCHES, st.data())
def test_damage_before_a_good_batch_is_unreadable(
    batches: list[tuple[bool, list[Key]]], data: st.DataObject
) -> None:
    batches = [*batches, (True, [(0, 1, 0, 0)])]
    raw = bytearray(written(batches))
    at = data.draw(st.integers(0, len(written(batches[:-1])) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(raw)).verdict == "unreadable"


@given(st.binary(max_size=300))
def test_noise_is_never_an_entry(noise: bytes) -> None:
    assert decode(noise).log.stamps == {}


def test_the_baseline_is_read_back_and_forgotten_when_told() -> None:
    position = Position(STREAM, 77)
    first = encode_batch(0, encode_baseline(position))
    assert decode(first).log.baseline == position
    assert decode(first + encode_batch(1, encode_baseline(None))).log.baseline is None


def test_an_entry_in_use_is_never_retired() -> None:
    log = MayDiffer()
    key = (0, 1, 0, 0)
    log.hold([key])
    log.hold([key])
    log.release([key], 5)
    assert log.retirable(10**9, hot_max=0) == [], "another change of it is still on its way"
    log.release([key], 7)
    assert log.retirable(7, hot_max=0) == [key]


def test_the_end_of_a_copy_takes_no_entry_from_a_change_on_its_way() -> None:
    log = MayDiffer()
    held, copied = (0, 1, 0, 0), (0, 2, 0, 0)
    log.pin([held, copied])
    log.hold([held])
    log.unpin(20)
    assert log.retirable(10**9, hot_max=0) == [copied]


def test_an_entry_goes_only_when_both_disks_have_its_last_change() -> None:
    log = MayDiffer()
    key = (0, 1, 0, 0)
    log.hold([key])
    log.release([key], 50)
    assert log.retirable(49, hot_max=0) == []
    assert log.retirable(50, hot_max=0) == [key]


def test_hot_entries_stay_and_the_coldest_go_first() -> None:
    log = MayDiffer()
    keys: list[Key] = [(0, number, 0, 0) for number in range(1, 6)]
    for stamp, key in enumerate(keys):
        log.hold([key])
        log.release([key], stamp)
    log.hold([keys[0]])
    log.release([keys[0]], 9)
    assert log.retirable(100, hot_max=3) == keys[1:3]
    assert log.missing(keys) == []


def test_only_what_the_peer_has_not_confirmed_is_unsettled() -> None:
    log = MayDiffer()
    hot, late, busy, spare = ((0, inode, 0, 0) for inode in (1, 2, 3, 4))
    log.hold([hot, late, busy])
    log.release([hot], 5)
    log.release([late], 9)
    log.reserve(spare, 1)
    assert set(log.unsettled()) == {hot, late, busy, spare}, "without a baseline nothing is known"
    log.baseline = Position("0" * 32, 5)
    assert set(log.unsettled()) == {late, busy}
