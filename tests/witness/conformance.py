"""What every kind of register has to pass. A kind gives `register(node)`: a client that bids as that node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.cluster.register import Register
from orchestrator.model.errors import RegisterRefused
from orchestrator.model.names import Epoch, NodeName, Nonce
from orchestrator.model.record import Outcome
from tests.mirror.words import SHOP, A, B, record

Connect = Callable[[NodeName], Register]
RACERS = 100


async def a_record_is_created_once(connect: Connect) -> None:
    first = record(1, A, A)
    assert await connect(A).read(SHOP) is None
    answers = await asyncio.gather(*(connect(A).swap(None, _own(first, number)) for number in range(10)))
    assert [answer.outcome for answer in answers].count(Outcome.WON) == 1
    stands = await connect(B).read(SHOP)
    assert stands is not None
    assert (await connect(B).swap(None, record(1, B, B))).outcome is Outcome.LOST
    assert await connect(A).read(SHOP) == stands


async def an_empty_register_takes_a_higher_epoch_only_by_an_operators_order(connect: Connect) -> None:
    """Starts empty, and leaves a record of epoch 7 with A and B in sync."""
    again = record(7, A, A, B)
    with pytest.raises(RegisterRefused):
        await connect(A).swap(None, again)
    forced = replace(again, forced=True)
    with pytest.raises(RegisterRefused):
        await connect(B).swap(None, forced)  # its primary alone may say so
    assert (await connect(A).swap(None, forced)).outcome is Outcome.WON
    assert await connect(B).read(SHOP) == forced
    assert (await connect(A).swap(None, replace(forced, epoch=Epoch(9)))).outcome is Outcome.LOST


async def of_racing_bidders_exactly_one_wins_each_round(connect: Connect, rounds: int = 5) -> None:
    """Starts from any record that has A and B in sync."""
    for _ in range(rounds):
        stands = await connect(A).read(SHOP)
        assert stands is not None
        wishes = [
            stands.following(primary=node, in_sync=frozenset({A, B}), nonce=Nonce(f"{number:032x}"))
            for number in range(RACERS)
            for node in (A if number % 2 else B,)
        ]
        answers = await asyncio.gather(*(connect(wish.primary).swap(stands, wish) for wish in wishes))
        won = [wish for wish, answer in zip(wishes, answers, strict=True) if answer.outcome is Outcome.WON]
        assert len(won) == 1
        assert await connect(B).read(SHOP) == won[0]
        for answer in answers:
            assert answer.current == won[0] or answer.outcome is Outcome.UNKNOWN


async def a_stale_tag_is_refused(connect: Connect) -> None:
    old = await connect(A).read(SHOP)
    assert old is not None
    new = old.following(primary=A, in_sync=frozenset({A, B}), nonce=Nonce("5" * 32))
    assert (await connect(A).swap(old, new)).outcome is Outcome.WON
    late = old.following(primary=B, in_sync=frozenset({B}), nonce=Nonce("6" * 32))
    answer = await connect(B).swap(old, late)
    assert (answer.outcome, answer.current) == (Outcome.LOST, new)
    twin = new.following(primary=B, in_sync=frozenset({B}), nonce=Nonce("7" * 32))
    forged = old.following(primary=A, in_sync=frozenset({A, B}), nonce=Nonce("8" * 32))
    assert (await connect(B).swap(forged, twin)).outcome is Outcome.LOST  # the same epoch, another nonce


async def a_lost_answer_is_resolved_by_asking_again(connect: Connect) -> None:
    stands = await connect(A).read(SHOP)
    assert stands is not None
    wish = stands.following(primary=A, in_sync=frozenset({A, B}), nonce=Nonce("9" * 32))
    assert (await connect(A).swap(stands, wish)).outcome is Outcome.WON
    assert (await connect(A).swap(stands, wish)).outcome is Outcome.WON
    assert await connect(A).read(SHOP) == wish


def _own(first, number: int):
    return replace(first, nonce=Nonce(f"{number:032x}"))
