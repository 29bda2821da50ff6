"""etcd as the register: conformance, and what becomes of a bid while members die, hang and are restored."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.model.config import EtcdConfig
from orchestrator.model.errors import RegisterRefused, RegisterUnreachable
from orchestrator.model.names import Nonce
from orchestrator.model.record import Outcome
from orchestrator.providers.registers.etcd import EtcdStore
from orchestrator.providers.registers.store import Held
from tests.mirror.words import SHOP, A, B, record
from tests.registers import clients
from tests.registers.clients import BOTH, Clients, both_in_sync
from tests.registers.etcd import Etcd, free_port
from tests.support.certificates import Certificates
from tests.witness import conformance

TIMEOUT_S = 5.0
"""Far above what a loaded machine needs for an answer."""
IMPATIENT_S = 0.5
"""The agent's own, at the preset `lan`."""


@contextmanager
def ensemble(work: Path, *names: str) -> Iterator[list[Etcd]]:
    """So many members, all of which answer."""
    keys = Certificates(work / "etcd-keys", "127.0.0.1")
    peers = {name: free_port() for name in names}
    members = [Etcd(work, keys, name, peers) for name in names]
    try:
        for member in members:
            member.start(wait=False)
        for member in members:
            member.ready()
        yield members
    finally:
        for member in members:
            member.kill()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One that no test harms; each test has a prefix of its own."""
    with ensemble(tmp_path_factory.mktemp("etcd"), "one") as (member,):
        yield member


@pytest.fixture
def place(alone: Etcd, request: pytest.FixtureRequest) -> EtcdConfig:
    return alone.config(prefix=f"{request.node.name}/")


def connected(config: EtcdConfig, timeout_s: float = TIMEOUT_S):
    return clients.connected(lambda: EtcdStore(config, timeout_s), timeout_s)


def test_etcd_is_a_register(place: EtcdConfig) -> None:
    async def story() -> None:
        async with connected(place) as connect:
            await conformance.a_record_is_created_once(connect)
            stands = await connect(A).read(SHOP)
            both = stands.following(primary=A, in_sync=BOTH, nonce=Nonce("1" * 32))
            assert (await connect(A).swap(stands, both)).outcome is Outcome.WON
            await conformance.of_racing_bidders_exactly_one_wins_each_round(connect)
            await conformance.a_stale_tag_is_refused(connect)
            await conformance.a_lost_answer_is_resolved_by_asking_again(connect)

    asyncio.run(story())


def test_an_etcd_that_lost_everything_is_told_again_by_order_alone(place: EtcdConfig) -> None:
    async def story() -> None:
        async with connected(place) as connect:
            await conformance.an_empty_register_takes_a_higher_epoch_only_by_an_operators_order(connect)
            await conformance.of_racing_bidders_exactly_one_wins_each_round(connect, 1)

    asyncio.run(story())


def test_a_node_that_is_not_in_sync_is_refused_before_anything_is_sent(place: EtcdConfig) -> None:
    async def story() -> None:
        async with connected(place) as connect:
            first = record(1, A, A)
            assert (await connect(A).swap(None, first)).outcome is Outcome.WON
            with pytest.raises(RegisterRefused, match="not in sync"):
                await connect(B).swap(first, record(2, B, A, B))
            assert await connect(A).read(SHOP) == first

    asyncio.run(story())


def test_a_bid_is_lost_to_another_nodes_and_known_to_be(place: EtcdConfig) -> None:
    """Each node has the record's tag since it read it last: the second bid must not go by that."""

    async def story() -> None:
        async with connected(place) as connect:
            both = await both_in_sync(connect)
            assert await connect(B).read(SHOP) == both
            taken = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            assert (await connect(A).swap(both, taken)).outcome is Outcome.WON
            late = await connect(B).swap(both, replace(taken, primary=B, in_sync=frozenset({B})))
            assert (late.outcome, late.current) == (Outcome.LOST, taken)

    asyncio.run(story())


def test_what_a_paused_member_was_asked_is_unknown_and_resolved_by_asking_again(tmp_path: Path) -> None:
    async def story(member: Etcd) -> None:
        async with connected(member.config()) as patient:
            both = await both_in_sync(patient)
        async with connected(member.config(), IMPATIENT_S) as connect:
            await connect(B).prove()
            wish = both.following(primary=B, in_sync=frozenset({B}), nonce=Nonce("2" * 32))
            member.pause()
            assert (await connect(B).swap(both, wish)).outcome is Outcome.UNKNOWN
            with pytest.raises(RegisterUnreachable):
                await connect(B).read(SHOP)
            member.go_on()
        async with connected(member.config()) as connect:
            # The request may land now or never; both is well.
            assert (await connect(B).swap(both, wish)).outcome is Outcome.WON
            assert await connect(A).read(SHOP) == wish

    with ensemble(tmp_path, "one") as (member,):
        asyncio.run(story(member))


def test_a_won_bid_survives_kill_9(tmp_path: Path) -> None:
    async def begin(member: Etcd):
        async with connected(member.config()) as connect:
            return await both_in_sync(connect)

    async def bid_on(member: Etcd, stands):
        async with connected(member.config(), 1.0) as connect:
            killer = asyncio.get_running_loop().call_later(0.4, member.kill)
            while True:
                wish = stands.following(
                    primary=A, in_sync=BOTH, nonce=Nonce(f"{stands.epoch:032x}"), reason="again"
                )
                if (await connect(A).swap(stands, wish)).outcome is not Outcome.WON:
                    killer.cancel()
                    return stands
                stands = wish

    async def found(member: Etcd):
        async with connected(member.config()) as connect:
            return await connect(A).read(SHOP)

    with ensemble(tmp_path, "one") as (member,):
        won = asyncio.run(begin(member))
        for _ in range(3):
            won = asyncio.run(bid_on(member, won))
            member.kill()
            member.start()
            stands = asyncio.run(found(member))
            assert stands.epoch >= won.epoch
            assert stands.epoch > won.epoch or stands == won
            won = stands
        assert won.epoch > 4


