"""A follower that is broken, or somebody else's: what its answers and its word can do to the primary."""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.mirror import frames
from orchestrator.mirror.frames import Acknowledged, HandshakeRejected, Kind, WireFault
from orchestrator.model.record import Record
from orchestrator.replicator import codec, ops, questions, trees
from orchestrator.replicator.answers import Answers
from orchestrator.replicator.apply import Applier
from orchestrator.replicator.copy import Copier
from orchestrator.replicator.follower import GREETINGS_MAX
from orchestrator.replicator.link import BACK, FORWARD
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.questions import Questions
from tests.replicator.hostile import (
    Canary,
    FalseFollower,
    FalsePrimary,
    answer_of_an_empty_node,
    descriptors,
    eventually_no_more_descriptors_than,
    mutated,
    no_other_exceptions,
    quick,
    raw,
)
from tests.replicator.pair import LYON, PARIS, Pair, record
from tests.replicator.test_apply import Notes
from tests.support.waiting import eventually

LIFE = secrets.token_hex(16)
LIES = 150
"""Answers to questions that are asked without a connection."""
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


# --- answers -----------------------------------------------------------------------------------------------

ENTRY = {
    "mode": 0o100644,
    "uid": 0,
    "gid": 0,
    "inode": 7,
    "handle": "ab",
    "links": 1,
    "mtime_ns": -5,
    "size": 9,
    "rdev": 0,
    "xattrs": {"757365722e61": "0" * 32},
}
WRONG_ENTRIES: list[Any] = [
    7,
    "entry",
    [],
    {},
    ENTRY | {"mode": -1},
    ENTRY | {"mode": 1 << 40},
    ENTRY | {"mode": "33188"},
    ENTRY | {"size": 1.5},
    ENTRY | {"links": True},
    ENTRY | {"handle": ["a"]},
    ENTRY | {"handle": "h" * 10_000},
    ENTRY | {"target": 5},
    ENTRY | {"xattrs": {"zz": ""}},
    ENTRY | {"xattrs": {"00": "0"}},
    ENTRY | {"xattrs": {"61" * 300: "0"}},
    ENTRY | {"xattrs": [1]},
    ENTRY | {"xattrs": {"61": None}},
    {key: value for key, value in ENTRY.items() if key != "handle"},
]


def asked(answer: dict[str, Any]) -> Questions:
    return Questions(lambda request: answer, lambda: 0)


@pytest.mark.parametrize("entry", WRONG_ENTRIES, ids=lambda entry: str(entry)[:40])
def test_an_entry_that_is_none_is_refused(entry: Any) -> None:
    assert asked({"entries": [ENTRY]}).look(0, [b"a"]) == [ENTRY]
    with pytest.raises(WireFault):
        asked({"entries": [entry]}).look(0, [b"a"])
    with pytest.raises(WireFault):
        asked({"entry": entry}).describe(0, b"a")
    with pytest.raises(WireFault):
        asked({"entries": {"61": entry}, "whole": True}).entries(0, b"")


@pytest.mark.parametrize(
    "name", [b"..", b".", b"", b"a/b", b"/etc", b"a\0b", b"x" * 256, None, 7, "zz"], ids=repr
)
def test_a_name_in_an_answer_that_is_no_name_is_refused(name: Any) -> None:
    told = name.hex() if isinstance(name, bytes) else name
    with pytest.raises(WireFault):
        list(asked({"names": [told], "whole": True}).names_in(0, b"", 1, [0]))
    with pytest.raises(WireFault):
        asked({"summaries": [{"digests": "", "linked": {told: "a"}}]}).summaries(0, [(b"", 1)])
    with pytest.raises(WireFault):
        asked({"entries": {told: ENTRY}, "whole": True}).entries(0, b"")


@pytest.mark.parametrize(
    "entry",
    [
        [0, "2e2e", 2, 0],
        [0, b"/etc/passwd".hex(), 2, 0],
        [0, b".hafarm/quarantine".hex(), 2, -1],
        [0, b"a/../../b".hex(), 2, 0],
        [0, "61" * (trees.PATH_BYTES_MAX + 1), 2, 0],
        [0, "61", 9, 0],
        [0, "61", [], 0],
        [0, "61", 0, -2],
        [0, "61", 0, 1 << 63],
        [-1, "61", 0, 0],
        [0, "61", 0],
        7,
    ],
    ids=lambda entry: str(entry)[:40],
)
def test_an_entry_of_the_peers_log_that_leads_elsewhere_is_refused(entry: Any) -> None:
    assert asked({"changed": [[0, "61", 2, 0]], "whole": True}).changed() == [(0, b"a", 2, 0)]
    with pytest.raises(WireFault):
        asked({"changed": [entry], "whole": True}).changed()


def test_counts_that_lie_and_pages_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for entries in ([], [None, None], None, {}):
        with pytest.raises(WireFault):
            asked({"entries": entries}).look(0, [b"a"])
    with pytest.raises(WireFault):
        asked({"digests": [["0"] * 257]}).hashes(0, [(b"a", 0, 256)])
    with pytest.raises(WireFault):
        asked({"count": -1}).passed_over()
    with pytest.raises(WireFault):
        list(asked({"names": ["61"], "whole": False}).names_in(0, b"", 1, [0]))  # the same page again
    monkeypatch.setattr(questions, "ENTRIES_MAX", 1000)
    with pytest.raises(WireFault, match="more than 1000"):
        asked({"changed": [[0, "61", 2, 0]] * 7, "whole": False}).changed()
    monkeypatch.setattr(questions, "NAMES_MAX", 1000)
    count = iter(range(100_000))
    endless = Questions(lambda request: {"names": [(b"%06d" % next(count)).hex()], "whole": False}, lambda: 0)
    with pytest.raises(WireFault, match="without an end"):
        list(endless.names_in(0, b"", 1, [0]))


