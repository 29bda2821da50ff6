"""The stream between two nodes, over real sockets and real files."""

from __future__ import annotations

import dataclasses
import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.mirror.lineage import Position, Standing
from orchestrator.model.errors import MemberNotReady
from orchestrator.replicator import apply
from orchestrator.replicator.history import History
from orchestrator.replicator.link import ADMISSION_S
from orchestrator.replicator.outgoing import PeerLink
from tests.replicator.pair import LYON, PARIS, Pair, picture, record
from tests.replicator.relay import Relay
from tests.support.waiting import eventually

LIFE = secrets.token_hex(16)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()


def joined(pair: Pair) -> Pair:
    """Paris serves, Lyon has copied everything and is in sync."""
    alone, both = record(1, LIFE, {PARIS}), record(2, LIFE, {PARIS, LYON})
    pair.start_follower(alone)
    primary = pair.start_primary(alone)
    eventually(lambda: pair.said("member_ready") != [], 10)
    primary.widen({LYON})
    primary.take_reign(both)
    return pair


def durable(pair: Pair, sequence: int) -> list[int]:
    answered: list[int] = []
    assert pair.primary is not None
    pair.primary.when_durable(sequence, answered.append)
    return answered


def test_a_new_node_copies_everything_and_is_then_ready(pair: Pair) -> None:
    tree = pair.trees[PARIS]
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "big").write_bytes(os.urandom(3 << 20))
    (tree / "a" / "odd \udcff name").write_bytes(b"x")
    os.link(tree / "a" / "b" / "big", tree / "again")
    os.symlink("a/b/big", tree / "pointer")
    os.mkfifo(tree / "fifo")
    os.setxattr(tree / "again", "user.kind", b"\x00\x01")
    with open(tree / "sparse", "wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    os.chown(tree / "a", 12, 34)
    os.chmod(tree / "a", 0o2755)
    joined(pair)
    assert picture(pair.trees[LYON], times=True) == picture(tree, times=True)
    assert (pair.trees[LYON] / "sparse").stat().st_blocks < 2048, "the hole was filled"


def test_a_synced_write_is_acknowledged_once_it_is_on_the_other_disk(pair: Pair) -> None:
    joined(pair)
    assert pair.live is not None
    pair.live.create("file")
    pair.live.write("file", 0, b"hello")
    answered = durable(pair, pair.live.sync("file"))
    eventually(lambda: answered == [0], 10)
    assert (pair.trees[LYON] / "file").read_bytes() == b"hello"


def test_a_joiner_is_not_taken_in_while_it_lacks_something_acknowledged(pair: Pair) -> None:
    pair.start_follower(record(1, LIFE, {PARIS}))
    primary = pair.start_primary(record(1, LIFE, {PARIS}))
    eventually(lambda: pair.said("member_ready") != [], 10)
    pair.stop_follower()
    assert pair.live is not None
    pair.live.create("file")
    pair.live.write("file", 0, b"hello")
    answered = durable(pair, pair.live.sync("file"))
    eventually(lambda: answered == [0], 10)
    with pytest.raises(MemberNotReady):
        primary.widen({LYON})
    assert primary.required == {PARIS}


def test_a_write_is_held_while_a_required_member_is_away_and_released_by_proof(pair: Pair) -> None:
    joined(pair)
    assert pair.live is not None
    assert pair.primary is not None
    pair.stop_follower()
    pair.live.create("file")
    answered = durable(pair, pair.live.sync("file"))
    eventually(lambda: pair.said("member_lost") != [], 10)
    assert answered == []
    pair.primary.take_reign(record(3, LIFE, {PARIS}))
    assert answered == [0]


def test_a_member_that_is_dropped_while_its_stream_stands_is_ready_to_come_back(pair: Pair) -> None:
    joined(pair)
    assert pair.primary is not None
    before = len(pair.said("member_ready"))
    pair.primary.take_reign(record(3, LIFE, {PARIS}))
    eventually(lambda: len(pair.said("member_ready")) == before + 1, 10)
    pair.primary.widen({LYON})
    assert not pair.said("stream_down")


def test_a_closed_gate_answers_every_held_write_with_an_error(pair: Pair) -> None:
    joined(pair)
    assert pair.live is not None
    assert pair.primary is not None
    pair.stop_follower()
    pair.live.create("file")
    answered = durable(pair, pair.live.sync("file"))
    pair.primary.close_gate()
    assert answered == [errno.EIO]


def test_a_cut_connection_resumes_and_nothing_is_lost_or_doubled(pair: Pair) -> None:
    joined(pair)
    assert pair.live is not None
    assert pair.primary is not None
    pair.live.create("log")
    for number in range(300):
        pair.live.write("log", number * 8, b"%07d\n" % number)
        if number % 60 == 30:
            pair.primary._links[LYON].end_session("cut by the test")
    answered = durable(pair, pair.live.sync("log"))
    eventually(lambda: answered == [0], 20)
    assert pair.said("member_lost") == []
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])