def test_an_ensemble_outlives_a_member_that_dies_and_one_that_hangs(tmp_path: Path) -> None:
    async def story(members: list[Etcd]) -> None:
        first, second, third = members
        async with connected(first.config(second, third)) as connect:
            both = await both_in_sync(connect)
            await asyncio.to_thread(first.kill)
            alone = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            await until_won(connect, both, alone)
            await asyncio.to_thread(first.start)
            second.pause()
            again = alone.following(primary=A, in_sync=BOTH, nonce=Nonce("3" * 32))
            await until_won(connect, alone, again)
            assert await connect(B).read(SHOP) == again
            second.go_on()

    with ensemble(tmp_path, "one", "two", "three") as members:
        asyncio.run(story(members))


async def until_won(connect: Clients, expected, wish) -> None:
    """As a node does: the same bid, until a record proves what became of it. A new leader takes its time."""
    for _ in range(60):
        if (await connect(A).swap(expected, wish)).outcome is Outcome.WON:
            return
        await asyncio.sleep(0.2)
    raise AssertionError("no bid was won")


def test_without_a_quorum_nothing_is_granted_and_nothing_is_read(tmp_path: Path) -> None:
    async def story(members: list[Etcd]) -> None:
        first, second, third = members
        async with connected(first.config(second, third), 1.0) as connect:
            async with connected(first.config(second, third)) as patient:
                both = await both_in_sync(patient)
            await connect(A).prove()
            second.kill()
            third.kill()
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            assert (await connect(A).swap(both, wish)).outcome is Outcome.UNKNOWN
            with pytest.raises(RegisterUnreachable):
                await connect(A).read(SHOP)

    with ensemble(tmp_path, "one", "two", "three") as members:
        asyncio.run(story(members))


def test_a_tags_number_that_comes_again_after_an_old_copy_grants_nothing(place: EtcdConfig) -> None:
    """Revisions count on from a copy that was restored, so that one stands for another record than before."""

    async def story() -> None:
        store = EtcdStore(place, TIMEOUT_S)
        held = await store.put("key", b"restored and gone on", None)
        assert held is not None
        assert await store.put("key", b"late", Held(b"before it was restored", held.tag)) is None
        assert await store.get("key") == held
        assert await store.put("key", b"in time", held) is not None
        await store.close()

    asyncio.run(story())


def _refusal(config: EtcdConfig) -> str:
    async def ask() -> str:
        async with connected(config) as connect:
            with pytest.raises((RegisterRefused, RegisterUnreachable)) as caught:
                await connect(A).prove()
            return f"{caught.value.code} {caught.value}"

    return asyncio.run(ask())


def test_wrong_files_and_wrong_places_are_named(alone: Etcd, tmp_path: Path) -> None:
    assert "nowhere.crt: No such file" in _refusal(alone.config(ca=str(tmp_path / "nowhere.crt")))
    (tmp_path / "empty.crt").write_text("")
    assert "empty.crt" in _refusal(alone.config(ca=str(tmp_path / "empty.crt")))
    other = Certificates(tmp_path / "other", "127.0.0.1")
    assert "certificate" in _refusal(alone.config(ca=str(other.ca)))  # another CA's
    stranger = {"cert": str(other.work / "client.crt"), "key": str(other.work / "client.key")}
    assert "HF2002" in _refusal(alone.config(**stranger))
    nobody = replace(alone.config(), endpoints=(f"https://127.0.0.1:{free_port()}",))
    assert "Connect call failed" in _refusal(nobody)
    named = replace(alone.config(), endpoints=(alone.url.replace("127.0.0.1", "localhost"),))
    assert "certificate" in _refusal(named)  # it is the address's, not the name's


def test_a_user_and_its_password_are_asked_for_and_may_do_what_its_role_may(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret\n")

    def coded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    async def story(config: EtcdConfig, member: Etcd) -> None:
        async with connected(config) as connect:
            await both_in_sync(connect)
            # The token is forgotten where the member starts again: it is asked for anew, and nobody notices.
            await asyncio.to_thread(member.kill)
            await asyncio.to_thread(member.start)
            stands = await connect(A).read(SHOP)
            again = stands.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            assert (await connect(A).swap(stands, again)).outcome is Outcome.WON

    with ensemble(tmp_path, "one") as (member,):
        for name in ("root", "hafarm"):
            member.ask("auth/user/add", name=name, password="s3cret")
            member.ask("auth/role/add", name=name)
            member.ask("auth/user/grant", user=name, role=name)
        span = {"key": coded("hafarm/"), "range_end": coded("hafarm0"), "permType": "READWRITE"}
        member.ask("auth/role/grant", name="hafarm", perm=span)
        member.ask("auth/enable")
        known = {"user": "hafarm", "password_file": str(password)}
        asyncio.run(story(member.config(**known), member))
        named = {
            file: str(member.keys.work / f"server.{end}") for file, end in (("cert", "crt"), ("key", "key"))
        }
        assert "CommonName of client" in _refusal(member.config(**known, **named))
        assert _refusal(member.config()).startswith("HF7100")
        assert "permission denied" in _refusal(member.config(prefix="elsewhere/", **known))
        password.write_text("wrong")
        assert "authentication failed" in _refusal(member.config(**known))
        missing = {**known, "password_file": str(tmp_path / "none")}
        assert "none: No such file" in _refusal(member.config(**missing))
