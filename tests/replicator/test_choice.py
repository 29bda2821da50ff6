"""Real mounts with `only` and `exclude`: what is local stays local, in stream, copies, comparisons, seals."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.mirror.frames import REASONS
from orchestrator.replicator import ops
from tests.replicator.mounted import Mounted
from tests.replicator.pair import picture
from tests.replicator.processes import Agent, record, write_durably
from tests.replicator.test_edits import crash, names, stop
from tests.replicator.test_mirror import Pair, begin
from tests.replicator.test_mirror import pair as _pair  # noqa: F401
from tests.support.waiting import eventually

ONLY = ["data/**", "**/*.db"]
EXCLUDE = ["data/cache", "**/*.tmp"]


@pytest.fixture
def mounted(disk: Path, tmp_path: Path) -> Iterator[Mounted]:
    tree = disk / f"only-{os.getpid()}-{tmp_path.name}"
    (tree / "other").mkdir(parents=True)
    thing = Mounted(tree, tmp_path / "journal", exclude=tuple(EXCLUDE), only=tuple(ONLY))
    try:
        yield thing
    finally:
        thing.close()


def refused(deed: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        deed()
    return caught.value.errno


def told(mounted: Mounted) -> list[bytes]:
    """The names of what was made on the stream."""
    made = (ops.Create, ops.Mkdir, ops.Symlink, ops.Link)
    return [operation.name for operation in mounted.outlet.sent if isinstance(operation, made)]


def test_only_what_is_meant_and_the_way_to_it_is_told(mounted: Mounted) -> None:
    tree = mounted.tree
    (tree / "note").write_bytes(b"local")
    (tree / "data").mkdir()
    (tree / "data" / "note").write_bytes(b"meant")
    (tree / "data" / "cache").mkdir()
    (tree / "data" / "cache" / "x.db").write_bytes(b"excluded")
    (tree / "data" / "x.tmp").write_bytes(b"excluded")
    (tree / "other" / "x.db").write_bytes(b"meant")
    (tree / "other" / "data").symlink_to("x.db")
    (tree / "other" / "x.db").with_name("y").write_bytes(b"local")
    assert told(mounted) == [b"data", b"note", b"x.db"]
    assert (tree / "data" / "cache" / "x.db").read_bytes() == b"excluded"


def test_nothing_is_renamed_or_linked_across_the_border_and_all_else_is(mounted: Mounted) -> None:
    tree = mounted.tree
    (tree / "data" / "a").mkdir(parents=True)
    (tree / "data" / "a" / "f").write_bytes(b"meant")
    (tree / "note").write_bytes(b"local")
    (tree / "x.db").write_bytes(b"meant")
    for old, new in (
        ("note", "data/note"),
        ("note", "note.db"),
        ("x.db", "x"),
        ("data/a/f", "f"),
        ("data/a/f", "data/f.tmp"),
        ("data/a", "a"),
        ("data/a", "data/cache"),
        ("other", "data/other"),
    ):
        assert refused(lambda old=old, new=new: os.rename(tree / old, tree / new)) == errno.EXDEV, (old, new)  # type: ignore[misc]
    assert refused(lambda: os.link(tree / "note", tree / "data" / "note")) == errno.EXDEV
    assert refused(lambda: os.link(tree / "x.db", tree / "x")) == errno.EXDEV
    mounted.outlet.sent.clear()
    os.rename(tree / "x.db", tree / "data" / "y")
    os.rename(tree / "data" / "a", tree / "data" / "b")
    os.rename(tree / "other", tree / "another")
    os.rename(tree / "note", tree / "note2")
    os.link(tree / "note2", tree / "note3")
    os.link(tree / "data" / "y", tree / "z.db")
    renamed = [operation.new_name for operation in mounted.outlet.sent if isinstance(operation, ops.Rename)]
    assert renamed == [b"y", b"b", b"another"]
    assert told(mounted) == [b"z.db"]


def test_directories_move_where_an_exclude_pattern_sees_no_difference(
    disk: Path,
    tmp_path: Path,
) -> None:
    tree = disk / f"moves-{os.getpid()}-{tmp_path.name}"
    tree.mkdir()
    thing = Mounted(tree, tmp_path / "journal", exclude=("logs/*.tmp",))
    try:
        (tree / "a").mkdir()
        os.rename(tree / "a", tree / "b")
        assert refused(lambda: os.rename(tree / "b", tree / "logs")) == errno.EXDEV
    finally:
        thing.close()


# --- two nodes ----------------------------------------------------------------------------------------------


@pytest.fixture
def pair(_pair: Pair) -> Pair:  # noqa: F811

    for process in (_pair.paris, _pair.lyon):
        content = json.loads(process.settings.read_text())
        content["volumes"] = [{"path": str(process.tree), "exclude": EXCLUDE, "only": ONLY}]
        content["detection_s"] = 10.0  # nobody here bids a member out that a busy machine made late
        process.settings.write_text(json.dumps(content))
    return _pair


def chosen(tree: Path) -> dict[str, Any]:
    """What has to be the same on both nodes."""
    return {
        name: what
        for name, what in picture(tree).items()
        if (name.startswith("data/") or name.endswith(".db") or what[0].startswith("0o40"))
        and not name.startswith("data/cache")
        and not name.endswith(".tmp")
    }


def fill(tree: Path, node: str) -> None:
    """Of each kind, with what is local named and filled otherwise on each node."""
    for folder in ("data/a", "data/cache", "etc"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for name in ("data/a/f", "etc/x.db"):
        write_durably(tree / name, b"the same")
    for name in ("data/a/x.tmp", "data/cache/c", "etc/conf", f"etc/{node}", "note"):
        (tree / name).write_bytes(node.encode())


def swap(old: Agent, new: Agent, node: str, epoch: int, other: str) -> None:
    """The second takes over, and the first follows it, as agents would order it."""
    old.ask("close_gate", drain=True)
    assert old.event("gate_closed")["equal"] == [node]
    life = new.ask("status")["life"]
    alone = record(epoch, node, life, [node])
    new.ask("take_reign", record=alone)
    new.event("reign_taken")
    old.ask("follow", record=alone)
    new.event("member_ready")
    new.ask("widen_required", members=[other])
    both = record(epoch + 1, node, life, ["lyon", "paris"])
    new.ask("take_reign", record=both)
    old.event("reign_offered")
    old.ask("admit_reign", record=both)
    new.event("reign_taken")


def test_what_is_local_differs_on_two_nodes_that_are_equal(pair: Pair) -> None:
    paris, lyon, _ = begin(pair)
    fill(pair.paris.tree, "paris")
    assert chosen(pair.lyon.tree) == chosen(pair.paris.tree)
    assert not (pair.lyon.tree / "etc" / "conf").exists()
    swap(paris, lyon, "lyon", 3, "paris")
    (pair.lyon.tree / "etc" / "conf").write_bytes(b"lyon")
    (pair.lyon.tree / "etc" / "lyon").write_bytes(b"lyon")
    write_durably(pair.lyon.tree / "data" / "late", b"x")
    assert (pair.paris.tree / "etc" / "conf").read_bytes() == b"paris"
    assert chosen(pair.lyon.tree) == chosen(pair.paris.tree)
    lyon.ask("verify")
    report = lyon.event("verified")["report"]
    assert (report["differing"], report["complete"]) == ([], True)
    assert report["files"] == len(chosen(pair.lyon.tree))


def test_a_full_comparison_repairs_what_is_meant_and_touches_nothing_else(pair: Pair) -> None:
    for process in (pair.paris, pair.lyon):
        fill(process.tree, process.node)
    write_durably(pair.paris.tree / "etc" / "x.db", b"of paris")
    (pair.lyon.tree / "data" / "more").write_bytes(b"only on lyon")
    lyon = pair.lyon.start()
    lyon.ask("adopt_copy")
    paris = pair.paris.start()
    alone = record(1, "paris", paris.ask("status")["life"], ["paris"])
    paris.ask("take_reign", record=alone)
    paris.event("reign_taken")
    lyon.ask("follow", record=alone)
    paris.event("member_ready")
    assert chosen(pair.lyon.tree) == chosen(pair.paris.tree)
    assert (pair.lyon.tree / "etc" / "x.db").read_bytes() == b"of paris"
    assert not (pair.lyon.tree / "data" / "more").exists()
    for name in ("data/a/x.tmp", "data/cache/c", "etc/conf", "note", "etc/lyon"):
        assert (pair.lyon.tree / name).read_bytes() == b"lyon", name
    assert not (pair.lyon.tree / "etc" / "paris").exists()
    paris.ask("estimate", ticket=1, full=True)
    cared = paris.event("cared")["answer"]["nodes"]["lyon"]
    assert cared["files"] == 2  # data/a/f and etc/x.db: what is local costs nobody anything


def test_a_directory_that_goes_takes_along_what_is_local_in_it_and_costs_no_member(pair: Pair) -> None:
    paris, lyon, _ = begin(pair)
    for folder in ("etc", "etc/inner", "from"):
        (pair.paris.tree / folder).mkdir()
    swap(paris, lyon, "lyon", 3, "paris")
    (pair.lyon.tree / "etc" / "conf").write_bytes(b"local to lyon")
    (pair.lyon.tree / "etc" / "inner" / "conf").write_bytes(b"local to lyon")
    (pair.lyon.tree / "new").write_bytes(b"a local file")
    swap(lyon, paris, "paris", 5, "lyon")
    # On paris there is nothing in them; the last one is a directory where lyon has a local file.
    (pair.paris.tree / "etc" / "inner").rmdir()
    os.rename(pair.paris.tree / "from", pair.paris.tree / "etc")
    (pair.paris.tree / "new").mkdir()
    # Names that the kernel learnt while lyon was primary are believed for a second.
    eventually(lambda: (pair.lyon.tree / "new").is_dir())
    write_durably(pair.paris.tree / "new" / "x.db", b"after it")
    assert (pair.lyon.tree / "new" / "x.db").read_bytes() == b"after it"
    assert chosen(pair.lyon.tree) == chosen(pair.paris.tree)
    assert not (pair.lyon.tree / "etc" / "conf").exists()
    assert lyon.ask("status")["peers"]["paris"]["up"]


def test_a_directory_that_holds_more_than_what_is_local_is_not_taken_away(pair: Pair) -> None:
    paris, lyon, _ = begin(pair)
    (pair.paris.tree / "etc").mkdir()
    write_durably(pair.paris.tree / "etc" / "x.db", b"x")
    stop(pair.lyon, lyon)
    paris.event("member_lost")
    # What the follower has there and the primary has not is no agreement about it.
    (pair.lyon.tree / "etc" / "y.db").write_bytes(b"by hand")
    lyon = pair.lyon.start()
    assert names(lyon) == ["0:etc/y.db"]
    assert (pair.lyon.tree / "etc" / "y.db").exists()


def test_edits_of_what_is_local_are_nobodys_business_at_the_next_start(pair: Pair) -> None:
    paris, lyon, _ = begin(pair)
    fill(pair.paris.tree, "paris")
    for process, agent in ((pair.paris, paris), (pair.lyon, lyon)):
        stop(process, agent)
        (process.tree / "etc" / "conf").write_bytes(b"by hand")
        (process.tree / "note2").write_bytes(b"by hand")
        (process.tree / "data" / "cache" / "d").write_bytes(b"by hand") if process is pair.paris else None
        (process.tree / "data" / "a" / "f").write_bytes(b"by hand")
        # The directory in which a local name was made has another time.
        assert [name for name in names(process.start()) if name != "0:etc"] == ["0:data/a/f"]


@pytest.mark.parametrize("clean", [True, False])
def test_names_that_other_patterns_replicate_are_looked_for_however_old_they_are(
    pair: Pair, clean: bool
) -> None:

    paris, lyon, _ = begin(pair)
    fill(pair.paris.tree, "paris")
    if clean:
        stop(pair.lyon, lyon)
        stop(pair.paris, paris)
    else:
        crash(pair.lyon)
        crash(pair.paris)
    content = json.loads(pair.paris.settings.read_text())
    content["volumes"][0]["only"] = ["etc/**"]
    pair.paris.settings.write_text(json.dumps(content))
    found = names(pair.paris.start())
    assert found == (["0:etc/conf", "0:etc/paris"] if clean else ["0:"])


def test_a_new_node_that_has_nothing_but_local_files_is_filled_without_a_question(pair: Pair) -> None:
    (pair.lyon.tree / "note").write_bytes(b"lyon")
    (pair.lyon.tree / "of.tmp").mkdir()
    begin(pair)
    write_durably(pair.paris.tree / "x.db", b"x")
    assert (pair.lyon.tree / "x.db").read_bytes() == b"x"
    assert (pair.lyon.tree / "note").read_bytes() == b"lyon"
    assert (pair.lyon.tree / "of.tmp").is_dir()


def test_nodes_that_replicate_by_other_patterns_do_not_replicate_at_all(pair: Pair) -> None:
    content = json.loads(pair.lyon.settings.read_text())
    content["volumes"][0]["only"] = ["**/*.db"]
    pair.lyon.settings.write_text(json.dumps(content))
    paris, lyon = pair.paris.start(), pair.lyon.start()
    alone = record(1, "paris", paris.ask("status")["life"], ["paris"])
    paris.ask("take_reign", record=alone)
    paris.event("reign_taken")
    lyon.ask("follow", record=alone)
    refused = paris.event("handshake_refused")
    assert (refused["verdict"], "exclude or only" in refused["why"]) == ("patterns", True)
    assert "patterns" in REASONS  # told as HF4012, not as copies that do not fit
    (pair.paris.tree / "x.db").write_bytes(b"x")
    assert list(pair.lyon.tree.iterdir()) == []


def test_a_copy_by_the_log_sends_nothing_that_is_local(pair: Pair) -> None:
    paris, lyon, both = begin(pair)
    assert paris.event("copy_begins")["full"]  # the first one
    fill(pair.paris.tree, "paris")
    stop(pair.lyon, lyon)
    paris.event("member_lost")
    alone = record(3, "paris", both["nonce"], ["paris"])
    paris.ask("take_reign", record=alone)
    paris.event("reign_taken")
    for name in ("etc/new", "etc/conf", "new", "data/cache/new", "data/a/new.tmp"):
        (pair.paris.tree / name).write_bytes(b"while lyon was away")
    (pair.paris.tree / "etc" / "more").mkdir()
    write_durably(pair.paris.tree / "etc" / "more" / "y.db", b"y")
    write_durably(pair.paris.tree / "etc" / "x.db", b"changed")
    os.unlink(pair.paris.tree / "data" / "a" / "f")
    (pair.lyon.tree / "etc" / "new").mkdir()  # by hand, where paris has a local file
    lyon = pair.lyon.start()
    assert "0:etc/new" in names(lyon)
    lyon.ask("follow", record=alone)
    begins = paris.event("copy_begins")
    assert not begins["full"], begins
    paris.event("member_ready")
    assert chosen(pair.lyon.tree) == chosen(pair.paris.tree)
    for name in ("etc/new", "etc/conf", "etc/paris", "new", "note", "data/cache", "data/a/new.tmp"):
        assert not (pair.lyon.tree / name).exists(), name
