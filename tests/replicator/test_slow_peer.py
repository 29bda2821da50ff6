"""A peer with a slow disk over a real stream: told, borne or given up, and taken in again when it is fast."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.mirror import pace
from orchestrator.model.config import SlowPeerConfig
from orchestrator.model.names import NodeName
from orchestrator.replicator.copy import Copier
from orchestrator.replicator.link import ConnectionLost, LinkSettings
from orchestrator.replicator.outgoing import PeerLink
from orchestrator.replicator.stream import Primary
from tests.replicator.pair import LYON, PARIS, Pair, picture, record
from tests.support.waiting import eventually

LIFE = secrets.token_hex(16)
ALONE, BOTH = record(1, LIFE, {PARIS}), record(2, LIFE, {PARIS, LYON})
SLOW_S = 0.4
"""More than pace.FLOOR_S, and eighty times what these disks take."""


class Slow(Pair):
    """Lyon's disk takes `delay_s` longer for each durable point."""

    policy = SlowPeerConfig()
    delay_s = 0.0

    def settings(self, node: NodeName, bundle_of: str = "") -> LinkSettings:
        return replace(super().settings(node, bundle_of), slow_peer=self.policy)

    def begin(self) -> None:
        follower = self.start_follower(ALONE)
        apply = follower.applier.apply

        def slowly(*operation: Any) -> Callable[[], None] | None:
            sync = apply(*operation)

            def sync_slowly() -> None:
                time.sleep(self.delay_s)
                assert sync is not None
                sync()

            return sync and sync_slowly

        follower.applier.apply = slowly  # type: ignore[method-assign]
        primary = self.start_primary(ALONE)
        eventually(lambda: self.said("member_ready") != [])
        primary.widen({LYON})
        primary.take_reign(BOTH)
        assert self.live is not None
        self.live.create("file")

    def point(self, own: bool = True, awaited: bool = True) -> None:
        """One durable point; `own`: this node's disk is done with it at once."""
        assert self.live is not None
        assert self.primary is not None
        answered: list[int] = []
        sequence = self.live.sync("file")
        self.primary.when_durable(sequence, answered.append)
        if own:
            self.primary.synced(sequence)
        if awaited:
            eventually(lambda: answered == [0])
            # Of a node that is waited for by nobody too: its own word.
            link = self.primary._links[LYON]
            eventually(lambda: not link.is_up or link.pacing._reached >= sequence)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Slow]:
    made = Slow(tmp_path)
    yield made
    made.stop()


def points(pair: Slow, until: Callable[[], object]) -> None:
    """One after the other, until this is so."""
    end = time.monotonic() + 20
    while not until():
        assert time.monotonic() < end, pair.told[-5:]
        pair.point()


def usual_points(pair: Slow) -> None:
    """So many that a stall of this machine among them is not taken for what is usual."""
    for _ in range(8):
        pair.point()
    assert pair.primary is not None
    pacing = pair.primary._links[LYON].pacing
    points(pair, lambda: 0 < pacing._pace.usual_s < SLOW_S / 16)


def test_a_slow_disk_is_told_and_borne_and_its_end_is_told(
    pair: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "CALM_S", 0.5)
    pair.begin()
    usual_points(pair)
    assert pair.said("peer_slow") == []
    pair.delay_s = SLOW_S
    points(pair, lambda: pair.said("peer_slow"))
    (told,) = pair.said("peer_slow")
    assert told["peer"] == LYON
    assert told["took_s"] >= SLOW_S
    assert 0 < told["usual_s"] < SLOW_S / 8
    assert pair.primary is not None
    assert pair.primary.status()["peers"][LYON]["slow"]["took_s"] >= SLOW_S
    pair.delay_s = 0.0
    points(pair, lambda: pair.said("peer_fast_again"))
    assert pair.primary.status()["peers"][LYON]["slow"] is None
    assert pair.said("member_lost") == pair.said("stream_down") == []
    assert len(pair.said("peer_slow")) == 1


def test_a_disk_that_hangs_is_told_while_it_hangs(pair: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "STALL_S", 0.5)
    pair.begin()
    usual_points(pair)
    pair.delay_s = 2.0
    pair.point(awaited=False)
    eventually(lambda: pair.said("peer_slow") != [], 1.8)
    assert pair.primary is not None
    assert pair.primary.held == 1, "it was told when the answer had come"


def test_what_keeps_the_own_disk_busy_too_is_no_slow_peer(pair: Slow) -> None:
    pair.begin()
    usual_points(pair)
    pair.delay_s = SLOW_S
    for _ in range(5):
        pair.point(own=False)
    assert pair.said("peer_slow") == []


