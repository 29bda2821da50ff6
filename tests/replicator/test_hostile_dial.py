"""Whoever dials a follower, and what it says before its first change: refused, with a reason, and no more."""

from __future__ import annotations

import json
import os
import resource
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.mirror import frames
from orchestrator.mirror.frames import HandshakeRejected, Kind
from orchestrator.replicator import codec, ops
from orchestrator.replicator.follower import GREETINGS_MAX, Follower
from orchestrator.replicator.link import BACK, BULK, FORWARD, Connection
from tests.replicator.hostile import (
    FalsePrimary,
    descriptors,
    eventually_no_more_descriptors_than,
    no_other_exceptions,
)
from tests.replicator.pair import LYON, PARIS, Pair, record
from tests.support.waiting import eventually

LIFE = secrets.token_hex(16)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()


HELLOS: list[dict[str, Any]] = [
    {"record": None},
    {"record": []},
    {"record": {"epoch": 1}},
    {"record": record(1, LIFE, {PARIS}).as_dict() | {"in_sync": 7}},
    {"record": record(1, LIFE, {PARIS}).as_dict() | {"primary": "lyon"}},
    {"record": record(1, "a" * 32, {PARIS}).as_dict()},
    {"session": ["a"]},
    {"session": "s" * 10_000},
    {"stream": None},
    {"channel": "sideways"},
    {"channel": 7},
    {"channel": FORWARD},
    {"cluster": "c" * 30_000},
    {"node": "lyon"},
    {"node": {}},
    {"module": "other"},
    {"wire": "1"},
]


def test_a_hello_that_lies_is_refused_with_a_reason(pair: Pair) -> None:
    pair.start_follower(record(1, LIFE, {PARIS}))
    with no_other_exceptions():
        for lies in HELLOS:
            false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
            with pytest.raises(HandshakeRejected) as refusal:
                false.open(BACK, **lies)
            assert refusal.value.reason in frames.REASONS, lies
            assert 0 < len(refusal.value.why) <= 500, lies
            false.close()
        honest = FalsePrimary(pair, record(1, LIFE, {PARIS}))
        honest.begin()
        honest.close()


VERDICTS: list[dict[str, Any]] = [
    {"act": "other"},
    {"act": []},
    {"after": -1},
    {"after": 1 << 62},
    {"after": 1 << 63},
    {"after": True},
    {"after": None},
    {"act": "resume"},
    {"act": "refuse", "verdict": ["x"]},
]


def test_a_verdict_that_lies_begins_nothing(pair: Pair) -> None:
    follower = pair.start_follower(record(1, LIFE, {PARIS}))
    with no_other_exceptions():
        for verdict in VERDICTS:
            false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
            false.begin(**verdict)
            eventually(false.is_ended, 10)
            assert not pair.said("stream_up"), verdict
            assert follower.status()["stream"] == "", verdict
            false.close()
        json.dumps(pair.told)


def test_a_stream_with_another_name_than_ours_begins_nothing(pair: Pair) -> None:
    pair.start_follower(record(1, LIFE, {PARIS}))
    false = FalsePrimary(pair, record(1, LIFE, {PARIS}), stream="../../lineage")
    false.begin()
    eventually(false.is_ended, 10)
    assert not pair.said("stream_up")
    false.close()


@pytest.mark.parametrize("first", [Kind.OPERATION, Kind.COPY_DONE, Kind.FLUSH, Kind.SKIP])
def test_a_copy_begins_with_its_beginning_or_not_at_all(pair: Pair, first: Kind) -> None:
    """Else files change under a lineage that says that nothing did."""
    follower = pair.start_follower(record(1, LIFE, {PARIS}))
    (pair.trees[LYON] / "kept").write_bytes(b"kept")
    false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
    false.begin()
    payload = {
        Kind.OPERATION: codec.encode(ops.Unlink(0, 1, b"kept")),
        Kind.COPY_DONE: json.dumps({"reigns": [[9, "a"]], "forced": None, "flushed": 0}).encode(),
        Kind.FLUSH: frames.encode_flushed(0),
        Kind.SKIP: b"",
    }[first]
    false.forward.send(frames.encode(first, payload, 1), 5)
    eventually(lambda: pair.said("stream_down") != [], 10)
    assert "wrong place of a copy" in pair.said("stream_down")[0]["why"]
    assert (pair.trees[LYON] / "kept").read_bytes() == b"kept"
    assert follower.history.standing.reigns == ()
    false.close()


