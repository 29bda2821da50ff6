"""Answers of a follower that lies: what is none is refused, and what is cut short is asked for again."""

from __future__ import annotations

import json
import os
import random
import secrets
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.mirror import frames
from orchestrator.mirror.frames import Kind, WireFault
from orchestrator.model.record import Record
from orchestrator.replicator import ops, questions, trees
from orchestrator.replicator.answers import Answers
from orchestrator.replicator.apply import Applier
from orchestrator.replicator.copy import Copier
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.questions import Questions
from tests.replicator.hostile import (
    lied,
)
from tests.replicator.pair import PARIS, record
from tests.replicator.test_apply import Notes

LIFE = secrets.token_hex(16)
LIES = 100
"""Of each kind of answer."""


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