def test_by_policy_it_is_given_up_and_taken_in_again_only_when_it_is_fast(
    pair: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "REST_S", 1.5)
    pair.policy = SlowPeerConfig(after_s=1.0, do="drop")
    pair.begin()
    usual_points(pair)
    ready = len(pair.said("member_ready"))
    pair.delay_s = SLOW_S
    points(pair, lambda: pair.said("member_lost") or pair.said("peer_slow"))
    began = time.monotonic()
    held: list[int] = []
    while not pair.said("member_lost"):
        assert time.monotonic() < began + 10
        pair.point(awaited=False)
        time.sleep(0.1)
    assert "slow for 1 s" in pair.said("member_lost")[0]["why"]
    assert pair.primary is not None
    assert pair.live is not None
    pair.primary.when_durable(pair.live.sync("file"), held.append)
    pair.primary.take_reign(record(3, LIFE, {PARIS}))
    assert held == [0], "writes go on without it"
    # It is copied to, and its disk is as slow as before: it lacks nothing, and is not waited for.
    copies = len(pair.said("copy_done"))
    eventually(lambda: len(pair.said("copy_done")) > copies, 20)
    for _ in range(4):
        pair.point()
    assert len(pair.said("member_ready")) == ready
    pair.delay_s = 0.0
    fast_at = time.monotonic()
    points(pair, lambda: len(pair.said("member_ready")) > ready)
    assert time.monotonic() - fast_at >= 1.0
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])
    pair.primary.widen({LYON})


# --- copies that lose their connection -----


def test_a_copy_that_ended_before_its_first_frame_is_not_taken_for_complete(
    pair: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the primary's stream the peer had heard, and of nothing in it."""
    pair.begin()
    assert pair.live is not None
    assert pair.primary is not None
    pair.primary.flush()
    pair.stop_follower()
    eventually(lambda: pair.said("member_lost") != [])
    pair.primary.take_reign(record(3, LIFE, {PARIS}))
    pair.live.create("new")
    pair.live.write("new", 0, b"while it was away")
    send_on, start, cut = PeerLink._send_on, Copier.start, threading.Event()

    def cut_at_once(link: PeerLink, *connections: Any) -> None:
        if not cut.is_set():
            eventually(lambda: pair.follower is not None and pair.follower.stream == link._primary.stream)
            cut.set()
            raise ConnectionLost("cut by the test")
        send_on(link, *connections)

    monkeypatch.setattr(PeerLink, "_send_on", cut_at_once)
    monkeypatch.setattr(Copier, "start", lambda copier: start(copier) if cut.is_set() else None)
    lacking: list[bool] = []
    tell = pair.tell

    def told(event: dict[str, Any]) -> None:
        if event["event"] == "member_ready":
            lacking.append(not (pair.trees[LYON] / "new").exists())
        tell(event)

    pair.primary.tell = told
    pair.start_follower(record(3, LIFE, {PARIS}))
    pair.primary.settings.ports[LYON] = pair.port  # type: ignore[index]
    eventually(lambda: lacking != [])
    assert cut.is_set()
    assert lacking == [False]


def test_the_end_of_a_copy_whose_connection_ended_does_not_end_the_next_one(
    pair: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair.trees[PARIS] / "old").write_bytes(b"from before")
    flush, reached, go_on, over = Primary.flush, threading.Event(), threading.Event(), threading.Event()

    def slow_flush(primary: Primary) -> int:
        if not reached.is_set() and threading.current_thread().name.startswith("copy to"):
            reached.set()
            assert go_on.wait(20)
            try:
                return flush(primary)
            finally:
                over.set()
        return flush(primary)

    monkeypatch.setattr(Primary, "flush", slow_flush)
    pair.start_follower(ALONE)
    primary = pair.start_primary(ALONE)
    assert reached.wait(20)
    primary.throttle.pause(True)
    (pair.trees[PARIS] / "new").write_bytes(b"only the second copy brings this")
    primary._links[LYON].end_session("cut by the test")
    eventually(lambda: len(pair.said("copy_begins")) == 2)
    before = primary.outbox.last
    go_on.set()
    assert over.wait(20)
    eventually(lambda: primary.outbox.last > before)  # the flush that the first copy ended with
    point = primary.flush()
    eventually(lambda: pair.follower is not None and pair.follower.applied >= point)
    assert pair.said("copy_done") == pair.said("member_ready") == []
    primary.throttle.pause(False)
    eventually(lambda: pair.said("member_ready") != [])
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])
