"""A follower that is broken, or somebody else's: what its answers and its word can do to the primary."""

from __future__ import annotations

import logging
import os
import random
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.mirror import frames
from orchestrator.mirror.frames import Acknowledged, Kind
from orchestrator.replicator import trees
from orchestrator.replicator.answers import Answers
from orchestrator.replicator.apply import Applier
from orchestrator.replicator.logs import ChangeLogs
from tests.replicator.hostile import (
    Canary,
    FalseFollower,
    answer_of_an_empty_node,
    descriptors,
    eventually_no_more_descriptors_than,
    lied,
    mutated,
    no_other_exceptions,
    quick,
    raw,
)
from tests.replicator.pair import LYON, PARIS, Pair, record
from tests.replicator.test_apply import Notes
from tests.support.waiting import eventually

LIFE = secrets.token_hex(16)
SESSIONS = 25
"""Of a copy over real connections, to a peer that lies."""
HIDDEN_SECRET = b"what was set aside here is nobody else's"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def false(pair: Pair) -> Iterator[FalseFollower]:
    made = FalseFollower(pair)
    yield made
    made.close()


def filled(tree: Path) -> None:
    for folder in ("one", "two/three"):
        (tree / folder).mkdir(parents=True)
        for number in range(20):
            (tree / folder / f"file{number}").write_bytes(os.urandom(3000))
    os.link(tree / "one" / "file0", tree / "two" / "again")
    (tree / ".hafarm" / "quarantine" / "1-1").mkdir(parents=True)
    (tree / ".hafarm" / "quarantine" / "1-1" / "000001").write_bytes(HIDDEN_SECRET)