def test_a_follower_that_bid_in_vain_follows_on(pair: Pair) -> None:
    joined(pair)
    assert pair.live is not None
    assert pair.follower is not None
    pair.live.create("log")

    def told(event: str) -> int:
        """How often the follower said it; one that is interrupted in its handshake says neither."""
        return sum(said["peer"] == PARIS for said in pair.said(event))

    for number in range(300):
        pair.live.write("log", number * 8, b"%07d\n" % number)
        if number % 100 == 50:
            eventually(lambda: told("stream_up") > told("stream_down"), 10)
            ended = told("stream_down")
            pair.follower.interrupt()
            eventually(lambda ended=ended: told("stream_down") > ended, 10)  # type: ignore[misc]
    answered = durable(pair, pair.live.sync("log"))
    eventually(lambda: answered == [0], 20)
    assert pair.said("member_lost") == []
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])


def test_a_bid_waits_for_no_record_that_the_agent_has_not_admitted(pair: Pair) -> None:
    joined(pair)
    assert pair.primary is not None
    assert pair.follower is not None
    pair.admits = False
    offers = len(pair.said("reign_offered"))
    pair.primary.take_reign(record(3, LIFE, {PARIS, LYON}))
    eventually(lambda: len(pair.said("reign_offered")) > offers, 10)
    begun = time.monotonic()
    pair.follower.interrupt()
    assert time.monotonic() - begun < ADMISSION_S / 2


def test_a_returner_copies_only_what_changed(pair: Pair) -> None:
    (pair.trees[PARIS] / "old").write_bytes(os.urandom(8 << 20))
    joined(pair)
    assert pair.live is not None
    assert pair.primary is not None
    pair.primary.flush()
    eventually(lambda: pair.primary is not None and pair.primary._links[LYON].flushed > 0, 10)
    pair.stop_follower()
    eventually(lambda: pair.said("member_lost") != [], 10)
    pair.primary.take_reign(record(3, LIFE, {PARIS}))
    pair.live.create("new")
    pair.live.write("new", 0, b"while away")
    pair.live.write("old", 5 << 20, b"changed")
    pair.told.clear()
    pair.start_follower(record(3, LIFE, {PARIS}))
    pair.primary.settings.ports[LYON] = pair.port  # type: ignore[index]
    eventually(lambda: pair.said("member_ready") != [], 20)
    last = pair.said("progress")[-1]
    assert not last["full"]
    assert last["sent"] < 1 << 20
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])


def test_a_returner_that_was_whole_when_the_primary_was_cut_copies_only_what_changed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands one stream further than the primary's log knows."""
    joined(pair)
    alone = record(3, LIFE, {PARIS})
    assert pair.primary is not None
    assert pair.live is not None
    pair.live.create("file")
    flushed = pair.primary.flush()
    log = pair.primary.logs.of[LYON]
    eventually(lambda: log.log.baseline is not None and log.log.baseline.sequence >= flushed - 1, 10)
    pair.stop_primary()
    pair.stop_follower()
    with monkeypatch.context() as cut:
        cut.setattr(PeerLink, "_flushed_to", lambda self, flushed: None)
        pair.start_follower(alone)
        pair.start_primary(alone)
        eventually(lambda: len(pair.said("copy_done")) == 2, 10)
        pair.live.create("later")
        pair.stop_primary()
        pair.stop_follower()
    pair.start_follower(alone)
    pair.start_primary(alone)
    eventually(lambda: len(pair.said("member_ready")) == 2, 10)
    assert [begun["full"] for begun in pair.said("copy_begins")] == [True, False, False]
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])


