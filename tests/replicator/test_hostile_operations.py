"""A primary that is broken, or somebody else's: what its operations can do to a follower's node."""

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

import pytest

from orchestrator.mirror.frames import WireFault
from orchestrator.replicator import codec, ops, trees
from orchestrator.replicator.apply import Applier, ApplyFailed
from orchestrator.replicator.codec import Remove
from orchestrator.replicator.objects import HANDLES_OPEN_MAX
from orchestrator.replicator.quarantine import remove_tree
from tests.replicator.hostile import (
    Canary,
    descriptors,
    mutated,
)
from tests.replicator.test_apply import SAMPLES, Notes, do
from tests.support.disks import ext4

SEEDS = 250
"""Of operations given to the applier; each is a stream of its own over an empty tree."""

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


def test_a_file_that_is_to_be_in_itself_leaves_no_descriptor_open(applier: Applier) -> None:
    do(applier, ops.Mkdir(0, 6, 1, b"folder", 0o755, 0, 0))
    before = descriptors()
    for number in range(20):
        with pytest.raises(ApplyFailed):
            do(applier, ops.Create(0, 6, 6, b"%d" % number, stat.S_IFREG | 0o600, 0, 0))
        do(applier, ops.Bind(0, 6, 1, b"folder"))
    assert descriptors() <= before


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
