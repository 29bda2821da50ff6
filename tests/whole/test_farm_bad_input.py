"""What cannot be served is said, by `config check` and at the start, before anything is changed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import remember
from tests.support.waiting import eventually
from tests.whole.test_farm import ADDRESS, FARM, FarmOfProcesses

NODES = ("paris", "lyon")


@pytest.fixture(scope="module")
def farm() -> Iterator[FarmOfProcesses]:
    """Up, and nothing started."""
    work = remember(Path(tempfile.mkdtemp(prefix="hafarm-test-")))
    farm = FarmOfProcesses(work, NODES, images=False)
    failed = True
    try:
        farm.up()
        eventually(farm.all_hear, 30)
        yield farm
        failed = False
    finally:
        farm.down()
        if not failed:
            shutil.rmtree(work, ignore_errors=True)


def checked(farm: FarmOfProcesses, file: Path) -> tuple[int, str]:
    done = farm.hafarm("paris", "config", "check", str(file), "--node", "paris")
    return done.returncode, done.stdout


def changed(farm: FarmOfProcesses, **keys: object) -> Path:
    """The cluster's file with other keys of the farm."""
    config = json.loads((farm.work / "hafarm.yaml").read_text())
    config["modules"][0].update(keys)
    file = farm.work / "other.yaml"
    file.write_text(json.dumps(config))
    return file


def state(farm: FarmOfProcesses) -> str:
    """All addresses, links and packet rules of a node; times and numbers of renewals aside."""
    call = farm.machines["paris"].call
    links = json.loads(call("ip", "-j", "address").stdout)
    told = [(each["ifname"], each["flags"], [one["local"] for one in each["addr_info"]]) for each in links]
    return f"{told}\n{call('nft', 'list', 'tables').stdout}"


def test_a_machine_that_is_ready_passes(farm: FarmOfProcesses) -> None:
    code, text = checked(farm, farm.work / "hafarm.yaml")
    assert code == 0, text
    assert "nobody else has an address of it, and the kernel takes its rules" in text


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"interface": "eth7"}, "this machine has no interface eth7"),
        ({"interface": "spare0"}, "interface spare0 is down"),
        ({"interface": "lo"}, "interface lo has no address in its subnet"),
        (
            {"mode": "invisible", "vip": [{"address": "198.18.7.1/24", "ports": [80]}]},
            "no interface of this machine has an address in its subnet",
        ),
    ],
)
def test_what_the_network_lacks_is_named(farm: FarmOfProcesses, keys: dict[str, object], told: str) -> None:
    call = farm.machines["paris"].call
    call("ip", "link", "add", "spare0", "type", "bridge")
    try:
        before = state(farm)
        code, text = checked(farm, changed(farm, **keys))
        assert (code, told in text) == (3, True), text
        assert state(farm) == before
    finally:
        call("ip", "link", "del", "spare0")


def test_an_address_that_somebody_answers_for_is_not_taken_until_it_is_free(farm: FarmOfProcesses) -> None:
    client = farm.machines["client"]
    client.call("ip", "address", "add", f"{ADDRESS}/32", "dev", "eth0")
    before = state(farm)
    code, text = checked(farm, farm.work / "hafarm.yaml")
    told = f"address {ADDRESS} is answered for by"
    assert (code, told in text, "(HF6103)" in text) == (3, True, True), text
    assert farm.hafarm("paris", "start", FARM).returncode == 0
    eventually(lambda: told in str(farm.farm("paris")["nodes"]), 30)
    assert state(farm) == before
    client.call("ip", "address", "del", f"{ADDRESS}/32", "dev", "eth0")
    eventually(lambda: farm.ready(*NODES), 60)
    assert checked(farm, farm.work / "hafarm.yaml")[0] == 0, "a farm that runs is no stranger to itself"
    assert farm.hafarm("paris", "stop", FARM, "--wait=60s").returncode == 0
    assert state(farm) == before
