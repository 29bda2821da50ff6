"""Any event in any state is a legal step."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.mirror import machine
from orchestrator.mirror.state import MOVES
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.names import Instant
from orchestrator.model.orders import Leave, Promote, Restart, Resync, Start, Stop, Swap
from orchestrator.model.record import Outcome
from orchestrator.model.report import Role
from tests.mirror.words import LIFE, SHOP, A, B, alone, asks, fresh, primary, record, says, secondary

RECORDS = [
    record(6, B, B),
    record(7, A, A, B),
    record(8, B, B),
    record(8, A, A),
    record(8, A, A, B),
    record(9, B, A, B),
]
EVENTS = [
    ev.TimePassed(),
    ev.Paused(3.0),
    ev.PeerAlive(B),
    ev.PeerSuspected(B),
    ev.PeerLost(B),
    ev.PeerLeft(B),
    ev.PeerSaid(B, {SHOP: says(Role.SECOND, 7, A, A, B, life=LIFE[B])}),
    ev.PeerSaid(B, {SHOP: says(Role.ALONE, 8, B, B, life=LIFE[B], serving=True)}),
    ev.PeerSaid(B, {SHOP: says(Role.STOP, 7, A, A, B)}),
    ev.LinkLost(SHOP, "eth0"),
    ev.LinkRestored(SHOP, "eth0"),
    ev.RegisterAnswered(SHOP, None),
    *(ev.RegisterAnswered(SHOP, known) for known in RECORDS),
    ev.RegisterSilent(SHOP),
    ev.ReplicatorUp(SHOP, LIFE[A]),
    ev.ReplicatorLost(SHOP, "killed"),
    ev.ReplicatorStopped(SHOP),
    *(ev.ReignTaken(SHOP, known) for known in RECORDS),
    ev.GateClosed(SHOP, frozenset({B})),
    ev.GateClosed(SHOP),
    *(ev.ReignOffered(SHOP, known) for known in RECORDS),
    ev.StreamUp(SHOP, B),
    ev.StreamDown(SHOP, B, "reset"),
    ev.MemberLost(SHOP, B, "silent"),
    ev.MemberReady(SHOP, B, LIFE[B]),
    ev.HandshakeRefused(SHOP, B, "diverged"),
    ev.SetAside(SHOP, 1),
    ev.VolumeFailed(SHOP, "EIO"),
    ev.ModuleStored(SHOP),
    ev.AddressesClaimed(SHOP),
    ev.AddressesRefused(SHOP, "taken"),
    ev.ApplicationStarted(SHOP),
    ev.ApplicationStopped(SHOP, True),
    ev.ApplicationFailed(SHOP, "exit 1"),
    *(ev.CheckFailed(SHOP, "tcp", action) for action in ("restart", "swap", "stop", "none")),
    *(
        ev.EffectFailed(SHOP, name, "x")
        for name in ("StoreModule", "WidenRequired", "Follow", "CloseGate", "ReleaseAddresses")
    ),
    *(
        asks(order)
        for order in (
            Start(),
            Start(True),
            Stop(),
            Leave(),
            Restart(),
            Swap(),
            Promote(),
            Promote(True),
            Resync(),
        )
    ),
]


@settings(max_examples=300)
@given(
    st.sampled_from(["primary", "secondary", "alone", "fresh"]),
    st.lists(st.tuples(st.integers(0, len(EVENTS)), st.sampled_from([0.0, 0.3, 2.0, 61.0])), max_size=25),
)
def test_any_event_in_any_state_is_a_legal_step(start: str, happenings: list[tuple[int, float]]) -> None:
    story = {
        "primary": primary,
        "secondary": lambda: secondary(A, B),
        "alone": alone,
        "fresh": lambda: fresh(A),
    }[start]()
    for index, pause in happenings:
        mirror = story.mirror
        if index == len(EVENTS):  # the answer to a bid that is out, if one is
            if not mirror.bidding or not mirror.bids:  # another record may have resolved it already
                continue
            event = ev.BidAnswered(SHOP, mirror.bids[-1], Outcome.WON)
        else:
            event = EVENTS[index]
        before = mirror
        story.hears(event, after=pause)
        after = story.mirror
        assert after.role is before.role or _reachable(before.role, after.role)
        assert after.epoch >= before.epoch
        if after.held is not None:
            assert after.held.in_sync <= after.required
            assert after.held.epoch <= after.epoch
        for bid in story.ordered(do.Bid):
            assert bid.expected is None or A in bid.expected.in_sync or bid.record.forced or mirror.offline
            assert after.held is None or bid.record.in_sync <= after.required
        answered = len(story.ordered(do.Answer))
        assert answered <= 1


def _reachable(source: Role, target: Role, steps: int = 3) -> bool:
    """One event may take several moves at once (a stale primary that finds itself a secondary)."""
    if source is target:
        return True
    return steps > 0 and any(_reachable(role, target, steps - 1) for role in MOVES[source])


def test_a_machine_with_nothing_due_asks_for_no_time() -> None:
    for story in (primary(), alone(), secondary()):
        for _ in range(50):
            due = story.mirror.deadline()
            if due is None:
                break
            assert due > story.now or story.now == 0
            story.now = due
            decision = machine.step(story.mirror, Instant(story.now), ev.TimePassed())
            story.mirror = decision.state
            assert story.mirror.deadline() is None or story.mirror.deadline() > story.now


def test_the_manual_shows_the_moves_that_the_machine_makes() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    for source, targets in MOVES.items():
        row = next(line for line in manual.splitlines() if line.startswith(f"| {source.value} |"))
        assert {Role(word) for word in row.split("|")[2].replace(",", " ").split()} == targets
