"""Copies that are interrupted, refused, or go over files that nobody decided against."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.mirror.frames import HandshakeRejected, Identity, Kind, encode_json
from orchestrator.model.errors import CorruptState
from orchestrator.replicator.history import History
from orchestrator.replicator.link import FORWARD, ConnectionLost, dial
from orchestrator.setup.ca import make_authority
from tests.replicator.pair import CLUSTER, LYON, MODULE, PARIS, Pair, bundle, picture, record
from tests.support.waiting import eventually

LIFE, OTHER = secrets.token_hex(16), secrets.token_hex(16)
ALONE = record(1, LIFE, {PARIS})


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()


def ready(pair: Pair, timeout_s: float = 20) -> None:
    eventually(lambda: pair.said("member_ready") != [], timeout_s)


def restarted(pair: Pair) -> None:
    """Lyon's replicator begins a new life over the same disk."""
    pair.stop_follower()
    pair.told.clear()
    assert pair.primary is not None
    assert pair.primary.record is not None
    pair.start_follower(pair.primary.record)
    pair.primary.settings.ports[LYON] = pair.port  # type: ignore[index]


def test_files_of_unknown_history_stay_until_the_operator_adopts_and_are_then_set_aside(pair: Pair) -> None:
    (pair.trees[PARIS] / "data").write_text("of paris")
    (pair.trees[LYON] / "data").write_text("nobody knows")
    follower = pair.start_follower(ALONE)
    pair.start_primary(ALONE)
    eventually(lambda: {"unknown files"} & {str(told.get("verdict")) for told in pair.told}, 10)
    assert (pair.trees[LYON] / "data").read_text() == "nobody knows"
    follower.adopt()
    ready(pair)
    assert (pair.trees[LYON] / "data").read_text() == "of paris"
    (aside,) = (pair.trees[LYON] / ".hafarm" / "quarantine").iterdir()
    (line,) = (aside / "LIST").read_text().splitlines()
    entry = json.loads(line)
    assert entry["was"] == "data"
    assert (aside / entry["kept"]).read_text() == "nobody knows"


def test_a_diverged_returner_keeps_what_only_it_has(pair: Pair) -> None:
    (pair.trees[PARIS] / "same").write_text("same")
    pair.start_follower(ALONE)
    pair.start_primary(ALONE)
    ready(pair)
    pair.stop_primary()
    pair.stop_follower()
    # Lyon was promoted by force, and wrote; Paris went on, and wrote too.
    history, logs = pair.state(LYON)
    history.add_reign(record(2, OTHER, {LYON}, LYON))
    logs.close()
    (pair.trees[LYON] / "order-7").write_text("only in lyon")
    (pair.trees[LYON] / "same").write_text("SAME")
    now = record(2, LIFE, {PARIS})
    pair.told.clear()
    pair.start_follower(now)
    pair.start_primary(now)
    ready(pair)
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])
    (aside,) = (pair.trees[LYON] / ".hafarm" / "quarantine").iterdir()
    was = {json.loads(line)["was"]: json.loads(line)["kept"] for line in (aside / "LIST").open()}
    assert {name: (aside / kept).read_text() for name, kept in was.items()} == {
        "order-7": "only in lyon",
        "same": "SAME",
    }


def test_an_interrupted_copy_never_looks_done_and_begins_again(pair: Pair) -> None:
    for number in range(40):
        (pair.trees[PARIS] / f"f{number}").write_bytes(os.urandom(300_000))
    follower = pair.start_follower(ALONE)
    primary = pair.start_primary(ALONE)
    eventually(lambda: follower.applied > 30, 20)
    pair.stop_follower()
    history = History(str(pair.folder / f"state-{LYON}"))
    if pair.said("member_ready") == []:
        assert history.standing.inconsistent
        assert history.standing.reigns == ()
    restarted(pair)
    ready(pair)
    assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])
    assert primary.verify(LYON) == []


