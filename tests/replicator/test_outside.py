"""Files changed behind hafarm's back: found by name, listed, set aside or replicated, never in silence."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from orchestrator.model.names import NodeName, Nonce
from orchestrator.replicator import divergence, outside, quarantine, seal
from orchestrator.replicator.history import History
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.ops import ATTRIBUTES, DATA, FRESH, NAMES, WHOLE
from orchestrator.replicator.outside import BUSY_MARK_S, SLACK_S, Outside
from tests.replicator.pair import LYON, PARIS, record
from tests.support.waiting import eventually

LIFE = secrets.token_hex(16)
ALONE = record(1, LIFE, {PARIS})
Edit = Callable[[Path], None]


def nothing(volume: int, directory: bytes, name: bytes, is_directory: bool) -> bool:
    return (directory, name) == (b"", b"local")


class Node:
    """One node's copy, with the record of what is ours in it."""

    def __init__(self, folder: Path, name: NodeName = LYON) -> None:
        self.name = name
        self.tree = folder / "tree"
        self.state = folder / "state"
        for each in (self.tree, self.state):
            each.mkdir(parents=True, exist_ok=True)
        self.root = os.open(self.tree, os.O_RDONLY | os.O_DIRECTORY)
        self.outside: Outside | None = None

    def starts(self, life: str = "") -> Outside:
        """A keeper's life begins, or a replicator's in one that goes on."""
        self.history = History(str(self.state))
        self.logs = ChangeLogs(str(self.state), [PARIS if self.name == LYON else LYON])
        self.outside = Outside(
            str(self.state),
            self.name,
            [self.root],
            nothing,
            self.history,
            self.logs,
            Nonce(life or secrets.token_hex(16)),
            str(self.state / "note"),
        )
        self.outside.check()
        return self.outside

    def stops(self) -> None:
        assert self.outside is not None
        self.outside.seal()
        self.logs.close()

    def crashes(self) -> None:
        assert self.outside is not None
        self.outside._ended.set()
        self.outside.busy.set()
        self.logs.close()

    def found(self) -> dict[str, str]:
        """What the last look found, by name."""
        id = quarantine.edits(self.root)
        if not id:
            return {}
        return {file["path"]: file["why"] for file in divergence.shown([self.root], id)["files"]}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    for name in ("a", "b", "c", "d/e", "d/f", "d/g/h", "m/n"):
        (made.tree / name).parent.mkdir(exist_ok=True, parents=True)
        (made.tree / name).write_text(name)
    yield made
    if made.outside is not None:
        made.outside._ended.set()
    os.close(made.root)


def _grow(tree: Path) -> None:
    with (tree / "a").open("a") as file:
        file.write("more")


