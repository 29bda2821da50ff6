"""A slow disk is told from a dead node, from much work, and from one hiccup; and does not come and go."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.mirror import pace
from orchestrator.mirror.pace import Finding, Pace
from orchestrator.model.config import TOLD_ONLY, SlowPeerConfig
from orchestrator.model.names import Instant

FAST, SLOW = 0.005, 1.5
DROP = SlowPeerConfig(after_s=5.0, do="drop")


@dataclass
class Peer:
    """Another node, seen from its primary; one second passes between two durable points, and their time."""

    policy: SlowPeerConfig = TOLD_ONLY
    now: float = 100.0
    told: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pace = Pace(self.policy)

    def answers(self, took_s: float, times: int = 1, own_s: float | None = FAST) -> list[Finding]:
        """So many durable points, one after the other; what was found meanwhile."""
        before = len(self.told)
        for _ in range(times):
            self.now += 1.0 + took_s
            self.pace = self.pace.answered(Instant(self.now), took_s, own_s)
            self.waits(0.0, own_s)
        return self.told[before:]

    def waits(self, waited_s: float, own_s: float | None = FAST) -> None:
        self.pace, finding = self.pace.looked_at(Instant(self.now), waited_s, own_s)
        if finding is not None:
            self.told.append(finding)

    def passes(self, seconds: float) -> list[Finding]:
        before = len(self.told)
        self.now += seconds
        self.waits(0.0)
        return self.told[before:]

    def may_join(self) -> bool:
        return self.pace.may_join(Instant(self.now))


def test_a_disk_that_is_slow_most_of_the_time_is_told_once_and_once_that_it_is_fast_again() -> None:
    peer = Peer()
    assert peer.answers(FAST, 20) == []
    assert peer.answers(SLOW, 10) == [Finding.SLOW]
    assert peer.answers(FAST, 3) == []
    assert peer.answers(FAST, 20) == [Finding.FAST_AGAIN]
    assert peer.answers(FAST, 20) == []


def test_one_hiccup_is_no_pace() -> None:
    peer = Peer()
    peer.answers(FAST, 20)
    for _ in range(10):
        assert peer.answers(SLOW) == []
        assert peer.answers(FAST, 4) == []


def test_several_times_its_own_usual_time_is_slow_long_before_a_second() -> None:
    peer = Peer()
    peer.answers(0.04, 20)
    assert peer.answers(0.3, 5) == []  # within eight times of what is usual
    peer.answers(0.04, 200)
    assert peer.answers(0.4, 5) == [Finding.SLOW]


def test_a_disk_that_has_always_been_slow_is_slow_all_the_same() -> None:
    assert Peer().answers(1.1, 3) == [Finding.SLOW]


def test_work_that_takes_the_own_disk_half_as_long_says_nothing_of_the_peer() -> None:
    peer = Peer(DROP)
    peer.answers(FAST, 20)
    assert peer.answers(4.0, 20, own_s=2.5) == []
    peer.waits(4.0, own_s=None)  # the own disk is still at it
    assert peer.told == []
    assert peer.answers(4.0, 20, own_s=1.0)[0] is Finding.SLOW


def test_one_answer_that_is_awaited_for_long_says_it_before_it_comes() -> None:
    peer = Peer()
    peer.answers(FAST, 20)
    peer.waits(pace.STALL_S - 0.1)
    assert peer.told == []
    peer.waits(pace.STALL_S + 0.1)
    assert peer.told == [Finding.SLOW]


def test_alert_alone_gives_nobody_up() -> None:
    peer = Peer()
    peer.answers(SLOW, 200)
    assert peer.told == [Finding.SLOW]


def test_drop_gives_it_up_once_it_was_slow_for_so_long() -> None:
    peer = Peer(DROP)
    peer.answers(FAST, 20)
    assert peer.answers(SLOW, 3) == [Finding.SLOW]
    since = peer.now
    assert peer.answers(SLOW, 1) == []
    assert peer.answers(SLOW, 5) == [Finding.GIVE_UP]
    assert peer.now - since >= DROP.after_s


def test_an_idle_node_is_not_given_up_for_what_was_slow_before() -> None:
    peer = Peer(DROP)
    peer.answers(SLOW, 3)
    assert peer.passes(DROP.after_s + 0.1) == []
    assert peer.passes(pace.CALM_S) == [Finding.FAST_AGAIN]


def given_up() -> Peer:
    peer = Peer(DROP)
    peer.answers(FAST, 20)
    peer.answers(SLOW, 10)
    assert peer.told == [Finding.SLOW, Finding.GIVE_UP]
    return peer


def test_who_was_given_up_comes_back_once_it_has_been_fast_for_a_while() -> None:
    peer = given_up()
    assert not peer.may_join()
    peer.answers(FAST, 5)
    assert not peer.may_join()
    peer.answers(SLOW)  # the while begins anew
    at = peer.now
    while not peer.may_join():
        peer.answers(FAST)
    assert pace.REST_S <= peer.now - at <= pace.REST_S + 3
    assert peer.told[2:] == [Finding.FAST_AGAIN], "people see until then why it is not in sync"
    assert peer.pace.worst_s == 0.0


def test_who_is_given_up_again_and_again_stays_away_for_longer_each_time() -> None:
    peer = given_up()
    rests = []
    for _ in range(7):
        at = peer.now
        while not peer.may_join():
            peer.passes(1.0)
        rests.append(peer.now - at)
        peer.answers(FAST, 20)
        peer.answers(SLOW, 10)
    assert rests[1] >= 1.9 * rests[0]
    assert rests == sorted(rests)
    assert rests[-1] <= pace.REST_MAX_S + 2
    peer.passes(pace.FORGOTTEN_S + 1)
    peer.answers(SLOW, 10)
    at = peer.now
    while not peer.may_join():
        peer.passes(1.0)
    assert peer.now - at <= pace.REST_S + 2


def test_whoever_was_never_given_up_may_join_at_once() -> None:
    peer = Peer(DROP)
    peer.answers(SLOW, 4)
    assert peer.may_join()
