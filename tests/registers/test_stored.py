"""What a register makes of a store that only compares tags; the store is played."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from orchestrator.model.errors import RegisterRefused, RegisterUnreachable
from orchestrator.model.names import ClusterName, Nonce
from orchestrator.model.record import Outcome
from orchestrator.providers.registers import stored
from orchestrator.providers.registers.store import Held
from orchestrator.providers.registers.stored import StoredRegister
from tests.mirror.words import CLUSTER, SHOP, A, B, record
from tests.registers.clients import BOTH, both_in_sync, connected
from tests.witness import conformance

KEY = f"{CLUSTER}/{SHOP}.json"


class Played:
    """Keys, and numbers as tags; what it was asked is written down."""

    where = "a played store"
    pause_s = 0.0

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.asked: list[str] = []
        self.silent = False
        self.stale = False
        """It answers reads with what stood there before."""
        self.busy = False
        """It refuses writes while it is busy with others, whatever stands there."""
        self._former: dict[str, Held | None] = {}
        self._number = 0

    async def get(self, key: str) -> Held | None:
        self._note(f"get {key}")
        return self._former.get(key) if self.stale else self.held.get(key)

    async def put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        self._note(f"put {key}")
        stands = self.held.get(key)
        if self.busy or (stands.tag if stands else None) != (expected.tag if expected else None):
            return None
        self._number += 1
        self._former[key] = stands
        self.held[key] = Held(content, str(self._number))
        return self.held[key]

    async def close(self) -> None: ...

    def _note(self, what: str) -> None:
        self.asked.append(what)
        if self.silent:
            raise RegisterUnreachable(self.where, "it is silent")


def test_any_store_that_compares_is_a_register() -> None:
    async def story() -> None:
        store = Played()
        async with connected(lambda: store, 10.0) as connect:
            await conformance.a_record_is_created_once(connect)
            stands = await connect(A).read(SHOP)
            both = stands.following(primary=A, in_sync=BOTH, nonce=Nonce("1" * 32))
            assert (await connect(A).swap(stands, both)).outcome is Outcome.WON
            await conformance.of_racing_bidders_exactly_one_wins_each_round(connect)
            await conformance.a_stale_tag_is_refused(connect)
            await conformance.a_lost_answer_is_resolved_by_asking_again(connect)

    asyncio.run(story())


def test_a_bid_on_what_was_read_last_is_one_question() -> None:
    async def story() -> None:
        store = Played()
        async with connected(lambda: store, 10.0) as connect:
            both = await both_in_sync(connect)
            store.asked.clear()
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            assert (await connect(A).swap(both, wish)).outcome is Outcome.WON
            assert store.asked == [f"put {KEY}"]

    asyncio.run(story())


def test_a_bid_that_was_won_is_asked_for_again_and_not_remembered() -> None:
    """The store may have been lost since."""

    async def story() -> None:
        store = Played()
        async with connected(lambda: store, 10.0) as connect:
            both = await both_in_sync(connect)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            assert (await connect(A).swap(both, wish)).outcome is Outcome.WON
            store.held.clear()
            answer = await connect(A).swap(both, wish)
            assert (answer.outcome, answer.current) == (Outcome.LOST, None)

    asyncio.run(story())


def test_a_write_refused_for_another_that_changed_nothing_proves_nothing() -> None:
    async def story() -> None:
        store = Played()
        async with connected(lambda: store, 10.0) as connect:
            both = await both_in_sync(connect)
            store.busy = True
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            assert (await connect(A).swap(both, wish)).outcome is Outcome.UNKNOWN
            store.busy = False
            assert (await connect(A).swap(both, wish)).outcome is Outcome.WON

    asyncio.run(story())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"epoch": 1}', b"null"])
def test_what_is_no_record_is_told_and_never_replaced(content: bytes) -> None:
    async def story() -> None:
        store = Played()
        store.held[KEY] = Held(content, "of a stranger")
        async with connected(lambda: store, 10.0) as connect:
            for deed in (connect(A).read(SHOP), connect(A).swap(None, record(1, A, A))):
                with pytest.raises(RegisterRefused, match="holds no record"):
                    await deed
        assert store.held[KEY].content == content

    asyncio.run(story())


def test_another_clusters_record_is_told_as_that() -> None:
    async def story() -> None:
        store = Played()
        others = replace(record(1, A, A), cluster=ClusterName("other"))
        store.held[KEY] = Held(json.dumps(others.as_dict()).encode(), "1")
        async with connected(lambda: store, 10.0) as connect:
            with pytest.raises(RegisterRefused, match=f"record of other/{SHOP}"):
                await connect(A).read(SHOP)

    asyncio.run(story())


def test_a_store_that_reads_what_was_before_is_no_register() -> None:
    async def story() -> None:
        store = Played()
        store.stale = True
        async with connected(lambda: store, 10.0) as connect:
            with pytest.raises(RegisterRefused) as caught:
                await connect(A).swap(None, record(1, A, A))
            assert caught.value.code == "HF7101"
            assert f"put {KEY}" not in store.asked

    asyncio.run(story())


def test_no_bid_leaves_before_the_register_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "PROVE_AGAIN_S", 0.0)

    async def story() -> None:
        store = Played()
        store.silent = True
        register = StoredRegister(store, CLUSTER, A, 10.0)
        told: list[str] = []
        proving = asyncio.create_task(register.keep_proving(lambda code, text: told.append(code)))
        assert (await register.swap(None, record(1, A, A))).outcome is Outcome.UNKNOWN
        assert f"put {KEY}" not in store.asked
        store.silent = False
        await proving
        assert told == []
        assert (await register.swap(None, record(1, A, A))).outcome is Outcome.WON

    asyncio.run(story())


def test_why_it_is_no_register_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "PROVE_AGAIN_S", 0.0)

    async def story() -> None:
        store = Played()
        store.stale = True
        register = StoredRegister(store, CLUSTER, B, 10.0)
        told: list[str] = []
        proving = asyncio.create_task(register.keep_proving(lambda code, text: told.append(code)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert told == ["HF7101"]
        store.stale = False
        await proving

    asyncio.run(story())
