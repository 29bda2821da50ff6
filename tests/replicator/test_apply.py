"""What a hostile or failing stream can do to a follower's tree: nothing outside, nothing half believed."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.mirror.differ import Key, Place, PlaceOf
from orchestrator.mirror.frames import WireFault
from orchestrator.replicator import codec, ops
from orchestrator.replicator.apply import Applier, ApplyFailed
from orchestrator.replicator.codec import Remove
from orchestrator.replicator.points import Points

SAMPLES: list[codec.Sent] = [
    ops.Bind(0, 2, 1, b"a"),
    ops.Unbind(1, 2),
    ops.Create(0, 2, 1, b"f", stat.S_IFREG | 0o640, 5, 6, 0),
    ops.Mkdir(0, 2, 1, b"d", 0o750, 5, 6),
    ops.Symlink(0, 2, 1, b"l", b"../target", 5, 6),
    ops.Link(0, 2, 1, b"n"),
    ops.Unlink(0, 1, b"f"),
    ops.Rmdir(0, 1, b"d"),
    ops.Rename(0, 1, b"f", 3, b"g", 2),
    ops.Write(0, 2, 1 << 40, b"\0data"),
    ops.SetAttr(0, 2, 63, 0o644, 1, 2, 3, -4, 1 << 60),
    ops.Allocate(0, 2, 3, 4096, 8192),
    ops.SetXattr(0, 2, b"user.a", b""),
    ops.RemoveXattr(0, 2, b"user.a"),
    ops.Sync(0, 2, True, (1, 7)),
    ops.SyncDirectory(0, 1),
    Remove(0, 1, b"old"),
]


class Notes:
    """The may-differ log as a list."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.places: dict[int, Place | None] = {}

    def before_change(self, keys: Iterable[Key], sequence: int, place_of: PlaceOf) -> None:
        self.keys += keys
        self.places.update({key[1]: place_of(key[0], key[1]) for key in keys})

    def folded(self, volume: int, directory: int) -> bool:
        return False

    def made(self, volume: int, inode: int, sequence: int, place: Place | None) -> None:
        self.keys.append((volume, inode, ops.FRESH, 0))
        self.places[inode] = place

    def moved(self, volume: int, inode: int, place: Place | None) -> None:
        self.places[inode] = place


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


@pytest.fixture
def applier(tree: Path) -> Iterator[Applier]:
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    made = Applier([root], Notes())
    yield made
    made.close()
    os.close(root)


def do(applier: Applier, *operations: codec.Sent) -> None:
    for number, operation in enumerate(operations, 1):
        sync = applier.apply(codec.decode(codec.encode(operation)), number)
        if sync is not None:
            sync()


@pytest.mark.parametrize("operation", SAMPLES, ids=lambda operation: type(operation).__name__)
def test_every_operation_travels_unchanged(operation: codec.Sent) -> None:
    wire = codec.encode(operation)
    assert codec.decode(wire) == operation
    for damaged in (wire[:-1], wire + b"x", b"\xff" + wire[1:], b""):
        with pytest.raises(WireFault):
            codec.decode(damaged)


@given(st.binary(max_size=80))
def test_noise_is_a_whole_operation_or_refused(noise: bytes) -> None:
    try:
        operation = codec.decode(noise)
    except WireFault:
        return
    # `data_only` is a byte of its own: any value but 0 means yes.
    assert codec.decode(codec.encode(operation)) == operation


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc", b"a\0b", b"x" * 256, ops.HIDDEN])
def test_a_name_that_is_no_plain_name_is_refused(applier: Applier, tree: Path, name: bytes) -> None:
    (tree.parent / "secret").write_text("kept")
    for operation in (
        ops.Create(0, 5, 1, name, stat.S_IFREG | 0o600, 0, 0),
        ops.Mkdir(0, 5, 1, name, 0o700, 0, 0),
        ops.Unlink(0, 1, name),
        ops.Bind(0, 5, 1, name),
        Remove(0, 1, name),
    ):
        with pytest.raises(ApplyFailed):
            do(applier, operation)
    assert os.listdir(tree) == []
    assert (tree.parent / "secret").read_text() == "kept"


def test_a_symbolic_link_in_the_tree_leads_nowhere_outside(applier: Applier, tree: Path) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "victim").write_text("kept")
    do(applier, ops.Symlink(0, 2, 1, b"door", os.fsencode(outside), 0, 0))
    for operation in (
        ops.Create(0, 3, 2, b"new", stat.S_IFREG | 0o600, 0, 0),
        ops.Unlink(0, 2, b"victim"),
        ops.Bind(0, 4, 2, b"victim"),
    ):
        with pytest.raises(ApplyFailed):
            do(applier, operation)
    assert os.listdir(outside) == ["victim"]


