"""`hafarm config check` and `hafarm status` of farms."""

from __future__ import annotations

import dataclasses

from orchestrator.cli.machine_farms import networks
from orchestrator.cli.status import is_redundant, shown
from orchestrator.model.config import FarmConfig, FarmVipConfig
from orchestrator.model.names import ModuleName

LOOPBACK = FarmConfig(ModuleName("web"), (), (FarmVipConfig("127.0.0.50/8", ()),))
STATUS = {
    "cluster": "shop",
    "node": "paris",
    "witness": {"kind": "none"},
    "nodes": [{"name": "paris", "alive": True, "here": True}],
    "modules": [
        {
            "name": "web",
            "kind": "farm",
            "headline": "lyon, paris share the traffic; if one fails, the others take its part",
            "nodes": [
                {
                    "node": "paris", "role": "UP", "phase": "ready", "share": 0.6667, "percent": 100,
                    "connections": 12, "connections_per_s": 3.21,
                    "packets_per_s": 456.7, "bytes_per_s": 2048.0,
                },
                {"node": "lyon", "role": "UP", "phase": "ready", "share": 0.3333, "percent": 50},
            ],
            "vip": [{"address": "198.18.0.101/24", "director": "paris", "here": True}],
            "groups": [
                {
                    "address": "198.18.0.101/24", "ports": ["80"], "protocols": ["tcp"],
                    "shares": {"paris": 0.6667, "lyon": 0.3333}, "connections": 7, "taken_bytes": 2048,
                    "passed_bytes": 1024,
                }
            ],
        }
    ],
}  # fmt: skip


def verdicts(farm: FarmConfig) -> list[tuple[bool, str]]:
    return [(good, text) for good, _, text in networks(farm)]


def test_an_address_in_a_subnet_of_this_machine_passes() -> None:
    assert verdicts(LOOPBACK) == [(True, "is in the subnet of lo")]


def test_what_the_machine_lacks_for_a_farm_is_named() -> None:
    elsewhere = dataclasses.replace(LOOPBACK, vip=(FarmVipConfig("203.0.113.7/24", ()),))
    assert verdicts(elsewhere) == [(False, "no interface of this machine has an address in its subnet")]
    missing = dataclasses.replace(LOOPBACK, interface="nosuch0")
    assert verdicts(missing) == [(False, "this machine has no interface nosuch0")]
    foreign = dataclasses.replace(elsewhere, interface="lo")
    assert verdicts(foreign) == [(False, "interface lo has no address in its subnet")]


def test_the_screen_shows_shares_and_what_went_through() -> None:
    text = "\n".join(shown(STATUS))
    assert "66.7 %" in text
    assert "at 50 %" in text
    assert "12 connections, 3.2 new/s, 457 packets/s, 2.0 KiB/s in" in text
    assert "answered by paris" in text
    assert "7 connections here" in text
    assert "no witness, and nothing that needs one" in text


def test_a_farm_is_redundant_with_two_ready_nodes() -> None:
    (farm,) = STATUS["modules"]
    assert is_redundant(farm)
    assert not is_redundant({**farm, "nodes": farm["nodes"][:1]})