def test_a_reign_is_unheard_until_a_member_knows_of_it_and_nothing_is_acknowledged_before(pair: Pair) -> None:
    alone, both = record(1, LIFE, {PARIS}), record(2, LIFE, {PARIS, LYON})
    follower, primary = pair.start_follower(alone), pair.start_primary(alone)
    assert primary.history.standing.unheard is None, "alone it acknowledges by itself"
    eventually(lambda: pair.said("member_ready") != [], 10)
    primary.widen({LYON})
    pair.admits = False
    primary.take_reign(both)
    on_disk = [kept_of(pair).unheard]
    assert pair.live is not None
    pair.live.create("file")
    primary.when_durable(pair.live.sync("file"), lambda number: on_disk.append(kept_of(pair).unheard))
    eventually(lambda: pair.said("reign_offered") != [], 10)
    assert on_disk == [both.reign]
    follower.admit(both)
    eventually(lambda: len(on_disk) == 2, 10)
    assert on_disk[1] is None
    primary.take_reign(record(3, LIFE, {PARIS}))
    assert kept_of(pair).unheard is None


def test_a_reign_that_an_order_began_is_never_unheard(pair: Pair) -> None:
    forced = dataclasses.replace(record(1, LIFE, {PARIS, LYON}), forced=True)
    assert pair.start_primary(forced).history.standing.unheard is None


def kept_of(pair: Pair) -> Standing:
    """What the primary's disk holds of its history."""
    return History(str(pair.folder / f"state-{PARIS}")).standing


def test_live_writes_go_on_during_a_copy_and_both_trees_end_equal(pair: Pair) -> None:
    tree = pair.trees[PARIS]
    for number in range(60):
        (tree / f"d{number % 7}").mkdir(exist_ok=True)
        (tree / f"d{number % 7}" / f"f{number}").write_bytes(os.urandom(100_000))
    alone = record(1, LIFE, {PARIS})
    primary = pair.start_primary(alone)
    live = pair.live
    assert live is not None
    stop = threading.Event()

    def busy() -> None:
        round = 0
        while not stop.is_set():
            round += 1
            name = f"d{round % 7}/f{round % 60 - (round % 60 - round) % 7}"
            if (tree / name).exists():
                live.write(name, round % 90_000, os.urandom(50))
                live.rename(name, f"moved{round % 5}")
            live.create(f"new{round}")
            live.write(f"new{round}", 0, b"n%d" % round)
            if round > 20:
                live.unlink(f"new{round - 15}")
            stop.wait(0.002)

    worker = threading.Thread(target=busy)
    worker.start()
    try:
        pair.start_follower(alone)
        primary.settings.ports[LYON] = pair.port  # type: ignore[index]
        eventually(lambda: pair.said("member_ready") != [], 40)
    finally:
        stop.set()
        worker.join()
    # No live operation reached the follower before the copy began: it would have ended the session.
    assert pair.said("stream_down") == []
    answered: list[int] = []
    primary.widen({LYON})
    live.create("last")
    primary.when_durable(live.sync("last"), answered.append)
    eventually(lambda: answered == [0], 10)
    assert picture(pair.trees[LYON]) == picture(tree)
    assert primary.verify(LYON) == []


def test_a_late_flush_never_takes_a_position_back(pair: Pair) -> None:
    joined(pair)
    history = pair.follower.history if pair.follower else None
    assert history is not None
    before = history.standing.position
    assert before is not None
    history.advance(Position(before.stream, before.sequence - 1))
    assert history.standing.position == before


def test_a_disk_that_takes_longer_than_t_costs_no_stream(pair: Pair) -> None:
    joined(pair)
    assert pair.live is not None
    assert pair.follower is not None
    silence_s, apply = pair.follower.settings.silence_s, pair.follower.applier.apply

    def slow(*operation: Any) -> Callable[[], None] | None:
        sync = apply(*operation)

        def sync_slowly() -> None:
            time.sleep(3 * silence_s)
            assert sync is not None
            sync()

        return sync and sync_slowly

    pair.follower.applier.apply = slow  # type: ignore[method-assign]
    pair.live.create("file")
    answered = durable(pair, pair.live.sync("file"))
    eventually(lambda: answered == [0], 10)
    assert pair.said("stream_down") == pair.said("member_lost") == []


@pytest.fixture
def relayed(pair: Pair) -> Iterator[Relay]:
    """Paris and Lyon in sync over a relay."""
    relays: list[Relay] = []

    def through(port: int) -> int:
        relays.append(Relay(port))
        return relays[-1].port

    pair.through = through
    joined(pair)
    yield relays[0]
    relays[0].close()


