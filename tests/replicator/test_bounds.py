"""Every queue, log and memory has an end, and what happens there is what docs/limits.md says."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.host import disk as host_disk
from orchestrator.mirror import differ, folding, frames
from orchestrator.mirror.frames import Kind
from orchestrator.mirror.lineage import Position
from orchestrator.model.errors import CorruptState, StoreFailed
from orchestrator.replicator import behind, codec, incoming, ops, outbox, seal, trees
from orchestrator.replicator.apply import Applier, ApplyFailed
from orchestrator.replicator.history import History
from orchestrator.replicator.link import Connection
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.main import link_settings
from orchestrator.replicator.outbox import Outbox, window_for
from orchestrator.replicator.plan import Changes
from orchestrator.replicator.quarantine import Quarantine, remove_tree
from orchestrator.replicator.settings import Settings
from orchestrator.replicator.stream import Primary
from tests.replicator.hostile import FalsePrimary, descriptors, quick
from tests.replicator.mounted import Mounted, sent
from tests.replicator.pair import LYON, PARIS, Pair, picture, record
from tests.replicator.test_apply import Notes, do
from tests.support.disks import ext4
from tests.support.waiting import eventually

LIFE = secrets.token_hex(16)
DEPTH = 1100
"""Of directories in each other: more than Python has frames, and as a path longer than the kernel takes."""
STREAM = "0123456789abcdef" * 2


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()


# --- the may-differ log ------------------------------------------------------------------------------------


def holding(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """A log has so many entries at most, and half of them before some are kept by directory."""
    monkeypatch.setattr(differ, "ENTRIES_MAX", entries)
    monkeypatch.setattr(folding, "FOLD_FROM", entries // 2)
    monkeypatch.setattr(folding, "FOLD_EVERY", entries // 10)


def test_a_log_that_overflows_keeps_what_is_on_its_way_and_says_that_it_is_not_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    holding(monkeypatch, 500)
    logs = ChangeLogs(str(tmp_path), [LYON])
    log = logs.of[LYON]
    log.confirmed(Position(STREAM, 1))
    for number in range(600):
        logs.before_change([(0, number, ops.DATA, 1)], number)
    assert log.says_too_little
    assert log.log.baseline is None
    assert log.unsettled() is None, "an estimate believes a log that does not know"
    assert len(log.keys()) <= 64, "entries are still kept one by one"
    assert (0, 599, ops.DATA, 1) in set(log.keys()), "a change that is on its way lost its entry"
    assert caplog.text.count("compares everything") == 1, "it is said aloud, once"
    again = ChangeLogs(str(tmp_path), [LYON]).of[LYON]  # of what was not closed: a process that was killed
    assert again.says_too_little
    assert not again.unreadable
    assert os.stat(tmp_path / f"may-differ.{LYON}").st_size < 50_000


def test_a_log_that_overflowed_is_believed_again_once_both_disks_have_a_copy_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding(monkeypatch, 500)
    logs = ChangeLogs(str(tmp_path), [LYON])
    log = logs.of[LYON]
    for number in range(600):
        logs.before_change([(0, number, ops.DATA, 1)], number)
    logs.let_go(700)
    log.confirmed(Position(STREAM, 10_000))
    assert log.says_too_little, "no copy has come"
    log.unpin(800)
    logs.before_change([(0, 9000, ops.DATA, 1)], 800)  # after the copy: not durable there
    logs.let_go(900)
    log.confirmed(Position(STREAM, 799))
    assert log.says_too_little, "the copy is not on both disks"
    log.confirmed(Position(STREAM, 850))
    assert not log.says_too_little
    assert (0, 9000, ops.DATA, 1) in set(log.keys()), "what came after the copy has no entry"
    again = ChangeLogs(str(tmp_path), [LYON]).of[LYON]
    assert not again.says_too_little
    assert (0, 9000, ops.DATA, 1) in set(again.keys())
    assert again.log.baseline == Position(STREAM, 850)


def test_a_hot_entry_is_durable_again_after_an_overflow_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that holds it asks for nothing: it must be in the file all the same."""
    holding(monkeypatch, 500)
    logs = ChangeLogs(str(tmp_path), [LYON])
    log = logs.of[LYON]
    hot = (0, 7, ops.DATA, 3)
    threading.Thread(target=logs.before_change, args=([hot], 1)).start()  # and never lets it go
    eventually(lambda: hot in set(log.keys()))
    for number in range(1000, 1600):
        logs.before_change([(0, number, ops.DATA, 1)], number)
    logs.let_go(1700)
    log.unpin(1700)
    log.confirmed(Position(STREAM, 1700))
    assert not log.says_too_little
    assert hot in set(ChangeLogs(str(tmp_path), [LYON]).of[LYON].keys())