def test_owner_rights_times_and_attributes_are_exact(applier: Applier, tree: Path) -> None:
    do(
        applier,
        ops.Create(0, 2, 1, b"f", stat.S_IFREG | 0o4711, 12, 34),
        ops.Write(0, 2, 0, b"x"),
        ops.SetAttr(0, 2, ops.MODE | ops.ATIME | ops.MTIME, 0o4711, atime_ns=5, mtime_ns=1_000_000_007),
        ops.SetXattr(0, 2, b"user.k", b"v"),
    )
    status = (tree / "f").stat()
    assert (status.st_mode, status.st_uid, status.st_gid) == (stat.S_IFREG | 0o4711, 12, 34)
    assert (status.st_atime_ns, status.st_mtime_ns) == (5, 1_000_000_007)
    assert os.getxattr(tree / "f", "user.k") == b"v"


def test_an_id_stays_good_when_its_name_changes_and_when_it_is_gone(applier: Applier, tree: Path) -> None:
    do(
        applier,
        ops.Create(0, 2, 1, b"f", stat.S_IFREG | 0o600, 0, 0),
        ops.Rename(0, 1, b"f", 1, b"g", 0),
        ops.Create(0, 3, 1, b"f", stat.S_IFREG | 0o600, 0, 0),
        ops.Write(0, 2, 0, b"second name"),
        ops.Unlink(0, 1, b"g"),
        ops.Write(0, 2, 0, b"nobody sees this"),
        ops.Sync(0, 2, False),
    )
    assert (tree / "f").read_bytes() == b""


def test_what_this_disk_refuses_ends_the_stream_instead_of_being_passed_over(applier: Applier) -> None:
    with pytest.raises(ApplyFailed) as failure:
        do(applier, ops.Unlink(0, 1, b"absent"))
    assert failure.value.number == errno.ENOENT
    with pytest.raises(ApplyFailed):
        do(applier, ops.Write(0, 99, 0, b"an id never introduced"))
    with pytest.raises(ApplyFailed):
        do(applier, Remove(0, 1, b"only a copy may"))


def test_every_change_is_noted_before_it_is_made(tree: Path) -> None:
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    seen: list[tuple[list[Key], list[int]]] = []

    class Looks(Notes):
        """Keeps what the tree was when an entry was asked for."""

        def before_change(self, keys: Iterable[Key], sequence: int, place_of: PlaceOf) -> None:
            seen.append((list(keys), [file.stat().st_size for file in tree.iterdir()]))

        def made(self, volume: int, inode: int, sequence: int, place: Place | None) -> None:
            seen.append(
                ([(volume, inode, ops.FRESH, 0)], [file.stat().st_mode & 0o777 for file in tree.iterdir()])
            )

    applier = Applier([root], Looks())
    do(
        applier,
        ops.Create(0, 2, 1, b"f", stat.S_IFREG | 0o644, 0, 0),
        ops.Write(0, 2, 5, b"x"),
        ops.Write(0, 2, 4 << 20, b"x"),
    )
    inode, above = (tree / "f").stat().st_ino, tree.stat().st_ino
    assert seen == [
        ([(0, above, ops.NAMES, 0)], []),
        ([(0, inode, ops.FRESH, 0)], [0o600]),
        ([(0, inode, ops.FRESH, 0)], [0]),
        ([(0, inode, ops.DATA, 1)], [6]),
    ]
    applier.close()
    os.close(root)


def test_what_a_diverged_copy_loses_is_set_aside_and_listed_first(applier: Applier, tree: Path) -> None:
    (tree / "changed").write_text("mine")
    (tree / "gone").mkdir()
    (tree / "gone" / "inner").write_text("also mine")
    applier.begin_copy("7-3")
    do(
        applier,
        ops.Bind(0, 2, 1, b"changed"),
        ops.Write(0, 2, 0, b"ours"),
        Remove(0, 1, b"gone"),
    )
    aside = tree / ".hafarm" / "quarantine" / "7-3"
    lines = (aside / "LIST").read_text().splitlines()
    assert [("changed" in line, "gone" in line) for line in lines] == [(True, False), (False, True)]
    assert (aside / "000001").read_text() == "mine"
    assert (aside / "000002" / "inner").read_text() == "also mine"
    assert (tree / "changed").read_text() == "ours"
    assert not (tree / "gone").exists()


def test_points_are_acknowledged_only_when_all_before_them_are_on_disk() -> None:
    points = Points()
    for sequence in (3, 5, 9):
        points.begin(sequence)
    points.done(5)
    assert points.reached(12) == 2
    points.done(3)
    assert points.reached(12) == 8
    points.done(9)
    assert points.reached(12) == 12