def test_whoever_connects_and_says_nothing_keeps_no_node_out(pair: Pair) -> None:
    pair.start_follower(record(1, LIFE, {PARIS}))
    before = descriptors()
    idle = [socket.create_connection(("127.0.0.1", pair.port)) for _ in range(GREETINGS_MAX + 40)]
    began = time.monotonic()
    honest = FalsePrimary(pair, record(1, LIFE, {PARIS}))
    honest.begin()
    assert time.monotonic() - began < 4, "it had to wait until somebody else's time was over"
    assert descriptors() < before + len(idle) + GREETINGS_MAX + 20
    honest.close()
    for each in idle:
        each.close()
    eventually_no_more_descriptors_than(before + 8)


def test_a_hello_in_drops_is_not_waited_for_longer_than_one_that_does_not_come(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.replicator.follower.HANDSHAKE_S", 1.0)
    pair.start_follower(record(1, LIFE, {PARIS}))
    plain = socket.create_connection(("127.0.0.1", pair.port))
    tls = pair.settings(PARIS).client.wrap_socket(plain, server_hostname=LYON)
    tls.settimeout(10)
    began = time.monotonic()
    hello = frames.encode_json(Kind.HELLO, {"wire": 1, "pad": "x" * 1000})
    try:
        for at in range(len(hello)):
            tls.send(hello[at : at + 1])
            time.sleep(0.05)  # the drops themselves are what is tested
            if time.monotonic() - began > 8:
                break
    except OSError:
        pass  # closed by the other side
    tls.close()
    assert time.monotonic() - began < 4


def test_a_follower_without_a_free_descriptor_hears_the_next_node(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.start_follower(record(1, LIFE, {PARIS}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    fillers = [os.dup(client.fileno()) for _ in range(200)]
    top = max(fillers)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, hard))
        client.connect(("127.0.0.1", pair.port))
        eventually(lambda: "no connection is taken" in caplog.text, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.close()
        for each in fillers:
            os.close(each)
    honest = FalsePrimary(pair, record(1, LIFE, {PARIS}))
    honest.begin()
    honest.close()


BEGINNINGS: list[dict[str, Any]] = [
    {"set_aside": "../../x"},
    {"set_aside": "1" * 300},
    {"set_aside": "\u00b2"},
    {"set_aside": 7},
    {"set_aside": None},
    {"set_aside": "7-3", "reigns": 7},
    {"set_aside": "7-3", "reigns": [[1, "../x"]]},
    {"set_aside": "7-3"},
]


def test_a_copy_that_begins_with_a_lie_leaves_everything_as_it_was(pair: Pair) -> None:
    follower = pair.start_follower(record(1, LIFE, {PARIS}))
    with no_other_exceptions():
        for count, about in enumerate(BEGINNINGS, 1):
            false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
            false.begin()
            false.forward.send(frames.encode_json(Kind.COPY_BEGIN, about, 1), 5)
            eventually(lambda: len(pair.said("stream_down")) == count, 10)  # noqa: B023
            assert "a COPY_BEGIN" in pair.said("stream_down")[-1]["why"], about
            assert not follower.history.standing.inconsistent, about
            assert os.listdir(pair.trees[LYON]) == [], about
            assert not follower.status()["copying"], about
            false.close()


def test_a_record_counts_as_the_agent_admitted_it(pair: Pair) -> None:
    """Not as the stream shows it: with the epoch of the one that was admitted it may say anything else."""
    follower = pair.start_follower(record(1, LIFE, {PARIS}))
    false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
    false.begin()
    done = {"reigns": [], "forced": None, "flushed": 0}
    shown = record(1, LIFE, {PARIS, LYON}).as_dict() | {"forced": True, "reason": "by order"}
    for number, (kind, content) in enumerate(
        [(Kind.COPY_BEGIN, {}), (Kind.COPY_DONE, done), (Kind.RECORD, shown)], 1
    ):
        false.forward.send(frames.encode_json(kind, content, number), 5)
    eventually(lambda: follower.applied == 3, 10)
    assert [reign.nonce for reign in follower.history.standing.reigns] == [LIFE]
    assert follower.history.standing.forced is None
    false.close()


def test_a_forward_connection_that_outruns_what_keeps_its_others_is_served(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine runs the threads of its three connections in whatever order it likes."""
    keep, tried = Follower._keep, threading.Event()

    def late(follower: Follower, session: str, channel: str, connection: Connection) -> None:
        if channel == BULK and not tried.is_set():
            tried.set()
            eventually(lambda: follower._door._waiters, 10)  # type: ignore[attr-defined]
        keep(follower, session, channel, connection)

    monkeypatch.setattr(Follower, "_keep", late)
    pair.start_follower(record(1, LIFE, {PARIS}))
    false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
    assert false.begin()["node"] == LYON
    assert tried.is_set()
    false.close()
