"""Buckets of three clouds as the register, through the real worker and the clouds' own libraries."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
from moto.server import ThreadedMotoServer

from orchestrator.model.config import BucketConfig
from orchestrator.model.errors import RegisterRefused, RegisterUnreachable
from orchestrator.model.names import Nonce
from orchestrator.model.record import Outcome
from orchestrator.providers.registers import client
from orchestrator.providers.registers.client import WorkerStore
from orchestrator.providers.registers.store import Held
from tests.mirror.words import CLUSTER, SHOP, A, B, record
from tests.registers import clients
from tests.registers.clients import BOTH, both_in_sync
from tests.registers.clouds import BUCKET, Objects, azure, google, google_account, listening
from tests.registers.relay import Relay
from tests.support.waiting import eventually, until
from tests.witness import conformance

TIMEOUT_S = 60.0
"""Far above what a loaded machine needs for an answer and for the start of a worker."""
IMPATIENT_S = 1.0
KINDS = ("s3", "gcs", "blob")
OURS = ("AWS_", "AZURE_", "GOOGLE_")
"""How the variables begin in which the clouds' libraries find credentials."""


class Under:
    """A part of a store that several tests share, for one of them."""

    def __init__(self, store: WorkerStore, prefix: str) -> None:
        self.store, self._prefix = store, prefix
        self.where, self.pause_s = store.where, 0.0

    async def get(self, key: str) -> Held | None:
        return await self.store.get(self._prefix + key)

    async def put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        return await self.store.put(self._prefix + key, content, expected)

    async def close(self) -> None:
        """The next test goes on with it."""


class Place:
    """A store of one kind with a relay in front of it, and workers that were started once."""

    def __init__(self, config: BucketConfig, relay: Relay, objects: Objects) -> None:
        self.config, self.relay, self.objects = config, relay, objects
        self.stores = [WorkerStore(config, TIMEOUT_S) for _ in BOTH]
        self.prefix = ""

    def connected(self):
        """Two nodes, through a worker each."""
        parts = iter([Under(store, self.prefix) for store in self.stores])
        return clients.connected(lambda: next(parts), TIMEOUT_S)

    def alone(self, timeout_s: float = TIMEOUT_S, **changes: str):
        """The same with workers of their own."""
        config = replace(self.config, **{"prefix": self.prefix, **changes})
        return clients.connected(lambda: WorkerStore(config, timeout_s), timeout_s)


class World:
    """All stores and the one loop in which all tests of this file run."""

    def __init__(self, runner: asyncio.Runner, work: Path) -> None:
        self._runner, self._work = runner, work
        self._stack = AsyncExitStack()
        self._places: dict[str, Place] = {}

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        self._runner.run(story)

    def place(self, kind: str, prefix: str) -> Place:
        """Empty below the prefix, and with nothing in its way."""
        if kind not in self._places:
            self._places[kind] = self._runner.run(self._made(kind))
        found = self._places[kind]
        found.prefix = f"{prefix}/"
        found.relay.clear()
        return found

    async def _made(self, kind: str) -> Place:
        objects = Objects()
        if kind == "s3":
            target = self._amazon()
        else:
            app = google(objects) if kind == "gcs" else azure(objects)
            target = await self._stack.enter_async_context(listening(app))
        if kind == "gcs":
            os.environ.update(google_account(self._work / "account.json", target))
        elif kind == "blob":
            os.environ["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = target
        relay = Relay(target)
        url = await self._stack.enter_async_context(listening(relay.app()))
        region, account = {"s3": "us-east-1"}.get(kind, ""), {"blob": "hafarm"}.get(kind, "")
        return Place(BucketConfig(kind, BUCKET, "", region, account, url), relay, objects)

    def _amazon(self) -> str:
        """moto's server: its conditions of S3 are as Amazon's."""
        assert moto.__version__ == "5.2.5", "look whether what is said of it still holds"
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        self._stack.callback(server.stop)
        host, port = server.get_host_and_port()
        words = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        os.environ.update({**words, "AWS_EC2_METADATA_DISABLED": "true"})
        url = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket=BUCKET)
        return url

    async def close(self) -> None:
        for place in self._places.values():
            for store in place.stores:
                await store.close()
        await self._stack.aclose()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OURS)]:
            patch.delenv(name)
        before = dict(os.environ)
        world = World(runner, tmp_path_factory.mktemp("clouds"))
        yield world
        runner.run(world.close())
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def place(world: World, request: pytest.FixtureRequest) -> Callable[[str], Place]:
    name = request.node.name.translate(str.maketrans("[]", "--"))
    return lambda kind: world.place(kind, name)


each = pytest.mark.parametrize("kind", KINDS)


@each
def test_a_bucket_is_a_register(world: World, place, kind: str) -> None:
    found = place(kind)

    async def story() -> None:
        async with found.connected() as connect:
            await connect.proved(A, B)
            await conformance.a_record_is_created_once(connect)
            stands = await connect(A).read(SHOP)
            both = stands.following(primary=A, in_sync=BOTH, nonce=Nonce("1" * 32))
            assert (await connect(A).swap(stands, both)).outcome is Outcome.WON
            await conformance.of_racing_bidders_exactly_one_wins_each_round(connect, 2)
            await conformance.a_stale_tag_is_refused(connect)
            await conformance.a_lost_answer_is_resolved_by_asking_again(connect)

    world.run(story())


