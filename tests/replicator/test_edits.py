"""Real mounts: what is edited while nobody covers the files is found at the next start, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.host.fuse.mount import uncover
from tests.replicator.pair import picture
from tests.replicator.processes import Agent, Process, record, write_durably
from tests.replicator.test_mirror import Pair, begin, pair  # noqa: F401  (the fixture)
from tests.support.waiting import eventually


def found(agent: Agent) -> dict[str, Any] | None:
    eventually(lambda: not agent.ask("status")["checking"], 20)
    known: dict[str, Any] | None = agent.ask("status")["edited"]
    return known


def names(agent: Agent) -> list[str]:
    known = found(agent)
    return [] if known is None else sorted(known["names"])


def stop(process: Process, agent: Agent) -> None:
    agent.ask("stop")
    eventually(lambda: not process.replicator(), 20)


def crash(process: Process) -> None:
    os.kill(process.keeper, signal.SIGKILL)
    eventually(lambda: not process.replicator(), 20)
    uncover(str(process.tree))


def load(tree: Path, seed: int, count: int) -> None:
    """What an application does: files that grow, are renamed, linked, taken away."""
    dice = random.Random(seed)
    folder = tree / f"load{seed}"
    folder.mkdir()
    for number in range(count):
        write_durably(folder / f"f{number}", dice.randbytes(3000))
        other = folder / f"f{dice.randrange(number + 1)}"
        match dice.randrange(5):
            case 0 if other.exists():
                other.rename(folder / f"r{number}")
            case 1 if other.exists():
                os.link(other, folder / f"l{number}")
            case 2 if other.exists():
                other.unlink()
            case 3 if other.exists():
                os.truncate(other, 100)
                other.chmod(0o600)
            case _:
                (folder / f"d{number}").mkdir()


@pytest.mark.parametrize("clean", [True, False])
def test_without_an_edit_nothing_is_found_on_either_side(pair: Pair, clean: bool) -> None:  # noqa: F811
    paris, lyon, _ = begin(pair)
    loads = [threading.Thread(target=load, args=(pair.paris.tree, seed, 40)) for seed in range(3)]
    for each in loads:
        each.start()
    for each in loads:
        each.join()
    for process, agent in ((pair.lyon, lyon), (pair.paris, paris)):
        if clean:
            stop(process, agent)
        else:
            crash(process)
        assert names(process.start()) == []


def test_an_edit_on_either_side_is_found_by_name_after_a_clean_stop(pair: Pair) -> None:  # noqa: F811
    paris, lyon, _ = begin(pair)
    for number in range(5):
        write_durably(pair.paris.tree / f"f{number}", b"x")
    stop(pair.paris, paris)
    stop(pair.lyon, lyon)
    for process in (pair.paris, pair.lyon):
        (process.tree / "f1").write_bytes(b"by hand")
        (process.tree / "f2").unlink()
        (process.tree / "new").write_bytes(b"by hand")
        (process.tree / "mine.tmp").write_bytes(b"excluded: nobody's business")
        assert names(process.start()) == ["0:f1", "0:f2", "0:new"]


def test_an_edit_after_a_crash_is_found(pair: Pair) -> None:  # noqa: F811
    begin(pair)
    for number in range(5):
        write_durably(pair.paris.tree / f"f{number}", b"x")
    crash(pair.lyon)
    last = max(path.stat().st_ctime for path in pair.lyon.tree.iterdir())
    probe = pair.lyon.tree.parent / "probe"

    def a_second_passed() -> bool:
        probe.touch()
        return probe.stat().st_ctime > last + 1.5

    eventually(a_second_passed, 10)
    (pair.lyon.tree / "f3").write_bytes(b"by hand")
    assert "0:f3" in names(pair.lyon.start())


def test_a_follower_that_was_edited_keeps_it_aside_and_becomes_equal(pair: Pair) -> None:  # noqa: F811
    paris, lyon, both = begin(pair)
    for number in range(5):
        write_durably(pair.paris.tree / f"f{number}", b"x")
    stop(pair.lyon, lyon)
    paris.event("member_lost")
    alone = record(3, "paris", both["nonce"], ["paris"])
    paris.ask("take_reign", record=alone)
    paris.event("reign_taken")
    (pair.lyon.tree / "f1").write_bytes(b"by hand")
    write_durably(pair.paris.tree / "f2", b"while lyon was away")
    lyon = pair.lyon.start()
    assert names(lyon) == ["0:f1"]
    lyon.ask("edits_told")
    assert found(lyon) is None
    lyon.ask("follow", record=alone)
    paris.event("member_ready")
    assert picture(pair.lyon.tree) == picture(pair.paris.tree)
    eventually(lambda: [each["ended"] for each in lyon.ask("status")["aside"]] == [True], 10)
    (aside,) = lyon.ask("status")["aside"]
    assert (aside["verdict"], aside["files"]) == ("target with edits", 1)
    stop(pair.lyon, lyon)
    kept = pair.lyon.tree / ".hafarm" / "quarantine" / aside["id"] / "000001"
    assert kept.read_bytes() == b"by hand"