def at_rest(pair: Pair) -> None:
    """Nothing is owed, nothing is on its way."""
    assert pair.primary is not None
    primary, link = pair.primary, pair.primary._links[LYON]
    eventually(lambda: link.flushed == primary.outbox.last, 20)
    time.sleep(link._settings.silence_s)


def test_a_stream_at_rest_says_little(pair: Pair, relayed: Relay) -> None:
    at_rest(pair)
    assert pair.follower is not None
    before = relayed.passed
    time.sleep(3 * pair.follower.settings.silence_s)
    assert relayed.passed - before <= 1
    assert not pair.said("stream_down")


def test_the_first_change_after_a_silent_cut_is_held_no_longer_than_any(pair: Pair, relayed: Relay) -> None:
    assert pair.live is not None
    assert pair.follower is not None
    pair.live.create("file")
    answered = durable(pair, pair.live.sync("file"))
    eventually(lambda: answered == [0], 10)
    relayed.swallows = True
    pair.live.write("file", 0, b"hello")
    held = durable(pair, pair.live.sync("file"))
    begin = time.monotonic()
    eventually(lambda: pair.said("member_lost") != [], 10)
    # Silent for T, and in vain dialled for as long.
    assert time.monotonic() - begin < 3.5 * pair.follower.settings.silence_s
    assert held == []


def test_a_silent_cut_of_a_stream_at_rest_is_found_by_itself(pair: Pair, relayed: Relay) -> None:
    at_rest(pair)
    relayed.swallows = True
    eventually(lambda: pair.said("member_lost") != [], 20)


def test_whoever_sends_to_a_dead_member_is_held_no_longer_than_any(pair: Pair, relayed: Relay) -> None:
    assert pair.live is not None
    assert pair.primary is not None
    assert pair.follower is not None
    silence_s = pair.follower.settings.silence_s
    pair.live.create("file")
    link = pair.primary._links[LYON]
    relayed.takes.clear()
    with link._sending:  # what is queued is the next one's to send
        for number in range(24):
            pair.live.write("file", number << 20, bytes(1 << 20))
        begin = time.monotonic()
        sender = threading.Thread(target=pair.primary.hurry)
    sender.start()
    sender.join(10)
    assert not sender.is_alive()
    eventually(lambda: pair.said("member_lost") != [], 10)
    # Until the connection's own end the socket would have held it for five times as long.
    assert time.monotonic() - begin < 3.5 * silence_s


def test_no_request_sends_to_a_node_that_nobody_waits_for(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined(pair)
    assert pair.primary is not None
    hurried: list[str] = []
    monkeypatch.setattr(PeerLink, "hurry", lambda link: hurried.append(link.peer))
    pair.primary.hurry()
    assert hurried == [LYON]
    pair.primary.take_reign(record(3, LIFE, {PARIS}))
    hurried.clear()
    pair.primary.hurry()
    assert hurried == []


def test_a_flush_that_overtakes_an_earlier_point_is_told_once_that_one_is_done(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined(pair)
    assert pair.live is not None
    assert pair.primary is not None
    assert pair.follower is not None
    gates = [threading.Event(), threading.Event()]
    begun: list[int] = []
    sync_all = apply._sync_all

    def held(fds: list[int], data_only: bool) -> None:
        number = len(begun)
        begun.append(number)
        if number < len(gates):
            assert gates[number].wait(20)
        sync_all(fds, data_only)

    monkeypatch.setattr(apply, "_sync_all", held)
    try:
        pair.live.create("file")
        pair.live.sync("file")  # holds the thread that applies, so that the next two arrive together
        eventually(lambda: len(begun) == 1)
        pair.live.sync("file")
        target = pair.primary.flush()
        flushes: list[int] = []
        sync_volumes = pair.follower.applier.sync_all
        monkeypatch.setattr(pair.follower.applier, "sync_all", lambda: (sync_volumes(), flushes.append(1)))
        primary = pair.primary
        eventually(lambda: not primary.outbox.is_behind(LYON))
        gates[0].set()
        eventually(lambda: len(begun) == 2 and flushes)
        assert primary.status()["peers"][LYON]["flushed"] < target
        gates[1].set()
        eventually(lambda: primary.status()["peers"][LYON]["flushed"] >= target)
    finally:
        for gate in gates:
            gate.set()