@each
def test_a_bucket_that_lost_everything_is_told_again_by_order_alone(world: World, place, kind: str) -> None:
    found = place(kind)

    async def story() -> None:
        async with found.connected() as connect:
            await connect.proved(A, B)
            await conformance.an_empty_register_takes_a_higher_epoch_only_by_an_operators_order(connect)
            await conformance.of_racing_bidders_exactly_one_wins_each_round(connect, 1)

    world.run(story())


@each
def test_a_write_whose_answer_is_lost_is_sent_once_and_found(world: World, place, kind: str) -> None:
    found = place(kind)

    async def story() -> None:
        async with found.connected() as connect:
            both = await both_in_sync(connect)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            found.relay.next.append("lose the answer")
            before = found.relay.writes
            assert (await connect(A).swap(both, wish)).outcome is Outcome.UNKNOWN
            assert found.relay.writes == before + 1
            assert await connect(B).read(SHOP) == wish
            assert (await connect(A).swap(both, wish)).outcome is Outcome.WON

    world.run(story())


@each
def test_a_write_that_is_late_finds_another_record_and_changes_nothing(
    world: World, place, kind: str
) -> None:
    """Its sender has long given up, and the other node has taken over."""

    found = place(kind)

    async def story() -> None:
        async with found.connected() as patient:
            both = await both_in_sync(patient)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            taken = both.following(primary=B, in_sync=frozenset({B}), nonce=Nonce("3" * 32))
            found.relay.next.append("hold")
            late = asyncio.create_task(patient(A).swap(both, wish))
            await until(lambda: not found.relay.next)
            assert (await patient(B).swap(both, taken)).outcome is Outcome.WON
            found.relay.released.set()
            answer = await late
            assert (answer.outcome, answer.current) == (Outcome.LOST, taken)
            assert await patient(A).read(SHOP) == taken

    world.run(story())


@each
def test_what_is_put_off_is_unknown_and_not_sent_again(world: World, place, kind: str) -> None:
    found = place(kind)

    async def story() -> None:
        async with found.connected() as connect:
            both = await both_in_sync(connect)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            for status in (429, 500, 503):
                found.relay.next.append((status, ""))
                before = found.relay.writes
                assert (await connect(A).swap(both, wish)).outcome is Outcome.UNKNOWN
                assert found.relay.writes == before + 1
                assert str(status) in connect(A).why

    world.run(story())


@each
def test_a_store_that_knows_no_conditions_is_no_register(world: World, place, kind: str) -> None:
    found = place(kind)

    async def story() -> None:
        async with found.connected() as connect:
            assert await connect(A).read(SHOP) is None  # its worker is there
            found.relay.blind = True
            with pytest.raises(RegisterRefused, match="took a write") as caught:
                await connect(A).swap(None, record(1, A, A))
            assert caught.value.code == "HF7101"
            assert await connect(A).read(SHOP) is None

    world.run(story())


def xml(code: str) -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"


REFUSALS = {
    "s3": [
        (403, xml("AccessDenied"), "s3:ListBucket"),
        (301, xml("PermanentRedirect"), "correct `region`"),
        (400, xml("AuthorizationHeaderMalformed"), "correct `region`"),
        (403, xml("InvalidAccessKeyId"), "other credentials"),
        (400, xml("ExpiredToken"), "renew themselves"),
    ],
    "gcs": [
        (403, '{"error": {"message": "no access"}}', "storage.objects.get"),
        (400, '{"error": {"message": "no name"}}', "correct `bucket`"),
    ],
    "blob": [
        (403, xml("AuthorizationPermissionMismatch"), "Storage Blob Data Contributor"),
        (403, xml("AuthorizationFailure"), "firewall"),
        (401, xml("InvalidAuthenticationInfo"), "another identity"),
    ],
}


@each
def test_what_is_refused_says_what_to_do(world: World, place, kind: str) -> None:
    found = place(kind)

    async def story() -> None:
        async with found.connected() as connect:
            for status, text, fix in REFUSALS[kind]:
                found.relay.all = (status, text)
                with pytest.raises(RegisterRefused, match=fix) as caught:
                    await connect(A).read(SHOP)
                assert caught.value.code == "HF7100"
            with pytest.raises(RegisterRefused):
                await connect(A).swap(None, record(1, A, A))

    world.run(story())


@each
def test_a_bucket_that_is_not_there_is_named(world: World, place, kind: str) -> None:
    found = place(kind)

    async def story() -> None:
        async with found.alone(bucket="another-one") as connect:
            for deed in (connect(A).read(SHOP), connect(A).swap(None, record(1, A, A))):
                with pytest.raises(RegisterRefused, match=r"another-one.*(make the|correct)"):
                    await deed

    world.run(story())