def test_answers_that_are_cut_short_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a peer whose answer would be longer than a frame: nothing is lost of it."""
    for number in range(300):
        (tmp_path / f"{number:04}").write_bytes(b"x" * number)
    monkeypatch.setattr("orchestrator.replicator.answers.PAGE_TEXT_BYTES", 1000)
    monkeypatch.setattr("orchestrator.replicator.trees.PAGE_TEXT_BYTES", 1000)
    monkeypatch.setattr("orchestrator.replicator.answers.DIRECTORIES_MAX", 2)
    root = os.open(tmp_path, os.O_RDONLY)
    applier = Applier([root], Notes())
    logs = ChangeLogs(str(tmp_path / "state"), [PARIS])
    answers = Answers(applier, logs, PARIS, trees.nothing_excluded)
    count = 0

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        count += 1
        answer = answers.answer(json.loads(json.dumps(request)))
        assert "error" not in answer, answer
        return json.loads(json.dumps(answer))  # type: ignore[no-any-return]

    asker = Questions(ask, lambda: 0)
    names = [b"%04d" % number for number in range(300)]
    looks = asker.look(0, names)
    assert [look and look["size"] for look in looks] == list(range(300))
    assert count > 50
    assert [name for page in asker.names_in(0, b"", 1, [0]) for name in page] == [*names, b"state"]
    assert sorted(asker.entries(0, b"")) == [*names, b"state"]
    assert len(asker.summaries(0, [(b"", 4)] * 9)) == 9
    assert len(asker.hashes(0, [(name, 0, 200) for name in names])) == 300
    applier.close()
    logs.close()
    os.close(root)


def lied(dice: random.Random, value: Any) -> Any:
    """The same with some of it otherwise."""
    if dice.random() < 0.08:
        return dice.choice(
            [None, -1, 1 << 70, "", "zz", [], {}, True, 1.5, "2e2e", "2f", "00", "61" * 200, float("inf")]
        )
    if isinstance(value, dict):
        return {key: lied(dice, each) for key, each in value.items() if dice.random() > 0.02}
    if isinstance(value, list):
        some = [lied(dice, each) for each in value if dice.random() > 0.03]
        return some * dice.choice([1, 1, 1, 1, 2])
    return value


def test_no_lie_in_an_answer_ends_in_an_exception_that_is_not_ours() -> None:
    honest: list[tuple[Callable[[Questions], Any], dict[str, Any]]] = [
        (lambda asker: asker.look(0, [b"a", b"b"]), {"entries": [ENTRY, None]}),
        (lambda asker: asker.describe(0, b"a"), {"entry": ENTRY}),
        (lambda asker: asker.entries(0, b""), {"entries": {"61": ENTRY, "62": ENTRY}, "whole": True}),
        (
            lambda asker: asker.summaries(0, [(b"", 2)]),
            {"summaries": [{"digests": "00" * 16, "linked": {"61": "ab"}}]},
        ),
        (lambda asker: list(asker.names_in(0, b"", 2, [1])), {"names": ["61", "62"], "whole": True}),
        (lambda asker: asker.hashes(0, [(b"a", 0, 2)]), {"digests": [["0" * 32, ""]]}),
        (lambda asker: asker.blocks(0, b"a", 0, 2), {"blocks": ["0" * 32, ""], "size": 9}),
        (lambda asker: asker.changed(), {"changed": [[0, "61", 2, 0]], "whole": True}),
        (lambda asker: asker.passed_over(), {"count": 3}),
    ]
    for question, answer in honest:
        question(asked(answer))
        for seed in range(LIES):
            dice = random.Random(seed)
            try:
                told = lied(dice, answer)
                question(asked(told if isinstance(told, dict) else {}))
            except (WireFault, OSError):
                pass


# --- a copy to a peer that lies ----------------------------------------------------------------------------


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
        record(1, LIFE, {PARIS}), excluded=lambda volume, path: path.endswith(b".tmp")
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


# --- who dials a follower ----------------------------------------------------------------------------------


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


def test_no_depth_of_nesting_ends_in_an_exception_that_is_not_ours() -> None:
    """Python's own limit is met by whoever prints what could just be read."""
    for depth in range(800, 1200, 5):
        nested = b"[" * depth + b"]" * depth
        payload = b'{"record": ' + json.dumps(record(1, LIFE, {PARIS}).as_dict() | {"reason": 0}).encode()
        payload = payload.replace(b'"reason": 0', b'"reason": ' + nested) + b"}"
        with pytest.raises(WireFault), frames.believed("a HELLO"):
            Record.from_dict(frames.Frame(Kind.HELLO, 0, payload).json()["record"])


def test_a_log_of_a_directory_that_nobody_replicates_is_no_log() -> None:
    copier = SimpleNamespace(_source=SimpleNamespace(volumes=1))
    with pytest.raises(WireFault, match="number 7"):
        Copier._here(copier, 7, b"a", ops.NAMES, 0, {})  # type: ignore[arg-type]


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
