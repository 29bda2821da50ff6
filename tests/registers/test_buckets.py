"""Buckets of three clouds as the register, through the real worker and the clouds' own libraries."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

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
from tests.mirror.words import SHOP, A, B, record
from tests.registers import clients
from tests.registers.clients import BOTH, both_in_sync
from tests.registers.clouds import BUCKET, Objects, azure, google, google_account, listening
from tests.registers.relay import Relay
from tests.support.waiting import until
from tests.witness import conformance

TIMEOUT_S = 20.0
"""Far above what a loaded machine needs for an answer and for the start of a worker."""
IMPATIENT_S = 1.0
KINDS = ("s3", "gcs", "blob")
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(scope="module")
def aws() -> str:
    """moto's server: its conditions of S3 are as Amazon's."""
    assert moto.__version__ == "5.2.5", "look whether what is said of it still holds"
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@dataclass
class Place:
    """A store of one kind, empty, with a relay in front of it."""

    config: BucketConfig
    relay: Relay
    objects: Objects = field(default_factory=Objects)

    def store(self, timeout_s: float = TIMEOUT_S) -> WorkerStore:
        return WorkerStore(self.config, timeout_s)

    def connected(self, timeout_s: float = TIMEOUT_S):
        return clients.connected(lambda: self.store(timeout_s), timeout_s)


Make = Callable[[str], "AsyncIterator[Place]"]


@pytest.fixture
def place(aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Of a kind; to be entered inside a loop."""

    @asynccontextmanager
    async def made(kind: str) -> AsyncIterator[Place]:
        for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
            monkeypatch.delenv(name)
        async with AsyncExitStack() as stack:
            objects = Objects()
            if kind == "s3":
                target, environment = aws, dict(AWS)
            else:
                app = google(objects) if kind == "gcs" else azure(objects)
                target = await stack.enter_async_context(listening(app))
                if kind == "gcs":
                    environment = google_account(tmp_path / "account.json", target)
                else:
                    environment = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": target}
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            if kind == "s3":
                bucket = boto3.client("s3", endpoint_url=aws, region_name="us-east-1")
                await asyncio.to_thread(bucket.create_bucket, Bucket=BUCKET)
            relay = Relay(target)
            url = await stack.enter_async_context(listening(relay.app()))
            region = {"s3": "us-east-1"}.get(kind, "")
            account = {"blob": "hafarm"}.get(kind, "")
            prefix = f"{request.node.name.translate(str.maketrans('[]', '--'))}/"
            yield Place(BucketConfig(kind, BUCKET, prefix, region, account, url), relay, objects)

    return made


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for Google takes more than one write a second, unless a test says so."""
    monkeypatch.setattr(client, "GCS_PAUSE_S", 0.0)


each = pytest.mark.parametrize("kind", KINDS)


@each
def test_a_bucket_is_a_register(place, kind: str) -> None:
    async def story() -> None:
        async with place(kind) as found, found.connected() as connect:
            await connect.proved(A, B)
            await conformance.a_record_is_created_once(connect)
            stands = await connect(A).read(SHOP)
            both = stands.following(primary=A, in_sync=BOTH, nonce=Nonce("1" * 32))
            assert (await connect(A).swap(stands, both)).outcome is Outcome.WON
            await conformance.of_racing_bidders_exactly_one_wins_each_round(connect, 2)
            await conformance.a_stale_tag_is_refused(connect)
            await conformance.a_lost_answer_is_resolved_by_asking_again(connect)

    asyncio.run(story())


@each
def test_a_bucket_that_lost_everything_is_told_again_by_order_alone(place, kind: str) -> None:
    async def story() -> None:
        async with place(kind) as found, found.connected() as connect:
            await connect.proved(A, B)
            await conformance.an_empty_register_takes_a_higher_epoch_only_by_an_operators_order(connect)
            await conformance.of_racing_bidders_exactly_one_wins_each_round(connect, 1)

    asyncio.run(story())


@each
def test_a_write_whose_answer_is_lost_is_sent_once_and_found(place, kind: str) -> None:
    async def story() -> None:
        async with place(kind) as found, found.connected() as connect:
            both = await both_in_sync(connect)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            found.relay.next.append("lose the answer")
            before = found.relay.writes
            assert (await connect(A).swap(both, wish)).outcome is Outcome.UNKNOWN
            assert found.relay.writes == before + 1
            assert await connect(B).read(SHOP) == wish
            assert (await connect(A).swap(both, wish)).outcome is Outcome.WON

    asyncio.run(story())


@each
def test_a_write_that_is_late_finds_another_record_and_changes_nothing(place, kind: str) -> None:
    """Its sender has long given up, and the other node has taken over."""

    async def story() -> None:
        async with place(kind) as found, found.connected() as patient:
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

    asyncio.run(story())


@each
def test_what_is_put_off_is_unknown_and_not_sent_again(place, kind: str) -> None:
    async def story() -> None:
        async with place(kind) as found, found.connected() as connect:
            both = await both_in_sync(connect)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            for status in (429, 500, 503):
                found.relay.next.append((status, ""))
                before = found.relay.writes
                assert (await connect(A).swap(both, wish)).outcome is Outcome.UNKNOWN
                assert found.relay.writes == before + 1
                assert str(status) in connect(A).why

    asyncio.run(story())


@each
def test_a_store_that_knows_no_conditions_is_no_register(place, kind: str) -> None:
    async def story() -> None:
        async with place(kind) as found, found.connected() as connect:
            found.relay.blind = True
            with pytest.raises(RegisterRefused, match="took a write") as caught:
                await connect(A).swap(None, record(1, A, A))
            assert caught.value.code == "HF7101"
            assert await connect(A).read(SHOP) is None

    asyncio.run(story())


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
def test_what_is_refused_says_what_to_do(place, kind: str) -> None:
    async def story() -> None:
        async with place(kind) as found, found.connected() as connect:
            for status, text, fix in REFUSALS[kind]:
                found.relay.all = (status, text)
                with pytest.raises(RegisterRefused, match=fix) as caught:
                    await connect(A).read(SHOP)
                assert caught.value.code == "HF7100"
            with pytest.raises(RegisterRefused):
                await connect(A).swap(None, record(1, A, A))

    asyncio.run(story())


@each
def test_a_bucket_that_is_not_there_is_named(place, kind: str) -> None:
    async def story() -> None:
        async with place(kind) as found:
            wrong = replace(found, config=replace(found.config, bucket="another-one"))
            async with wrong.connected() as connect:
                for deed in (connect(A).read(SHOP), connect(A).swap(None, record(1, A, A))):
                    with pytest.raises(RegisterRefused, match=r"another-one.*(make the|correct)"):
                        await deed

    asyncio.run(story())


@each
def test_without_credentials_it_says_so(place, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with place(kind) as found:
            for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
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
            async with found.connected() as connect:
                with pytest.raises(RegisterRefused, match="give this node"):
                    await connect(A).read(SHOP)

    asyncio.run(story())


def test_a_leased_blob_is_told_as_that_and_not_as_a_lost_bid(place) -> None:
    async def story() -> None:
        async with place("blob") as found, found.connected() as connect:
            both = await both_in_sync(connect)
            (key,) = [key for key in found.objects.held if key.endswith(f"{SHOP}.json")]
            found.objects.leased.add(key)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            with pytest.raises(RegisterRefused, match="break it"):
                await connect(A).swap(both, wish)

    asyncio.run(story())


def test_googles_pace_is_kept_by_the_self_test(place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real pause

    async def story() -> None:
        async with place("gcs") as found, found.connected() as connect:
            found.objects.paced = True
            await connect(A).prove()

    asyncio.run(story())


# --- the worker --------------------------------------------------------------------------------------------


def test_a_killed_worker_is_started_again_and_the_bid_is_found(place) -> None:
    async def story() -> None:
        async with place("s3") as found, found.connected() as connect:
            both = await both_in_sync(connect)
            wish = both.following(primary=A, in_sync=frozenset({A}), nonce=Nonce("2" * 32))
            store = connect(A)._store
            found.relay.next.append("hold")
            bid = asyncio.create_task(connect(A).swap(both, wish))
            await until(lambda: not found.relay.next)
            first = store.pid
            os.kill(first, signal.SIGKILL)
            assert (await bid).outcome is Outcome.UNKNOWN
            found.relay.released.set()  # what it had sent lands all the same
            await until(lambda: store.pid not in (0, first), TIMEOUT_S)
            assert (await connect(A).swap(both, wish)).outcome is Outcome.WON
            assert await connect(B).read(SHOP) == wish

    asyncio.run(story())


def test_a_worker_that_hangs_is_ended_and_started_again(place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "HANGS_S", 1.5)

    async def story() -> None:
        async with place("s3") as found:
            async with found.connected() as patient:
                both = await both_in_sync(patient)
            async with found.connected(IMPATIENT_S) as connect:
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

    asyncio.run(story())


async def until_read(register, wanted) -> None:
    for _ in range(100):
        try:
            assert await register.read(SHOP) == wanted
            return
        except RegisterUnreachable:
            await asyncio.sleep(0.1)
    raise AssertionError("it does not answer")


def test_a_worker_ends_with_its_agent(place) -> None:
    async def story() -> int:
        async with place("s3") as found, found.connected() as connect:
            await connect(A).read(SHOP)
            return connect(A)._store.pid

    pid = asyncio.run(story())
    assert pid
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize(
    ("kind", "library", "extra"),
    [("s3", "boto3", "aws"), ("gcs", "google", "gcp"), ("blob", "azure", "azure")],
)
def test_what_is_not_installed_is_named(
    place, kind: str, library: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / f"{library}.py").write_text(f"raise ImportError('No module named {library!r}')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'bare'}:{os.environ.get('PYTHONPATH', '')}")

    async def story() -> None:
        async with place(kind) as found, found.connected() as connect:
            with pytest.raises(RegisterRefused, match=rf"pip install 'hafarm\[{extra}\]'") as caught:
                await connect(A).read(SHOP)
            assert caught.value.code == "HF7102"

    asyncio.run(story())


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
