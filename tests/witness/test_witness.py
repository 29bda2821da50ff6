"""The real witness process on loopback: conformance, kill -9 at any moment, who may speak for whom."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.host.tls import client_context
from orchestrator.model.errors import RegisterRefused, RegisterUnreachable
from orchestrator.model.names import ClusterName, Nonce
from orchestrator.model.record import Outcome
from orchestrator.providers.onprem.register import WitnessRegister
from orchestrator.setup.bundle import init
from orchestrator.setup.ca import Issued, issue
from tests.mirror.words import CLUSTER, SHOP, A, B, record
from tests.support.answering import answering
from tests.witness import conformance


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """A witness process that can be killed and started again on its state."""

    program: tuple[str, ...] = ("-m", "orchestrator.witness")

    def __init__(self, work: Path, *bundles: Path) -> None:
        self.state = work / "state"
        self.port = free_port()
        self.bundles = bundles
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        words = [f"--bundle={bundle}" for bundle in self.bundles]
        argv = [sys.executable, *self.program, f"--listen=127.0.0.1:{self.port}", *words]
        self.process = subprocess.Popen([*argv, f"--state={self.state}"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert "ready" in self.process.stdout.readline()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    init(CLUSTER, [A, B], str(tmp_path / "keys"))
    return tmp_path / "keys"


@contextmanager
def serving(work: Path, *bundles: Path):
    served = Served(work, *bundles)
    served.start()
    try:
        yield served
    finally:
        served.kill()


class Clients:
    """One warm client per node, closed together."""

    def __init__(self, served: Served, keys: Path, cluster: str = CLUSTER) -> None:
        make = lambda node: WitnessRegister(served.url, ClusterName(cluster), str(keys / node), 5.0)  # noqa: E731
        self.by_node = {node: make(node) for node in (A, B)}

    def __call__(self, node):
        return self.by_node[node]

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for client in self.by_node.values():
            await client.close()


def test_the_witness_is_a_register(tmp_path: Path, keys: Path) -> None:
    async def story(served: Served) -> None:
        async with Clients(served, keys) as connect:
            await conformance.a_record_is_created_once(connect)
            stands = await connect(A).read(SHOP)
            both = stands.following(primary=A, in_sync=frozenset({A, B}), nonce=Nonce("1" * 32))
            assert (await connect(A).swap(stands, both)).outcome is Outcome.WON
            await conformance.of_racing_bidders_exactly_one_wins_each_round(connect)
            await conformance.a_stale_tag_is_refused(connect)
            await conformance.a_lost_answer_is_resolved_by_asking_again(connect)

    with serving(tmp_path, keys / "witness") as served:
        asyncio.run(story(served))


def test_a_witness_that_lost_everything_is_told_again_by_order_alone(tmp_path: Path, keys: Path) -> None:
    async def story(served: Served) -> None:
        async with Clients(served, keys) as connect:
            await conformance.an_empty_register_takes_a_higher_epoch_only_by_an_operators_order(connect)
            await conformance.of_racing_bidders_exactly_one_wins_each_round(connect, 1)

    with serving(tmp_path, keys / "witness") as served:
        asyncio.run(story(served))


def test_a_won_bid_survives_kill_9_at_any_moment(tmp_path: Path, keys: Path) -> None:
    chance = random.Random(5)

    async def bid_until_killed(served: Served, won):
        async with Clients(served, keys) as connect:
            stands = await connect(A).read(SHOP)
            assert won is None or stands.epoch >= won.epoch
            killer = asyncio.get_running_loop().call_later(chance.uniform(0.0, 0.15), served.process.kill)
            while True:
                wish = (
                    stands.following(
                        primary=A, in_sync=frozenset({A, B}), nonce=Nonce(f"{chance.getrandbits(128):032x}")
                    )
                    if stands
                    else record(1, A, A)
                )
                answer = await connect(A).swap(stands, wish)
                if answer.outcome is not Outcome.WON:
                    killer.cancel()
                    return won
                stands = won = wish

    served = Served(tmp_path, keys / "witness")
    won = None
    try:
        for _ in range(8):
            served.start()
            won = asyncio.run(bid_until_killed(served, won))
            served.kill()
        served.start()

        async def final():
            async with Clients(served, keys) as connect:
                return await connect(A).read(SHOP)

        stands = asyncio.run(final())
        assert won is not None
        assert stands.epoch >= won.epoch > 10
        assert stands.epoch > won.epoch or stands == won
    finally:
        served.kill()


def test_a_certificate_speaks_for_its_own_cluster_and_node_alone(tmp_path: Path, keys: Path) -> None:
    init("other", [A, B], str(tmp_path / "other"))

    async def story(served: Served) -> None:
        async with Clients(served, keys) as connect:
            assert (await connect(A).swap(None, record(1, A, A))).outcome is Outcome.WON
            with pytest.raises(RegisterRefused, match="not in sync"):
                await connect(B).swap(record(1, A, A), record(2, A, A, B))
        stranger = WitnessRegister(served.url, CLUSTER, str(tmp_path / "other" / A), 5.0)
        with pytest.raises((RegisterRefused, RegisterUnreachable)):
            await stranger.read(SHOP)
        await stranger.close()
        async with Clients(served, tmp_path / "other", "other") as connect:
            assert await connect(A).read(SHOP) is None  # its own cluster's record of that name, not ours
        spy = WitnessRegister(served.url, ClusterName("other"), str(tmp_path / "other" / A), 5.0)
        spy.url, spy._cluster = served.url, CLUSTER
        with pytest.raises((RegisterRefused, RegisterUnreachable)):
            await spy.read(SHOP)
        await spy.close()

    with serving(tmp_path, keys / "witness", tmp_path / "other" / "witness") as served:
        asyncio.run(story(served))


def test_a_ca_speaks_for_its_own_cluster_whatever_names_it_writes(tmp_path: Path, keys: Path) -> None:
    """Who runs one cluster of a shared witness can make certificates with another cluster's name in them."""
    init("other", [A, B], str(tmp_path / "other"))
    forged = _forged(keys / "ca", keys / A, tmp_path / "forged", "other")

    async def story(served: Served) -> None:
        with pytest.raises(RegisterRefused, match="another cluster's CA"):
            await _read_through(served, forged, CLUSTER)
        with pytest.raises(RegisterUnreachable):
            await _read_through(served, forged, "other")

    with serving(tmp_path, keys / "witness", tmp_path / "other" / "witness") as served:
        asyncio.run(story(served))