def test_an_inconsistent_copy_does_not_start(pair: Pair) -> None:
    history, logs = pair.state(PARIS)
    history.change(inconsistent=True)
    logs.close()
    with pytest.raises(CorruptState):
        pair.start_primary(ALONE)


def test_verify_names_exactly_what_differs(pair: Pair) -> None:
    for name in ("a", "b", "c", "d"):
        (pair.trees[PARIS] / name).write_bytes(os.urandom(600_000))
    pair.start_follower(ALONE)
    primary = pair.start_primary(ALONE)
    ready(pair)
    assert primary.verify(LYON) == []
    lyon = pair.trees[LYON]
    raw = bytearray((lyon / "b").read_bytes())
    raw[400_000] ^= 1
    (lyon / "b").write_bytes(raw)
    (lyon / "extra").touch()
    os.chmod(lyon / "d", 0o600)
    assert primary.verify(LYON) == ["0:b", "0:d", "0:extra"]


def test_random_changes_while_away_are_all_brought_back_by_the_logs(pair: Pair) -> None:
    dice = random.Random(3)
    for number in range(12):
        (pair.trees[PARIS] / f"d{number % 3}").mkdir(exist_ok=True)
        (pair.trees[PARIS] / f"d{number % 3}" / f"f{number}").write_bytes(dice.randbytes(5000))
    pair.start_follower(ALONE)
    primary = pair.start_primary(ALONE)
    ready(pair)
    live = pair.live
    assert live is not None
    for round in range(3):
        pair.stop_follower()
        eventually(lambda: not primary._links[LYON].is_up, 10)
        for number in range(30):
            files = [path for path in pair.trees[PARIS].rglob("*") if path.is_file()]
            name = str(dice.choice(files).relative_to(pair.trees[PARIS]))
            fresh = f"d{dice.randrange(3)}/new{round}-{number}"
            match dice.randrange(7):
                case 0:
                    live.write(name, dice.randrange(9000), dice.randbytes(40))
                case 1:
                    live.rename(name, fresh)
                case 2:
                    live.link(name, fresh)
                case 3 if len(files) > 4:
                    live.unlink(name)
                case 4:
                    live.truncate(name, dice.randrange(9000))
                case 5:
                    live.set_xattr(name, "user.n", b"%d" % number)
                case _:
                    live.create(fresh)
        live.rename(f"d{round}", f"d{round}x")
        live.mkdir(f"d{round}")
        restarted(pair)
        ready(pair)
        assert not pair.said("progress")[-1]["full"], pair.said("progress")[-1]["why"]
        assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])


def test_a_file_made_lately_is_compared_by_the_one_entry_it_has(pair: Pair) -> None:
    """What a power cut leaves of a new file: its name, size and times, and zeros for its data."""
    pair.start_follower(ALONE)
    primary = pair.start_primary(ALONE)
    ready(pair)
    assert pair.live is not None
    pair.live.create("new")
    pair.live.write("new", 0, b"some lines of a log")
    target = primary.outbox.last
    eventually(lambda: pair.follower is not None and pair.follower.applied >= target, 10)
    pair.stop_follower()
    there = pair.trees[LYON] / "new"
    times = there.stat()
    there.write_bytes(bytes(times.st_size))
    os.utime(there, ns=(times.st_atime_ns, times.st_mtime_ns))
    restarted(pair)
    ready(pair)
    assert not pair.said("progress")[-1]["full"]
    assert there.read_bytes() == b"some lines of a log"


def test_a_disk_that_refuses_costs_the_member_its_place_and_the_primary_goes_on(pair: Pair) -> None:
    pair.start_follower(ALONE)
    primary = pair.start_primary(ALONE)
    ready(pair)
    primary.take_reign(record(2, LIFE, {PARIS, LYON}))
    live = pair.live
    assert live is not None
    (pair.trees[LYON] / "in the way").touch()  # behind hafarm's back: the next operation cannot be applied
    live.create("in the way")
    eventually(lambda: pair.said("member_lost") != [], 10)
    assert "File exists" in pair.said("member_lost")[0]["why"]


