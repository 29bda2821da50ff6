"""A primary that is broken, or somebody else's: what its frames and questions can do to a follower."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.mirror import frames
from orchestrator.mirror.frames import Kind
from orchestrator.mirror.lineage import Standing
from orchestrator.model.errors import HafarmError
from orchestrator.replicator import codec
from tests.replicator.hostile import (
    Canary,
    FalseFollower,
    FalsePrimary,
    answer_of_an_empty_node,
    descriptors,
    eventually_no_more_descriptors_than,
    mutated,
    no_other_exceptions,
    raw,
)
from tests.replicator.pair import LYON, PARIS, Pair, picture, record
from tests.replicator.test_hostile_operations import Dice, canary, disk, emptied, place  # noqa: F401
from tests.support.waiting import eventually

STREAMS = 30
"""Each over real connections of its own."""
LIFE = secrets.token_hex(16)


@pytest.fixture
def pair(tmp_path: Path, place: Path) -> Iterator[Pair]:  # noqa: F811
    """Lyon follows, and believes that Paris is primary."""
    made = Pair(tmp_path)
    made.trees[LYON] = place / "tree"
    made.trees[LYON].mkdir()
    made.start_follower(record(1, LIFE, {PARIS}))
    yield made
    made.stop()


class Frames(Dice):
    """Frames in and out of order, most of them with the number that they should have."""

    def frame(self, sequence: int) -> bytes:
        if self.random() < 0.05:
            sequence = self.choice([0, 1, sequence - 1, sequence + 1, (1 << 64) - 1])
        match self.randrange(14):
            case 0:
                return raw(self.randrange(20), self.randbytes(self.randrange(40)), sequence)
            case 1:
                return raw(
                    Kind.OPERATION, b"", sequence, length=self.choice([1 << 20, 1 << 31, (1 << 32) - 1])
                )
            case 2:
                return mutated(self, frames.encode(Kind.OPERATION, codec.encode(self.operation()), sequence))
            case 3:
                about = {
                    "set_aside": self.choice(["", "7-3", "../../x", 7, "²", None, "1" * 300]),
                    "reigns": self.choice([[], [[1, "a"]], 7]),
                }
                return frames.encode_json(Kind.COPY_BEGIN, about, max(sequence, 1))
            case 4:
                told = Standing().as_dict() | {"flushed": self.choice([0, -1, sequence, True, None, 1 << 70])}
                return frames.encode_json(Kind.COPY_DONE, told, max(sequence, 1))
            case 5:
                changed = {"epoch": self.choice([0, 1, -1, 1 << 70, "1"]), "forced": True}
                return frames.encode_json(
                    Kind.RECORD, record(1, LIFE, {PARIS}).as_dict() | changed, max(sequence, 1)
                )
            case 6:
                return frames.encode(Kind.FLUSH, self.randbytes(self.choice([8, 8, 0, 3])), max(sequence, 1))
            case 7:
                return frames.encode(self.choice([Kind.ALIVE, Kind.HELLO, Kind.ASK, Kind.VERDICT]))
            case _:
                return frames.encode(Kind.OPERATION, codec.encode(self.operation()), max(sequence, 1))


QUESTIONS: list[dict[str, Any]] = [
    {},
    {"do": []},
    {"do": "look", "volume": 0, "paths": ["2e2e", "2e2e2f63616e617279", "2f657463", "6100", 7, None]},
    {"do": "look", "volume": -1, "paths": [""]},
    {"do": "look", "volume": 0, "paths": {"a": 1}},
    {"do": "look", "volume": 1 << 70, "paths": []},
    {"do": "describe", "volume": 0, "path": "2e2e2f63616e6172792f76696374696d"},
    {"do": "describe", "volume": 0, "path": b".hafarm/quarantine".hex()},
    {"do": "list", "volume": 0, "path": "2e2e", "from": ""},
    {"do": "list", "volume": 0, "path": b".hafarm".hex(), "from": ""},
    {"do": "list", "volume": 0, "path": "", "from": 7},
    {"do": "hash", "volume": 0, "path": "646f6f72", "first": 0, "count": 1},
    {"do": "hash", "volume": 0, "path": "61", "first": -(1 << 70), "count": 1},
    {"do": "hashes", "volume": 0, "items": [["61", -5, 1 << 70]]},
    {"do": "hashes", "volume": 0, "items": [["61", 0, 256]] * 30_000},
    {"do": "hashes", "volume": 0, "items": 7},
    {"do": "summaries", "volume": 0, "items": [["", 16384]] * 30_000},
    {"do": "summaries", "volume": 0, "items": [["2e2e", 1], ["", -1]]},
    {"do": "names", "volume": 0, "path": "", "of": 0, "buckets": [0], "from": ""},
    {"do": "names", "volume": 0, "path": "2e2e", "of": 1, "buckets": [0], "from": ""},
    {"do": "names", "volume": 0, "path": "", "of": 1, "buckets": [[]], "from": "zz"},
    {"do": "changed", "first": -1},
    {"do": "changed", "first": 1 << 70},
    {"do": "changed"},
]


def test_questions_are_answered_or_refused_and_lead_nowhere(
    pair: Pair,
    canary: Canary,  # noqa: F811
) -> None:
    tree = pair.trees[LYON]
    (tree / "a").write_bytes(b"a" * 300_000)
    os.symlink(canary.path, tree / "door")
    os.mkfifo(tree / "pipe")
    (tree / "kept.tmp").mkdir()
    (tree / "kept.tmp" / "inner").write_bytes(b"local")
    (tree / ".hafarm" / "quarantine" / "1-1").mkdir(parents=True)
    (tree / ".hafarm" / "quarantine" / "1-1" / "000001").write_bytes(b"kept")
    assert pair.follower is not None
    pair.follower.excluded = lambda volume, path, is_directory: path.split(b"/")[0].endswith(b".tmp")
    with no_other_exceptions():
        false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
        false.begin()
        local = [b"kept.tmp".hex(), b"kept.tmp/inner".hex()]
        assert false.ask(do="look", volume=0, paths=local)["entries"] == [None, None]
        items = [[path, 0, 1] for path in (*local, b"pipe".hex(), b"door".hex())]
        assert false.ask(do="hashes", volume=0, items=items)["digests"] == [[]] * 4
        assert false.ask(do="summaries", volume=0, items=[[local[0], 1]])["summaries"] == [None]
        for path in local:
            assert "error" in false.ask(do="describe", volume=0, path=path)
            assert "error" in false.ask(do="hash", volume=0, path=path, first=0, count=1)
            assert "error" in false.ask(do="list", volume=0, path=path, **{"from": ""})
            more = {"of": 1, "buckets": [0], "from": ""}
            assert "error" in false.ask(do="names", volume=0, path=path, **more)
        for question in QUESTIONS:
            answer = false.ask(**question)
            bounded = question.get("do") in ("look", "hashes", "summaries", "names")
            assert "error" in answer or bounded, (question, answer)
            assert "error" in answer or b"canary".hex() not in str(answer)
            if question.get("do") == "hashes":
                assert len(answer.get("digests", [])) <= 256
            if question.get("do") == "look":
                assert not any(answer.get("entries", []))
        assert false.ask(do="look", volume=0, paths=["61"])["entries"][0]["size"] == 300_000
        false.bulk.send(frames.encode_json(Kind.ASK, {"do": "passed_over", "after": "x"}), 1)
        eventually(lambda: any("a question" in said["why"] for said in pair.said("stream_down")), 10)
        false.close()
    canary.check()


def test_the_follower_ends_each_bad_stream_says_why_and_serves_the_next(
    pair: Pair,
    canary: Canary,  # noqa: F811
) -> None:
    pair.admits = False
    before = descriptors()
    outside = [os.fsencode(canary.path), b"../canary/victim", b"..", b"/"]
    with no_other_exceptions():
        for seed in range(STREAMS):
            dice = Frames(seed, outside)
            false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
            false.begin()
            count = len(pair.said("stream_down"))
            eventually(lambda: len(pair.said("stream_up")) > count, 10)  # noqa: B023
            data = [frames.encode_json(Kind.COPY_BEGIN, {"set_aside": dice.choice(["", "7-3"])}, 1)]
            data += [dice.frame(number) for number in range(2, 60)]
            try:
                for one in data:
                    false.forward.send(one, 5)
            except HafarmError:
                pass  # ended in the middle, as it should be
            false.forward.close()  # whatever it sent is read before
            eventually(lambda: len(pair.said("stream_down")) > count, 20)  # noqa: B023
            false.close()
            assert pair.said("stream_down")[-1]["why"]
            canary.check()
        eventually_no_more_descriptors_than(before + 4)
    # An honest primary makes this node equal all the same.
    assert pair.follower is not None
    pair.follower.adopt()
    (pair.trees[PARIS] / "honest").write_bytes(b"copied")
    pair.start_primary(record(1, LIFE, {PARIS}))
    eventually(lambda: pair.said("member_ready") != [], 30)
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])
    canary.check()


def recorded(folder: Path) -> tuple[list[frames.Frame], dict[str, Any]]:
    """What a primary really sends to an empty node, and what its tree is then."""
    folder.mkdir()
    pair = Pair(folder)
    false = FalseFollower(pair)
    false.answer = answer_of_an_empty_node
    tree = pair.trees[PARIS]
    (tree / "folder").mkdir()
    (tree / "folder" / "file").write_bytes(b"copied" * 1000)
    os.link(tree / "folder" / "file", tree / "linked")
    os.symlink("folder/file", tree / "pointer")
    os.setxattr(tree / "linked", "user.kind", b"copied")
    pair.start_primary(record(1, LIFE, {PARIS}))
    eventually(lambda: pair.said("member_ready") != [], 20)
    assert pair.live is not None
    for number in range(10):
        pair.live.create(f"live{number}")
        pair.live.write(f"live{number}", number, b"written")
    pair.live.rename("live1", "folder/moved")
    pair.live.unlink("live2")
    last = pair.live.sync("live3")
    eventually(lambda: false.received[-1].sequence >= last, 10)
    shown = picture(tree)
    pair.stop()
    false.close()
    return list(false.received), shown


def test_a_recorded_stream_with_some_bytes_changed_leads_nowhere(
    pair: Pair,
    canary: Canary,  # noqa: F811
    tmp_path: Path,
) -> None:
    sent, shown = recorded(tmp_path / "recorded")
    pair.admits = False
    tree = pair.trees[LYON]
    with no_other_exceptions():
        for seed in range(STREAMS + 1):
            dice = random.Random(seed)
            os.close(emptied(tree))
            os.symlink(canary.path, tree / "door")
            data = [raw(frame.kind, frame.payload, frame.sequence) for frame in sent]
            for _ in range(dice.choice([1, 1, 3]) if seed < STREAMS else 0):
                at = dice.randrange(1, len(data))
                data[at] = mutated(
                    dice, data[at].replace(b"folder", dice.choice([b"folder", b"../../", b"door/x"]))
                )
            false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
            false.begin(after=sent[0].sequence - 1)
            count = len(pair.said("stream_down"))
            eventually(lambda: len(pair.said("stream_up")) > count, 10)  # noqa: B023
            try:
                false.forward.send(b"".join(data), 5)
            except HafarmError:
                pass  # ended in the middle
            false.forward.close()  # whatever it sent is read before
            eventually(lambda: len(pair.said("stream_down")) > count, 20)  # noqa: B023
            false.close()
            canary.check()
    (tree / "door").unlink()
    assert picture(tree) == shown, "as it was sent it makes the tree that it was sent of"
