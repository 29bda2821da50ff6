"""Two nodes as real processes: files, stream and gate together, ordered as agents would order them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.setup.ca import make_authority
from tests.replicator.pair import bundle, picture
from tests.replicator.processes import Agent, Process, record, write_durably
from tests.support.disks import ext4
from tests.support.waiting import eventually

ADDRESSES = {"paris": "127.0.0.1", "lyon": "127.0.0.2"}


@dataclass
class Pair:
    paris: Process
    lyon: Process

    def of(self, node: str) -> Process:
        return self.paris if node == "paris" else self.lyon


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    authority, port = make_authority("shop"), free_port()

    def process(node: str, other: str, disk: Path) -> Process:
        (disk / "orders").mkdir()
        return Process(
            tmp_path / node,
            disk / "orders",
            node,
            bundle=bundle(tmp_path / node / "bundle", authority, "shop", node),
            peers=[{"name": other, "addresses": [[ADDRESSES[node], ADDRESSES[other]]]}],
            port=port,
            detection_s=1.5,
        )

    with ext4(tmp_path / "i1", tmp_path / "d1") as one, ext4(tmp_path / "i2", tmp_path / "d2") as two:
        thing = Pair(process("paris", "lyon", one), process("lyon", "paris", two))
        try:
            yield thing
        finally:
            thing.paris.end()
            thing.lyon.end()


def begin(pair: Pair) -> tuple[Agent, Agent, dict[str, Any]]:
    """Paris serves alone, lyon joins, both are required; the record they serve under."""
    paris, lyon = pair.paris.start(), pair.lyon.start()
    life = paris.ask("status")["life"]
    first = record(1, "paris", life, ["paris"])
    paris.ask("take_reign", record=first)
    paris.event("reign_taken")
    (pair.paris.tree / "before").write_bytes(b"it joins")
    lyon.ask("follow", record=first)
    ready = paris.event("member_ready")
    assert ready["life"] == lyon.ask("status")["life"]
    paris.ask("widen_required", members=["lyon"])
    both = record(2, "paris", life, ["lyon", "paris"])
    paris.ask("take_reign", record=both)
    assert lyon.event("reign_offered")["record"]["epoch"] == 2
    lyon.ask("admit_reign", record=both)
    paris.event("reign_taken")
    return paris, lyon, both


def test_what_is_acknowledged_here_is_there_and_a_swap_brings_it_back(pair: Pair) -> None:
    paris, lyon, _ = begin(pair)
    (pair.paris.tree / "d").mkdir()
    for number in range(40):
        write_durably(pair.paris.tree / f"d/f{number}", b"x%d" % number * 500)
    os.rename(pair.paris.tree / "d/f1", pair.paris.tree / "moved")
    os.link(pair.paris.tree / "moved", pair.paris.tree / "d/linked")
    os.unlink(pair.paris.tree / "d/f2")
    (pair.paris.tree / "local.tmp").write_bytes(b"stays")
    write_durably(pair.paris.tree / "last", b"z")
    expected = {name: what for name, what in picture(pair.paris.tree).items() if name != "local.tmp"}
    assert picture(pair.lyon.tree) == expected

    paris.ask("close_gate", drain=True)
    assert paris.event("gate_closed")["equal"] == ["lyon"]
    third = record(3, "lyon", lyon.ask("status")["life"], ["lyon"])
    lyon.ask("take_reign", record=third)
    lyon.event("reign_taken")
    paris.ask("follow", record=third)
    write_durably(pair.lyon.tree / "d/f3", b"from lyon")
    lyon.event("member_ready")
    fourth = record(4, "lyon", third["nonce"], ["lyon", "paris"])
    lyon.ask("widen_required", members=["paris"])
    lyon.ask("take_reign", record=fourth)
    paris.event("reign_offered")
    paris.ask("admit_reign", record=fourth)
    lyon.event("reign_taken")
    write_durably(pair.lyon.tree / "after", b"again together")
    assert (pair.paris.tree / "d/f3").read_bytes() == b"from lyon"
    assert (pair.paris.tree / "after").read_bytes() == b"again together"
    assert (pair.paris.tree / "local.tmp").read_bytes() == b"stays"


def test_a_lost_member_holds_writes_until_the_record_without_it(pair: Pair) -> None:
    paris, _, both = begin(pair)
    os.kill(pair.lyon.keeper, signal.SIGKILL)
    done = threading.Event()

    def work() -> None:
        write_durably(pair.paris.tree / "held", b"x")
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert paris.event("member_lost")["peer"] == "lyon"
    eventually(lambda: paris.ask("status")["held"] == 1)
    assert not done.is_set()
    paris.ask("take_reign", record=record(3, "paris", both["nonce"], ["paris"]))
    paris.event("reign_taken")
    eventually(done.is_set)


def test_a_gate_that_drains_for_an_agent_that_died_opens_again_for_the_next_one(pair: Pair) -> None:
    paris, _, both = begin(pair)
    waited_for = pair.lyon.replicator()
    os.kill(waited_for, signal.SIGSTOP)
    paris.ask("close_gate", drain=True)
    paris.close()
    paris = pair.paris.dial()
    assert paris.ask("status")["open"], "the next agent finds it as it was"
    paris.ask("take_reign", record=both)
    paris.event("reign_taken")
    os.kill(waited_for, signal.SIGCONT)
    paris.event("gate_closed")
    assert not paris.ask("status")["open"]
    with pytest.raises(OSError, match="Input/output error"):
        write_durably(pair.paris.tree / "refused", b"x")
    paris.ask("take_reign", record=both)
    paris.event("reign_taken")
    write_durably(pair.paris.tree / "taken", b"x")
    assert (pair.lyon.tree / "taken").read_bytes() == b"x"


def test_a_killed_primary_replicator_takes_its_member_in_again(pair: Pair) -> None:
    paris, lyon, both = begin(pair)
    log = os.open(pair.paris.tree / "log", os.O_CREAT | os.O_WRONLY)
    os.write(log, b"one")
    victim = pair.paris.replicator()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: pair.paris.replicator() not in (0, victim), 20)
    paris = pair.paris.dial()
    status = paris.ask("status")
    assert status["open"]
    assert status["required"] == ["lyon", "paris"]
    assert paris.event("member_lost")["peer"] == "lyon"  # unproven: it is bid out, and joins by delta
    alone = record(3, "paris", both["nonce"], ["paris"])
    paris.ask("take_reign", record=alone)
    paris.event("reign_taken")
    lyon.event("reign_offered")
    lyon.ask("admit_reign", record=alone)
    paris.event("member_ready")
    os.write(log, b"two")
    os.close(log)
    paris.ask("widen_required", members=["lyon"])
    write_durably(pair.paris.tree / "end", b"")
    assert picture(pair.lyon.tree) == picture(pair.paris.tree)