@pytest.mark.parametrize(("cluster", "node"), [("bank", "paris"), ("shop", "nice")])
def test_a_certificate_of_another_node_or_cluster_is_refused(pair: Pair, cluster: str, node: str) -> None:
    pair.start_follower(ALONE)
    authority = make_authority(CLUSTER)
    strange = bundle(pair.folder / "strange", authority, cluster, node)
    settings = pair.settings(PARIS, strange)
    identity = Identity(CLUSTER, MODULE, PARIS, FORWARD).as_dict() | {
        "record": ALONE.as_dict(),
        "session": "x",
    }

    def knock() -> None:
        connection = dial(settings, LYON, frozenset(Kind), 3)
        connection.send(encode_json(Kind.HELLO, identity), 3)
        connection.receive_one(Kind.WELCOME, 3)

    with pytest.raises((HandshakeRejected, ConnectionLost, ssl.SSLError)):
        knock()
    assert pair.said("stream_up") == []


@pytest.mark.parametrize("node", ["nice", "lyon"])
def test_a_node_of_our_cluster_cannot_speak_for_another(pair: Pair, node: str) -> None:
    pair.start_follower(ALONE)
    strange = bundle(pair.folder / "strange", pair.authority, CLUSTER, node)
    connection = dial(pair.settings(PARIS, strange), LYON, frozenset(Kind), 3)
    identity = Identity(CLUSTER, MODULE, PARIS, FORWARD).as_dict() | {
        "record": ALONE.as_dict(),
        "session": "x",
    }
    connection.send(encode_json(Kind.HELLO, identity), 3)
    with pytest.raises(HandshakeRejected) as refusal:
        connection.receive_one(Kind.WELCOME, 3)
    assert refusal.value.reason == "foreign"
    connection.close()


def test_an_older_epoch_is_refused_after_a_newer_one_was_admitted(pair: Pair) -> None:
    pair.start_follower(record(5, OTHER, {PARIS}))
    primary = pair.start_primary(ALONE)
    eventually(lambda: "epoch" in primary._links[LYON].status()["why"], 10)
    assert os.listdir(pair.trees[LYON]) == []


def test_a_follower_killed_in_mid_stream_comes_back_with_every_acknowledged_write(pair: Pair) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.replicator.pair import Pair, PARIS, record\n"
        f"pair = Pair(Path({str(pair.folder)!r}), again=True)\n"
        f"pair.start_follower(record(1, {LIFE!r}, {{PARIS}}))\n"
        "print(pair.port, flush=True)\n"
        "time.sleep(120)\n"
    )

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        pair.port = int(child.stdout.readline())
        return child

    child = start()
    try:
        primary = pair.start_primary(ALONE)
        live = pair.live
        assert live is not None
        ready(pair)
        primary.widen({LYON})
        live.create("log")
        acknowledged: list[int] = []
        for number in range(200):
            live.write("log", number * 8, b"%07d\n" % number)
            place = live.sync("log")
            primary.when_durable(place, lambda fault, n=number: acknowledged.append(n))  # type: ignore[misc]
        eventually(lambda: len(acknowledged) > 20, 20)
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        seen = len(acknowledged)
        there = (pair.trees[LYON] / "log").read_bytes()
        for number in range(seen):
            assert there[number * 8 : number * 8 + 8] == b"%07d\n" % number
        eventually(lambda: pair.said("member_lost") != [], 10)
        primary.take_reign(ALONE)
        pair.told.clear()
        child = start()
        primary.settings.ports[LYON] = pair.port  # type: ignore[index]
        ready(pair)
        assert picture(pair.trees[LYON]) == picture(pair.trees[PARIS])
    finally:
        child.kill()
        child.wait(10)