def test_random_operations_give_the_same_tree_as_the_system_calls(applier: Applier, tree: Path) -> None:
    twin = tree.parent / "twin"
    twin.mkdir()
    dice = random.Random(7)
    names = [b"n%d" % number for number in range(6)]
    ids: dict[bytes, int] = {}
    for number in range(400):
        name, other = dice.choice(names), dice.choice(names)
        path, target = twin / os.fsdecode(name), twin / os.fsdecode(other)
        operations: list[codec.Sent] = []
        match dice.randrange(5):
            case 0 if name not in ids:
                path.touch(0o600)
                ids[name] = number + 2
                operations = [ops.Create(0, ids[name], 1, name, stat.S_IFREG | 0o600, 0, 0)]
            case 1 if name in ids:
                data, offset = dice.randbytes(30), dice.randrange(100)
                with path.open("r+b") as file:
                    file.seek(offset)
                    file.write(data)
                operations = [ops.Write(0, ids[name], offset, data)]
            case 2 if name in ids and ids[name] != ids.get(other):
                os.rename(path, target)
                ids[other] = ids.pop(name)
                operations = [ops.Rename(0, 1, name, 1, other, 0)]
            case 3 if name in ids and other not in ids:
                os.link(path, target)
                ids[other] = ids[name]
                operations = [ops.Link(0, ids[name], 1, other)]
            case 4 if name in ids:
                os.unlink(path)
                operations = [ops.Unlink(0, 1, name), ops.Sync(0, ids.pop(name), False)]
        do(applier, *operations)
        if number % 50 == 0:
            applier.objects._shrink()
    pictures = [
        {p.name: (p.read_bytes(), p.stat().st_nlink) for p in place.iterdir()} for place in (twin, tree)
    ]
    assert pictures[0] == pictures[1]


def test_a_durable_point_takes_the_directories_along_in_which_the_file_got_names(
    applier: Applier, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd, name=name: synced.append((name, os.fstat(fd).st_ino)))
    applier.apply(ops.Mkdir(0, 2, ops.ROOT, b"d", 0o755, 0, 0), 1)
    applier.apply(ops.Create(0, 3, 2, b"f", stat.S_IFREG | 0o644, 0, 0), 2)
    sync = applier.apply(ops.Sync(0, 3, True, (2,)), 3)
    assert sync is not None
    assert synced == []
    sync()
    file, directory = (tree / "d/f").stat().st_ino, (tree / "d").stat().st_ino
    assert synced == [("fdatasync", file), ("fsync", directory)]


def test_what_loses_one_of_its_names_is_noted_as_its_time_of_change_moves_on(
    applier: Applier, tree: Path
) -> None:
    """After a crash it would be taken for an edit from outside."""
    applier.apply(ops.Create(0, 2, 1, b"f", stat.S_IFREG | 0o640, 0, 0, 0), 1)
    applier.apply(ops.Link(0, 2, 1, b"n"), 2)
    notes = applier._log
    assert isinstance(notes, Notes)
    notes.keys.clear()
    applier.apply(ops.Unlink(0, 1, b"n"), 3)
    assert (tree / "f").stat().st_ino in {key[1] for key in notes.keys}
    notes.keys.clear()
    inode = (tree / "f").stat().st_ino
    applier.apply(ops.Unlink(0, 1, b"f"), 4)
    assert inode not in {key[1] for key in notes.keys}, "nothing is left of it"


@pytest.mark.parametrize("set_aside", ["", "7-3"])
@pytest.mark.parametrize(
    "operation",
    [
        ops.Create(0, 9, 1, b"n", stat.S_IFREG | 0o640, 0, 0, 0),
        ops.Symlink(0, 9, 1, b"n", b"f", 0, 0),
        ops.Mkdir(0, 9, 1, b"d", 0o755, 0, 0),
        ops.Rename(0, 1, b"moves", 1, b"d", 0),
        ops.Unlink(0, 1, b"n"),
        Remove(0, 1, b"n"),
        Remove(0, 1, b"d"),
    ],
    ids=str,
)
def test_what_a_copy_takes_one_of_its_names_is_noted_before(
    applier: Applier, tree: Path, operation: codec.Sent, set_aside: str
) -> None:
    """Also where that name is in the way of a new object, or below a directory that goes."""
    for name in ("f", "alone", "moves"):
        (tree / name).write_text(name)
    (tree / "d").mkdir()
    for other in ("n", "d/n"):
        os.link(tree / "f", tree / other)
    before = (tree / "f").stat()
    seen: list[int] = []

    class Looks(Notes):
        def before_change(self, keys: Iterable[Key], sequence: int, place_of: PlaceOf) -> None:
            keys = list(keys)
            super().before_change(keys, sequence, place_of)
            if before.st_ino in {key[1] for key in keys}:
                seen.append((tree / "f").stat().st_nlink)

    applier._log = Looks()
    applier.begin_copy(set_aside)
    do(applier, operation)
    assert seen[:1] == [before.st_nlink]
    assert (tree / "alone").stat().st_ino not in {key[1] for key in applier._log.keys}
