"""A primary that is broken, or somebody else's: what its operations and frames can do to a follower."""

from __future__ import annotations

import os
import random
import resource
import secrets
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.mirror import frames
from orchestrator.mirror.frames import Kind, WireFault
from orchestrator.mirror.lineage import Standing
from orchestrator.model.errors import HafarmError
from orchestrator.replicator import codec, ops, trees
from orchestrator.replicator.apply import Applier, ApplyFailed
from orchestrator.replicator.codec import Remove
from orchestrator.replicator.objects import HANDLES_OPEN_MAX
from orchestrator.replicator.quarantine import remove_tree
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
from tests.replicator.test_apply import SAMPLES, Notes, do
from tests.support.disks import ext4
from tests.support.waiting import eventually

SEEDS = 400
"""Of operations given to the applier; each is a stream of its own over an empty tree."""
STREAMS = 30
"""Of frames over real connections."""
LIFE = secrets.token_hex(16)

NAMES = [
    *(b"a", b"b", b"c", b"d", b"e", b"door", b"gate", b"window", b"disk", b"x" * 255),
    *(b"", b".", b"..", b"/", b"a/b", b"../canary", b"/etc/passwd", b"a\0b", b"y" * 256, b"z" * 70_000),
    *(ops.HIDDEN, b".hafarm/quarantine", b"canary", b"lost+found"),
]
IDS = [*range(8), 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
NUMBERS = [0, 1, 4095, 4096, 1 << 22, 1 << 31, 1 << 40, (1 << 44) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
OWNERS = [0, 1000, 65534, (1 << 31) - 1, (1 << 32) - 1]
XATTRS = [
    b"user.k",
    b"trusted.k",
    b"security.capability",
    b"system.posix_acl_access",
    b"",
    b"user.\0",
    b"q" * 300,
]


class Dice(random.Random):
    """Says operations that are well formed, and some that are honest: only these lead anywhere."""

    def __init__(self, seed: int, targets: list[bytes]) -> None:
        super().__init__(seed)
        self.targets = targets

    def name(self) -> bytes:
        return self.choice(NAMES[:9] if self.random() < 0.7 else NAMES)

    def id(self) -> int:
        return self.choice(IDS[1:8] if self.random() < 0.9 else IDS)

    def number(self) -> int:
        return self.choice(NUMBERS[:5] if self.random() < 0.6 else NUMBERS)

    def volume(self) -> int:
        return 0 if self.random() < 0.98 else self.choice([1, 7, 65535])

    def mode(self) -> int:
        kinds = [stat.S_IFREG] * 6 + [
            stat.S_IFIFO,
            stat.S_IFSOCK,
            stat.S_IFCHR,
            stat.S_IFBLK,
            stat.S_IFDIR,
            0,
        ]
        return self.choice(kinds) | self.choice([0o644, 0o4755, 0o2770, 0, 0xFFFF0000])

    def operation(self) -> codec.Sent:
        volume, id, parent, name = self.volume(), self.id(), self.id(), self.name()
        uid, gid, number = self.choice(OWNERS), self.choice(OWNERS), self.number()
        match self.randrange(22):
            case 0 | 1 | 2:
                return ops.Create(
                    volume, id, parent, name, self.mode(), uid, gid, self.choice([0, 0x103, 1 << 40])
                )
            case 3 | 4 | 5:
                return ops.Mkdir(volume, id, parent, name, 0o755, uid, gid)
            case 6 | 7:
                return ops.Symlink(volume, id, parent, name, self.choice(self.targets), uid, gid)
            case 8 | 9:
                return ops.Bind(volume, id, parent, name)
            case 10:
                return ops.Unbind(volume, id)
            case 11:
                return ops.Link(volume, id, parent, name)
            case 12:
                return self.choice([ops.Unlink, ops.Rmdir, Remove])(volume, parent, name)
            case 13 | 14:
                flags = self.choice([0, 0, 1, 2, 3, 4, 1 << 31])
                return ops.Rename(volume, parent, name, self.id(), self.name(), flags)
            case 15 | 16:
                return ops.Write(volume, id, number, self.randbytes(self.choice([0, 1, 4096, 70_000])))
            case 17:
                which, times = (
                    self.choice([1, 6, 8, 32, 63, 64, 1 << 31]),
                    self.choice([0, -1, 1 << 62, -(1 << 63)]),
                )
                return ops.SetAttr(
                    volume, id, which, self.mode() & 0xFFFFFFFF, uid, gid, number, times, times
                )
            case 18:
                return ops.Allocate(
                    volume, id, self.choice([0, 1, 3, 16, 8, 32, 1 << 31]), number, self.number()
                )
            case 19:
                value = self.randbytes(self.choice([0, 9, 5000, 1 << 20]))
                return ops.SetXattr(volume, id, self.choice(XATTRS), value)
            case 20:
                return ops.RemoveXattr(volume, id, self.choice(XATTRS))
            case _:
                directories = tuple(self.id() for _ in range(self.choice([0, 1, codec.DIRECTORIES_MAX])))
                return ops.Sync(volume, id, self.random() < 0.5, directories, self.choice([None, (1, -1)]))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small: whoever fills it has filled it soon. Devices work on it."""
    base = tmp_path_factory.mktemp("disk")
    with ext4(base / "image", base / "at", "48M") as at:
        yield at


@pytest.fixture
def place(disk: Path) -> Iterator[Path]:
    made = disk / secrets.token_hex(4)
    made.mkdir()
    yield made
    parent = os.open(disk, os.O_RDONLY)
    remove_tree(parent, os.fsencode(made.name))
    os.close(parent)


@pytest.fixture
def canary(place: Path) -> Iterator[Canary]:
    made = Canary(place)
    yield made
    made.close()


def emptied(tree: Path) -> int:
    """A descriptor of the tree, in which there is nothing."""
    tree.mkdir(exist_ok=True)
    root = os.open(tree, os.O_RDONLY)
    for name in os.listdir(tree):
        remove_tree(root, os.fsencode(name))
    return root


def what_goes_wrong(tree: Path, payloads: list[bytes], copying: str | None) -> str:
    """Give a stream to an applier, which goes on after each refusal; what it must never do, or nothing."""
    root = emptied(tree)
    before = descriptors()
    applier = Applier([root], Notes())
    try:
        if copying is not None:
            applier.begin_copy(copying)
        for number, payload in enumerate(payloads, 1):
            began = time.monotonic()
            try:
                sync = applier.apply(codec.decode(payload), number)
                if sync is not None:
                    sync()
            except (WireFault, ApplyFailed, OSError):
                pass
            except Exception as fault:
                return f"{type(fault).__name__}: {fault}"
            if time.monotonic() - began > 10:
                return "one operation takes more than ten seconds"
        if descriptors() > before + 2 * len(payloads) + 8:
            return "descriptors are left open"
        applier.close()
        return "" if descriptors() == before else "descriptors are left open at the end"
    finally:
        os.close(root)


def shortest(tree: Path, payloads: list[bytes], copying: str | None) -> list[str]:
    """What is left of a stream that goes wrong, once everything that is not needed for that is dropped."""
    at = 0
    while at < len(payloads):
        fewer = payloads[:at] + payloads[at + 1 :]
        if what_goes_wrong(tree, fewer, copying):
            payloads = fewer
        else:
            at += 1
    return [payload.hex() for payload in payloads]


def test_no_operation_reaches_outside_or_ends_in_an_exception_that_is_not_ours(
    place: Path, canary: Canary
) -> None:
    tree = place / "tree"
    outside = [
        os.fsencode(canary.path),
        b"../canary",
        b"../canary/victim",
        b"/",
        b"..",
        b"",
        b"a\0b",
        b"t" * 5000,
    ]
    for seed in range(SEEDS):
        dice = Dice(seed, outside)
        payloads = [codec.encode(dice.operation()) for _ in range(60)]
        payloads += [mutated(dice, codec.encode(dice.choice(SAMPLES))) for _ in range(20)]
        if dice.random() < 0.5:
            dice.shuffle(payloads)
        copying = dice.choice([None, "", "7-3"])
        wrong = what_goes_wrong(tree, payloads, copying)
        assert not wrong, f"seed {seed}: {wrong}: {shortest(tree, payloads, copying)}"
        canary.check()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    assert used < 1024, f"{used} MiB"


# --- each find, kept ---------------------------------------------------------------------------------------


@pytest.fixture
def applier(place: Path) -> Iterator[Applier]:
    root = emptied(place / "tree")
    made = Applier([root], Notes())
    yield made
    made.close()
    os.close(root)


def test_a_device_that_a_stream_made_is_never_opened(place: Path, applier: Applier) -> None:
    """Else whoever is primary writes on every disk of this machine."""
    image = place / "image"
    image.write_bytes(Canary.SECRET.ljust(1 << 20))
    found = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True)
    loop = found.stdout.strip()
    try:
        number = os.stat(loop).st_rdev
        applier.begin_copy("")  # when most is passed over
        do(applier, ops.Create(0, 2, 1, b"disk", stat.S_IFBLK | 0o600, 0, 0, number))
        for operation in (
            ops.Write(0, 2, 0, b"written by a stream"),
            ops.SetAttr(0, 2, ops.SIZE, size=0),
            ops.Allocate(0, 2, 3, 0, 4096),
            ops.Sync(0, 2, False),
        ):
            passed_over = applier.passed_over
            do(applier, operation)
            assert applier.passed_over == passed_over + 1
        root = os.open(place / "tree", os.O_RDONLY)
        assert trees.hash_at(root, b"disk", 0, 1) == [], "whoever asks reads it"
        os.close(root)
        with open(loop, "rb") as device:
            assert device.read(64) == Canary.SECRET.ljust(64)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
    assert stat.S_ISBLK((place / "tree" / "disk").lstat().st_mode), "as a name a device is replicated"


@pytest.mark.parametrize(
    "operation",
    [
        ops.Write(0, 2, 1 << 63, b"x"),
        ops.Write(0, 2, (1 << 63) - 1, b"x"),
        ops.SetAttr(0, 2, ops.SIZE, size=1 << 63),
        ops.SetAttr(0, 2, 64),
        ops.Allocate(0, 2, 8, 0, 4096),
        ops.Allocate(0, 2, 0, 1 << 62, 1 << 62),
        ops.Rename(0, 1, b"f", 1, b"g", 4),
        ops.Create(0, ops.ROOT, 1, b"g", stat.S_IFREG | 0o600, 0, 0),
        ops.Bind(0, 0, 1, b"f"),
        ops.Symlink(0, 3, 1, b"l", b"a\0b", 0, 0),
        ops.SetXattr(0, 2, b"user.\0", b""),
    ],
    ids=repr,
)
def test_what_no_system_call_takes_is_refused_as_no_stream_of_ours(
    applier: Applier, place: Path, operation: codec.Sent
) -> None:
    do(applier, ops.Create(0, 2, 1, b"f", stat.S_IFREG | 0o600, 0, 0))
    with pytest.raises(WireFault):
        do(applier, operation)
    assert os.listdir(place / "tree") == ["f"]


def test_a_tree_deeper_than_recursion_and_paths_go_is_removed_and_set_aside(
    applier: Applier, place: Path
) -> None:
    depth = 1500
    for tag in ("", "7-3"):
        applier.begin_copy(tag)
        do(applier, ops.Mkdir(0, 2, 1, b"top", 0o700, 0, 0))
        for level in range(depth):
            do(applier, ops.Mkdir(0, 3 + level, 2 + level, b"deeper", 0o700, 0, 0))
        before = descriptors()
        do(applier, Remove(0, 1, b"top"))
        assert descriptors() <= before
        assert not (place / "tree" / "top").exists()


def test_a_flood_of_objects_keeps_no_more_descriptors_than_are_allowed(
    applier: Applier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.replicator.objects.HANDLES_OPEN_MAX", 20)
    monkeypatch.setattr("orchestrator.replicator.objects.WRITERS_OPEN_MAX", 10)
    monkeypatch.setattr("orchestrator.replicator.objects.IDS_MAX", 200)
    assert HANDLES_OPEN_MAX < 20_000
    before = descriptors()
    for id in range(2, 150):
        do(
            applier,
            ops.Create(0, id, 1, b"%d" % id, stat.S_IFREG | 0o600, 0, 0),
            ops.SetAttr(0, id, ops.MODE),
        )
    assert descriptors() <= before + 20 + 10
    with pytest.raises(ApplyFailed, match="more than 200 objects"):
        do(applier, *(ops.Bind(0, id, 1, b"2") for id in range(1000, 1200)))


# --- frames over real connections --------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path, place: Path) -> Iterator[Pair]:
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


def test_questions_are_answered_or_refused_and_lead_nowhere(pair: Pair, canary: Canary) -> None:
    tree = pair.trees[LYON]
    (tree / "a").write_bytes(b"a" * 300_000)
    os.symlink(canary.path, tree / "door")
    os.mkfifo(tree / "pipe")
    (tree / "kept.tmp").mkdir()
    (tree / "kept.tmp" / "inner").write_bytes(b"local")
    (tree / ".hafarm" / "quarantine" / "1-1").mkdir(parents=True)
    (tree / ".hafarm" / "quarantine" / "1-1" / "000001").write_bytes(b"kept")
    assert pair.follower is not None
    pair.follower.excluded = lambda volume, path: path.split(b"/")[0].endswith(b".tmp")
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


def test_the_follower_ends_each_bad_stream_says_why_and_serves_the_next(pair: Pair, canary: Canary) -> None:
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
    pair: Pair, canary: Canary, tmp_path: Path
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