@each
def test_without_credentials_it_says_so(
    world: World, place, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = place(kind)
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    # No file of an operator's, no metadata service, and no program of a cloud's.
    for name, value in {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "NO_GCE_CHECK": "true",
        "HOME": "/nonexistent",
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)

    async def story() -> None:
        async with found.alone() as connect:
            with pytest.raises(RegisterRefused, match="give this node"):
                await connect(A).read(SHOP)

    world.run(story())


def test_a_leased_blob_is_told_as_that_and_not_as_a_lost_bid(world: World, place) -> None:
    found = place("blob")

    async def story() -> None:
        async with found.connected() as connect:
            both = await both_in_sync(connect)
            (key,) = [
                key for key in found.objects.held if key.endswith(f"{found.prefix}{CLUSTER}/{SHOP}.json")
            ]
            found.objects.leased.add(key)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            with pytest.raises(RegisterRefused, match="break it"):
                await connect(A).swap(both, wish)

    world.run(story())


def test_googles_pace_is_kept_by_the_self_test(world: World, place) -> None:
    found = place("gcs")

    async def story() -> None:
        found.objects.paced = True
        try:
            async with found.alone() as connect:
                await connect.proved(A)
                await connect(A).prove()
        finally:
            found.objects.paced = False

    world.run(story())


# --- the worker --------------------------------------------------------------------------------------------


def test_a_killed_worker_is_started_again_and_the_bid_is_found(world: World, place) -> None:
    found = place("s3")

    async def story() -> None:
        async with found.alone() as connect:
            both = await both_in_sync(connect)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            store = connect(A)._store
            found.relay.next.append("hold")
            bid = asyncio.create_task(connect(A).swap(both, wish))
            await until(lambda: not found.relay.next, TIMEOUT_S)
            first = store.pid
            os.kill(first, signal.SIGKILL)
            assert (await bid).outcome is Outcome.UNKNOWN
            found.relay.released.set()  # what it had sent lands all the same
            await until(lambda: store.pid not in (0, first), TIMEOUT_S)
            await until_read(connect(A), wish)
            assert (await connect(A).swap(both, wish)).outcome is Outcome.WON

    world.run(story())


def test_a_worker_that_hangs_is_ended_and_started_again(
    world: World, place, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = place("s3")
    monkeypatch.setattr(client, "HANGS_S", 1.5)

    async def story() -> None:
        async with found.connected() as patient:
            both = await both_in_sync(patient)
        async with found.alone(IMPATIENT_S) as connect:
            store = connect(A)._store
            await until_read(connect(A), both)
            first = store.pid
            os.kill(first, signal.SIGSTOP)
            with pytest.raises(RegisterUnreachable, match="no answer within"):
                await connect(A).read(SHOP)
            await until_read(connect(A), both)
            assert store.pid != first
            with pytest.raises(ProcessLookupError):
                os.kill(first, 0)

    world.run(story())


async def until_read(register, wanted) -> None:
    for _ in range(100):
        try:
            if await register.read(SHOP) == wanted:
                return
        except RegisterUnreachable:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("it does not answer that")


def test_a_worker_ends_with_its_agent(world: World, place, tmp_path: Path) -> None:
    """Also where that had no time to say so: it is killed."""
    place("s3")
    code = (
        "import asyncio, sys, time\n"
        "from orchestrator.model.config import BucketConfig\n"
        "from orchestrator.providers.registers.client import WorkerStore\n"
        "async def begin():\n"
        "    store = WorkerStore(BucketConfig('s3', 'b', region='us-east-1'), 1.0)\n"
        "    await store._begin()\n"
        "    print(store.pid, flush=True)\n"
        "    time.sleep(60)\n"
        "asyncio.run(begin())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        worker = int(agent.stdout.readline())
        os.kill(worker, 0)
        agent.kill()
        eventually(lambda: not os.path.exists(f"/proc/{worker}"))


@pytest.mark.parametrize(
    ("kind", "library", "extra"),
    [("s3", "boto3", "aws"), ("gcs", "google", "gcp"), ("blob", "azure", "azure")],
)
def test_what_is_not_installed_is_named(
    world: World, place, kind: str, library: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = place(kind)
    (tmp_path / f"{library}.py").write_text(f'raise ImportError("no {library} here")')
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")

    async def story() -> None:
        async with found.alone() as connect:
            with pytest.raises(RegisterRefused, match=rf"pip install 'hafarm\[{extra}\]'") as caught:
                await connect(A).read(SHOP)
            assert caught.value.code == "HF7102"

    world.run(story())


def test_the_agent_loads_no_library_of_a_cloud() -> None:
    code = (
        "import sys, orchestrator.agent.agent, orchestrator.providers.registers.choose as choose\n"
        "from orchestrator.model.config import BucketConfig, WitnessConfig\n"
        "place = WitnessConfig('s3', bucket=BucketConfig('s3', 'b', region='eu-central-1'))\n"
        "choose.choose(place, 'shop', 'paris', '/none', 1.0)\n"
        "print(sorted({'boto3', 'botocore', 'google', 'azure', 'requests', 'urllib3'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