def test_more_changes_than_the_log_holds_while_a_node_is_away_are_brought_back_by_looking_at_all(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding(monkeypatch, 300)
    pair.start_follower(record(1, LIFE, {PARIS}))
    primary = pair.start_primary(record(1, LIFE, {PARIS}))
    eventually(lambda: pair.said("member_ready") != [], 20)
    assert pair.live is not None
    pair.live.create("first")
    primary.flush()
    eventually(lambda: primary.logs.of[LYON].log.baseline is not None, 20)
    pair.stop_follower()
    for number in range(400):
        pair.live.create(f"file{number}")
    pair.live.unlink("first")
    assert primary.logs.of[LYON].says_too_little
    pair.told.clear()
    pair.start_follower(record(1, LIFE, {PARIS}))
    primary._links[LYON]._settings.ports[LYON] = pair.port  # type: ignore[index]
    eventually(lambda: pair.said("member_ready") != [], 30)
    (began,) = pair.said("copy_begins")
    assert began["full"]
    assert "more changed than its may-differ log holds" in began["why"]
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])


# --- the stream --------------------------------------------------------------------------------------------


def test_the_windows_of_all_mirrors_of_a_node_share_one_budget() -> None:
    assert window_for(1) == outbox.WINDOW_BYTES
    for mirrors in (1, 2, 4, 8, 16):
        assert window_for(mirrors) * mirrors <= outbox.WINDOWS_BYTES
    assert window_for(1000) == outbox.WINDOW_BYTES_MIN
    assert outbox.WINDOW_BYTES_MIN > 2 * codec.OPERATION_BYTES_MAX


@pytest.mark.parametrize(("size", "frames_max"), [(4096, 256), (1, outbox.WINDOW_FRAMES)])
def test_a_full_window_holds_whoever_emits_until_there_is_room(size: int, frames_max: int) -> None:
    box = Outbox(window_bytes=1 << 20)
    box.attach(LYON, Kind.COPY_BEGIN, b"")
    emitted = 0
    done = threading.Event()

    def emit() -> None:
        nonlocal emitted
        for _ in range(frames_max + 50):
            box.put(Kind.OPERATION, bytes(size))
            emitted += 1
        done.set()

    threading.Thread(target=emit, daemon=True).start()
    eventually(lambda: box.holds_up_s(LYON) > 0.1, 20)
    assert frames_max - 2 <= emitted <= frames_max
    while box.take(LYON):
        pass
    box.applied(LYON, 200)
    assert done.wait(10)
    assert box.holds_up_s(LYON) == 0


def test_a_receiver_without_a_connection_holds_nobody_and_is_copied_to_anew() -> None:
    box = Outbox(window_bytes=1 << 20)
    box.attach(LYON, Kind.COPY_BEGIN, b"")
    box.disconnect(LYON)
    for _ in range(300):
        box.put(Kind.OPERATION, bytes(4096))  # 1.2 MiB: would wait for ever
    assert not box.resume(LYON, 0)


