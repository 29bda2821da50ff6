"""Which call a knob meets, how often, and who may do what; and how far back a simulator remembers."""

from __future__ import annotations

import time

import pytest

from tests.clouds.azure.site import path
from tests.clouds.azure.store import Address, Store
from tests.clouds.knobs import Call, Do, Knobs

WRITE = "Microsoft.Network/routeTables/routes/write"
JOIN = "Microsoft.Network/routeTables/join/action"
CALL = Call((WRITE, JOIN), "/x/routeTables/rt1/routes/shop", True, "n1")


@pytest.mark.parametrize(
    ("words", "meets"),
    [
        ({}, True),
        ({"action": WRITE}, True),
        ({"action": WRITE.lower()}, True),
        ({"action": "*/join/action"}, True),
        ({"action": "*/read"}, False),
        ({"action": "changes"}, True),
        ({"about": "RT1"}, True),
        ({"about": "rt"}, False),
        ({"who": "n1"}, True),
        ({"who": "n2"}, False),
    ],
)
def test_a_knob_meets_what_it_is_for(words: dict[str, str], meets: bool) -> None:
    knobs = Knobs()
    knobs.turn(Do.DELAY, **words)
    assert (Do.DELAY in knobs.meet(CALL)) is meets


def test_a_knob_is_used_up_after_those_that_it_lets_pass() -> None:
    knobs = Knobs()
    knobs.turn(Do.BROKEN, skip=1, times=2)
    assert [Do.BROKEN in knobs.meet(CALL) for _ in range(5)] == [False, True, True, False, False]
    assert [each.hits for each in knobs.knobs] == [2]


def test_knobs_of_one_effect_follow_one_another_and_others_go_together() -> None:
    knobs = Knobs()
    knobs.turn(Do.BROKEN, status=500, times=1)
    knobs.turn(Do.BROKEN, status=503, times=1)
    knobs.turn(Do.DELAY, seconds=1)
    met = [knobs.meet(CALL) for _ in range(3)]
    assert [each[Do.BROKEN].status for each in met[:2]] == [500, 503]
    assert [set(each) for each in met] == [{Do.BROKEN, Do.DELAY}, {Do.BROKEN, Do.DELAY}, {Do.DELAY}]


def test_a_call_needs_every_permission_of_it() -> None:
    knobs = Knobs()
    knobs.allow_only([WRITE, "*/JOIN/action"])
    assert knobs.missing(CALL, {}) is None
    knobs.allow_only([WRITE])
    assert knobs.missing(CALL, {}) == JOIN
    knobs.clear()
    knobs.turn(Do.DENIED, JOIN)
    assert knobs.missing(CALL, knobs.meet(CALL)) == JOIN
    assert not knobs.holds(Call((JOIN,), CALL.target, False, "n1"))


def test_a_policy_is_for_those_whom_it_names() -> None:
    knobs = Knobs()
    knobs.allow_only([], "n2")
    assert knobs.missing(CALL, {}) is None
    assert knobs.missing(Call((WRITE,), CALL.target, True, "n2"), {}) == WRITE


@pytest.mark.parametrize(
    ("words", "fault"), [({"effect": "sometimes"}, "sometimes"), ({"effect": "delay", "second": 1}, "second")]
)
def test_a_knob_that_is_none_is_refused(words: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Knobs().turn(**words)  # type: ignore[arg-type]


def test_the_past_is_found_by_requests_and_by_time() -> None:
    address = Address.of(path("routeTables", "rt1"))
    store, now = Store(), time.monotonic()
    for ago, state in ((30, {}), (20, {address.key: {"at": 20}}), (10, {address.key: {"at": 10}})):
        store.past.append((now - ago, state))
    store.resources = {address.key: {"at": 0}}

    def at(changes: int = 1, seconds: float = 0) -> object:
        return store.before(changes, seconds).get(address.key, {}).get("at")

    assert [at(changes) for changes in (1, 2, 3, 4)] == [10, 20, None, None]
    # The state before a request is what was true until it came.
    assert [at(seconds=ago) for ago in (5, 15, 25, 60)] == [0, 10, 20, None]