def _forged(authority: Path, pattern: Path, out: Path, cluster: str) -> Path:
    """A node's bundle with a certificate that this CA made out to a node of another cluster."""
    ca = Issued((authority / "ca.crt").read_bytes(), (authority / "ca.key").read_bytes())
    made = issue(ca, cluster, A)
    shutil.copytree(pattern, out)
    (out / "node.crt").write_bytes(made.certificate)
    (out / "node.key").write_bytes(made.key)
    return out


async def _read_through(served: Served, bundle: Path, door: str) -> object:
    """Read the other cluster's record through this cluster's door, believing any witness."""
    client = WitnessRegister(served.url, ClusterName("other"), str(bundle), 5.0)
    client._context = client_context(str(bundle))
    client._context.verify_mode = ssl.CERT_NONE
    client._door = f"witness.{door}"
    try:
        return await client.read(SHOP)
    finally:
        await client.close()


def test_a_node_cannot_pass_for_the_witness(tmp_path: Path, keys: Path) -> None:
    """It would grant whatever it likes; nothing may even be asked of it."""

    async def ask(bundle: Path, name: str) -> tuple[object, int]:
        async with answering(bundle, {"record": None}, name) as served:
            client = WitnessRegister(f"https://127.0.0.1:{served.port}", CLUSTER, str(keys / A), 5.0)
            try:
                return await client.read(SHOP), served.requests
            except RegisterRefused as fault:
                return str(fault), served.requests
            finally:
                await client.close()

    assert asyncio.run(ask(keys / "witness", "witness")) == (None, 1)
    answer, requests = asyncio.run(ask(keys / B, "node"))
    assert f"node {B} of cluster {CLUSTER}, not the witness" in str(answer)
    assert requests == 0


