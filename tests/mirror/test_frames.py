"""Frames survive any cut; whatever is not ours is refused before it is believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.mirror import frames
from orchestrator.mirror.frames import (
    Acknowledged,
    Decoder,
    Frame,
    HandshakeRejected,
    Identity,
    Kind,
    WireFault,
    check_identity,
    read_identity,
)
from orchestrator.model.names import ClusterName, ModuleName, NodeName

ALL = frozenset(Kind)
SHOP, DB, PARIS, LYON = ClusterName("shop"), ModuleName("db"), NodeName("paris"), NodeName("lyon")


@given(st.lists(st.binary(max_size=200), max_size=8), st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_frames_come_out_whole_whatever_the_cuts(payloads: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(frames.encode(Kind.OPERATION, data, number + 1) for number, data in enumerate(payloads))
    decoder = Decoder(ALL)
    got: list[Frame] = []
    at = 0
    while at < len(wire):
        step = cuts[at % len(cuts)]
        got += decoder.receive_data(wire[at : at + step])
        at += step
    assert [frame.payload for frame in got] == payloads
    assert [frame.sequence for frame in got] == list(range(1, len(payloads) + 1))


@given(st.binary(max_size=400))
def test_no_bytes_do_worse_than_a_refusal(noise: bytes) -> None:
    decoder = Decoder(frozenset({Kind.OPERATION, Kind.ALIVE}))
    try:
        for frame in decoder.receive_data(noise):
            assert frame.kind in (Kind.OPERATION, Kind.ALIVE)
    except WireFault:
        pass


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<IHHQ", 0xFFFFFFFF, Kind.OPERATION, 0, 1),
        struct.pack("<IHHQ", 1, Kind.ALIVE, 0, 0),
        struct.pack("<IHHQ", 0, 999, 0, 0),
        struct.pack("<IHHQ", 0, Kind.ASK, 0, 0),
        struct.pack("<IHHQ", 0, Kind.ALIVE, 7, 0),
        struct.pack("<IHHQ", 0, Kind.OPERATION, 0, 0),
        struct.pack("<IHHQ", 0, Kind.ALIVE, 0, 3),
    ],
    ids=["huge", "too long", "unknown", "not allowed here", "reserved", "unnumbered", "numbered"],
)
def test_a_header_that_cannot_be_honest_is_refused_before_its_payload_comes(header: bytes) -> None:
    with pytest.raises(WireFault):
        Decoder(frozenset({Kind.OPERATION, Kind.ALIVE})).receive_data(header)


def test_an_acknowledgement_travels() -> None:
    told = Acknowledged(9, 7, 3)
    (frame,) = Decoder(ALL).receive_data(told.encode())
    assert Acknowledged.decode(frame.payload) == told


@pytest.mark.parametrize(("wire", "word"), [(2, "newer"), (0, "older"), (None, "older"), (True, "older")])
def test_another_wire_version_is_refused_by_name(wire: object, word: str) -> None:
    hello = Identity(SHOP, DB, PARIS, "forward").as_dict() | {"wire": wire}
    with pytest.raises(HandshakeRejected, match=word) as refusal:
        read_identity(hello)
    assert refusal.value.reason == "version"


def test_a_certificate_speaks_for_its_own_node_only() -> None:
    paris = Identity(SHOP, DB, PARIS, "forward")
    check_identity(paris, ("shop", "paris"), SHOP, DB, LYON)
    for certificate, reason in ((("shop", "lyon"), "foreign"), (("bank", "paris"), "foreign")):
        with pytest.raises(HandshakeRejected) as refusal:
            check_identity(paris, certificate, SHOP, DB, LYON)
        assert refusal.value.reason == reason


def test_a_second_machine_with_our_name_is_a_clone() -> None:
    with pytest.raises(HandshakeRejected) as refusal:
        check_identity(Identity(SHOP, DB, LYON, "forward"), ("shop", "lyon"), SHOP, DB, LYON)
    assert refusal.value.reason == "clone"


def test_another_modules_stream_is_foreign() -> None:
    with pytest.raises(HandshakeRejected) as refusal:
        check_identity(
            Identity(SHOP, ModuleName("mail"), PARIS, "forward"), ("shop", "paris"), SHOP, DB, LYON
        )
    assert refusal.value.reason == "foreign"