def _swap_in_place(tree: Path) -> None:
    status = (tree / "b").stat()
    (tree / "b").write_text("B")
    os.utime(tree / "b", ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time of change put back


def _replace(tree: Path) -> None:
    (tree / "new").write_text("c")
    (tree / "new").rename(tree / "c")


def _remove_tree(tree: Path) -> None:
    for name in ("d/g/h", "d/e", "d/f"):
        (tree / name).unlink()
    (tree / "d/g").rmdir()
    (tree / "d").rmdir()


EDITS: dict[str, tuple[Edit, dict[str, str]]] = {
    "it grew": (_grow, {"a": "changed here"}),
    "same size and time": (_swap_in_place, {"b": "changed here"}),
    "replaced": (_replace, {"c": "changed here"}),
    "rights": (lambda tree: (tree / "a").chmod(0o600), {"a": "changed here"}),
    "an attribute": (lambda tree: os.setxattr(tree / "a", "user.x", b"1"), {"a": "changed here"}),
    "rights of a directory": (lambda tree: (tree / "d").chmod(0o700), {"d": "changed here"}),
    "an attribute of a directory": (
        lambda tree: os.setxattr(tree / "d", "user.x", b"1"),
        {"d": "changed here"},
    ),
    "a new file deep down": (lambda tree: (tree / "d/g/new").write_text("x"), {"d/g/new": "only here"}),
    "a new tree": (
        lambda tree: (tree / "x/y").mkdir(parents=True),
        {"x": "only here", "x/y": "only here"},
    ),
    "gone": (lambda tree: (tree / "d/e").unlink(), {"d/e": "deleted here"}),
    "a tree is gone": (
        _remove_tree,
        dict.fromkeys(("d", "d/e", "d/f", "d/g", "d/g/h"), "deleted here"),
    ),
    "moved": (
        lambda tree: (tree / "m").rename(tree / "d/m"),
        {"m": "deleted here", "d/m": "only here"},
    ),
    "local": (lambda tree: (tree / "local").write_text("mine"), {}),
    "nothing": (lambda tree: None, {}),
}


@pytest.mark.parametrize("what", EDITS)
def test_after_a_clean_stop_every_edit_is_found_by_name(node: Node, what: str) -> None:
    edit, names = EDITS[what]
    node.starts()
    node.stops()
    edit(node.tree)
    node.starts()
    assert node.found() == names
    assert node.history.standing.edited is bool(names)
    found = node.outside.found  # type: ignore[union-attr]
    assert (found is None) is (not names)
    if found is not None:
        assert sorted(found["names"]) == sorted(f"0:{name}" for name in names)


def test_an_edit_enters_the_log_towards_every_other_node(node: Node) -> None:
    node.starts()
    node.stops()
    (node.tree / "a").write_text("edited")
    (node.tree / "d/e").unlink()
    inode, above = (node.tree / "a").stat().st_ino, (node.tree / "d").stat().st_ino
    node.starts()
    keys = set(node.logs.of[PARIS].keys())
    assert {(0, inode, DATA, WHOLE), (0, inode, ATTRIBUTES, 0), (0, above, NAMES, 0)} <= keys
    node.crashes()
    assert keys <= set(ChangeLogs(str(node.state), [PARIS]).of[PARIS].keys()), "durably"


def marked(node: Node) -> float:
    return (node.tree / ".hafarm" / "marker").stat().st_ctime


def later_than(node: Node, moment: float) -> None:
    """The file system's clock has passed this moment."""

    def passed() -> bool:
        (node.state / "probe").touch()
        return (node.state / "probe").stat().st_ctime > moment

    eventually(passed, 10)


def test_after_a_crash_what_is_younger_than_the_mark_and_in_no_log_is_found(node: Node) -> None:
    outside_ = node.starts()
    ours = (node.tree / "b").stat().st_ino
    later_than(node, marked(node))
    node.logs.before_change([(0, ours, DATA, 0)], 0)
    (node.tree / "b").write_text("ours, and written just before the crash")
    node.crashes()
    (node.tree / "a").write_text("edited")
    node.starts()
    assert node.found() == {"a": "changed here"}
    assert outside_.found is None


def test_after_a_crash_an_edit_long_after_the_mark_is_found_though_the_log_names_the_file(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "SLACK_S", 0.05)
    assert SLACK_S >= 5 * BUSY_MARK_S, "the thread may be late"
    node.starts()
    node.logs.before_change([(0, (node.tree / "b").stat().st_ino, DATA, 0)], 0)
    (node.tree / "b").write_text("ours")
    node.crashes()
    later_than(node, marked(node) + 0.06)
    (node.tree / "b").write_text("edited")
    node.starts()
    assert node.found() == {"b": "changed here"}


def test_after_a_power_cut_nothing_that_was_written_before_this_boot_is_called_an_edit(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.starts()
    node.logs.before_change([(0, (node.tree / "b").stat().st_ino, DATA, 0)], 0)
    later_than(node, marked(node))
    (node.tree / "b").write_text("ours, long after the mark that the disk has")
    node.crashes()
    boot = time.time_ns()
    later_than(node, boot / 1e9)
    (node.tree / "c").write_text("edited after the boot")
    monkeypatch.setattr(outside, "SLACK_S", 0.0)
    monkeypatch.setattr(outside, "_boot_id", lambda: "another boot")
    monkeypatch.setattr(outside, "_booted_at_ns", lambda: boot)
    node.starts()
    assert node.found() == {"c": "changed here"}


def test_what_was_just_being_made_at_a_crash_is_no_edit(node: Node) -> None:
    """Its entry comes a moment after it; that its directory's names change was noted before."""
    node.starts()
    later_than(node, marked(node))
    entries = [(0, (node.tree / name).stat().st_ino, what, 0) for name, what in (("d", NAMES), ("m", FRESH))]
    node.logs.before_change(entries, 0)
    (node.tree / "d/just made").touch()
    (node.tree / "d/and this").mkdir()
    (node.tree / "m/too").touch()
    (node.tree / "d/filled").write_text("by others")
    (node.tree / "d/linked").symlink_to("anywhere")
    (node.tree / "d/done to").touch()
    later_than(node, (node.tree / "d/done to").stat().st_ctime)
    (node.tree / "d/done to").chmod(0o600)
    (node.tree / "d/g/where nothing changed").touch()
    node.crashes()
    node.starts()
    assert set(node.found()) == {
        "d/filled",
        "d/linked",
        "d/done to",
        "d/g",
        "d/g/where nothing changed",
    }


def test_the_mark_moves_on_while_mounted_and_soon_after_a_change(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.starts()
    first = marked(node)
    node.outside.busy.set()  # type: ignore[union-attr]
    eventually(lambda: marked(node) > first, 4)
    node.crashes()
    monkeypatch.setattr(outside, "MARK_EVERY_S", 0.01)
    node.starts()
    second = marked(node)
    eventually(lambda: marked(node) > second, 4)


def test_a_disk_that_fell_back_behind_the_mark_of_this_boot_makes_no_edits(node: Node) -> None:
    node.starts()
    node.logs.before_change([(0, (node.tree / "b").stat().st_ino, DATA, 0)], 0)
    before = marked(node)
    before_ns = (node.tree / ".hafarm" / "marker").stat().st_ctime_ns
    later_than(node, before + SLACK_S)
    (node.tree / "b").write_text("ours")
    node.outside.busy.set()  # type: ignore[union-attr]
    eventually(lambda: marked(node) > before + SLACK_S, 4)
    node.crashes()
    with mock.patch.object(Outside, "_marked_at", return_value=before_ns):
        node.starts()
    assert node.found() == {}
    (node.state / "note").unlink()
    with mock.patch.object(Outside, "_marked_at", return_value=before_ns):
        node.starts()
    assert node.found() == {}, "without the note the log is believed"


def test_what_a_log_lets_go_is_older_than_the_mark(node: Node) -> None:
    node.starts()
    first = marked(node)
    later_than(node, first)
    node.logs.of[PARIS].before_retiring()
    assert marked(node) > first


def test_a_replicator_that_restarts_beneath_its_keeper_looks_for_nothing(node: Node) -> None:
    node.starts(life="1" * 32)
    node.crashes()
    (node.tree / "a").write_text("written through the mount meanwhile")
    node.starts(life="1" * 32)
    assert node.found() == {}


def test_a_damaged_record_means_that_nothing_is_known(node: Node) -> None:
    node.starts()
    node.history.add_reign(record(1, LIFE, {LYON}, LYON))
    node.stops()
    data = bytearray((node.state / "seal").read_bytes())
    data[-1] ^= 1
    (node.state / "seal").write_bytes(data)
    outside_ = node.starts()
    assert outside_.found is not None
    assert outside_.found["unknown"]
    assert node.logs.of[PARIS].log.baseline is None
    assert quarantine.edited(node.root, outside_.found["id"]) is None, "all of it may be an edit"


def test_a_new_node_has_nothing_to_look_for(node: Node) -> None:
    node.starts()
    assert node.found() == {}
    assert not node.history.standing.edited


# --- the rules off: what each is for ------------------------------------------------------------------------


def stopped_before_it_looked(node: Node) -> dict[str, str]:
    """F4: crash, edit, the agent started and stopped at once; then a start that looks."""
    node.starts()
    node.crashes()
    later_than(node, marked(node))
    (node.tree / "a").write_text("edited")
    with mock.patch.object(Outside, "_findings", side_effect=OSError(5, "stopped in the middle")):
        with pytest.raises(OSError, match="middle"):
            node.starts()
        assert node.outside is not None
        node.outside.checked.set()  # as the replicator does, for those who wait
        node.logs.of[PARIS].before_retiring()
        node.stops()
    node.starts()
    return node.found()


def test_a_stop_before_the_look_was_done_takes_no_new_record(node: Node) -> None:
    assert stopped_before_it_looked(node) == {"a": "changed here"}


def test_without_that_rule_the_edit_becomes_the_truth(node: Node) -> None:
    taken = Outside.seal

    def always(self: Outside) -> None:
        self._trusted = True
        taken(self)

    with mock.patch.object(Outside, "seal", always):
        assert stopped_before_it_looked(node) == {}


def test_findings_are_durable_before_the_record_goes(node: Node) -> None:
    """F4: a node that dies between the look and the list finds the same again."""
    node.starts()
    node.stops()
    (node.tree / "a").write_text("edited")
    with (
        mock.patch.object(Outside, "_list", side_effect=OSError(28, "no space")),
        pytest.raises(OSError, match="no space"),
    ):
        node.starts()
    node.crashes()
    node.starts()
    assert node.found() == {"a": "changed here"}
    with mock.patch.object(Outside, "_keep"):
        node.stops()
        (node.tree / "b").write_text("edited, and the rule is off")
        node.starts()
    node.crashes()
    node.starts()
    assert "b" not in node.found()


def test_a_record_is_read_back_as_it_was_taken(node: Node) -> None:
    data = seal.take([node.root], nothing)
    assert list(seal.compare(seal.read(data), [node.root], nothing)) == []
    assert len(seal.read(data)) == 4
