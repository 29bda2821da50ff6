"""Any event in any state is a legal step, and leaves nothing due that no step settles."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.names import RequestId
from orchestrator.model.orders import (
    Drain,
    Leave,
    Promote,
    Restart,
    Resync,
    Start,
    Stop,
    Swap,
    Undrain,
    Weigh,
)
from orchestrator.model.report import FarmRole, FarmState, ModuleState, Phase, Shares
from tests.farm.decide import WEB, B, C, fresh, serving

ORDERS = [
    Start(), Start(True), Stop(), Leave(), Leave(True), Restart(), Swap(), Promote(), Resync(), Drain(),
    Drain(1.0, True), Undrain(), Weigh(0), Weigh(50), Weigh(-1),
]  # fmt: skip


def said(role: FarmRole, is_open: bool, draining: bool, percent: int, view: str) -> FarmState:
    return FarmState(role, Phase.READY, is_open, draining, percent, "x", 1, view, "p", "d")


EVENTS = [
    ev.TimePassed(),
    ev.Paused(3.0),
    *(kind(name) for name in (B, C) for kind in (ev.PeerAlive, ev.PeerSuspected, ev.PeerLost, ev.PeerLeft)),
    *(
        ev.PeerSaid(name, {WEB: said(role, is_open, draining, percent, view)})
        for name in (B, C)
        for role, is_open, draining in (
            (FarmRole.UP, True, False),
            (FarmRole.UP, True, True),
            (FarmRole.STOP, False, False),
        )
        for percent in (50, 100)
        for view in ("", "v")
    ),
    ev.PeerSaid(B, {}),
    ev.PeerSaid(B, {WEB: ModuleState()}),
    ev.LinkLost(WEB, "eth0"),
    ev.LinkRestored(WEB, "eth0"),
    ev.ApplicationStarted(WEB),
    ev.ApplicationStopped(WEB, True),
    ev.ApplicationStopped(WEB, False),
    ev.ApplicationFailed(WEB, "exit 1"),
    ev.ChecksPassed(WEB),
    *(ev.CheckFailed(WEB, "tcp", action) for action in ("restart", "swap", "stop", "none")),
    *(ev.Steered(WEB, number) for number in (1, 2, 5)),
    ev.SteeringFailed(WEB, 1, "busy"),
    ev.ConnectionsCounted(WEB, 3),
    ev.ConnectionsCounted(WEB, 0),
    ev.SharesLearned(WEB, None),
    ev.SharesLearned(WEB, Shares("x", ((B, 100, True),), ({7: (C,)},))),
    *(ev.EffectFailed(WEB, name, "x") for name in ("StoreFarm", "Unsteer", "StopApplication")),
    *(ev.OperatorAsked(RequestId("r"), WEB, order) for order in ORDERS),
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0, 40)), max_size=30), st.booleans())
def test_any_sequence_of_events_is_legal(events, serves) -> None:
    told = serving(B, C) if serves else fresh("a", B, C)
    for event, after in events:
        did = told.hears(event, after=after)
        answers = [effect for effect in did if isinstance(effect, do.Answer)]
        assert len(answers) == isinstance(event, ev.OperatorAsked)
        for _ in range(20):
            due = told.farm.deadline()
            if due is None or due > told.now:
                break
            told.hears(ev.TimePassed())
        else:
            raise AssertionError(f"something stays due: {told.farm}")
        if told.farm.role is not FarmRole.UP:
            assert told.farm.steering == 0