def test_a_witness_of_another_release_grants_nothing_and_is_told_as_that(tmp_path: Path, keys: Path) -> None:
    async def ask() -> list[str]:
        told = []
        async with answering(keys / "witness", "404: Not Found", "witness", "404 Not Found") as served:
            client = WitnessRegister(f"https://127.0.0.1:{served.port}", CLUSTER, str(keys / A), 5.0)
            for deed in (client.read(SHOP), client.swap(None, record(1, A, A))):
                with pytest.raises(RegisterRefused) as caught:
                    await deed
                told.append(str(caught.value))
            await client.close()
        return told

    assert all("another release, or no witness" in text for text in asyncio.run(ask()))


def test_damage_is_told_and_never_becomes_a_fresh_start(tmp_path: Path, keys: Path) -> None:
    async def create(served):
        async with Clients(served, keys) as connect:
            assert (await connect(A).swap(None, record(1, A, A))).outcome is Outcome.WON

    async def ask(served):
        async with Clients(served, keys) as connect:
            with pytest.raises(RegisterUnreachable, match="damaged"):
                await connect(A).read(SHOP)
            assert (await connect(A).swap(None, record(1, A, A, nonce="e" * 32))).outcome is not Outcome.WON

    served = Served(tmp_path, keys / "witness")
    served.start()
    try:
        asyncio.run(create(served))
        served.kill()
        file = served.state / CLUSTER / f"{SHOP}.json"
        whole = file.read_bytes()
        for damage in (whole[:-5], whole[:3], b"", whole.replace(b'"primary": "a"', b'"primary": "b"')):
            file.write_bytes(damage)
            served.start()
            asyncio.run(ask(served))
            served.kill()
            assert file.read_bytes() == damage
    finally:
        served.kill()


def test_two_witnesses_never_share_one_state(tmp_path: Path, keys: Path) -> None:
    with serving(tmp_path, keys / "witness"):
        argv = [sys.executable, "-m", "orchestrator.witness", f"--listen=127.0.0.1:{free_port()}"]
        second = subprocess.run(
            [*argv, f"--bundle={keys / 'witness'}", f"--state={tmp_path / 'state'}"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert second.returncode == 1
    assert "HF2020" in second.stderr


def _cut_short(keys: Path) -> None:
    file = keys / "witness" / "witness.crt"
    file.write_text(file.read_text()[:100])


@pytest.mark.parametrize(
    ("harm", "more", "code", "words"),
    [
        (lambda keys: (keys / "witness" / "witness.key").unlink(), [], "HF5002", "cannot be used"),
        (_cut_short, [], "HF5002", "cannot be used"),
        (lambda keys: None, ["--listen=nonsense"], "HF2022", "is not HOST:PORT"),
        (lambda keys: None, ["--listen=127.0.0.1:99999"], "HF2022", "is not HOST:PORT"),
        (lambda keys: None, ["--state=/proc/nowhere"], "HF1002", "cannot write /proc/nowhere"),
        (lambda keys: None, ["--bundle=TWICE"], "HF5002", "given twice"),
    ],
)
def test_a_witness_that_cannot_serve_says_why(
    tmp_path: Path, keys: Path, harm, more: list[str], code: str, words: str
) -> None:
    harm(keys)
    own = [
        f"--bundle={keys / 'witness'}",
        f"--state={tmp_path / 'state'}",
        f"--listen=127.0.0.1:{free_port()}",
    ]
    more = [word.replace("TWICE", str(keys / "witness")) for word in more]
    argv = [sys.executable, "-m", "orchestrator.witness", *own, *more]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error {code}: the witness cannot serve: "), done.stderr
    assert words in done.stderr
    assert "\n  fix: " in done.stderr