def test_a_copy_to_a_peer_that_lies_stops_says_why_and_is_begun_again(
    pair: Pair, false: FalseFollower, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    canary = Canary(tmp_path)
    filled(pair.trees[PARIS])
    os.symlink(canary.path, pair.trees[PARIS] / "door")
    there = tmp_path / "there"
    there.mkdir()
    (there / "two").write_bytes(b"no directory here")
    root = os.open(there, os.O_RDONLY)
    applier = Applier([root], Notes())
    logs = ChangeLogs(str(tmp_path / "state-there"), [PARIS])
    answers = Answers(applier, logs, PARIS, trees.nothing_excluded)
    dice = random.Random(7)
    lies = True

    def answer(request: dict[str, Any]) -> Any:
        honest = answers.answer(request)
        if not lies:
            return honest
        told = lied(dice, honest)
        if dice.random() < 0.1:
            whole = frames.encode_json(Kind.ANSWER, told if isinstance(told, dict) else {})
            return mutated(dice, whole) if dice.random() < 0.5 else raw(dice.choice(list(Kind)), b"{}", 0)
        return told if isinstance(told, dict) else {}

    def enough() -> bool:
        if pair.said("member_ready"):  # it was lucky with its lies
            pair.told.clear()
            false.end_sessions()
        return false.sessions >= SESSIONS

    quick(pair, silence_s=0.4)
    false.answer = answer
    before = descriptors()
    with no_other_exceptions(), caplog.at_level(logging.ERROR):
        primary = pair.start_primary(record(1, LIFE, {PARIS}))
        eventually(enough, 60)
        assert pair.live is not None
        answered: list[int] = []
        pair.live.create("written meanwhile")
        primary.when_durable(pair.live.sync("written meanwhile"), answered.append)
        assert answered == [0], "the application waits for a peer that nobody needs"
        lies = False
        pair.told.clear()
        false.end_sessions()
        eventually(lambda: pair.said("member_ready") != [], 30)
        pair.stop_primary()
    assert not caplog.records, "an exception of ours ended a copy"
    assert all(HIDDEN_SECRET not in frame.payload for frame in false.received)
    assert all(canary.SECRET not in frame.payload for frame in false.received)
    canary.check()
    canary.close()
    applier.close()
    logs.close()
    os.close(root)
    false.close()
    eventually_no_more_descriptors_than(before)


def test_what_the_peers_log_and_lists_name_beside_the_tree_is_not_sent(
    pair: Pair, false: FalseFollower
) -> None:
    """The hidden directory and what is excluded belong to this node alone, whatever a peer says it lacks."""
    tree = pair.trees[PARIS]
    filled(tree)
    (tree / "local.tmp").write_bytes(HIDDEN_SECRET)
    os.link(tree / "local.tmp", tree / "other.tmp")
    told = {name.hex(): "ab" for name in (b"local.tmp", b"other.tmp", b".hafarm")}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "summaries":
                one = {"digests": "ff" * 8, "linked": told}
                return {
                    "summaries": [one | {"digests": "ff" * 8 * buckets} for _, buckets in request["items"]]
                }
            case "names":
                return {"names": sorted(told), "whole": True}
            case "look":
                return {"entries": [None] * len(request["paths"])}
            case "passed_over":
                return {"count": 0}
        return {"digests": [[] for _ in request["items"]]}

    false.answer = answer
    primary = pair.start_primary(
        record(1, LIFE, {PARIS}), excluded=lambda volume, path, is_directory: path.endswith(b".tmp")
    )
    eventually(lambda: pair.said("member_ready") != [], 30)
    assert any(b"file0" in frame.payload for frame in false.received)
    assert all(HIDDEN_SECRET not in frame.payload for frame in false.received)
    assert all(b"000001" not in frame.payload for frame in false.received)
    assert primary.is_open


# --- acknowledgements --------------------------------------------------------------------------------------


ACKNOWLEDGEMENTS = [
    Acknowledged(1 << 60, 0, 0).encode(),
    Acknowledged(0, 1 << 60, 0).encode(),
    Acknowledged(0, 0, 1 << 60).encode(),
    frames.encode(Kind.ACKNOWLEDGED, b"short"),
    frames.encode(Kind.FAILED, b"[" * 60_000),
    frames.encode(Kind.FAILED, b'{"why": ' + b"[" * 900 + b"]" * 900 + b"}"),
    frames.encode_json(Kind.FAILED, {"why": "\x1b[2J\n" * 5000, "number": "x"}),
    raw(Kind.ANSWER, b"{}", 0),
    raw(Kind.OPERATION, b"", 1),
    raw(99, b"", 0),
]


def test_an_acknowledgement_that_lies_ends_the_session_and_nothing_is_taken_for_durable(
    pair: Pair, false: FalseFollower
) -> None:
    quick(pair, silence_s=0.4)
    false.answer = answer_of_an_empty_node
    lies = iter(ACKNOWLEDGEMENTS)
    false.acknowledge = lambda applied: next(lies, b"")  # one for each session: it ends with it
    with no_other_exceptions():
        primary = pair.start_primary(record(1, LIFE, {PARIS}))
        eventually(lambda: len(pair.said("stream_down")) >= len(ACKNOWLEDGEMENTS), 40)
        assert not pair.said("member_ready")
        assert primary._gate.durable(LYON) == 0
        for said in [*pair.said("stream_down"), *pair.said("member_lost")]:
            assert 0 < len(said["why"]) <= 700
            assert said["why"].isprintable()
        pair.stop_primary()


WELCOMES: list[dict[str, Any]] = [
    {"applied": -1},
    {"applied": True},
    {"applied": 1 << 70},
    {"applied": "0"},
    {"empty": "no"},
    {"life": "../../x"},
    {"life": 7},
    {"life": "x" * 10_000},
    {"standing": 7},
    {"standing": {"reigns": "abc"}},
    {"standing": {"reigns": [[1, "a"]] * 65, "forced": None, "position": None}},
    {"wire": 2},
    {"wire": [[[]]]},
    {"node": 7},
    {"channel": None},
]


def test_a_welcome_that_lies_is_refused_and_the_primary_serves_on(pair: Pair, false: FalseFollower) -> None:
    quick(pair, silence_s=0.2)
    false.answer = answer_of_an_empty_node
    with no_other_exceptions():
        false.welcome = WELCOMES[0]
        primary = pair.start_primary(record(1, LIFE, {PARIS}))
        for lies in WELCOMES:
            false.welcome = lies
            count = len(false._connections)
            eventually(lambda: len(false._connections) >= count + 4, 20)  # noqa: B023
            assert not pair.said("stream_up"), lies
            assert primary.is_open
        pair.stop_primary()


def test_a_peer_that_applies_nothing_is_given_up_and_whoever_writes_goes_on(
    pair: Pair, false: FalseFollower
) -> None:
    """It says that it lives, and takes all that is sent: only the window tells."""
    quick(pair, ack_timeout_s=1.0, window_bytes=1 << 20)
    false.answer = answer_of_an_empty_node
    false.acknowledge = lambda applied: frames.encode(Kind.ALIVE)
    pair.start_primary(record(1, LIFE, {PARIS}))
    eventually(lambda: false.sessions == 1, 10)
    assert pair.live is not None
    pair.live.create("file")
    written = threading.Event()

    def write() -> None:
        assert pair.live is not None
        for number in range(40):
            pair.live.write("file", number << 16, bytes(1 << 16))
        written.set()

    threading.Thread(target=write, daemon=True).start()
    assert written.wait(20), "whoever writes waits for ever"
    eventually(lambda: any("applied nothing" in each["why"] for each in pair.said("stream_down")), 10)