def test_a_slow_disk_slows_the_stream_instead_of_collecting_descriptors(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr("orchestrator.replicator.apply._sync_all", _waits_for(held))
    pair.start_follower(record(1, LIFE, {PARIS}))
    assert pair.follower is not None
    before = descriptors()
    false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
    false.begin()
    sent_frames = [
        (Kind.COPY_BEGIN, b"{}"),
        *[(Kind.OPERATION, codec.encode(ops.SyncDirectory(0, 1)))] * 2000,
    ]
    data = b"".join(
        frames.encode(kind, payload, number) for number, (kind, payload) in enumerate(sent_frames, 1)
    )
    false.forward.send(data, 10)
    try:
        eventually(lambda: pair.follower.applied >= incoming.SYNCS_MAX, 10)  # type: ignore[union-attr]
        assert pair.follower.applied <= incoming.SYNCS_MAX + 2
        assert descriptors() <= before + incoming.SYNCS_MAX + 40
    finally:
        held.set()
    eventually(lambda: pair.follower.applied == 2001, 20)  # type: ignore[union-attr]
    false.close()
    eventually(lambda: pair.said("stream_down") != [], 10)


def _waits_for(event: threading.Event) -> Callable[[list[int], bool], None]:
    def sync_all(fds: list[int], data_only: bool) -> None:
        event.wait()
        for fd in fds:
            os.close(fd)

    return sync_all


def test_a_file_with_names_in_more_directories_than_one_sync_tells_is_synced_with_all_of_them(
    mounted: Mounted,
) -> None:
    count = 2 * codec.DIRECTORIES_MAX + 5
    (mounted.tree / "file").write_bytes(b"x")
    for number in range(count):
        (mounted.tree / f"d{number}").mkdir()
        os.link(mounted.tree / "file", mounted.tree / f"d{number}" / "name")
    fd = os.open(mounted.tree / "file", os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    syncs = [one for one in sent(mounted, ops.Sync) if isinstance(one, ops.Sync)]
    told = [directory for one in syncs for directory in one.directories]
    made = {one.id for one in sent(mounted, ops.Mkdir) if isinstance(one, ops.Mkdir)}
    assert made <= set(told)
    assert len(syncs) == 3
    for one in syncs:
        assert codec.decode(codec.encode(one)) == one


def test_a_replicator_beside_seven_others_has_an_eighth_of_the_budget(tmp_path: Path) -> None:
    common = {"cluster": "shop", "module": "orders", "node": "paris", "socket": "s", "state_directory": "d"}
    for mirrors in (1, 8):
        settings = Settings(**common, bundle="", volumes=(), mirrors=mirrors)  # type: ignore[arg-type]
        links = link_settings(settings)
        assert links.window_bytes == window_for(mirrors)
        history, logs = History(str(tmp_path)), ChangeLogs(str(tmp_path), [])
        assert Primary(links, history, logs, lambda event: None).outbox._window_bytes == links.window_bytes


def test_only_the_one_that_is_behind_is_blamed_for_a_full_window() -> None:
    box = Outbox(window_bytes=1 << 20)
    for node in (LYON, PARIS):
        box.attach(node, Kind.COPY_BEGIN, b"")
    threading.Thread(
        target=lambda: [box.put(Kind.OPERATION, bytes(4096)) for _ in range(300)], daemon=True
    ).start()
    eventually(lambda: box.holds_up_s(LYON) > 0, 20)
    while box.take(PARIS):
        pass
    box.applied(PARIS, 100)
    assert box.holds_up_s(PARIS) == 0
    assert box.holds_up_s(LYON) > 0
    box.stop()


def test_what_waits_to_be_written_back_has_few_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr(host_disk, "begin_write_back", lambda fd: held.wait())
    writing = behind.WriteBehind()
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    before = descriptors()
    for number in range(3 * behind.WAITING_MAX):
        writing.wrote(number, fd, behind.STEP_BYTES)
    try:
        assert descriptors() <= before + behind.WAITING_MAX + 1
    finally:
        held.set()
    eventually(lambda: descriptors() <= before, 10)
    os.close(fd)


def test_a_tree_of_too_many_files_has_no_record_of_a_clean_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start looks at the times of all files, instead of having the whole record in its memory."""
    for number in range(50):
        (tmp_path / f"{number}").touch()
    root = os.open(tmp_path, os.O_RDONLY)
    data = seal.take([root], lambda volume, directory, name, is_directory: False)
    assert len(seal.read(data)) == 1
    monkeypatch.setattr(seal, "RECORD_BYTES_MAX", 1000)
    with pytest.raises(StoreFailed, match="too many files"):
        seal.take([root], lambda volume, directory, name, is_directory: False)
    with pytest.raises(CorruptState, match="no end"):
        seal.read(data)
    os.close(root)


# --- copies ------------------------------------------------------------------------------------------------


def test_more_changes_during_a_copy_than_are_remembered_mean_that_all_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.replicator.plan.CHANGES_MAX", 100)
    changes = Changes()
    changes.note((0, number, ops.DATA, 0) for number in range(100))
    assert len(changes.keys() or ()) == 100
    changes.note([(0, 1000, ops.DATA, 0)])
    assert changes.keys() is None
    changes.note([(0, 1001, ops.DATA, 0)])
    assert changes.keys() is None


def test_a_copy_during_which_too_much_changed_looks_at_everything(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.replicator.plan.CHANGES_MAX", 5)
    quick(pair, copy_bytes_per_s=300_000)  # slow enough to change things meanwhile
    for number in range(20):
        (pair.trees[PARIS] / f"{number}").write_bytes(os.urandom(20_000))
    pair.start_follower(record(1, LIFE, {PARIS}))
    pair.start_primary(record(1, LIFE, {PARIS}))
    eventually(lambda: pair.said("copy_begins") != [], 20)
    assert pair.live is not None
    for number in range(20):
        pair.live.rename(f"{number}", f"renamed {number}")
    eventually(lambda: pair.said("member_ready") != [], 60)
    assert any(
        told["full"] and "more changed during the copy" in told["why"] for told in pair.said("progress")
    )
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])


def test_a_copy_of_more_objects_than_it_has_ids_for_takes_ids_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.replicator.sender.IDS_MAX", 50)
    monkeypatch.setattr("orchestrator.replicator.objects.IDS_MAX", 400)
    tree = pair.trees[PARIS]
    for folder in range(20):
        (tree / f"d{folder}").mkdir()
        for number in range(60):
            (tree / f"d{folder}" / f"{number}").write_bytes(b"%d" % number)
        os.link(tree / "d0" / "7", tree / f"d{folder}" / "linked")
    pair.start_follower(record(1, LIFE, {PARIS}))
    pair.start_primary(record(1, LIFE, {PARIS}))
    eventually(lambda: pair.said("member_ready") != [], 60)
    assert picture(pair.trees[LYON], times=True) == picture(tree, times=True)
    assert pair.follower is not None
    assert len(pair.follower.applier.objects._known) < 400
    assert not pair.said("stream_down")


def test_a_directory_whose_names_fill_more_than_one_answer_is_made_equal(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer alone has most of them: of a small directory here, a single question asks for all there."""
    for module in ("answers", "trees"):
        monkeypatch.setattr(f"orchestrator.replicator.{module}.PAGE_TEXT_BYTES", 2000)
    monkeypatch.setattr("orchestrator.replicator.answers.LINKED_TEXT_MAX", 500)
    monkeypatch.setattr("orchestrator.replicator.equalize._NAMES_HELD_MAX", 80)
    tree, there = pair.trees[PARIS], pair.trees[LYON]
    pair.start_follower(record(1, LIFE, {PARIS}))
    for number in range(200):
        (there / f"only there {number}").write_bytes(b"x")
    for number in range(40):
        os.link(there / "only there 1", there / f"linked there {number}")
    (tree / "here").write_bytes(b"y")
    for number in range(40):
        os.link(tree / "here", tree / f"linked there {number}")
    assert pair.follower is not None
    pair.follower.adopt()
    pair.start_primary(record(1, LIFE, {PARIS}))
    eventually(lambda: pair.said("member_ready") != [], 60)
    assert picture(there) == picture(tree)


def test_a_tree_deeper_than_recursion_and_paths_go_is_copied(pair: Pair) -> None:
    tree = pair.trees[PARIS]
    here = os.open(tree, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("deeper", dir_fd=here)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    with open(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here), "wb") as file:
        file.write(b"all the way down")
    os.close(here)
    path = b"/".join([b"deeper"] * DEPTH + [b"bottom"])
    pair.start_follower(record(1, LIFE, {PARIS}))
    pair.start_primary(record(1, LIFE, {PARIS}))
    eventually(lambda: pair.said("member_ready") != [], 120)
    root = os.open(pair.trees[LYON], os.O_RDONLY)
    bottom = trees.open_file(root, path)
    assert os.read(bottom, 100) == b"all the way down"
    os.close(bottom)
    os.close(root)
    for each in pair.trees.values():
        parent = os.open(each, os.O_RDONLY)
        remove_tree(parent, b"deeper")  # pytest's own way to tidy up is not as deep
        os.close(parent)


def filled_up(file: Path, room: int) -> None:
    """Make the file so long that about this much is left on its disk."""
    fd = os.open(file, os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):  # until it is full
        while True:
            os.write(fd, bytes(1 << 16))
    os.ftruncate(fd, os.fstat(fd).st_size - room)
    os.fsync(fd)
    os.close(fd)


def test_what_a_full_disk_cannot_set_aside_is_not_overwritten(tmp_path: Path) -> None:
    with ext4(tmp_path / "image", tmp_path / "at", "24M") as at:
        tree = at / "tree"
        tree.mkdir()
        mine = os.urandom(6 << 20)
        (tree / "mine").write_bytes(mine)
        filled_up(at / "filler", room=2 << 20)
        root = os.open(tree, os.O_RDONLY)
        applier = Applier([root], Notes())
        applier.begin_copy("7-3", {"verdict": "diverged"})
        do(applier, ops.Bind(0, 2, 1, b"mine"))
        with pytest.raises(ApplyFailed) as failure:
            do(applier, ops.Write(0, 2, 0, b"theirs"))
        assert failure.value.number == errno.ENOSPC
        assert (tree / "mine").read_bytes() == mine
        applier.close()
        os.close(root)


def iter_frames(connection: Connection) -> Iterator[frames.Frame]:
    while True:
        yield from connection.receive(10)


def test_what_cannot_be_set_aside_is_told_to_the_primary_each_time(pair: Pair) -> None:
    """Else it begins the same copy for ever, and nobody hears why."""
    (pair.trees[LYON] / ".hafarm").write_bytes(b"no directory")
    pair.start_follower(record(1, LIFE, {PARIS}))
    assert pair.follower is not None
    before = descriptors()
    for count in range(1, 4):
        false = FalsePrimary(pair, record(1, LIFE, {PARIS}))
        false.begin()
        begin = {"set_aside": f"7-{count}", "reigns": [], "verdict": "diverged", "why": "diverged"}
        false.forward.send(frames.encode_json(Kind.COPY_BEGIN, begin, 1), 5)
        told = next(frame for frame in iter_frames(false.back) if frame.kind is Kind.FAILED)
        assert told.json()["number"] == errno.ENOTDIR
        false.close()
        eventually(lambda: len(pair.said("stream_down")) == count, 10)  # noqa: B023
    eventually(lambda: descriptors() <= before, 10)
    assert not pair.follower.status()["copying"]


def test_a_set_aside_that_cannot_begin_keeps_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / ".hafarm" / "quarantine" / "7-1" / "LIST").mkdir(parents=True)
    root = os.open(tmp_path, os.O_RDONLY)
    before = descriptors()
    for tag in ("7-1", "9" * 300):
        with pytest.raises(OSError, match=r"directory|too long"):
            Quarantine(root, tag, {})
    assert descriptors() == before
    os.close(root)
